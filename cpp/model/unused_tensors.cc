// The search for what nobody asked for.
#include "model/unused_tensors.h"

#include <algorithm>
#include <charconv>

#include "core/check.h"

namespace pagoda {
namespace {

/// Whether `name` lies in one of the decoder's own layers: others (vision, extra prediction layers) are not read on purpose.
bool in_a_layer(std::string_view name, const ModelConfig& config) {
  const std::string_view prefix = config.layout.names->layer;
  if (!name.starts_with(prefix)) return false;
  name.remove_prefix(prefix.size());
  int layer = -1;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), layer);
  return error == std::errc{} && end != name.data() + name.size() && *end == '.' && layer >= 0 && layer < config.num_layers;
}

bool all_zero(const TensorBytes& tensor) {
  return std::all_of(tensor.data, tensor.data + tensor.bytes, [](std::byte byte) { return byte == std::byte{0}; });
}

}  // namespace

const StoredTensor* TrackedSource::find(std::string_view name) const {
  asked_.emplace(name);
  return source_.find(name);
}

std::optional<TensorBytes> TrackedSource::find_bytes(std::string_view name) const {
  asked_.emplace(name);
  return source_.find_bytes(name);
}

void refuse_unused_tensors(const TrackedSource& source, const ModelConfig& config) {
  for (const std::string& name : source.names()) {
    if (source.asked_for(name) || !in_a_layer(name, config)) continue;
    if (!name.ends_with(".weight") && !name.ends_with(".bias")) continue;
    const std::optional<TensorBytes> tensor = source.find_bytes(name);
    if (!tensor || tensor->shape.empty() || tensor->shape.size() > 2 || all_zero(*tensor)) continue;
    throw InvalidArgument(str(source.describe(), ": tensor ", name, " is no part of the ", config.architecture,
                              " that the configuration describes; without it the model would answer wrongly"));
  }
}

}  // namespace pagoda
