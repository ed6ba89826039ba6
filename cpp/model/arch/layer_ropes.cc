// Rotations by layer.
#include "model/arch/layer_ropes.h"

#include "model/hf_rope.h"

namespace pagoda::arch {

void set_local_rope(ModelConfig& config, const RopeConfig& local) {
  config.more_ropes = {local};
  config.layer_ropes.clear();
  for (const int window : config.windows) config.layer_ropes.push_back(window > 0 ? 1 : 0);
}

void read_hf_layer_ropes(const Json& json, ModelConfig& config, double theta, double local_theta) {
  const Json* parameters = json.find("rope_parameters");
  const Json *full = nullptr, *sliding = nullptr;
  if (parameters && parameters->is_object()) {
    full = parameters->find("full_attention");
    sliding = parameters->find("sliding_attention");
  }
  const bool by_type = full || sliding;
  const Json none = Json::parse("{}");
  RopeConfig local = read_hf_rope(none, sliding, config);
  if (!sliding || !sliding->is_object() || !sliding->find("rope_theta")) local.theta = local_theta;
  if (by_type) config.rope = read_hf_rope(json, full, config);
  const bool stated = full && full->is_object() ? full->find("rope_theta") != nullptr : json.find("rope_theta") != nullptr;
  if (!stated) config.rope.theta = theta;
  set_local_rope(config, local);
}

}  // namespace pagoda::arch
