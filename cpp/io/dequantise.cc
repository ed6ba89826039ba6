// Decoding of rows: plain formats here, blocks by io/block_decoders.
#include "io/dequantise.h"

#include "core/check.h"
#include "core/dtype.h"
#include "io/block_decoders.h"

namespace pagoda {
namespace {

template <class Load>
void decode_plain(const std::byte* row, int64_t cols, size_t bytes, const Load& load, float* out) {
  for (int64_t i = 0; i < cols; ++i) out[i] = load(row + static_cast<size_t>(i) * bytes);
}

BlockDecoder decoder_of(WeightFormat format) {
  switch (format) {
    case WeightFormat::q8_0:
      return decode_q8_0;
    case WeightFormat::q4_0:
      return decode_q4_0;
    case WeightFormat::q4_1:
      return decode_q4_1;
    case WeightFormat::q5_0:
      return decode_q5_0;
    case WeightFormat::q5_1:
      return decode_q5_1;
    case WeightFormat::q2_k:
      return decode_q2_k;
    case WeightFormat::q3_k:
      return decode_q3_k;
    case WeightFormat::q4_k:
      return decode_q4_k;
    case WeightFormat::q5_k:
      return decode_q5_k;
    case WeightFormat::q6_k:
      return decode_q6_k;
    case WeightFormat::iq4_nl:
      return decode_iq4_nl;
    case WeightFormat::iq4_xs:
      return decode_iq4_xs;
    case WeightFormat::mxfp4:
      return decode_mxfp4;
    case WeightFormat::f8_e4m3:
      return decode_f8_e4m3;
    case WeightFormat::int8:
      return decode_int8;
    case WeightFormat::int4:
      return decode_int4;
    case WeightFormat::f32:
    case WeightFormat::f16:
    case WeightFormat::bf16:
      break;
  }
  throw InternalError(str("decoder_of ", weight_format_info(format).name));
}

}  // namespace

void dequantise_row(WeightFormat format, const std::byte* row, int64_t cols, float* out) {
  const auto [name, block_values, block_bytes] = weight_format_info(format);
  ensure(cols >= 0 && cols % block_values == 0, "a row of ", cols, " values in format ", name, " with blocks of ",
         block_values);
  switch (format) {
    case WeightFormat::f32:
      return decode_plain(row, cols, block_bytes, load_bytes<float>, out);
    case WeightFormat::f16:
      return decode_plain(row, cols, block_bytes, load_f16, out);
    case WeightFormat::bf16:
      return decode_plain(
          row, cols, block_bytes, [](const std::byte* from) { return bf16_to_float(load_bytes<uint16_t>(from)); }, out);
    default: {
      const BlockDecoder decode = decoder_of(format);
      for (int64_t i = 0; i < cols; i += block_values, row += block_bytes, out += block_values) decode(row, out);
    }
  }
}

}  // namespace pagoda
