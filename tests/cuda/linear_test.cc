// `linear` against products in double precision; the bits of an element against every tile, batch and device.
#include "cuda/linear.h"

#include <gtest/gtest.h>

#include <optional>

#include "cuda/kernels.h"
#include "matrix_support.h"

namespace pagoda::cuda {
namespace {

constexpr LinearTile kTiles[] = {LinearTile::r16n8,  LinearTile::r32n8,  LinearTile::r32n16,
                                 LinearTile::r32n32, LinearTile::r64n64, LinearTile::r128n128};

struct Size {
  int64_t rows, cols;
};

/// A product's operands, random.
struct Case {
  Case(MatrixFormat format, Size size, int64_t tokens, unsigned seed = 1)
      : random(seed),
        weight(format, size.rows, size.cols, random),
        x(DType::bf16, tokens, size.cols),
        bias(static_cast<size_t>(size.rows)) {
    std::normal_distribution<float> normal(0, 1);
    x = HostTensor::random(DType::bf16, tokens, size.cols, random);
    for (float& b : bias) b = normal(random);
  }

  HostTensor run(std::optional<LinearTile> tile = {}, DType type = DType::f32, Queue queue = test_queue()) {
    HostTensor out(type, x.rows, weight.matrix().rows);
    if (tile) {
      launch_linear(queue, *tile, linear_job(out.view(), x.view(), weight.matrix(), bias.data()));
    } else {
      linear(queue, out.view(), x.view(), weight.matrix(), bias.data(), nullptr);
    }
    synchronize();
    return out;
  }

  std::mt19937 random;
  HostMatrix weight;
  HostTensor x;
  std::vector<float> bias;
};

std::string describe(MatrixFormat format, Size size, int64_t tokens) {
  return str(matrix_format_name(format), " [", size.rows, ", ", size.cols, "], ", tokens, " tokens");
}

/// The outputs of some tokens against the exact ones.
void expect_right(const HostMatrix& weight, const HostTensor& x, const float* bias, const HostTensor& out,
                  int64_t token_step = 1) {
  const double rounding = out.dtype == DType::f32 ? 0x1p-23 : 0x1p-8;
  for (int64_t token = 0; token < x.rows; token += token_step) {
    for (int64_t row = 0; row < weight.matrix().rows; ++row) {
      const Product product = exact_product(weight, row, x, token);
      const double expected = product.value + (bias ? double{bias[row]} : 0);
      ASSERT_NEAR(out.get(token, row), expected, product.error + rounding * std::abs(expected)) << token << ", " << row;
    }
  }
}

HostTensor rows_of(const HostTensor& x, int64_t begin, int64_t end) {
  HostTensor part(x.dtype, end - begin, x.cols);
  for (int64_t i = begin; i < end; ++i) {
    for (int64_t j = 0; j < x.cols; ++j) part.set(i - begin, j, x.get(i, j));
  }
  return part;
}

TEST(Linear, products_of_every_size_are_right) {
  for (MatrixFormat format : kMatrixFormats) {
    for (int64_t rows : {1, 40, 150}) {
      for (int64_t cols : {36, 64, 96, 576}) {
        for (int64_t tokens : {1, 2, 7, 8, 9, 16, 17, 33, 64, 100, 130}) {
          if (rows * tokens > 5000 && cols > 64) continue;
          SCOPED_TRACE(describe(format, {rows, cols}, tokens));
          Case c(format, {rows, cols}, tokens);
          const DType type = tokens % 2 ? DType::f32 : DType::bf16;
          expect_right(c.weight, c.x, c.bias.data(), c.run({}, type), 1 + tokens / 9);
          if (::testing::Test::HasFatalFailure()) return;
        }
      }
    }
  }
}

TEST(Linear, large_products_are_right) {
  for (MatrixFormat format : kMatrixFormats) {
    for (auto [rows, tokens] : {std::pair{576, 1}, {200, 17}, {72, 70}}) {
      SCOPED_TRACE(describe(format, {rows, 1536}, tokens));
      Case c(format, {rows, 1536}, tokens);
      expect_right(c.weight, c.x, c.bias.data(), c.run(), 13);
    }
  }
}

/// The sum in the order of linear_tile.h, each product added by itself as the emulated mma does.
float sum_in_order(const HostMatrix& weight, int64_t row, const HostTensor& x, int64_t token) {
  const Matrix& matrix = weight.matrix();
  const bool natural = matrix.format == MatrixFormat::bf16;
  const int64_t unit_cols = natural ? 64 : 128, num_units = (matrix.stride + unit_cols - 1) / unit_cols;
  const int64_t num_slices = std::min<int64_t>(num_units, 4);
  float total = 0;
  for (int64_t slice = 0; slice < num_slices; ++slice) {
    float sum = 0;
    for (int64_t unit = slice; unit < num_units; unit += num_slices) {
      for (int64_t k = 0; k < unit_cols; ++k) {
        const int64_t step = k % 64 / 16, i = k % 16;
        const int64_t col = natural ? k : k / 64 * 64 + 16 * (i % 8 / 2) + 4 * step + i % 2 + 2 * (i / 8);
        const int64_t at = unit * unit_cols + col;
        if (at < matrix.cols) sum += weight.value(row, at) * x.get(token, at);
      }
    }
    total = slice == 0 ? sum : total + sum;
  }
  return weight.row_scale(row) * total;
}

TEST(Linear, sums_are_in_the_documented_order) {
  for (MatrixFormat format : kMatrixFormats) {
    for (int64_t cols : {64, 192, 608, 1536}) {
      Case c(format, {24, cols}, 3);
      const HostTensor out = c.run();
      for (int64_t token = 0; token < 3; ++token) {
        for (int64_t row = 0; row < 24; ++row) {
          ASSERT_EQ(out.get(token, row), sum_in_order(c.weight, row, c.x, token) + c.bias[static_cast<size_t>(row)])
              << describe(format, {24, cols}, 3);
        }
      }
    }
  }
}

TEST(Linear, every_tile_gives_the_same_bits) {
  for (MatrixFormat format : kMatrixFormats) {
    for (Size size : {Size{150, 64}, Size{40, 320}, Size{17, 832}}) {
      SCOPED_TRACE(describe(format, size, 130));
      Case c(format, size, 130);
      const HostTensor expected = c.run(LinearTile::r16n8);
      expect_right(c.weight, c.x, c.bias.data(), expected, 9);
      for (LinearTile tile : kTiles) EXPECT_TRUE(c.run(tile) == expected) << static_cast<int>(tile);
    }
  }
}

TEST(Linear, the_batch_and_the_device_change_no_bits) {
  for (MatrixFormat format : kMatrixFormats) {
    Case c(format, {72, 608}, 70);
    const HostTensor whole = c.run({}, DType::bf16, test_queue(132));
    const HostTensor x = c.x;
    for (auto [begin, end] : {std::pair{0, 1}, {69, 70}, {3, 5}, {10, 19}, {0, 16}, {16, 49}, {5, 70}}) {
      c.x = rows_of(x, begin, end);
      EXPECT_TRUE(c.run({}, DType::bf16) == rows_of(whole, begin, end)) << begin << " to " << end;
    }
    c.x = x;
    EXPECT_TRUE(c.run({}, DType::bf16, test_queue(1)) == whole);
    EXPECT_TRUE(c.run({}, DType::bf16, test_queue(4, 80)) == whole);
    Queue small = test_queue();
    small.shared_bytes = 99 * 1024;
    EXPECT_TRUE(c.run({}, DType::bf16, small) == whole);
  }
}

TEST(Linear, no_schedule_of_threads_changes_bits) {
  for (MatrixFormat format : kMatrixFormats) {
    for (LinearTile tile : kTiles) {
      const LinearShape shape = linear_shape(tile);
      // Every group fills each stage of its ring twice, and then some.
      const int units = (shape.groups > 1 ? kLinearMaxSlices : 1) * (2 * shape.stages[static_cast<int>(format)]) + 1;
      Case c(format, {shape.rows - 3, units * linear_unit(format) - 40}, std::min(shape.tokens - 2, 40));
      const HostTensor expected = c.run(tile);
      for (unsigned seed : kSchedules) {
        const ScheduleScope scope(seed);
        EXPECT_TRUE(c.run(tile) == expected) << static_cast<int>(tile) << ", schedule " << seed;
      }
    }
  }
}

TEST(Linear, rows_may_be_strided_and_unaligned) {
  for (MatrixFormat format : kMatrixFormats) {
    for (auto [cols, gap] : {std::pair{96, 8}, {96, 3}, {130, 0}, {36, 28}, {33, 0}}) {
      for (DType type : {DType::f32, DType::bf16}) {
        SCOPED_TRACE(str(describe(format, {41, cols}, 19), ", gap ", gap));
        Case c(format, {41, cols}, 19);
        const HostTensor x = HostTensor::random(DType::bf16, 19, cols, c.random, 1, cols + gap);
        HostTensor strided = x, out(type, 19, 41, 41 + gap);
        linear(test_queue(), out.view(), strided.view(), c.weight.matrix(), nullptr, nullptr);
        synchronize();
        expect_right(c.weight, x, nullptr, out);
        const HostTensor untouched(type, 19, 41, 41 + gap);
        for (int64_t i = 0; i + 1 < 19 && gap; ++i) {
          const size_t size = dtype_bytes(type), at = static_cast<size_t>(i * out.row_stride + 41) * size;
          EXPECT_EQ(std::memcmp(&out.bytes[at], &untouched.bytes[at], static_cast<size_t>(gap) * size), 0) << i;
        }
        c.x = rows_of(x, 0, 19);
        linear(test_queue(), out.view(), c.x.view(), c.weight.matrix(), nullptr, nullptr);
        synchronize();
        HostTensor again(type, 19, 41, 41 + gap);
        linear(test_queue(), again.view(), strided.view(), c.weight.matrix(), nullptr, nullptr);
        synchronize();
        EXPECT_TRUE(again == out);
      }
    }
  }
}

TEST(Linear, an_address_that_is_not_aligned_gives_the_same_bits) {
  Case c(MatrixFormat::bf16, {41, 96}, 9);
  HostTensor wide(DType::bf16, 9, 104);
  for (int64_t i = 0; i < 9; ++i) {
    for (int64_t j = 0; j < 96; ++j) wide.set(i, j + 1, c.x.get(i, j));
  }
  const HostTensor expected = c.run();
  HostTensor out(DType::f32, 9, 41);
  linear(test_queue(), out.view(), wide.view().columns(1, 97), c.weight.matrix(), c.bias.data(), nullptr);
  synchronize();
  EXPECT_TRUE(out == expected);
}

/// One row of codes, one token with a single 1: the output is the value.
TEST(Linear, quantised_values_are_rounded_once) {
  for (MatrixFormat format : {MatrixFormat::q8, MatrixFormat::q4, MatrixFormat::f8, MatrixFormat::f8_blocks}) {
    std::mt19937 random(3);
    HostMatrix weight(format, 16, 512, random);
    const bool q4 = format == MatrixFormat::q4;
    constexpr float kScales[] = {1.0f, -0.3f, 65504.0f, 6e-8f, -6.2e-5f, 0.0f, 0.001f, 77.0f};
    constexpr float kOffsets[] = {0.0f, 2.4f, -65504.0f, 6e-8f, 0.004f, -1.0f, -0.0075f, -1.0f};
    std::vector<int> codes(32);
    for (int64_t row = 0; row < 16; ++row) {
      for (int64_t block = 0; block < 16; ++block) {
        for (int i = 0; i < 32; ++i) codes[static_cast<size_t>(i)] = q4 ? i % 16 : static_cast<int>(32 * (block % 8)) + i - 128;
        if (format == MatrixFormat::f8 || format == MatrixFormat::f8_blocks) {
          for (int& code : codes)
            code = (code & 0x7f) == 0x7f ? 0 : code;  // packing leaves no NaN without a scale that is none
        }
        const auto at = static_cast<size_t>(row % 8);
        weight.set_block(row, block, kScales[at], kOffsets[at], codes);
      }
    }
    HostTensor x(DType::bf16, 256, 512), out(DType::f32, 256, 16);
    for (int64_t i = 0; i < 256; ++i) {
      for (int64_t j = 0; j < 512; ++j) x.set(i, j, i + 256 * (i % 2) == j ? 1.0f : 0.0f);
    }
    launch_linear(test_queue(), LinearTile::r64n64, linear_job(out.view(), x.view(), weight.matrix(), nullptr));
    synchronize();
    for (int64_t i = 0; i < 256; ++i) {
      for (int64_t row = 0; row < 16; ++row)
        ASSERT_EQ(out.get(i, row), weight.row_scale(row) * weight.value(row, i + 256 * (i % 2))) << i << ", " << row;
    }
  }
}

TEST(Linear, no_tokens_are_no_launch) {
  Case c(MatrixFormat::bf16, {8, 64}, 1);
  c.x = HostTensor(DType::bf16, 0, 64);
  const uint64_t before = emu::num_launches();
  c.run();
  EXPECT_EQ(emu::num_launches(), before);
}

TEST(Linear, needs_no_workspace_for_any_number_of_tokens) {
  for (MatrixFormat format : kMatrixFormats) EXPECT_EQ(linear_workspace(8192, 4096, 4096, format), size_t{0});
}

/// The tiles must fit in the shared memory of the devices that they are meant for.
TEST(Linear, tiles_fit_in_shared_memory) {
  for (MatrixFormat format : kMatrixFormats) {
    for (LinearTile tile : kTiles) EXPECT_LE(linear_shared_bytes(format, tile), size_t{163} * 1024);
    EXPECT_LE(linear_shared_bytes(format, LinearTile::r16n8), size_t{99} * 1024);
  }
}

}  // namespace
}  // namespace pagoda::cuda
