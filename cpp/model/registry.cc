// The table of supported architectures.
#include "model/registry.h"

#include "core/check.h"

namespace pagoda {

namespace arch {
extern const Architecture llama, mistral, ministral, mistral3_image;
extern const Architecture qwen2, qwen3;
extern const Architecture stablelm;
extern const Architecture cohere, cohere2;
extern const Architecture gpt2;
extern const Architecture neox;
extern const Architecture internlm2;
extern const Architecture exaone, exaone4;
extern const Architecture starcoder2;
extern const Architecture glm, glm4;
extern const Architecture olmo;
extern const Architecture olmo2, olmo3;
extern const Architecture phi, phi3;
extern const Architecture gemma, gemma2, gemma3, gemma3_image;
extern const Architecture granite, granite_moe, granite_moe_shared, granite_hybrid;
extern const Architecture smollm3;
extern const Architecture mixtral;
extern const Architecture qwen2_moe, qwen3_moe;
extern const Architecture olmoe;
extern const Architecture gpt_oss;
}  // namespace arch

namespace {

const Architecture& find(std::string_view name, const char* Architecture::* column, const char* where) {
  std::string supported;
  for (const Architecture* architecture : architectures()) {
    const char* known = architecture->*column;
    if (!known) continue;
    if (name == known) return *architecture;
    supported += (supported.empty() ? "" : ", ") + std::string(known);
  }
  throw InvalidArgument(str(where, ": architecture '", name, "' is not supported; supported are ", supported));
}

}  // namespace

const std::vector<const Architecture*>& architectures() {
  static const std::vector<const Architecture*> rows{&arch::llama,          &arch::mistral,      &arch::qwen2,
                                                     &arch::qwen3,          &arch::stablelm,     &arch::cohere,
                                                     &arch::cohere2,        &arch::gpt2,         &arch::neox,
                                                     &arch::internlm2,      &arch::exaone,       &arch::exaone4,
                                                     &arch::starcoder2,     &arch::glm,          &arch::glm4,
                                                     &arch::olmo,           &arch::ministral,    &arch::mistral3_image,
                                                     &arch::olmo2,          &arch::olmo3,        &arch::phi,
                                                     &arch::phi3,           &arch::gemma,        &arch::gemma2,
                                                     &arch::gemma3,         &arch::gemma3_image, &arch::granite,
                                                     &arch::smollm3,        &arch::granite_moe,  &arch::granite_moe_shared,
                                                     &arch::granite_hybrid, &arch::mixtral,      &arch::qwen2_moe,
                                                     &arch::qwen3_moe,      &arch::olmoe,        &arch::gpt_oss};
  return rows;
}

const Architecture& find_hf_architecture(std::string_view name) { return find(name, &Architecture::hf_name, "config.json"); }

const Architecture& find_gguf_architecture(std::string_view name) {
  return find(name, &Architecture::gguf_name, "general.architecture");
}

}  // namespace pagoda
