// Rows of embedding tables in each format, exactly.
#include "cuda/kernels.h"
#include "elementwise_support.h"
#include "io/code_values.h"

namespace pagoda::cuda {
namespace {

/// A matrix in device memory, and its values.
struct Table {
  Table(MatrixFormat format, int64_t rows, int64_t cols, std::mt19937& random) {
    matrix = {format, rows, cols, matrix_stride(cols), nullptr, nullptr};
    const int64_t all = rows * matrix.stride;
    std::uniform_int_distribution<int> byte(0, 255);
    stored.resize(matrix_value_bytes(format, all));
    for (uint8_t& b : stored) b = static_cast<uint8_t>(byte(random));
    if (format == MatrixFormat::bf16) {  // no infinities, no NaN
      for (size_t i = 1; i < stored.size(); i += 2) stored[i] = static_cast<uint8_t>((stored[i] & 0x80) | 0x3e);
    }
    std::normal_distribution<float> normal(0, 0.1f);
    const size_t scale_bytes = matrix_scale_bytes(format, rows, matrix.stride);
    if (is_e4m3()) {
      wide_scales.resize(scale_bytes / 4);
      for (float& s : wide_scales) s = normal(random);
      for (uint8_t& b : stored) b = (b & 0x7f) == 0x7f ? 0 : b;
      matrix.values = stored.data();
      matrix.scales = wide_scales.data();
      return;
    }
    scales.resize(scale_bytes / 2);
    for (uint16_t& s : scales) s = float_to_f16(normal(random));
    matrix.values = stored.data();
    matrix.scales = scales.data();
  }

  double value(int64_t row, int64_t col) const {
    const size_t i = static_cast<size_t>(row * matrix.stride + col), block = i / 32, in_block = i % 32;
    switch (matrix.format) {
      case MatrixFormat::bf16:
        return bf16_to_float(static_cast<uint16_t>(stored[2 * i] | stored[2 * i + 1] << 8));
      case MatrixFormat::q8:
        return static_cast<double>(f16_to_float(scales[block])) * static_cast<int8_t>(stored[i]);
      case MatrixFormat::q4: {
        const int byte = stored[16 * block + in_block % 16];
        return static_cast<double>(f16_to_float(scales[2 * block])) * (in_block < 16 ? byte & 15 : byte >> 4) +
               static_cast<double>(f16_to_float(scales[2 * block + 1]));
      }
      case MatrixFormat::f8:
        return wide_scales[static_cast<size_t>(row)] * e4m3_to_float(stored[i]);
      case MatrixFormat::f8_blocks:
        return wide_scales[block] * e4m3_to_float(stored[i]);
    }
    return 0;
  }

  bool is_e4m3() const { return matrix.format == MatrixFormat::f8 || matrix.format == MatrixFormat::f8_blocks; }

  Matrix matrix;
  std::vector<uint8_t> stored;
  std::vector<uint16_t> scales;
  std::vector<float> wide_scales;  // of e4m3
};

constexpr MatrixFormat kFormats[] = {MatrixFormat::bf16, MatrixFormat::q8, MatrixFormat::q4, MatrixFormat::f8,
                                     MatrixFormat::f8_blocks};
constexpr int64_t kRows = 30;

std::vector<int32_t> random_ids(int64_t n, std::mt19937& random) {
  std::vector<int32_t> ids(static_cast<size_t>(n));
  for (int32_t& id : ids) id = static_cast<int32_t>(random() % kRows);
  return ids;
}

TEST(Embed, rows_are_dequantised_exactly) {
  std::mt19937 random(1);
  for (MatrixFormat format : kFormats) {
    for (int64_t cols : {1, 12, 64, 104, 576, 2051}) {
      const Table table(format, kRows, cols, random);
      for (int64_t tokens : kTokens) {
        const std::vector<int32_t> ids = random_ids(tokens, random);
        for (const Margins& margins : kMargins) {
          Window out(DType::bf16, tokens, cols, margins);
          embed(test_queue(), out.view(), table.matrix, ids.data());
          synchronize();
          for (int64_t t = 0; t < tokens; ++t) {
            for (int64_t j = 0; j < cols; ++j) {
              const double value = table.value(ids[static_cast<size_t>(t)], j);
              ASSERT_EQ(out.get(t, j), bf16_to_float(float_to_bf16(static_cast<float>(value)))) << t << ", " << j;
            }
          }
          ASSERT_TRUE(out.margins_are_untouched());
        }
      }
    }
  }
}

TEST(Embed, no_schedule_changes_a_bit) {
  std::mt19937 random(2);
  for (MatrixFormat format : kFormats) {
    const Table table(format, kRows, 1100, random);
    const std::vector<int32_t> ids = random_ids(5, random);
    Window first(DType::bf16, 5, 1100);
    for (unsigned seed : kSchedules) {
      const ScheduleScope scope(seed);
      Window out(DType::bf16, 5, 1100);
      embed(test_queue(), out.view(), table.matrix, ids.data());
      synchronize();
      if (seed == 0) first = out;
      EXPECT_EQ(out, first) << "schedule " << seed;
    }
  }
}

TEST(Embed, no_token_is_no_launch) {
  std::mt19937 random(3);
  const Table table(MatrixFormat::bf16, kRows, 64, random);
  Window out(DType::bf16, 0, 64);
  const uint64_t before = emu::num_launches();
  embed(test_queue(), out.view(), table.matrix, nullptr);
  synchronize();
  EXPECT_EQ(emu::num_launches(), before);
}

}  // namespace
}  // namespace pagoda::cuda
