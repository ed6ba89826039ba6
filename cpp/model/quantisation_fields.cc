// Reading and naming common fields of quantization_config.
#include "model/quantisation_fields.h"

#include "core/check.h"

namespace pagoda {

int64_t read_group_size(const Json& config, int64_t fallback) {
  const int64_t size = config.get_int("group_size", fallback);
  require(size == -1 || size >= 1, kQuantisationField, "group_size must be -1 (a whole row) or at least 1, got ", size);
  return size;
}

std::pair<int64_t, int64_t> read_block(const Json* json, const std::string& field) {
  const auto is_size = [](const Json& item) { return item.is_integer() && item.as_int() >= 1; };
  const bool is_pair =
      json && json->is_array() && json->items().size() == 2 && is_size(json->items()[0]) && is_size(json->items()[1]);
  require(is_pair, field, " must be two positive integers, got ", json ? json->describe() : "nothing");
  return {json->items()[0].as_int(), json->items()[1].as_int()};
}

std::string group_text(int64_t group_size) { return group_size == -1 ? "one group per row" : str("groups of ", group_size); }

std::string to_lower(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return lower;
}

}  // namespace pagoda
