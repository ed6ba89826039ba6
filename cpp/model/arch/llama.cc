// Llama 1-3.x and what is a Llama by architecture (SmolLM2, Yi, Falcon 3, DeepSeek-LLM, ...), Mistral, Ministral, and the text
// part of Mistral Small 3.1 and its like.
#include "core/check.h"
#include "model/arch/experts.h"
#include "model/arch/text_part.h"
#include "model/gguf_config.h"
#include "model/hf_config.h"
#include "model/registry.h"

namespace pagoda::arch {
namespace {

void llama_hf(const Json& json, ModelConfig& config) {
  config.qkv_bias = config.out_bias = json.get_bool("attention_bias", false);
  config.mlp_bias = json.get_bool("mlp_bias", false);
}

void llama_gguf(const GgufKeys& keys, ModelConfig& config) {
  config.qkv_bias = keys.has_tensor("blk.0.attn_q.bias");
  config.out_bias = keys.has_tensor("blk.0.attn_output.bias");
  config.mlp_bias = keys.has_tensor("blk.0.ffn_up.bias");
  if (config.moe.num_experts > 0) read_gguf_mixtral(keys, config);
}

void mistral_hf(const Json& json, ModelConfig& config) {
  config.windows.assign(config.windows.size(), read_int(json, "sliding_window", 0));
}

void ministral_hf(const Json& json, ModelConfig& config) {
  if (!read_layer_types(json, config, read_int(json, "sliding_window", 0))) mistral_hf(json, config);
}

constexpr TensorNames kPublishedNames = published_text_part(kHfNames), kNestedNames = nested_text_part(kHfNames);

void mistral3_hf(const Json& json, ModelConfig& config) {
  const std::string type = json.get_string("model_type", "mistral");
  require(type == "mistral", "config.json: text_config.model_type '", type, "' is not supported; supported is mistral");
  mistral_hf(json, config);
}

void mistral3_names(const WeightSource& source, ModelConfig& config) {
  choose_text_part(source, kPublishedNames, kNestedNames, config);
}

constexpr const char* kMistralDefaults = R"({"sliding_window": 4096})";

}  // namespace

extern const Architecture llama, mistral, ministral, mistral3_image;
/// GGUF stores the q and k rows of this architecture in interleaved pairs. Mistral and Mixtral carry the same name.
const Architecture llama{.hf_name = "LlamaForCausalLM",
                         .gguf_name = "llama",
                         .adjust_hf = llama_hf,
                         .adjust_gguf = llama_gguf,
                         .gguf_layout = {.names = &kGgufNames, .rope_rows_interleaved = true}};
const Architecture mistral{.hf_name = "MistralForCausalLM",
                           .gguf_name = nullptr,
                           .adjust_hf = mistral_hf,
                           .adjust_gguf = nullptr,
                           .hf_defaults = kMistralDefaults,
                           .written_as = "llama"};
const Architecture ministral{.hf_name = "MinistralForCausalLM",
                             .gguf_name = nullptr,
                             .adjust_hf = ministral_hf,
                             .adjust_gguf = nullptr,
                             .hf_defaults = kMistralDefaults,
                             .written_as = "llama"};
const Architecture mistral3_image{.hf_name = "Mistral3ForConditionalGeneration",
                                  .gguf_name = nullptr,
                                  .adjust_hf = mistral3_hf,
                                  .adjust_gguf = nullptr,
                                  .text_key = "text_config",
                                  .hf_defaults = kMistralDefaults,
                                  .choose_names = mistral3_names,
                                  .written_as = "llama"};

}  // namespace pagoda::arch
