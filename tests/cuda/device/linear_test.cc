// Rows of tables and products with weights of every format, against the CPU: our own kernel, and whatever `tune` chose.
#include "stored_matrix.h"

namespace pagoda::device_test {
namespace {

class Linear : public DeviceTest {};

/// Formats that stay as they are on a GPU, and some that become bf16 there, f8_e4m3 with scales of its blocks on the way to the
/// product: then a weight moves by up to 2^-8 of itself.
struct Format {
  WeightFormat format;
  Tolerance tolerance;
};
constexpr Format kFormats[] = {{WeightFormat::bf16, {0.003, 0.008}}, {WeightFormat::q8_0, {0.003, 0.008}},
                               {WeightFormat::q4_0, {0.003, 0.008}}, {WeightFormat::q4_1, {0.003, 0.008}},
                               {WeightFormat::f32, {0.004, 0.02}},   {WeightFormat::f16, {0.004, 0.02}},
                               {WeightFormat::q5_0, {0.004, 0.02}},  {WeightFormat::f8_e4m3, {0.004, 0.02}}};

StoredMatrix stored_with_row_scales(int64_t rows, int64_t cols) {
  return StoredMatrix(WeightFormat::f8_e4m3, rows, cols, 5).with_one_scale_per_row();
}

struct Product {
  int64_t tokens, rows, cols;
  bool f32_out = false;
  bool bias = false;
  int64_t gap = 0;  ///< elements between the rows of x and of the output
};

std::ostream& operator<<(std::ostream& out, const Product& p) {
  return out << p.tokens << " tokens, weight [" << p.rows << ", " << p.cols << "]" << (p.f32_out ? ", f32" : "")
             << (p.bias ? ", bias" : "") << ", gap " << p.gap;
}

/// Large ones only of what stays as it is: the others are bf16 once they are packed.
std::vector<Product> products(WeightFormat format) {
  std::vector<Product> all = {
      {1, 64, 64}, {1, 200, 256, true}, {3, 96, 576, false, true}, {16, 80, 128, false, false, 8}, {17, 65, 96, true, true, 3},
      {70, 48, 64}};
  if (!is_emulated() && (format == WeightFormat::bf16 || format == WeightFormat::q8_0 || format == WeightFormat::q4_0)) {
    all.insert(all.end(), {{1, 4096, 4096},
                           {8, 6144, 4096, false, true},
                           {16, 4096, 14336},
                           {64, 28672, 4096},
                           {200, 4096, 14336, false, false, 64},
                           {33, 32000, 2048, true}});
  }
  return all;
}

std::vector<float> run(Machine& machine, const Product& p, const StoredMatrix& stored, bool tuned) {
  const std::vector<WeightPart> parts{stored.part()};
  const Weight weight = machine->pack(parts);
  const DType out_type = p.f32_out ? DType::f32 : machine.act();
  if (tuned) {
    const LinearUse use{p.rows, p.cols, out_type, p.tokens};
    machine->tune({&use, 1});
  }
  const Tensor x = machine.activations(random_values(p.tokens * p.cols, 3), p.cols, p.cols + p.gap);
  const Tensor out = machine.empty(out_type, p.tokens, p.rows, p.rows + p.gap);
  multiply(machine, out, x, weight, p.bias ? machine.array(random_values(p.rows, 4)) : nullptr);
  return machine.read(out);
}

TEST_F(Linear, every_format_and_number_of_tokens) {
  for (const Format& format : kFormats) {
    for (const Product& p : products(format.format)) {
      SCOPED_TRACE(::testing::Message() << weight_format_info(format.format).name << ": " << p);
      const StoredMatrix stored(format.format, p.rows, p.cols, 5);
      expect_same(format.tolerance, [&](Machine& machine) { return run(machine, p, stored, false); });
    }
  }
}

/// Our own kernel rounds nothing of e4m3 with one scale for each row.
TEST_F(Linear, e4m3_with_one_scale_for_each_row) {
  for (const Product& p : products(WeightFormat::q8_0)) {
    if (p.cols % 32) continue;
    SCOPED_TRACE(::testing::Message() << p);
    const StoredMatrix stored = stored_with_row_scales(p.rows, p.cols);
    expect_same({0.003, 0.008}, [&](Machine& machine) { return run(machine, p, stored, false); });
  }
}

/// What cuBLASLt computes, if it is chosen, has its x in e4m3 as well: three bits and a sign, of which errors of different
/// columns cancel.
TEST_F(Linear, tuned_products_of_e4m3) {
  std::vector<Product> all = {{1, 128, 64}, {5, 64, 128, true}, {40, 128, 128, false, true}};
  if (!is_emulated()) all = {{1, 6144, 4096}, {64, 6144, 4096, false, true}, {512, 4096, 14336}, {2048, 4096, 4096}};
  for (const bool deterministic : {false, true}) {
    for (const Product& p : all) {
      SCOPED_TRACE(::testing::Message() << p << (deterministic ? ", deterministic" : ""));
      const StoredMatrix stored = stored_with_row_scales(p.rows, p.cols);
      Machine tuned(make_gpu(deterministic));
      const std::vector<float> got = run(tuned, p, stored, true);
      expect_close(run(cpu(), p, stored, false), got, {0.04, 0.2});
      cpu().clear();
    }
  }
}

/// Where one kernel does both, and where two do.
TEST_F(Linear, gated_products) {
  for (const Format& format : kFormats) {
    for (const Activation activation : {Activation::silu, Activation::gelu_tanh, Activation::gelu}) {
      for (const int64_t tokens : {1, 9, 70}) {
        SCOPED_TRACE(::testing::Message() << weight_format_info(format.format).name << ", " << tokens << " tokens");
        const StoredMatrix stored(format.format, 160, 192, 5);
        expect_same({0.008, 0.03}, [&](Machine& machine) {
          const Weight weight = pack(machine, {stored});
          const Tensor x = machine.activations(random_values(tokens * 192, 3), 192);
          const Tensor gate_up = machine.empty(machine.act(), tokens, 160), out = machine.empty(machine.act(), tokens, 80);
          void* workspace = machine.memory(machine->traits().linear_workspace(tokens, 160, 192, weight.part_formats));
          machine->gated_linear(out, gate_up, x, weight, machine.array(random_values(160, 4)), activation, workspace);
          return machine.read(out);
        });
      }
    }
  }
}

TEST_F(Linear, odd_columns) {
  for (const int64_t cols : {1, 33, 70, 129}) {
    for (const int64_t tokens : {1, 5, 20}) {
      SCOPED_TRACE(::testing::Message() << tokens << " tokens, " << cols << " columns");
      const StoredMatrix stored(WeightFormat::bf16, 37, cols, 6);
      expect_same({0.003, 0.008},
                  [&](Machine& machine) { return run(machine, {tokens, 37, cols, false, true}, stored, false); });
    }
  }
}

TEST_F(Linear, stacked_parts_and_reordered_rows) {
  for (const auto& [first, second] : {std::pair{WeightFormat::q8_0, WeightFormat::q8_0},
                                      {WeightFormat::q4_0, WeightFormat::q4_1},
                                      {WeightFormat::q8_0, WeightFormat::bf16}}) {
    const StoredMatrix a(first, 40, 128, 1), b(second, 24, 128, 2);
    expect_same({0.004, 0.02}, [&](Machine& machine) {
      std::vector<WeightPart> parts{a.part(), b.part()};
      for (int32_t i = 0; i < 24; ++i) parts[1].row_order.push_back(23 - i);
      const Weight weight = machine->pack(parts);
      const Tensor x = machine.activations(random_values(6 * 128, 3), 128), out = machine.empty(machine.act(), 6, 64);
      multiply(machine, out, x, weight, nullptr);
      return machine.read(out);
    });
  }
}

/// Whichever of cuBLASLt and our own kernel the tuning chose for each size.
TEST_F(Linear, tuned_products) {
  std::vector<Product> all = {{1, 128, 64}, {5, 64, 128, true}, {40, 128, 128, false, true}};
  if (!is_emulated()) {
    all = {{16, 6144, 4096, false, true}, {512, 4096, 14336}, {32, 32000, 2048, true, true}};
  }
  for (const bool deterministic : {false, true}) {
    for (const Product& p : all) {
      SCOPED_TRACE(::testing::Message() << p << (deterministic ? ", deterministic" : ""));
      const StoredMatrix stored(WeightFormat::bf16, p.rows, p.cols, 5);
      Machine tuned(make_gpu(deterministic));
      const std::vector<float> got = run(tuned, p, stored, true);
      expect_close(run(cpu(), p, stored, false), got, {0.003, 0.01});  // a bias is added after the sum was rounded
      cpu().clear();
    }
  }
}

TEST_F(Linear, embedding_rows_of_every_format) {
  for (const Format& format : kFormats) {
    for (const auto& [rows, cols] : {std::pair{50, 64}, {20, 576}, {7, 4096}}) {
      SCOPED_TRACE(::testing::Message() << weight_format_info(format.format).name << " [" << rows << ", " << cols << "]");
      const StoredMatrix table(format.format, rows, cols, 8);
      expect_same(kOneRounding, [&](Machine& machine) {
        std::vector<int32_t> ids;
        for (int32_t i = 0; i < 33; ++i) ids.push_back(i * 11 % rows);
        const Weight weight = pack(machine, {table});
        const Tensor out = machine.empty(machine.act(), 33, cols, cols + 8);
        machine->embed(out, weight, machine.array(ids));
        return machine.read(out);
      });
    }
  }
}

}  // namespace
}  // namespace pagoda::device_test
