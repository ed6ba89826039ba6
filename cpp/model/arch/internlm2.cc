// InternLM 2 and 2.5: a Llama with names of its own whose q, k and v lie in one matrix, grouped by KV head.
#include "model/gguf_config.h"
#include "model/hf_config.h"
#include "model/registry.h"

namespace pagoda::arch {
namespace {

constexpr TensorNames kNames = [] {
  TensorNames names = kHfNames;
  names.embedding = "model.tok_embeddings";
  names.lm_head = "output";
  names.attn_norm = "attention_norm";
  names.mlp_norm = "ffn_norm";
  names.qkv = "attention.wqkv";
  names.out = "attention.wo";
  names.gate = "feed_forward.w1";
  names.up = "feed_forward.w3";
  names.down = "feed_forward.w2";
  return names;
}();

void internlm2_hf(const Json& json, ModelConfig& config) {
  config.qkv_bias = config.out_bias = json.get_bool("bias");
  config.layout.names = &kNames;
  config.layout.qkv_order = QkvOrder::grouped;
}

void internlm2_gguf(const GgufKeys& keys, ModelConfig& config) {
  config.qkv_bias = keys.has_tensor("blk.0.attn_q.bias");
  config.out_bias = keys.has_tensor("blk.0.attn_output.bias");
}

constexpr const char* kDefaults = R"({"bias": true})";

}  // namespace

extern const Architecture internlm2;
/// Converters split the fused matrix and interleave the rotary pairs of q and k.
const Architecture internlm2{.hf_name = "InternLM2ForCausalLM",
                             .gguf_name = "internlm2",
                             .adjust_hf = internlm2_hf,
                             .adjust_gguf = internlm2_gguf,
                             .hf_defaults = kDefaults,
                             .gguf_layout = {.names = &kGgufNames, .rope_rows_interleaved = true}};

}  // namespace pagoda::arch
