// config.json to RopeConfig. The rules of each scaling are those of transformers' modeling_rope_utils.
#include "model/hf_rope.h"

#include <cmath>

#include "core/check.h"

namespace pagoda {
namespace {

std::vector<float> read_divisors(const Json& parameters, const char* key) {
  std::vector<float> divisors;
  const Json& values = parameters.at(key);
  require(values.is_array(), "config.json: rope scaling: ", key, " must be an array, found ", values.describe());
  for (const Json& value : values.items()) divisors.push_back(static_cast<float>(value.as_double()));
  for (const float divisor : divisors) {
    require(std::isfinite(divisor) && divisor > 0, "config.json: rope scaling: ", key, " must hold numbers > 0, found ",
            divisor);
  }
  return divisors;
}

/// Some families have it outside of the rope's own members, and there it counts more.
double original_context(const Json& json, const Json& parameters, const ModelConfig& config) {
  const char* key = "original_max_position_embeddings";
  const auto context = static_cast<double>(config.max_context);
  return json.get_double(key, parameters.get_double(key, context));
}

void read_llama3(const Json& json, const Json& parameters, const ModelConfig& config, RopeConfig& rope) {
  rope.scaling = RopeScaling::llama3;
  rope.factor = parameters.get_double("factor");
  rope.low_freq_factor = parameters.get_double("low_freq_factor");
  rope.high_freq_factor = parameters.get_double("high_freq_factor");
  rope.original_context = original_context(json, parameters, config);
  require(rope.original_context > 0 && rope.high_freq_factor > rope.low_freq_factor,
          "config.json: llama3 rope scaling needs original_max_position_embeddings > 0 and high_freq_factor > "
          "low_freq_factor, got ",
          rope.original_context, ", ", rope.high_freq_factor, ", ", rope.low_freq_factor);
}

double magnitude(double factor, double weight) { return factor <= 1 ? 1.0 : 0.1 * weight * std::log(factor) + 1.0; }

void read_yarn(const Json& json, const Json& parameters, const ModelConfig& config, RopeConfig& rope) {
  rope.scaling = RopeScaling::yarn;
  rope.original_context = original_context(json, parameters, config);
  rope.factor = parameters.get_double("factor", static_cast<double>(config.max_context) / rope.original_context);
  rope.beta_fast = parameters.get_double("beta_fast", 32);
  rope.beta_slow = parameters.get_double("beta_slow", 1);
  rope.truncate = parameters.get_bool("truncate", true);
  const double mscale = parameters.get_double("mscale", 0), all_dims = parameters.get_double("mscale_all_dim", 0);
  const bool ratio = mscale != 0 && all_dims != 0;
  rope.attention_factor =
      parameters.get_double("attention_factor", ratio ? magnitude(rope.factor, mscale) / magnitude(rope.factor, all_dims)
                                                      : magnitude(rope.factor, 1));
  require(rope.original_context > 0 && rope.beta_fast > rope.beta_slow && rope.beta_slow > 0,
          "config.json: yarn rope scaling needs original_max_position_embeddings > 0 and beta_fast > beta_slow > 0, got ",
          rope.original_context, ", ", rope.beta_fast, ", ", rope.beta_slow);
}

void read_longrope(const Json& json, const Json& parameters, const ModelConfig& config, RopeConfig& rope) {
  rope.scaling = RopeScaling::longrope;
  rope.original_context = original_context(json, parameters, config);
  require(rope.original_context > 1, "config.json: longrope needs original_max_position_embeddings > 1, got ",
          rope.original_context);
  rope.short_divisors = read_divisors(parameters, "short_factor");
  rope.long_divisors = read_divisors(parameters, "long_factor");
  const double factor = parameters.get_double("factor", static_cast<double>(config.max_context) / rope.original_context);
  const double spread = factor <= 1 ? 1.0 : std::sqrt(1 + std::log(factor) / std::log(rope.original_context));
  rope.attention_factor = parameters.get_double("attention_factor", spread);
}

void read_scaling(const Json& json, const Json& parameters, const ModelConfig& config, RopeConfig& rope) {
  std::string type = parameters.get_string("rope_type", "");
  if (type.empty()) type = parameters.get_string("type", "default");
  if (type == "default") return;
  if (type == "linear") {
    rope.scaling = RopeScaling::linear;
    rope.factor = parameters.get_double("factor");
  } else if (type == "dynamic") {
    rope.scaling = RopeScaling::dynamic;
    rope.factor = parameters.get_double("factor");
    rope.original_context = static_cast<double>(config.max_context);
  } else if (type == "llama3") {
    read_llama3(json, parameters, config, rope);
  } else if (type == "yarn") {
    read_yarn(json, parameters, config, rope);
  } else if (type == "longrope" || type == "su") {
    read_longrope(json, parameters, config, rope);
  } else {
    throw InvalidArgument(str("config.json: rope scaling type '", type,
                              "' is not supported; supported are default, linear, dynamic, llama3, yarn, longrope"));
  }
}

}  // namespace

RopeConfig read_hf_rope(const Json& json, const Json* parameters, const ModelConfig& config) {
  const bool has_parameters = parameters && parameters->is_object();
  RopeConfig rope;
  rope.theta = json.get_double("rope_theta", json.get_double("rotary_emb_base", 10000));
  double share = json.get_double("partial_rotary_factor", json.get_double("rotary_pct", 1));
  if (has_parameters) {
    rope.theta = parameters->get_double("rope_theta", rope.theta);
    share = parameters->get_double("partial_rotary_factor", share);
  }
  require(share > 0 && share <= 1, "config.json: partial_rotary_factor must be in (0, 1], got ", share);
  rope.rotary_dim = static_cast<int>(share * config.head_dim);
  if (has_parameters) read_scaling(json, *parameters, config, rope);
  return rope;
}

RopeConfig read_hf_rope(const Json& json, const ModelConfig& config) {
  const Json* parameters = nullptr;
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const Json* value = json.find(key);
    if (!value || value->is_null()) continue;
    require(value->is_object(), "config.json: ", key, " must be an object, found ", value->describe());
    parameters = value;
  }
  return read_hf_rope(json, parameters, config);
}

}  // namespace pagoda
