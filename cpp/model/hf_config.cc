// config.json to ModelConfig: what all families share here, the rest in model/arch.
#include "model/hf_config.h"

#include <algorithm>
#include <utility>

#include "core/check.h"
#include "model/hf_rope.h"
#include "model/registry.h"

namespace pagoda {
namespace {

const std::string& architecture_name(const Json& json) {
  const Json* names = json.find("architectures");
  require(names && names->is_array() && names->items().size() == 1 && names->items()[0].is_string(),
          "config.json: `architectures` must hold one name, got ", names ? names->describe() : "nothing");
  return names->items()[0].as_string();
}

int fitting(std::string_view key, int64_t value) {
  require(std::in_range<int>(value), "config.json: ", key, " must fit in 32 bits, got ", value);
  return static_cast<int>(value);
}

void read_heads(const Json& json, ModelConfig& config) {
  config.num_layers = read_int(json, any_key(json, {"num_hidden_layers", "n_layer", "num_layers"}));
  config.num_heads = read_int(json, any_key(json, {"num_attention_heads", "n_head"}));
  config.kv_heads = read_int(json, "num_key_value_heads", config.num_heads);
  require(config.num_heads >= 1 && config.num_layers >= 1 && config.num_layers <= 4096,
          "config.json: num_attention_heads must be >= 1 and num_hidden_layers in [1, 4096], got ", config.num_heads, " and ",
          config.num_layers);
  const Json* head_dim = json.find("head_dim");
  const bool has_head_dim = head_dim && !head_dim->is_null();
  require(has_head_dim || config.hidden_size % config.num_heads == 0, "config.json: hidden_size ", config.hidden_size,
          " is not a multiple of num_attention_heads ", config.num_heads, " and there is no head_dim");
  config.head_dim = read_int(json, "head_dim", config.hidden_size / config.num_heads);
}

double read_norm_eps(const Json& json) {
  return json.get_double(any_key(json, {"rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps"}), 1e-6);
}

Activation read_activation(const Json& json) {
  return parse_activation(json.get_string(any_key(json, {"hidden_activation", "hidden_act", "activation_function"}), "silu"));
}

/// Stretched models reach further than the context that their files call trained.
void stretch_context(ModelConfig& config) {
  const RopeConfig& rope = config.rope;
  if (rope.scaling != RopeScaling::dynamic && rope.scaling != RopeScaling::yarn) return;
  const double stretched = std::min(rope.factor * rope.original_context, 2147483647.0);
  config.max_context = std::max(config.max_context, static_cast<int64_t>(stretched));
}

}  // namespace

int read_int(const Json& json, std::string_view key) { return fitting(key, json.get_int(key)); }

int read_int(const Json& json, std::string_view key, int64_t fallback) { return fitting(key, json.get_int(key, fallback)); }

std::string_view any_key(const Json& json, std::initializer_list<std::string_view> keys) {
  for (const std::string_view key : keys) {
    const Json* value = json.find(key);
    if (value && !value->is_null()) return key;
  }
  return *keys.begin();
}

void require_switch(const Json& json, std::string_view key, bool supported) {
  require(json.get_bool(key, supported) == supported, "config.json: ", key, " = ", supported ? "false" : "true",
          " is not supported");
}

float read_float(const Json& json, std::string_view key, double fallback) {
  return static_cast<float>(json.get_double(key, fallback));
}

bool read_layer_types(const Json& json, ModelConfig& config, int window) {
  const Json* types = json.find("layer_types");
  if (!types || !types->is_array()) return false;
  require(types->items().size() == config.windows.size(), "config.json: layer_types has ", types->items().size(),
          " entries, num_hidden_layers is ", config.windows.size());
  for (size_t layer = 0; layer < config.windows.size(); ++layer) {
    const std::string& type = types->items()[layer].as_string();
    require(type == "sliding_attention" || type == "full_attention", "config.json: layer_types[", layer,
            "] must be sliding_attention or full_attention, found '", type, "'");
    config.windows[layer] = type == "sliding_attention" ? window : 0;
  }
  return true;
}

Activation parse_activation(std::string_view name) {
  if (name == "silu" || name == "swish") return Activation::silu;
  if (name == "gelu_pytorch_tanh" || name == "gelu_new" || name == "gelu_fast") return Activation::gelu_tanh;
  if (name == "gelu") return Activation::gelu;
  if (name == "relu") return Activation::relu;
  throw InvalidArgument(str("config.json: hidden_act '", name,
                            "' is not supported; supported are silu, gelu, gelu_pytorch_tanh, gelu_new, relu"));
}

void add_eos_tokens(const Json& json, const char* file, ModelConfig& config) {
  const std::string key = str(file, ": eos_token_id");
  const Json* ids = json.find("eos_token_id");
  if (!ids || ids->is_null()) return;
  if (!ids->is_array()) return config.add_eos_token(key.c_str(), json.get_int("eos_token_id"));
  for (const Json& id : ids->items()) {
    require(id.is_integer(), key, " must hold integers, found ", id.describe());
    config.add_eos_token(key.c_str(), id.as_int());
  }
}

ModelConfig read_hf_config(const Json& document) {
  ModelConfig config;
  config.architecture = architecture_name(document);
  const Architecture& architecture = find_hf_architecture(config.architecture);
  const Json& stated = architecture.text_key ? document.at(architecture.text_key) : document;
  const Json json = stated.with_defaults(Json::parse(architecture.hf_defaults ? architecture.hf_defaults : "{}"));
  config.layout.names = &kHfNames;
  config.vocab_size = json.get_int("vocab_size");
  config.hidden_size = json.get_int(any_key(json, {"hidden_size", "n_embd"}));
  const std::string_view inner = any_key(json, {"intermediate_size", "n_inner"});
  config.intermediate_size = json.find("n_embd") ? json.get_int(inner, 4 * config.hidden_size) : json.get_int(inner);
  read_heads(json, config);
  config.max_context = json.get_int(any_key(json, {"max_position_embeddings", "n_positions"}));
  config.norm_eps = static_cast<float>(read_norm_eps(json));
  config.activation = read_activation(json);
  config.tied_embeddings = json.get_bool("tie_word_embeddings", false);
  config.windows.assign(static_cast<size_t>(config.num_layers), 0);
  add_eos_tokens(json, "config.json", config);
  if (architecture.text_key) add_eos_tokens(document, "config.json", config);
  config.rope = read_hf_rope(json, config);
  if (architecture.adjust_hf) architecture.adjust_hf(json, config);
  stretch_context(config);
  config.validate();
  return config;
}

}  // namespace pagoda
