// Packing: what a weight takes in memory, that rows come back as stored, and what is refused.
#include "core/check.h"
#include "cpu_linear_support.h"

namespace pagoda::cpu {
namespace {

TEST(Pack, packed_bytes_is_what_a_weight_takes_and_does_not_need_data) {
  ThreadPool pool(2);
  const Matrix m = make_matrix({{WeightFormat::q4_1, 960}, {WeightFormat::q8_0, 17}, {WeightFormat::bf16, 16}}, 576, pool);
  std::vector<WeightPart> planned = m.parts;
  for (WeightPart& part : planned) part.data = nullptr;
  EXPECT_EQ(packed_bytes(planned), m.weight.bytes);
  EXPECT_EQ(packed_bytes(std::span(planned).first(1)), size_t{960 * 576} * 5 / 8);
  EXPECT_EQ(packed_bytes(std::span(planned).last(1)), size_t{16 * 576} * 2);
}

TEST(Pack, a_packed_weight_takes_little_more_than_the_file) {
  for (const WeightFormat format : all_formats()) {
    if (!is_quantised(format)) continue;
    const WeightPart part{format, 4096, 4096, nullptr, {}};
    EXPECT_LE(static_cast<double>(packed_bytes({&part, 1})), 1.05 * 4096 * static_cast<double>(weight_row_bytes(format, 4096)))
        << weight_format_info(format).name;
  }
}

TEST(Pack, rows_made_on_demand_are_packed_like_rows_that_lie_in_the_file) {
  ThreadPool pool(2);
  for (const WeightFormat format : all_formats()) {
    SCOPED_TRACE(weight_format_info(format).name);
    const Matrix stored = make_matrix({{format, 50, true}, {format, 3}, {WeightFormat::f16, 20}}, cols_for(format, 256), pool);
    std::vector<WeightPart> made = stored.parts;
    for (size_t i = 0; i < 2; ++i) {
      const size_t bytes = weight_row_bytes(format, stored.cols());
      made[i].read = [data = made[i].data, bytes](int64_t row, std::byte* out) {
        std::memcpy(out, data + static_cast<size_t>(row) * bytes, bytes);
      };
      made[i].data = nullptr;
    }
    PackMemory memory;
    const Weight weight = pack_weight(made, pool, memory);
    ASSERT_EQ(weight.bytes, stored.weight.bytes);
    EXPECT_EQ(std::memcmp(PackedWeight::of(weight).bytes.get(), PackedWeight::of(stored.weight).bytes.get(), weight.bytes), 0);
  }
}

TEST(Pack, what_a_row_reader_throws_comes_through) {
  ThreadPool pool(2);
  PackMemory memory;
  WeightPart part{WeightFormat::q8_0, 40, 64, nullptr, {}};
  part.read = [](int64_t row, std::byte*) { require(row != 33, "row ", row, " is torn"); };
  EXPECT_THROW(pack_weight({&part, 1}, pool, memory), InvalidArgument);
}

/// Each value's code, each scale and each exponent that a byte can hold, and every f16 scale: NaNs need only be NaN.
TEST(Pack, rows_with_any_bytes_come_back_bit_for_bit) {
  ThreadPool pool(2);
  std::mt19937 rng(5);
  for (const WeightFormat format : all_formats()) {
    SCOPED_TRACE(weight_format_info(format).name);
    const int64_t rows = 200, cols = cols_for(format, 256);
    std::vector<std::byte> stored(static_cast<size_t>(rows) * weight_row_bytes(format, cols));
    for (std::byte& byte : stored) byte = static_cast<std::byte>(rng());
    const size_t block = weight_format_info(format).block_bytes;
    for (size_t at = 0; format == WeightFormat::int4 && at < stored.size(); at += block) {
      put(&stored[at + 4], static_cast<float>(rng() % 17));
    }
    const WeightPart part{format, rows, cols, stored.data(), {}};
    PackMemory memory;
    const Weight weight = pack_weight({&part, 1}, pool, memory);
    std::vector<float> expected(static_cast<size_t>(cols)), got(expected);
    for (int64_t i = 0; i < rows; ++i) {
      dequantise_row(format, stored.data() + static_cast<size_t>(i) * weight_row_bytes(format, cols), cols, expected.data());
      unpack_row(PackedWeight::of(weight).parts[0], i, cols, got.data());
      for (size_t k = 0; k < got.size(); ++k) {
        if (std::isnan(expected[k])) {
          ASSERT_TRUE(std::isnan(got[k])) << "row " << i << " value " << k;
        } else {
          ASSERT_TRUE(same_bits(&got[k], &expected[k], 1)) << "row " << i << " value " << k << ": " << got[k];
        }
      }
    }
  }
}

TEST(Pack, pieces_of_memory_do_not_overlap_and_outlive_their_allocator) {
  std::vector<std::pair<std::shared_ptr<std::byte>, size_t>> pieces;
  {
    PackMemory memory;
    for (const size_t bytes :
         {size_t{1}, size_t{64}, size_t{100}, size_t{70} << 20, size_t{1000}, size_t{40} << 20, size_t{30} << 20}) {
      pieces.emplace_back(memory.allocate(bytes), bytes);
    }
  }
  for (size_t i = 0; i < pieces.size(); ++i) {
    const auto& [piece, bytes] = pieces[i];
    EXPECT_EQ(reinterpret_cast<uintptr_t>(piece.get()) % PackMemory::kAlignment, 0u);
    piece.get()[0] = piece.get()[bytes - 1] = static_cast<std::byte>(i);
  }
  for (size_t i = 0; i < pieces.size(); ++i) {
    EXPECT_EQ(std::to_integer<size_t>(pieces[i].first.get()[0]), i);
    EXPECT_EQ(std::to_integer<size_t>(pieces[i].first.get()[pieces[i].second - 1]), i);
  }
}

std::string error_of(const std::vector<WeightPart>& parts) {
  ThreadPool pool(1);
  PackMemory memory;
  try {
    pack_weight(parts, pool, memory);
  } catch (const InvalidArgument& error) {
    return error.what();
  }
  return "no error";
}

TEST(Pack, an_int4_zero_that_is_no_small_integer_is_refused) {
  std::byte data[24]{};
  for (const float zero : {-1.0f, 0.5f, 17.0f, NAN, INFINITY}) {
    put(data + 4, zero);
    EXPECT_NE(
        error_of({{WeightFormat::int4, 1, 32, data, {}}}).find("the zero of an int4 weight must be an integer in [0, 16]"),
        std::string::npos)
        << zero;
  }
}

TEST(Pack, bad_parts_are_refused_with_their_numbers) {
  std::byte data[4096]{};
  EXPECT_EQ(error_of({}), "a weight needs at least one part");
  EXPECT_EQ(error_of({{WeightFormat::f32, 2, 8, data, {}}, {WeightFormat::f32, 2, 9, data, {}}}),
            "stacked weight parts must have equal columns, got 8 and 9");
  EXPECT_EQ(error_of({{WeightFormat::q4_1, 2, 48, data, {}}}), "the columns of a q4_1 weight must be a multiple of 32, got 48");
  EXPECT_EQ(error_of({{WeightFormat::q6_k, 2, 288, data, {}}}),
            "the columns of a q6_k weight must be a multiple of 256, got 288");
  EXPECT_EQ(error_of({{WeightFormat::f32, 0, 8, data, {}}}), "a weight part must have rows and columns, got [0, 8]");
  EXPECT_EQ(error_of({{WeightFormat::f32, 3, 8, data, {0, 1}}}), "row_order must have one entry per row, got 2 for 3 rows");
  EXPECT_EQ(error_of({{WeightFormat::f32, 2, 8, data, {0, -1}}}), "row_order must name stored rows, got -1");
}

}  // namespace
}  // namespace pagoda::cpu
