// Encoding of rows. The block layouts stand in core/weight_format.h and io/block_decoders_32.cc; float operations and their
// order are those of the `gguf` package where it knows the format.
#include "io/quantise.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/check.h"
#include "core/dtype.h"
#include "core/weight_format.h"
#include "io/code_values.h"

namespace pagoda {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

template <class T>
void store(std::byte* to, T value) {
  std::memcpy(to, &value, sizeof value);
}

void store_f16(std::byte* to, float value) { store(to, float_to_f16(value)); }

float largest_magnitude(const float* x) {
  float most = 0;
  for (int i = 0; i < kBlockValues; ++i) most = std::max(most, std::abs(x[i]));
  return most;
}

/// The first value of the largest magnitude, with its sign.
float extreme(const float* x) {
  float most = x[0];
  for (int i = 1; i < kBlockValues; ++i) {
    if (std::abs(x[i]) > std::abs(most)) most = x[i];
  }
  return most;
}

/// What values are multiplied by to become codes. A scale so small that its inverse overflows counts as zero (in f16 it is).
float inverse(float scale) {
  const float inverted = 1 / scale;
  return std::isfinite(inverted) ? inverted : 0;
}

/// `value` >= 0 without its fraction, at most `most`.
int truncated(float value, int most) { return std::min(static_cast<int>(value), most); }

/// To the nearest integer, halves away from zero. `value` fits an int.
int rounded(float value) {
  const float magnitude = std::abs(value);
  const int whole = static_cast<int>(magnitude);
  const int result = whole + (magnitude - static_cast<float>(whole) >= 0.5f);
  return value < 0 ? -result : result;
}

/// Low halves of the bytes take codes 0 to 15 of the block, high halves the others; only the low 4 bits of a code count.
void store_nibbles(std::byte* to, const int* codes) {
  for (int i = 0; i < kBlockValues / 2; ++i) {
    to[i] = static_cast<std::byte>((codes[i] & 15) | (codes[i + kBlockValues / 2] & 15) << 4);
  }
}

void store_fifth_bits(std::byte* to, const int* codes) {
  uint32_t bits = 0;
  for (int i = 0; i < kBlockValues; ++i) bits |= static_cast<uint32_t>(codes[i] >> 4 & 1) << i;
  store(to, bits);
}

/// q8_0 and int8 without their scale, which is returned.
float encode_bytes(const float* x, std::byte* codes) {
  const float scale = largest_magnitude(x) / 127;
  const float factor = inverse(scale);
  for (int i = 0; i < kBlockValues; ++i) codes[i] = static_cast<std::byte>(rounded(x[i] * factor));
  return scale;
}

/// q4_0 and q5_0: codes around `middle`; the extreme value becomes code 0. Returns the scale.
float encode_centred(const float* x, int middle, int* codes) {
  const float scale = extreme(x) / static_cast<float>(-middle);
  const float factor = inverse(scale);
  for (int i = 0; i < kBlockValues; ++i) {
    codes[i] = truncated(x[i] * factor + (static_cast<float>(middle) + 0.5f), 2 * middle - 1);
  }
  return scale;
}

/// q4_1 and q5_1: codes from the smallest value, 0, to the largest, `most`. Returns the scale.
float encode_from(const float* x, float minimum, float maximum, int most, int* codes) {
  const float scale = (maximum - minimum) / static_cast<float>(most);
  const float factor = inverse(scale);
  for (int i = 0; i < kBlockValues; ++i) codes[i] = truncated((x[i] - minimum) * factor + 0.5f, most);
  return scale;
}

void encode_f8_e4m3(const float* x, std::byte* out) {
  const float scale = largest_magnitude(x) / kMaxE4m3;
  store(out, scale);
  for (int i = 0; i < kBlockValues; ++i) out[4 + i] = static_cast<std::byte>(scale > 0 ? float_to_e4m3(x[i] / scale) : 0);
}

void encode_int4(const float* x, float smallest, float largest, std::byte* out) {
  const float scale = (std::max(largest, 0.0f) - std::min(smallest, 0.0f)) / 15;
  const int zero = scale > 0 ? rounded(-std::min(smallest, 0.0f) / scale) : 0;
  int codes[kBlockValues] = {};
  for (int i = 0; i < kBlockValues && scale > 0; ++i) {
    codes[i] = std::clamp(rounded(x[i] / scale) + zero, 0, 15);
  }
  store(out, scale);
  store(out + 4, static_cast<float>(zero));
  store_nibbles(out + 8, codes);
}

/// A block that decodes to NaNs: the scale, which stands first in every block, is one; all other bytes are zero.
void encode_nan(WeightFormat format, std::byte* out) {
  const WeightFormatInfo info = weight_format_info(format);
  std::memset(out, 0, info.block_bytes);
  const bool wide = format == WeightFormat::f8_e4m3 || format == WeightFormat::int8 || format == WeightFormat::int4;
  if (wide) {
    store(out, kNaN);
  } else {
    store_f16(out, kNaN);
  }
}

/// `x` is finite, and so is its range.
void encode_block(WeightFormat format, const float* x, float smallest, float largest, std::byte* out) {
  int codes[kBlockValues];
  switch (format) {
    case WeightFormat::q8_0:
      return store_f16(out, encode_bytes(x, out + 2));
    case WeightFormat::q4_0:
      store_f16(out, encode_centred(x, 8, codes));
      return store_nibbles(out + 2, codes);
    case WeightFormat::q4_1:
      store_f16(out, encode_from(x, smallest, largest, 15, codes));
      store_f16(out + 2, smallest);
      return store_nibbles(out + 4, codes);
    case WeightFormat::q5_0:
      store_f16(out, encode_centred(x, 16, codes));
      store_fifth_bits(out + 2, codes);
      return store_nibbles(out + 6, codes);
    case WeightFormat::q5_1:
      store_f16(out, encode_from(x, smallest, largest, 31, codes));
      store_f16(out + 2, smallest);
      store_fifth_bits(out + 4, codes);
      return store_nibbles(out + 8, codes);
    case WeightFormat::f8_e4m3:
      return encode_f8_e4m3(x, out);
    case WeightFormat::int8:
      return store(out, encode_bytes(x, out + 4));
    case WeightFormat::int4:
      return encode_int4(x, smallest, largest, out);
    default:
      throw InternalError(str("encode_block of ", weight_format_info(format).name));
  }
}

void quantise_block(WeightFormat format, const float* x, std::byte* out) {
  float smallest = x[0], largest = x[0];
  bool finite = true;
  for (int i = 0; i < kBlockValues; ++i) {
    smallest = std::min(smallest, x[i]);
    largest = std::max(largest, x[i]);
    finite = finite && std::isfinite(x[i]);
  }
  if (finite && std::isfinite(largest - smallest)) {
    encode_block(format, x, smallest, largest, out);
  } else {
    encode_nan(format, out);
  }
}

template <class Encode>
void quantise_plain(const float* values, int64_t cols, std::byte* out, const Encode& encode) {
  for (int64_t i = 0; i < cols; ++i) store(out + i * static_cast<int64_t>(sizeof(encode(0.0f))), encode(values[i]));
}

}  // namespace

bool can_quantise(WeightFormat format) {
  switch (format) {
    case WeightFormat::f32:
    case WeightFormat::f16:
    case WeightFormat::bf16:
    case WeightFormat::q8_0:
    case WeightFormat::q4_0:
    case WeightFormat::q4_1:
    case WeightFormat::q5_0:
    case WeightFormat::q5_1:
    case WeightFormat::f8_e4m3:
    case WeightFormat::int8:
    case WeightFormat::int4:
      return true;
    default:
      return false;
  }
}

std::string quantisable_formats() {
  std::string names;
  for (int i = 0; i < kNumWeightFormats; ++i) {
    const auto format = static_cast<WeightFormat>(i);
    if (can_quantise(format)) names += (names.empty() ? "" : ", ") + std::string(weight_format_info(format).name);
  }
  return names;
}

void quantise_row(WeightFormat format, const float* values, int64_t cols, std::byte* out) {
  const auto [name, block_values, block_bytes] = weight_format_info(format);
  require(can_quantise(format), "weights cannot be converted to ", name, ", only to ", quantisable_formats());
  ensure(cols >= 0 && cols % block_values == 0, "a row of ", cols, " values to format ", name, " with blocks of ",
         block_values);
  switch (format) {
    case WeightFormat::f32:
      return quantise_plain(values, cols, out, [](float value) { return value; });
    case WeightFormat::f16:
      return quantise_plain(values, cols, out, float_to_f16);
    case WeightFormat::bf16:
      return quantise_plain(values, cols, out, float_to_bf16);
    default:
      for (int64_t i = 0; i < cols; i += kBlockValues, values += kBlockValues, out += block_bytes)
        quantise_block(format, values, out);
  }
}

}  // namespace pagoda
