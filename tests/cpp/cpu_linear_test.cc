// The CPU's matrix product and embedding look-up: every format on every instruction set of this machine, against double
// precision references, and the equations that make results independent of batch, threads and strides.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <string>

#include "backend/cpu/linear.h"
#include "core/dtype.h"

namespace pagoda::cpu {
namespace {

constexpr WeightFormat kFormats[] = {WeightFormat::f32,  WeightFormat::f16,  WeightFormat::bf16,
                                     WeightFormat::q8_0, WeightFormat::q4_0, WeightFormat::q4_1};

std::vector<Isa> isas() {
  std::vector<Isa> supported;
  for (const Isa isa : {Isa::portable, Isa::avx2, Isa::avx512}) {
    if (isa_supported(isa)) supported.push_back(isa);
  }
  return supported;
}

/// Random rows as a file stores them.
std::vector<std::byte> random_stored(WeightFormat format, int64_t rows, int64_t cols, std::mt19937& rng) {
  std::vector<std::byte> stored(static_cast<size_t>(rows) * weight_row_bytes(format, cols));
  std::uniform_real_distribution<float> uniform(-1, 1);
  const WeightFormatInfo info = weight_format_info(format);
  for (size_t at = 0; at < stored.size(); at += info.block_bytes) {
    const float value = uniform(rng);
    const uint16_t halves[2] = {float_to_f16(value * 0.05f), float_to_f16(uniform(rng))};
    const uint16_t bf16 = float_to_bf16(value);
    for (size_t i = 0; i < info.block_bytes; ++i) stored[at + i] = static_cast<std::byte>(rng());
    switch (format) {
      case WeightFormat::f32:
        std::memcpy(&stored[at], &value, 4);
        break;
      case WeightFormat::f16:
        std::memcpy(&stored[at], halves, 2);
        break;
      case WeightFormat::bf16:
        std::memcpy(&stored[at], &bf16, 2);
        break;
      case WeightFormat::q8_0:
      case WeightFormat::q4_0:
        std::memcpy(&stored[at], halves, 2);
        break;
      case WeightFormat::q4_1:
        std::memcpy(&stored[at], halves, 4);
        break;
    }
  }
  return stored;
}

/// Value k of a stored row by the definition in core/weight_format.h.
float stored_value(WeightFormat format, const std::byte* row, int64_t k) {
  const WeightFormatInfo info = weight_format_info(format);
  const std::byte* block = row + static_cast<size_t>(k / info.block_values) * info.block_bytes;
  const int64_t i = k % info.block_values;
  uint16_t halves[2] = {0, 0};
  std::memcpy(halves, block, 2);
  if (info.block_bytes > 2) std::memcpy(halves, block, 4);
  const auto nibble = [&](const std::byte* bytes) { return std::to_integer<int>(bytes[i % 16]) >> (i < 16 ? 0 : 4) & 15; };
  const float d = f16_to_float(halves[0]);
  float value = 0;
  switch (format) {
    case WeightFormat::f32:
      std::memcpy(&value, block, 4);
      return value;
    case WeightFormat::f16:
      return d;
    case WeightFormat::bf16:
      return bf16_to_float(halves[0]);
    case WeightFormat::q8_0:
      return d * static_cast<float>(static_cast<int8_t>(block[2 + i]));
    case WeightFormat::q4_0:
      return d * static_cast<float>(nibble(block + 2) - 8);
    case WeightFormat::q4_1:
      return d * static_cast<float>(nibble(block + 4)) + f16_to_float(halves[1]);
  }
  return value;
}

/// A weight with everything needed to check it.
struct Matrix {
  std::vector<std::vector<std::byte>> stored;
  std::vector<WeightPart> parts;
  std::vector<float> values;          // [N, K] dequantised, in packed order
  std::vector<WeightFormat> formats;  // [N]
  PackMemory memory;
  Weight weight;
  int64_t rows() const { return weight.rows; }
  int64_t cols() const { return weight.cols; }
};

struct PartSpec {
  WeightFormat format;
  int64_t rows;
  bool shuffled = false;
};

Matrix make_matrix(const std::vector<PartSpec>& specs, int64_t cols, ThreadPool& pool, unsigned seed = 1) {
  std::mt19937 rng(seed);
  Matrix m;
  for (const PartSpec& spec : specs) {
    m.stored.push_back(random_stored(spec.format, spec.rows, cols, rng));
    WeightPart part{spec.format, spec.rows, cols, m.stored.back().data(), {}};
    for (int32_t i = 0; spec.shuffled && i < spec.rows; ++i) part.row_order.push_back(i);
    std::shuffle(part.row_order.begin(), part.row_order.end(), rng);
    for (int64_t i = 0; i < spec.rows; ++i) {
      const int64_t stored_row = spec.shuffled ? part.row_order[static_cast<size_t>(i)] : i;
      const std::byte* row = part.data + static_cast<size_t>(stored_row) * weight_row_bytes(spec.format, cols);
      for (int64_t k = 0; k < cols; ++k) m.values.push_back(stored_value(spec.format, row, k));
      m.formats.push_back(spec.format);
    }
    m.parts.push_back(std::move(part));
  }
  m.weight = pack_weight(m.parts, pool, m.memory);
  return m;
}

std::vector<float> random_input(int64_t count, unsigned seed = 2) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal(0, 1.5f);
  std::vector<float> x(static_cast<size_t>(count));
  for (float& value : x) value = normal(rng);
  return x;
}

struct Layout {
  int64_t x_pad = 0;    ///< elements after each input row
  int64_t out_pad = 0;  ///< elements after each output row; they must stay untouched
};

/// Runs `linear` on x[T, K] and returns the dense [T, N].
std::vector<float> multiply(const LinearKernels& kernels, ThreadPool& pool, const Matrix& m, const std::vector<float>& x,
                            const float* bias = nullptr, Layout layout = {}) {
  constexpr float kUntouched = -12345.0f;
  const int64_t n = m.rows(), k = m.cols(), t = static_cast<int64_t>(x.size()) / k;
  const int64_t x_stride = k + layout.x_pad, out_stride = n + layout.out_pad;
  std::vector<float> spread_x(static_cast<size_t>(t * x_stride), NAN), out(static_cast<size_t>(t * out_stride), kUntouched);
  for (int64_t i = 0; i < t; ++i) std::copy_n(x.begin() + i * k, k, spread_x.begin() + i * x_stride);
  const size_t bytes = linear_workspace(t, n, k, m.weight.part_formats);
  std::vector<std::byte> storage(bytes + 128, std::byte{0x7a});
  const size_t shift = (64 - reinterpret_cast<uintptr_t>(storage.data()) % 64) % 64;
  linear(kernels, pool, Tensor{out.data(), DType::f32, {t, n}, out_stride},
         Tensor{spread_x.data(), DType::f32, {t, k}, x_stride}, m.weight, bias, storage.data() + shift);
  for (size_t i = shift + bytes; i < storage.size(); ++i)
    EXPECT_EQ(storage[i], std::byte{0x7a}) << "written past the workspace";
  std::vector<float> dense;
  for (int64_t i = 0; i < t; ++i) {
    dense.insert(dense.end(), out.begin() + i * out_stride, out.begin() + i * out_stride + n);
    for (int64_t j = n; j < out_stride; ++j) EXPECT_EQ(out[static_cast<size_t>(i * out_stride + j)], kUntouched);
  }
  return dense;
}

/// The input as the product sees it (header of linear.h), and per element how far that may lie from the true input.
void seen_input(WeightFormat format, const LinearKernels& kernels, const float* x, int64_t k, std::vector<double>& seen,
                std::vector<double>& slack) {
  seen.assign(x, x + k);
  slack.assign(static_cast<size_t>(k), 0.0);
  for (int64_t i = 0; i < k; ++i) {
    const size_t at = static_cast<size_t>(i);
    if (is_quantised(format)) {
      float amax = 0;
      for (int64_t j = i / 32 * 32; j < i / 32 * 32 + 32; ++j) amax = std::max(amax, std::fabs(x[j]));
      const float inverse = amax > 0 ? static_cast<float>(kMaxQuant) / amax : 0.0f;
      seen[at] = double{amax / static_cast<float>(kMaxQuant)} * std::nearbyint(x[i] * inverse);
      slack[at] = double{amax} / kMaxQuant * 0.5001;
    } else if (format == WeightFormat::bf16 && kernels.rounds_to_bf16) {
      seen[at] = double{bf16_to_float(float_to_bf16(x[i]))};
      slack[at] = std::fabs(double{x[i]}) / 256;
    }
  }
}

void expect_close(const LinearKernels& kernels, const Matrix& m, const std::vector<float>& x, const std::vector<float>& out,
                  const float* bias = nullptr) {
  const int64_t n = m.rows(), k = m.cols(), t = static_cast<int64_t>(x.size()) / k;
  std::vector<double> seen, slack;
  for (int64_t i = 0; i < t; ++i) {
    WeightFormat format{};
    for (int64_t j = 0; j < n; ++j) {
      if (j == 0 || m.formats[static_cast<size_t>(j)] != format) {
        format = m.formats[static_cast<size_t>(j)];
        seen_input(format, kernels, &x[static_cast<size_t>(i * k)], k, seen, slack);
      }
      double expected = bias ? bias[j] : 0.0, exact = expected, magnitude = std::fabs(expected), allowed = 0;
      for (int64_t e = 0; e < k; ++e) {
        const double w = m.values[static_cast<size_t>(j * k + e)];
        const double value = seen[static_cast<size_t>(e)];
        expected += w * value;
        exact += w * x[static_cast<size_t>(i * k + e)];
        // A q4_1 product cancels between scale and minimum, each up to 16 * 0.05 and 1: count it as if it did not.
        magnitude += (std::fabs(w) + (format == WeightFormat::q4_1 ? 2 : 0)) * std::fabs(value);
        allowed += std::fabs(w) * slack[static_cast<size_t>(e)];
      }
      const double got = out[static_cast<size_t>(i * n + j)];
      ASSERT_NEAR(got, expected, 2e-6 * magnitude + 1e-30)
          << "row " << i << " column " << j << " isa " << isa_name(kernels.isa);
      ASSERT_NEAR(got, exact, allowed + 2e-6 * magnitude + 1e-30) << "row " << i << " column " << j;
    }
  }
}

bool same_bits(const float* a, const float* b, int64_t count) { return std::memcmp(a, b, static_cast<size_t>(count) * 4) == 0; }

/// Cases of (rows, cols) that a format can have: odd row counts, and odd cols for plain floats.
std::vector<std::pair<int64_t, int64_t>> shapes(WeightFormat format) {
  if (is_quantised(format)) return {{1, 32}, {37, 96}, {65, 576}};
  return {{1, 1}, {17, 7}, {37, 33}, {50, 190}};
}

template <class Body>
void for_each_case(const Body& body) {
  for (const Isa isa : isas()) {
    for (const WeightFormat format : kFormats) {
      SCOPED_TRACE(std::string(isa_name(isa)) + " " + weight_format_info(format).name);
      body(linear_kernels(isa), format);
    }
  }
}

TEST(Linear, products_match_a_double_precision_reference) {
  ThreadPool pool(2);
  for_each_case([&](const LinearKernels& kernels, WeightFormat format) {
    for (const auto& [n, k] : shapes(format)) {
      const Matrix m = make_matrix({{format, n}}, k, pool);
      for (const int64_t t : {1, 2, 3, 7, 8, 16, 33}) {
        const std::vector<float> x = random_input(t * k);
        expect_close(kernels, m, x, multiply(kernels, pool, m, x));
      }
    }
  });
}

TEST(Linear, a_row_has_the_same_bits_alone_and_in_any_batch) {
  ThreadPool pool(2);
  for_each_case([&](const LinearKernels& kernels, WeightFormat format) {
    const int64_t n = 37, k = is_quantised(format) ? 1536 : 1531;
    const Matrix m = make_matrix({{format, n}}, k, pool);
    const std::vector<float> x = random_input(131 * k);
    std::vector<float> alone;
    for (int64_t i = 0; i < 131; ++i) {
      const std::vector<float> row(x.begin() + i * k, x.begin() + (i + 1) * k);
      const std::vector<float> out = multiply(kernels, pool, m, row);
      alone.insert(alone.end(), out.begin(), out.end());
    }
    for (const int64_t t : {2, 3, 4, 5, 6, 7, 8, 9, 16, 33, 131}) {
      const std::vector<float> batch(x.begin(), x.begin() + t * k);
      EXPECT_TRUE(same_bits(multiply(kernels, pool, m, batch).data(), alone.data(), t * n)) << t << " rows";
    }
  });
}

TEST(Linear, wide_inputs_are_cut_into_blocks_of_rows_that_change_nothing) {
  ThreadPool pool(2);
  const int64_t n = 20, k = 8192;
  const LinearKernels& kernels = linear_kernels(detect_isa());
  const Matrix m = make_matrix({{WeightFormat::q8_0, n}}, k, pool);
  const std::vector<float> x = random_input(41 * k);
  const std::vector<float> all = multiply(kernels, pool, m, x);
  expect_close(kernels, m, x, all);
  for (const int64_t t : {12, 13, 24, 25, 40}) {
    const std::vector<float> batch(x.begin(), x.begin() + t * k);
    EXPECT_TRUE(same_bits(multiply(kernels, pool, m, batch).data(), all.data(), t * n)) << t << " rows";
  }
}

TEST(Linear, one_thread_and_many_give_the_same_bits) {
  ThreadPool one(1), two(2), three(3);
  for_each_case([&](const LinearKernels& kernels, WeightFormat format) {
    const Matrix m = make_matrix({{format, 200}}, 224, two);
    for (const int64_t t : {1, 33, 65}) {
      const std::vector<float> x = random_input(t * 224);
      const std::vector<float> expected = multiply(kernels, one, m, x);
      EXPECT_TRUE(same_bits(multiply(kernels, two, m, x).data(), expected.data(), t * 200));
      EXPECT_TRUE(same_bits(multiply(kernels, three, m, x).data(), expected.data(), t * 200));
    }
  });
}

TEST(Linear, strided_rows_equal_dense_rows_and_gaps_stay_untouched) {
  ThreadPool pool(2);
  for_each_case([&](const LinearKernels& kernels, WeightFormat format) {
    const Matrix m = make_matrix({{format, 37}}, 96, pool);
    for (const int64_t t : {1, 9}) {
      const std::vector<float> x = random_input(t * 96);
      const std::vector<float> dense = multiply(kernels, pool, m, x);
      EXPECT_TRUE(same_bits(multiply(kernels, pool, m, x, nullptr, {5, 3}).data(), dense.data(), t * 37));
    }
  });
}

TEST(Linear, bias_is_added_to_every_row) {
  ThreadPool pool(2);
  for_each_case([&](const LinearKernels& kernels, WeightFormat format) {
    const Matrix m = make_matrix({{format, 37}, {format, 5}}, 64, pool);
    const std::vector<float> x = random_input(9 * 64), bias = random_input(42, 7);
    expect_close(kernels, m, x, multiply(kernels, pool, m, x, bias.data()), bias.data());
  });
}

TEST(Linear, parts_of_different_formats_stack_in_order) {
  ThreadPool pool(2);
  const Matrix m = make_matrix({{WeightFormat::q4_1, 18},
                                {WeightFormat::bf16, 5},
                                {WeightFormat::q8_0, 33},
                                {WeightFormat::f32, 1},
                                {WeightFormat::q4_0, 16, true},
                                {WeightFormat::f16, 31}},
                               160, pool);
  EXPECT_EQ(m.rows(), 104);
  for (const Isa isa : isas()) {
    for (const int64_t t : {1, 3, 40}) {
      const std::vector<float> x = random_input(t * 160);
      expect_close(linear_kernels(isa), m, x, multiply(linear_kernels(isa), pool, m, x));
    }
  }
}

TEST(Linear, vector_instruction_sets_agree_bitwise_where_the_input_is_not_rounded) {
  ThreadPool pool(2);
  for (const WeightFormat format : kFormats) {
    if (format == WeightFormat::bf16) continue;
    const Matrix m = make_matrix({{format, 53}}, 608, pool);
    const std::vector<float> x = random_input(13 * 608);
    const std::vector<float> widest = multiply(linear_kernels(detect_isa()), pool, m, x);
    for (const Isa isa : isas()) {
      if (isa == Isa::portable && detect_isa() != Isa::portable) continue;  // has no fused multiply-add
      EXPECT_TRUE(same_bits(multiply(linear_kernels(isa), pool, m, x).data(), widest.data(), 13 * 53)) << isa_name(isa);
    }
  }
}

TEST(Linear, extreme_bytes_do_not_saturate) {
  ThreadPool pool(2);
  for_each_case([&](const LinearKernels& kernels, WeightFormat format) {
    if (!is_quantised(format)) return;
    for (const int fill : {0x00, 0x7f, 0x80, 0xff}) {
      Matrix m = make_matrix({{format, 16}}, 64, pool);
      const WeightFormatInfo info = weight_format_info(format);
      const size_t header = format == WeightFormat::q4_1 ? 4 : 2;
      for (size_t at = 0; at < m.stored[0].size(); ++at) {
        if (at % info.block_bytes >= header) m.stored[0][at] = static_cast<std::byte>(fill);
      }
      for (int64_t i = 0; i < 16 * 64; ++i) {
        const std::byte* row = m.stored[0].data() + static_cast<size_t>(i / 64) * weight_row_bytes(format, 64);
        m.values[static_cast<size_t>(i)] = stored_value(format, row, i % 64);
      }
      m.weight = pack_weight(m.parts, pool, m.memory);
      for (const float value : {-3.0f, 3.0f}) {
        const std::vector<float> x(3 * 64, value);
        expect_close(kernels, m, x, multiply(kernels, pool, m, x));
      }
    }
  });
}

TEST(Linear, zero_tiny_and_non_finite_inputs_stay_in_their_row) {
  ThreadPool pool(2);
  for_each_case([&](const LinearKernels& kernels, WeightFormat format) {
    const Matrix m = make_matrix({{format, 20}}, 64, pool);
    std::vector<float> x = random_input(6 * 64);
    const std::vector<float> normal = multiply(kernels, pool, m, x);
    std::fill_n(x.begin() + 64, 64, 0.0f);
    std::fill_n(x.begin() + 2 * 64, 64, 1e-40f);
    x[3 * 64 + 7] = NAN;
    x[4 * 64 + 40] = INFINITY;
    const std::vector<float> out = multiply(kernels, pool, m, x);
    for (size_t j = 0; j < 20; ++j) {
      EXPECT_EQ(out[20 + j], 0.0f);
      EXPECT_NEAR(out[40 + j], 0.0f, 1e-36f);
      EXPECT_TRUE(std::isnan(out[60 + j]));
      EXPECT_FALSE(std::isfinite(out[80 + j]));
    }
    EXPECT_TRUE(same_bits(out.data(), normal.data(), 20));
    EXPECT_TRUE(same_bits(out.data() + 100, normal.data() + 100, 20));
  });
}

TEST(Linear, zero_rows_are_allowed) {
  ThreadPool pool(2);
  const Matrix m = make_matrix({{WeightFormat::q4_1, 20}}, 64, pool);
  EXPECT_TRUE(multiply(linear_kernels(detect_isa()), pool, m, {}).empty());
}

TEST(Embed, rows_come_back_exactly_as_the_file_defines_them) {
  ThreadPool pool(2);
  for (const WeightFormat format : kFormats) {
    SCOPED_TRACE(weight_format_info(format).name);
    for (const bool shuffled : {false, true}) {
      const int64_t k = is_quantised(format) ? 320 : 315;
      const Matrix m = make_matrix({{format, 37, shuffled}, {WeightFormat::f16, 3}}, k, pool);
      for (const int repeats : {1, 3}) {  // a short and a long list
        std::vector<int32_t> ids;
        for (int i = 0; i < 40 * repeats; ++i) ids.push_back((i * 7) % 40);
        std::vector<float> out(ids.size() * static_cast<size_t>(k + 2));
        embed(pool, Tensor{out.data(), DType::f32, {static_cast<int64_t>(ids.size()), k}, k + 2}, m.weight, ids.data());
        for (size_t i = 0; i < ids.size(); ++i) {
          EXPECT_TRUE(same_bits(&out[i * static_cast<size_t>(k + 2)], &m.values[static_cast<size_t>(ids[i] * k)], k)) << ids[i];
        }
      }
    }
  }
}

TEST(Pack, packed_bytes_is_what_a_weight_takes_and_does_not_need_data) {
  ThreadPool pool(2);
  const Matrix m = make_matrix({{WeightFormat::q4_1, 960}, {WeightFormat::q8_0, 17}, {WeightFormat::bf16, 16}}, 576, pool);
  std::vector<WeightPart> planned = m.parts;
  for (WeightPart& part : planned) part.data = nullptr;
  EXPECT_EQ(packed_bytes(planned), m.weight.bytes);
  EXPECT_EQ(packed_bytes(std::span(planned).first(1)), size_t{960 * 576} * 5 / 8);
  EXPECT_EQ(packed_bytes(std::span(planned).last(1)), size_t{16 * 576} * 2);
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

TEST(Pack, bad_parts_are_refused_with_their_numbers) {
  std::byte data[4096]{};
  EXPECT_EQ(error_of({}), "a weight needs at least one part");
  EXPECT_EQ(error_of({{WeightFormat::f32, 2, 8, data, {}}, {WeightFormat::f32, 2, 9, data, {}}}),
            "stacked weight parts must have equal columns, got 8 and 9");
  EXPECT_EQ(error_of({{WeightFormat::q4_1, 2, 48, data, {}}}), "the columns of a q4_1 weight must be a multiple of 32, got 48");
  EXPECT_EQ(error_of({{WeightFormat::f32, 0, 8, data, {}}}), "a weight part must have rows and columns, got [0, 8]");
  EXPECT_EQ(error_of({{WeightFormat::f32, 3, 8, data, {0, 1}}}), "row_order must have one entry per row, got 2 for 3 rows");
  EXPECT_EQ(error_of({{WeightFormat::f32, 2, 8, data, {0, -1}}}), "row_order must name stored rows, got -1");
}

}  // namespace
}  // namespace pagoda::cpu
