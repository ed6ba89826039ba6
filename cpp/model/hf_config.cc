// config.json to ModelConfig: what all families share here, the rest in model/arch.
#include "model/hf_config.h"

#include <utility>

#include "core/check.h"
#include "model/registry.h"

namespace pagoda {
namespace {

/// Newer files keep rope in `rope_parameters` (rope_theta inside), older ones in `rope_theta` and `rope_scaling`.
void read_rope(const Json& json, RopeConfig& rope) {
  const Json* parameters = json.find("rope_parameters");
  if (!parameters || !parameters->is_object()) parameters = json.find("rope_scaling");
  rope.theta = json.get_double("rope_theta", 10000);
  if (!parameters || !parameters->is_object()) return;
  rope.theta = parameters->get_double("rope_theta", rope.theta);
  std::string type = parameters->get_string("rope_type", "");
  if (type.empty()) type = parameters->get_string("type", "default");
  if (type == "default") return;
  rope.factor = parameters->get_double("factor");
  if (type == "linear") {
    rope.scaling = RopeScaling::linear;
  } else if (type == "llama3") {
    rope.scaling = RopeScaling::llama3;
    rope.low_freq_factor = parameters->get_double("low_freq_factor");
    rope.high_freq_factor = parameters->get_double("high_freq_factor");
    rope.original_context = parameters->get_double("original_max_position_embeddings");
    require(rope.original_context > 0 && rope.high_freq_factor > rope.low_freq_factor,
            "config.json: llama3 rope scaling needs original_max_position_embeddings > 0 and high_freq_factor > "
            "low_freq_factor, got ",
            rope.original_context, ", ", rope.high_freq_factor, ", ", rope.low_freq_factor);
  } else {
    throw InvalidArgument(
        str("config.json: rope scaling type '", type, "' is not supported; supported are default, linear, llama3"));
  }
}

const std::string& architecture_name(const Json& json) {
  const Json* names = json.find("architectures");
  require(names && names->is_array() && names->items().size() == 1, "config.json: `architectures` must hold one name, got ",
          names ? names->describe() : "nothing");
  return names->items()[0].as_string();
}

int fitting(std::string_view key, int64_t value) {
  require(std::in_range<int>(value), "config.json: ", key, " must fit in 32 bits, got ", value);
  return static_cast<int>(value);
}

/// Quantised Hugging Face checkpoints keep their numbers under other tensor names; their method is named instead of a missing
/// tensor.
void refuse_quantisation(const Json& json) {
  const Json* quantisation = json.find("quantization_config");
  if (!quantisation || !quantisation->is_object()) return;
  throw InvalidArgument(str("config.json: quantization_config: method '", quantisation->get_string("quant_method", "unknown"),
                            "' is not supported; use safetensors in f32, f16 or bf16, or a GGUF file"));
}

}  // namespace

int read_int(const Json& json, std::string_view key) { return fitting(key, json.get_int(key)); }

int read_int(const Json& json, std::string_view key, int64_t fallback) { return fitting(key, json.get_int(key, fallback)); }

Activation parse_activation(std::string_view name) {
  if (name == "silu" || name == "swish") return Activation::silu;
  if (name == "gelu_pytorch_tanh" || name == "gelu_new") return Activation::gelu_tanh;
  if (name == "gelu") return Activation::gelu;
  throw InvalidArgument(
      str("config.json: hidden_act '", name, "' is not supported; supported are silu, gelu, gelu_pytorch_tanh"));
}

void add_eos_tokens(const Json& json, const char* file, ModelConfig& config) {
  const std::string key = str(file, ": eos_token_id");
  const Json* ids = json.find("eos_token_id");
  if (!ids || ids->is_null()) return;
  if (!ids->is_array()) return config.add_eos_token(key.c_str(), ids->as_int());
  for (const Json& id : ids->items()) config.add_eos_token(key.c_str(), id.as_int());
}

ModelConfig read_hf_config(const Json& json) {
  refuse_quantisation(json);
  ModelConfig config;
  config.architecture = architecture_name(json);
  const Architecture& architecture = find_hf_architecture(config.architecture);
  config.vocab_size = json.get_int("vocab_size");
  config.hidden_size = json.get_int("hidden_size");
  config.intermediate_size = json.get_int("intermediate_size");
  config.num_layers = read_int(json, "num_hidden_layers");
  config.num_heads = read_int(json, "num_attention_heads");
  config.kv_heads = read_int(json, "num_key_value_heads", config.num_heads);
  require(config.num_heads >= 1 && config.num_layers >= 1 && config.num_layers <= 4096,
          "config.json: num_attention_heads must be >= 1 and num_hidden_layers in [1, 4096], got ", config.num_heads, " and ",
          config.num_layers);
  const Json* head_dim = json.find("head_dim");
  const bool has_head_dim = head_dim && !head_dim->is_null();
  require(has_head_dim || config.hidden_size % config.num_heads == 0, "config.json: hidden_size ", config.hidden_size,
          " is not a multiple of num_attention_heads ", config.num_heads, " and there is no head_dim");
  config.head_dim = read_int(json, "head_dim", config.hidden_size / config.num_heads);
  config.max_context = json.get_int("max_position_embeddings");
  config.norm_eps = static_cast<float>(json.get_double("rms_norm_eps", 1e-6));
  config.activation = parse_activation(json.get_string("hidden_act", "silu"));
  config.tied_embeddings = json.get_bool("tie_word_embeddings", false);
  config.windows.assign(static_cast<size_t>(config.num_layers), 0);
  add_eos_tokens(json, "config.json", config);
  read_rope(json, config.rope);
  config.rope.rotary_dim = config.head_dim;
  architecture.adjust_hf(json, config);
  config.validate();
  return config;
}

}  // namespace pagoda
