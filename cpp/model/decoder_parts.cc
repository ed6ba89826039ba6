// Reading by place: every matrix is a slice of a stored one.
#include "model/decoder_parts.h"

#include <utility>

namespace pagoda {
namespace {

std::vector<float> picked(const std::vector<float>& values, const std::vector<int32_t>& order) {
  if (order.empty()) return values;
  std::vector<float> result;
  for (const int32_t i : order) result.push_back(values[static_cast<size_t>(i)]);
  return result;
}

std::vector<float> shifted(std::vector<float> values, float offset) {
  if (offset != 0) {
    for (float& value : values) value += offset;
  }
  return values;
}

}  // namespace

DecoderParts::DecoderParts(const PartsSource& from)
    : from_(from), places_(from.config, from.config.layout), stored_(from.source, from.quantisation) {}

/// The embedding and the head touch every token, so they are kept at 8 bits where the other matrices have fewer.
std::optional<WeightFormat> DecoderParts::format_of(MatrixRole role) const {
  if (!from_.weight_format || is_linear(role)) return from_.weight_format;
  if (role != MatrixRole::embedding && role != MatrixRole::lm_head) return std::nullopt;
  const WeightFormatInfo info = weight_format_info(*from_.weight_format);
  const bool below_8_bits = static_cast<int64_t>(info.block_bytes) < info.block_values;
  return below_8_bits ? WeightFormat::q8_0 : *from_.weight_format;
}

WeightPart DecoderParts::matrix(MatrixId id) const {
  const MatrixPlace place = places_.matrix(id);
  if (id.role == MatrixRole::shared_scale) return stored_.single_row(place.tensor, place.cols);
  WeightPart part = stored_.matrix({.name = place.tensor,
                                    .rows = place.tensor_rows,
                                    .cols = place.cols,
                                    .transposed = place.transposed,
                                    .index = place.index,
                                    .count = place.count});
  if (const std::optional<WeightFormat> format = format_of(id.role)) part = quantise_part(part, *format);
  return place.row_order.empty() ? part : pick_rows(part, place.row_order);
}

std::vector<float> DecoderParts::bias(MatrixId id) const {
  const MatrixPlace place = places_.matrix(id);
  const std::vector<float> values =
      place.count > 0 ? stored_.stacked_vector(stored_.bias_name(place.tensor), place.index, place.count, place.tensor_rows,
                                               from_.read_vectors)
                      : stored_.vector(stored_.bias_name(place.tensor), place.tensor_rows, from_.read_vectors);
  return picked(values, place.row_order);
}

std::vector<float> DecoderParts::norm_weight(NormRole role, int layer) const {
  const int64_t hidden = from_.config.hidden_size;
  if (!from_.config.norm_weight) return std::vector<float>(static_cast<size_t>(hidden), 1.0f);
  const std::string name = stored_.weight_name(places_.norm(role, layer));
  return shifted(stored_.vector(name, hidden, from_.read_vectors), places_.layout().norm_offset);
}

std::vector<float> DecoderParts::norm_bias(NormRole role, int layer) const {
  return stored_.vector(stored_.bias_name(places_.norm(role, layer)), from_.config.hidden_size, from_.read_vectors);
}

std::vector<float> DecoderParts::head_norm(const HeadNormPlace& place) const {
  std::vector<float> values;
  for (const std::string& tensor : place.tensors) {
    const std::vector<float> own = stored_.vector(tensor, place.tensor_size, from_.read_vectors);
    values.insert(values.end(), own.begin(), own.end());
  }
  return shifted(picked(values, place.order), places_.layout().norm_offset);
}

std::vector<float> DecoderParts::q_norm(int layer) const { return head_norm(places_.q_norm(layer)); }

std::vector<float> DecoderParts::k_norm(int layer) const { return head_norm(places_.k_norm(layer)); }

std::vector<float> DecoderParts::sinks(int layer) const {
  return stored_.vector(stored_.weight_name(places_.sinks(layer)), from_.config.num_heads, from_.read_vectors);
}

}  // namespace pagoda
