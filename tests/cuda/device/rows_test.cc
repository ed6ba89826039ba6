// Operations that work row by row or element by element, against the CPU.
#include "device_support.h"

namespace pagoda::device_test {
namespace {

class Rows : public DeviceTest {};

struct Shape2 {
  int64_t rows, cols;
  int64_t gap = 0;  ///< elements between the rows
  bool large = false;

  int64_t stride() const { return cols + gap; }
};

std::ostream& operator<<(std::ostream& out, const Shape2& shape) {
  return out << "[" << shape.rows << ", " << shape.cols << "], rows " << shape.stride() << " apart";
}

/// Sizes that divide by 8 and sizes that do not; one row and many.
std::vector<Shape2> shapes() {
  std::vector<Shape2> all = {{1, 64}, {3, 576, 8}, {2, 4096}, {5, 70}, {7, 33, 3}, {1, 1}};
  if (!is_emulated()) all.insert(all.end(), {{2048, 4096}, {300, 14336, 64}, {17, 8192}});
  return all;
}

NormKind kNormKinds[] = {NormKind::rms, NormKind::layer};

/// Weights around 1 and, for layer norms, biases.
Norm make_norm(Machine& machine, NormKind kind, int64_t cols) {
  std::vector<float> weight = random_values(cols, 11, 0.3f);
  for (float& w : weight) w += 1;
  Norm norm{kind, machine.array(weight), nullptr, 1e-5f};
  if (kind == NormKind::layer) norm.bias = machine.array(random_values(cols, 12, 0.5f));
  return norm;
}

TEST_F(Rows, norm) {
  for (const Shape2& shape : shapes()) {
    for (const NormKind kind : kNormKinds) {
      if (kind == NormKind::layer && shape.cols == 1) continue;  // nothing but the bias
      SCOPED_TRACE(::testing::Message() << shape);
      expect_same(kOneRounding, [&](Machine& machine) {
        const Tensor x = machine.activations(random_values(shape.rows * shape.cols, 1, 2), shape.cols, shape.stride());
        const Tensor out = machine.empty(machine.act(), shape.rows, shape.cols, shape.stride());
        machine->norm(out, x, make_norm(machine, kind, shape.cols));
        return machine.read(out);
      });
    }
  }
}

TEST_F(Rows, norm_in_place) {
  expect_same(kOneRounding, [&](Machine& machine) {
    const Tensor x = machine.activations(random_values(4 * 96, 1, 2), 96);
    machine->norm(x, x, make_norm(machine, NormKind::rms, 96));
    return machine.read(x);
  });
}

TEST_F(Rows, add_norm_leaves_sum_and_norm) {
  for (const Shape2& shape : shapes()) {
    for (const NormKind kind : kNormKinds) {
      if (kind == NormKind::layer && shape.cols == 1) continue;
      SCOPED_TRACE(::testing::Message() << shape);
      // The GPU rounds the sum before it norms it.
      expect_same({0.004, 0.01}, [&](Machine& machine) {
        const Tensor residual = machine.activations(random_values(shape.rows * shape.cols, 1), shape.cols, shape.stride());
        const Tensor x = machine.activations(random_values(shape.rows * shape.cols, 2), shape.cols, shape.stride());
        const Tensor out = machine.empty(machine.act(), shape.rows, shape.cols);
        machine->add_norm(out, residual, x, 0.5f, make_norm(machine, kind, shape.cols));
        std::vector<float> values = machine.read(out);
        const std::vector<float> sums = machine.read(residual);
        values.insert(values.end(), sums.begin(), sums.end());
        return values;
      });
    }
  }
}

TEST_F(Rows, add) {
  for (const Shape2& shape : shapes()) {
    SCOPED_TRACE(::testing::Message() << shape);
    expect_same(kOneRounding, [&](Machine& machine) {
      const Tensor residual = machine.activations(random_values(shape.rows * shape.cols, 1), shape.cols, shape.stride());
      const Tensor x = machine.activations(random_values(shape.rows * shape.cols, 2), shape.cols);
      machine->add(residual, x, 1.5f);
      return machine.read(residual);
    });
  }
}

TEST_F(Rows, scale_with_and_without_cap) {
  for (const Shape2& shape : shapes()) {
    for (const float cap : {0.0f, 2.5f}) {
      for (const bool f32 : {false, true}) {
        SCOPED_TRACE(::testing::Message() << shape << " cap " << cap << (f32 ? " f32" : ""));
        expect_same(f32 ? Tolerance{1e-6, 2e-6} : kOneRounding, [&](Machine& machine) {
          const std::vector<float> values = random_values(shape.rows * shape.cols, 1, 3);
          const Tensor x = f32 ? machine.floats(values, shape.cols, shape.stride())
                               : machine.activations(values, shape.cols, shape.stride());
          machine->scale(x, 0.75f, cap);
          return machine.read(x);
        });
      }
    }
  }
}

TEST_F(Rows, gated_activation) {
  for (const Shape2& shape : shapes()) {
    for (const Activation kind :
         {Activation::silu, Activation::gelu_tanh, Activation::gelu, Activation::relu, Activation::clamped_swiglu}) {
      SCOPED_TRACE(::testing::Message() << shape << " activation " << static_cast<int>(kind));
      expect_same(kOneRounding, [&](Machine& machine) {
        const Tensor gate_up =
            machine.activations(random_values(shape.rows * shape.cols * 2, 1, 3), 2 * shape.cols, 2 * shape.stride());
        const Tensor out = machine.empty(machine.act(), shape.rows, shape.cols, shape.stride());
        machine->gated_activation(out, gate_up, kind);
        return machine.read(out);
      });
    }
  }
}

TEST_F(Rows, activation) {
  for (const Shape2& shape : shapes()) {
    for (const Activation kind : {Activation::silu, Activation::gelu_tanh, Activation::gelu, Activation::relu}) {
      SCOPED_TRACE(::testing::Message() << shape << " activation " << static_cast<int>(kind));
      expect_same(kOneRounding, [&](Machine& machine) {
        const Tensor x = machine.activations(random_values(shape.rows * shape.cols, 1, 3), shape.cols, shape.stride());
        machine->activation(x, kind);
        return machine.read(x);
      });
    }
  }
}

TEST_F(Rows, sigmoid_scale) {
  for (const Shape2& shape : shapes()) {
    SCOPED_TRACE(::testing::Message() << shape);
    expect_same(kOneRounding, [&](Machine& machine) {
      const Tensor x = machine.activations(random_values(shape.rows * shape.cols, 1), shape.cols, shape.stride());
      machine->sigmoid_scale(x, machine.activations(random_values(shape.rows, 2, 2), 1));
      return machine.read(x);
    });
  }
}

TEST_F(Rows, gather_rows_copies) {
  for (const Shape2& shape : shapes()) {
    SCOPED_TRACE(::testing::Message() << shape);
    expect_same({}, [&](Machine& machine) {
      std::vector<int32_t> rows;
      for (int64_t i = 0; i < 2 * shape.rows; i += 3) rows.push_back(static_cast<int32_t>(i * 7 % shape.rows));
      const Tensor x = machine.activations(random_values(shape.rows * shape.cols, 1), shape.cols, shape.stride());
      const Tensor out = machine.empty(machine.act(), std::ssize(rows), shape.cols);
      machine->gather_rows(out, x, machine.array(rows));
      return machine.read(out);
    });
  }
}

TEST_F(Rows, no_rows_are_no_work) {
  Machine& machine = gpu();
  const Tensor none = Tensor::dense(machine.memory(256), machine.act(), {0, 64});
  const Norm norm = make_norm(machine, NormKind::rms, 64);
  machine->norm(none, none, norm);
  machine->add_norm(none, none, none, 1, norm);
  machine->add(none, none, 1);
  machine->scale(none, 2, 0);
  machine->activation(none, Activation::silu);
  machine->gated_activation(none, Tensor::dense(none.data, none.dtype, {0, 128}), Activation::silu);
  machine->gather_rows(none, none, static_cast<const int32_t*>(none.data));
  EXPECT_EQ(machine.read(static_cast<const uint8_t*>(none.data), 256), std::vector<uint8_t>(256, 0xff));
}

}  // namespace
}  // namespace pagoda::device_test
