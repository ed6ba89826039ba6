// JSON: the tree, and config.json as the model floor reads it.
#include "core/check.h"
#include "core/json.h"
#include "model/hf_config.h"
#include "model/hf_quantisation.h"
#include "targets.h"

namespace pagoda {
namespace {

size_t walk(const Json& json) {
  size_t total = json.describe().size();
  if (json.is_array()) {
    for (const Json& item : json.items()) total += walk(item);
  } else if (json.is_object()) {
    for (const Json::Member& member : json.members()) {
      ensure(json.find(member.key) == &member.value, "the member ", member.key, " is found elsewhere");
      total += walk(member.value);
    }
  }
  return total;
}

/// Runs what may refuse its input; counts whether it did.
template <class Action>
size_t attempt(const Action& action) {
  try {
    action();
    return 1;
  } catch (const InvalidArgument&) {
    return 0;
  }
}

void read_config(const Json& json) {
  ModelConfig config = read_hf_config(json);
  ensure(config.num_layers >= 1 && config.vocab_size >= 1, "an accepted configuration without layers or words");
  add_eos_tokens(json, "generation_config.json", config);
}

}  // namespace

bool fuzz_json(std::string_view bytes) {
  Json::ParseOptions strict;
  strict.refuse_duplicate_keys = true;
  strict.max_values = 1000;
  size_t total = attempt([&] { Json::parse(bytes, strict); });
  Json json;
  if (attempt([&] { json = Json::parse(bytes); }) == 0) {
    ensure(total == 0, "the strict reader accepts what the other one refuses");
    return false;
  }
  total += walk(json);
  if (json.is_object()) {
    total += attempt([&] { read_config(json); });
    total += attempt([&] { HfQuantisation::read(json); });
  }
  ensure(total > 0, "an empty tree");
  return true;
}

}  // namespace pagoda
