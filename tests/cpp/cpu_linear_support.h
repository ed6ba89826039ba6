// What the tests of the CPU's matrix product share: random stored weights of every format, a packed matrix with its values, and
// the comparison of products with a double-precision reference.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "backend/cpu/linear.h"
#include "core/dtype.h"
#include "emulation/emulated_amx.h"
#include "emulation/emulated_vnni.h"
#include "io/dequantise.h"

namespace pagoda::cpu {

inline std::vector<WeightFormat> all_formats() {
  std::vector<WeightFormat> formats;
  for (int i = 0; i < kNumWeightFormats; ++i) formats.push_back(static_cast<WeightFormat>(i));
  return formats;
}

constexpr InputPrecision kPrecisions[] = {InputPrecision::int8, InputPrecision::mixed, InputPrecision::int16};

/// The kernels of one instruction set, for every precision of the input.
struct KernelSet {
  std::string name;
  std::vector<LinearKernels> kernels;
};

/// Every instruction set of the machine, and AVX-VNNI's and AMX's emulated on any with AVX2 and AVX-512.
inline std::vector<KernelSet> kernel_sets() {
  std::vector<KernelSet> sets;
  for (const Isa isa : kIsas) {
    if (!isa_supported(isa)) continue;
    KernelSet set{std::string(isa_name(isa)), {}};
    for (const InputPrecision precision : kPrecisions) set.kernels.push_back(linear_kernels(isa, precision));
    if (isa == Isa::amx) set.kernels.push_back(linear_kernels(isa, InputPrecision::bf16));
    sets.push_back(set);
  }
#if defined(__x86_64__)
  if (isa_supported(Isa::avx2)) {
    KernelSet set{"emulated_avx2_vnni", {}};
    for (const InputPrecision precision : kPrecisions) {
      set.kernels.push_back(emulated_vnni_kernels());
      set.kernels.back().precision = precision;
    }
    sets.push_back(set);
  }
  if (isa_supported(Isa::avx512)) sets.push_back({"emulated_amx", {emulated_amx_kernels()}});
#endif
  return sets;
}

/// Calls body(kernels) for each of a set.
template <class Body>
void for_each_kernels(const KernelSet& set, const Body& body) {
  for (const LinearKernels& kernels : set.kernels) {
    SCOPED_TRACE(set.name + ", precision " + std::to_string(static_cast<int>(kernels.precision)));
    body(kernels);
  }
}

/// Calls body(kernels) for each of all sets.
template <class Body>
void for_each_kernels(const Body& body) {
  for (const KernelSet& set : kernel_sets()) for_each_kernels(set, body);
}

/// Calls body(kernels, format) for each of a set and every format.
template <class Body>
void for_each_case(const KernelSet& set, const Body& body) {
  for_each_kernels(set, [&](const LinearKernels& kernels) {
    for (const WeightFormat format : all_formats()) {
      SCOPED_TRACE(weight_format_info(format).name);
      body(kernels, format);
    }
  });
}

/// Calls body(kernels, format) for each of all sets and every format.
template <class Body>
void for_each_case(const Body& body) {
  for (const KernelSet& set : kernel_sets()) for_each_case(set, body);
}

/// For tests that each set of kernels passes by itself, as all of them take long.
using OfKernelSet = testing::TestWithParam<KernelSet>;

inline std::string name_of_set(const testing::TestParamInfo<KernelSet>& info) { return info.param.name; }
inline void PrintTo(const KernelSet& set, std::ostream* out) { *out << set.name; }

/// The kernels that a backend takes here by itself.
inline LinearKernels default_kernels() { return linear_kernels(detect_isa(), parse_input_precision("auto", detect_isa())); }

/// The smallest multiple of the format's block that is at least `cols`; plain floats get one column more.
inline int64_t cols_for(WeightFormat format, int64_t cols) {
  const int64_t block = weight_format_info(format).block_values;
  return block == 1 ? cols + 1 : (cols + block - 1) / block * block;
}

template <class T>
void put(std::byte* at, T value) {
  std::memcpy(at, &value, sizeof value);
}

/// Where a stored block keeps its scale d and its minimum m, -1 where it has none. mxfp4 has only an exponent byte.
struct ScalePlaces {
  int d, m = -1;
  bool f32 = false;
};
inline ScalePlaces scale_places(WeightFormat format) {
  switch (format) {
    case WeightFormat::q4_1:
    case WeightFormat::q5_1:
    case WeightFormat::q4_k:
    case WeightFormat::q5_k:
      return {0, 2};
    case WeightFormat::q2_k:
      return {80, 82};
    case WeightFormat::q3_k:
      return {108};
    case WeightFormat::q6_k:
      return {208};
    case WeightFormat::f8_e4m3:
    case WeightFormat::int8:
    case WeightFormat::int4:
      return {0, -1, true};
    case WeightFormat::mxfp4:
      return {-1};
    default:
      return {0};
  }
}

/// Gives a stored block of a quantised format this scale and minimum, where it has them.
inline void set_scales(WeightFormat format, std::byte* block, float d, float m) {
  const ScalePlaces places = scale_places(format);
  if (places.d >= 0 && places.f32) put(block + places.d, d);
  if (places.d >= 0 && !places.f32) put(block + places.d, float_to_f16(d));
  if (places.m >= 0) put(block + places.m, float_to_f16(m));
}

/// Random rows as a file stores them, all values finite and about as large as one.
inline std::vector<std::byte> random_stored(WeightFormat format, int64_t rows, int64_t cols, std::mt19937& rng) {
  std::vector<std::byte> stored(static_cast<size_t>(rows) * weight_row_bytes(format, cols));
  std::uniform_real_distribution<float> uniform(-1, 1);
  const WeightFormatInfo info = weight_format_info(format);
  for (std::byte& byte : stored) byte = static_cast<std::byte>(rng());
  for (size_t at = 0; at < stored.size(); at += info.block_bytes) {
    std::byte* block = &stored[at];
    const float value = uniform(rng);
    const float sub_scales = info.block_values == 256 ? 1.0f / 32 : 1.0f;  // those of 16 or 32 values multiply d
    switch (format) {
      case WeightFormat::f32:
        put(block, value);
        break;
      case WeightFormat::f16:
        put(block, float_to_f16(value));
        break;
      case WeightFormat::bf16:
        put(block, float_to_bf16(value));
        break;
      case WeightFormat::mxfp4:
        block[0] = static_cast<std::byte>(122 + rng() % 6);
        break;
      case WeightFormat::f8_e4m3:
        for (size_t i = 4; i < info.block_bytes; ++i) block[i] &= std::byte{0xf7};  // no NaN
        set_scales(format, block, value * 0.01f, 0);
        break;
      case WeightFormat::int4:
        put(block + 4, static_cast<float>(rng() % 17));
        set_scales(format, block, value * 0.05f, 0);
        break;
      default:
        set_scales(format, block, value * 0.05f * sub_scales, uniform(rng) * sub_scales);
    }
  }
  return stored;
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

  /// Packs and dequantises what `parts` say.
  void pack(ThreadPool& pool) {
    values.clear();
    formats.clear();
    for (const WeightPart& part : parts) {
      for (int64_t i = 0; i < part.rows; ++i) {
        const int64_t stored_row = part.row_order.empty() ? i : part.row_order[static_cast<size_t>(i)];
        values.resize(values.size() + static_cast<size_t>(part.cols));
        dequantise_row(part.format, part.data + static_cast<size_t>(stored_row) * weight_row_bytes(part.format, part.cols),
                       part.cols, values.data() + values.size() - static_cast<size_t>(part.cols));
        formats.push_back(part.format);
      }
    }
    weight = pack_weight(parts, pool, memory);
  }
};

struct PartSpec {
  WeightFormat format;
  int64_t rows;
  bool shuffled = false;
};

inline Matrix make_matrix(const std::vector<PartSpec>& specs, int64_t cols, ThreadPool& pool, unsigned seed = 1) {
  std::mt19937 rng(seed);
  Matrix m;
  for (const PartSpec& spec : specs) {
    m.stored.push_back(random_stored(spec.format, spec.rows, cols, rng));
    WeightPart part{spec.format, spec.rows, cols, m.stored.back().data(), {}};
    for (int32_t i = 0; spec.shuffled && i < spec.rows; ++i) part.row_order.push_back(i);
    std::shuffle(part.row_order.begin(), part.row_order.end(), rng);
    m.parts.push_back(std::move(part));
  }
  m.pack(pool);
  return m;
}

inline std::vector<float> random_input(int64_t count, unsigned seed = 2) {
  std::mt19937 rng(seed);
  std::normal_distribution<float> normal(0, 1.5f);
  std::vector<float> x(static_cast<size_t>(count));
  for (float& value : x) value = normal(rng);
  return x;
}

/// The same with one to four values in every third block of 32 that dwarf it and one another.
inline std::vector<float> input_with_outliers(int64_t count) {
  std::vector<float> x = random_input(count);
  std::mt19937 rng(3);
  for (size_t block = 0; block + 32 <= x.size(); block += 96) {
    float outlier = 40;
    for (size_t i = 0; i <= block / 96 % 4; ++i, outlier *= -2) x[block + rng() % 32] = outlier;
  }
  return x;
}

struct Layout {
  int64_t x_pad = 0;    ///< elements after each input row
  int64_t out_pad = 0;  ///< elements after each output row; they must stay untouched
};

/// Runs `linear` on x[T, K] and returns the dense [T, N].
inline std::vector<float> multiply(const LinearKernels& kernels, ThreadPool& pool, const Matrix& m, const std::vector<float>& x,
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

/// Block x[32] as the product sees it: with `mixed` up to three values that hold more than 0.6 of what is left of its energy
/// stay as they are.
inline void seen_block(InputPrecision precision, const float* x, double* seen, double* slack) {
  std::vector<int> order(32);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [x](int a, int b) { return std::fabs(x[a]) > std::fabs(x[b]); });
  double energy = 0;
  for (int i = 0; i < 32; ++i) energy += double{x[i]} * x[i];
  size_t taken = 0;
  if (precision == InputPrecision::mixed) {
    for (double square; taken < 3 && (square = double{x[order[taken]]} * x[order[taken]]) > 0.6 * energy; ++taken)
      energy -= square;
  }
  const float amax = std::fabs(x[order[taken]]), steps = precision == InputPrecision::int16 ? 128 : 1;
  const float inverse = amax > 0 ? 127 / amax * steps : 0.0f;
  for (; taken < 32; ++taken) {
    const int at = order[taken];
    seen[at] = double{amax / 127} / double{steps} * std::nearbyint(x[at] * inverse);
    slack[at] = double{amax} / (127 * double{steps}) * 0.5001;
  }
}

/// The input as the product sees it (header of linear.h), and per element how far that may lie from the true input.
inline void seen_input(WeightFormat format, const LinearKernels& kernels, const float* x, int64_t k, std::vector<double>& seen,
                       std::vector<double>& slack) {
  seen.assign(x, x + k);
  slack.assign(static_cast<size_t>(k), 0.0);
  const InputForm form = input_form(kernels, format);
  if (form == InputForm::quantised) {
    for (size_t begin = 0; begin < seen.size(); begin += 32) {
      seen_block(kernels.precision, x + begin, &seen[begin], &slack[begin]);
    }
  } else if (form == InputForm::rounded) {
    for (size_t i = 0; i < seen.size(); ++i) {
      seen[i] = double{bf16_to_float(float_to_bf16(x[i]))};
      slack[i] = std::fabs(double{x[i]}) / 256;
    }
  }
}

/// A weight as the product sees it.
inline double seen_weight(WeightFormat format, const LinearKernels& kernels, float w) {
  if (input_form(kernels, format) != InputForm::rounded) return double{w};
  const uint32_t nearest = (std::bit_cast<uint32_t>(w) + 0x8000) & 0xffff0000;  // ties away from zero; nothing for bf16
  return double{std::bit_cast<float>(nearest)};
}

inline void expect_close(const LinearKernels& kernels, const Matrix& m, const std::vector<float>& x,
                         const std::vector<float>& out, const float* bias = nullptr) {
  const int64_t n = m.rows(), k = m.cols(), t = static_cast<int64_t>(x.size()) / k;
  std::vector<double> seen, slack;
  for (int64_t i = 0; i < t; ++i) {
    WeightFormat format{};
    for (int64_t j = 0; j < n; ++j) {
      if (j == 0 || m.formats[static_cast<size_t>(j)] != format) {
        format = m.formats[static_cast<size_t>(j)];
        seen_input(format, kernels, &x[static_cast<size_t>(i * k)], k, seen, slack);
      }
      // Scale and minimum cancel in a product, each up to about 2 of random_stored's: count it as if they did not.
      const double cancelled = is_quantised(format) && scale_places(format).m >= 0 ? 4 : 0;
      double expected = bias ? bias[j] : 0.0, exact = expected, magnitude = std::fabs(expected), allowed = 0;
      for (int64_t e = 0; e < k; ++e) {
        const double w = m.values[static_cast<size_t>(j * k + e)];
        const double value = seen[static_cast<size_t>(e)],
                     weight = seen_weight(format, kernels, m.values[static_cast<size_t>(j * k + e)]);
        expected += weight * value;
        exact += w * x[static_cast<size_t>(i * k + e)];
        magnitude += (std::fabs(w) + cancelled) * std::fabs(value);
        allowed += std::fabs(w) * slack[static_cast<size_t>(e)] + std::fabs(weight - w) * std::fabs(value);
      }
      const double got = out[static_cast<size_t>(i * n + j)];
      ASSERT_NEAR(got, expected, 2e-6 * magnitude + 1e-30)
          << "row " << i << " column " << j << " isa " << isa_name(kernels.isa);
      ASSERT_NEAR(got, exact, allowed + 2e-6 * magnitude + 1e-30) << "row " << i << " column " << j;
    }
  }
}

inline bool same_bits(const float* a, const float* b, int64_t count) {
  return std::memcmp(a, b, static_cast<size_t>(count) * 4) == 0;
}

}  // namespace pagoda::cpu
