// Matrices in the GPU's memory hold what the stored rows mean.
#include "cuda/pack.h"

#include <gtest/gtest.h>

#include "core/check.h"
#include "cuda/device_memory.h"
#include "emulation_support.h"
#include "io/code_values.h"
#include "io/dequantise.h"
#include "io/quantise.h"

namespace pagoda::cuda {
namespace {

/// Value (row, col) of a packed matrix.
float value_at(const Matrix& matrix, int64_t row, int64_t col) {
  const int64_t index = row * matrix.stride + col, block = index / 32, within = index % 32;
  const auto* halves = static_cast<const uint16_t*>(matrix.scales);
  const auto* bytes = static_cast<const uint8_t*>(matrix.values);
  switch (matrix.format) {
    case MatrixFormat::bf16:
      return bf16_to_float(static_cast<const uint16_t*>(matrix.values)[index]);
    case MatrixFormat::q8:
      return f16_to_float(halves[block]) * static_cast<float>(static_cast<int8_t>(bytes[index]));
    case MatrixFormat::f8:
      return static_cast<const float*>(matrix.scales)[row] * e4m3_to_float(bytes[index]);
    case MatrixFormat::f8_blocks:
      return static_cast<const float*>(matrix.scales)[block] * e4m3_to_float(bytes[index]);
    case MatrixFormat::q4:
      const int nibble = bytes[block * 16 + within % 16] >> (within < 16 ? 0 : 4) & 15;
      return f16_to_float(halves[2 * block]) * static_cast<float>(nibble) + f16_to_float(halves[2 * block + 1]);
  }
  return NAN;
}

struct Stored {
  WeightPart part;
  std::vector<std::byte> bytes;
  std::vector<float> values;  // [rows, cols], as stored

  Stored(WeightFormat format, int64_t rows, int64_t cols, unsigned seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal(0, 0.5f);
    std::vector<float> row(static_cast<size_t>(cols));
    const size_t row_bytes = weight_row_bytes(format, cols);
    bytes.resize(static_cast<size_t>(rows) * row_bytes);
    for (int64_t i = 0; i < rows; ++i) {
      for (float& value : row) value = normal(random);
      std::byte* at = bytes.data() + static_cast<size_t>(i) * row_bytes;
      quantise_row(format, row.data(), cols, at);
      dequantise_row(format, at, cols, row.data());
      values.insert(values.end(), row.begin(), row.end());
    }
    part = {format, rows, cols, bytes.data(), {}, nullptr};
  }
};

Weight pack_into_memory(std::span<const WeightPart> parts) {
  static DeviceMemory memory;
  return pack_weight(parts, memory.allocate(packed_bytes(parts)),
                     [](void* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); });
}

void expect_values(const Matrix& matrix, int64_t row_begin, const Stored& stored, const std::vector<int32_t>& order) {
  for (int64_t i = 0; i < stored.part.rows; ++i) {
    for (int64_t j = 0; j < stored.part.cols; ++j) {
      const int64_t from = order.empty() ? i : order[static_cast<size_t>(i)];
      const float expected = stored.values[static_cast<size_t>(from * stored.part.cols + j)];
      const float packed = value_at(matrix, row_begin + i, j);
      if (matrix.format == MatrixFormat::bf16) {
        ASSERT_EQ(packed, bf16_to_float(float_to_bf16(expected))) << i << ", " << j;
      } else {
        ASSERT_NEAR(packed, expected, 1e-6f + 1e-6f * std::abs(expected)) << i << ", " << j;
      }
    }
  }
}

TEST(Pack, every_format_keeps_its_values) {
  for (WeightFormat format : {WeightFormat::f32, WeightFormat::f16, WeightFormat::bf16, WeightFormat::q8_0, WeightFormat::q4_0,
                              WeightFormat::q4_1, WeightFormat::q5_1, WeightFormat::int4, WeightFormat::f8_e4m3}) {
    const Stored a(format, 5, 96, 1), b(format, 3, 96, 2);
    const Weight weight = pack_into_memory(std::vector{a.part, b.part});
    EXPECT_EQ(weight.rows, 8);
    EXPECT_EQ(weight.cols, 96);
    EXPECT_EQ(weight.part_formats, (std::vector{format, format}));
    const Matrix& matrix = matrix_of(weight);
    EXPECT_EQ(matrix.stride, 128);
    expect_values(matrix, 0, a, {});
    expect_values(matrix, 5, b, {});
    for (int64_t col = 96; col < 128; ++col) EXPECT_EQ(value_at(matrix, 4, col), 0) << "padding";
  }
}

TEST(Pack, four_bit_parts_may_be_mixed_and_others_become_bf16) {
  EXPECT_EQ(matrix_format(std::vector{WeightFormat::q4_0, WeightFormat::q4_1}), MatrixFormat::q4);
  EXPECT_EQ(matrix_format(std::vector{WeightFormat::q8_0, WeightFormat::q8_0}), MatrixFormat::q8);
  EXPECT_EQ(matrix_format(std::vector{WeightFormat::f8_e4m3, WeightFormat::f8_e4m3}), MatrixFormat::f8_blocks);
  EXPECT_EQ(matrix_format(std::vector{WeightFormat::f8_e4m3, WeightFormat::bf16}), MatrixFormat::bf16);
  EXPECT_EQ(matrix_format(std::vector{WeightFormat::q8_0, WeightFormat::q4_0}), MatrixFormat::bf16);
  EXPECT_EQ(matrix_format(std::vector{WeightFormat::q4_k, WeightFormat::q6_k}), MatrixFormat::bf16);
}

/// Gives every block of every row the scale of the row's first one.
void unite_scales(Stored& stored) {
  const size_t row_bytes = weight_row_bytes(WeightFormat::f8_e4m3, stored.part.cols);
  for (size_t i = 0; i < stored.bytes.size(); i += row_bytes) {
    for (size_t block = i + 36; block < i + row_bytes; block += 36) std::memcpy(&stored.bytes[block], &stored.bytes[i], 4);
    dequantise_row(WeightFormat::f8_e4m3, &stored.bytes[i], stored.part.cols,
                   stored.values.data() + i / row_bytes * static_cast<size_t>(stored.part.cols));
  }
  stored.part.one_scale_per_row = true;
}

TEST(Pack, rows_of_e4m3_with_one_scale_keep_one) {
  Stored a(WeightFormat::f8_e4m3, 5, 96, 1), b(WeightFormat::f8_e4m3, 3, 96, 2);
  unite_scales(a), unite_scales(b);
  std::vector parts{a.part, b.part};
  const Weight weight = pack_into_memory(parts);
  EXPECT_EQ(matrix_of(weight).format, MatrixFormat::f8);
  EXPECT_EQ(weight.bytes, packed_bytes(parts));
  EXPECT_EQ(packed_bytes(parts), size_t{8 * 128 + 256});
  expect_values(matrix_of(weight), 0, a, {});
  expect_values(matrix_of(weight), 5, b, {});

  parts[1].one_scale_per_row = false;
  EXPECT_EQ(matrix_of(pack_into_memory(parts)).format, MatrixFormat::f8_blocks) << "unless all parts have";
  parts[1].one_scale_per_row = true;
  const float other = 3;
  std::memcpy(&b.bytes[36], &other, 4);
  EXPECT_THROW(pack_into_memory(parts), InternalError) << "what the loader says is not so";
}

TEST(Pack, an_e4m3_that_is_no_number_has_a_scale_that_is_none) {
  for (const int code : {0x7f, 0xff}) {
    Stored stored(WeightFormat::f8_e4m3, 3, 96, 1);
    unite_scales(stored);
    stored.bytes[108 + 36 + 4 + 31] = static_cast<std::byte>(code);
    const Weight by_row = pack_into_memory(std::vector{stored.part});
    for (int64_t row = 0; row < 3; ++row) EXPECT_EQ(std::isnan(value_at(matrix_of(by_row), row, 0)), row == 1);
    stored.part.one_scale_per_row = false;
    const Weight by_block = pack_into_memory(std::vector{stored.part});
    for (int64_t i = 0; i < 9; ++i) EXPECT_EQ(std::isnan(value_at(matrix_of(by_block), i / 3, i % 3 * 32)), i == 4);
  }
}

TEST(Pack, rows_are_taken_in_the_given_order_or_made_on_demand) {
  Stored stored(WeightFormat::f16, 4, 33, 3);
  stored.part.row_order = {2, 0, 3, 1};
  expect_values(matrix_of(pack_into_memory(std::vector{stored.part})), 0, stored, stored.part.row_order);
  WeightPart made = stored.part;
  made.data = nullptr;
  made.read = [&](int64_t row, std::byte* out) { std::memcpy(out, stored.bytes.data() + row * 66, 66); };
  expect_values(matrix_of(pack_into_memory(std::vector{made})), 0, stored, stored.part.row_order);
}

TEST(Pack, many_rows_are_uploaded_in_pieces) {
  const Stored stored(WeightFormat::q8_0, 40000, 64, 4);
  expect_values(matrix_of(pack_into_memory(std::vector{stored.part})), 0, stored, {});
}

TEST(Pack, a_q4_0_scale_that_f16_cannot_hold_eightfold_is_refused) {
  Stored stored(WeightFormat::q4_0, 1, 32, 5);
  const uint16_t huge = float_to_f16(16000);
  std::memcpy(stored.bytes.data(), &huge, 2);
  EXPECT_THROW(pack_into_memory(std::vector{stored.part}), InvalidArgument);
}

}  // namespace
}  // namespace pagoda::cuda
