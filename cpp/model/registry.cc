// The table of supported architectures.
#include "model/registry.h"

#include <array>

#include "core/check.h"
#include "model/arch/arch.h"

namespace pagoda {
namespace {

constexpr std::array kArchitectures{
    Architecture{"LlamaForCausalLM", "llama", arch::llama_hf, arch::llama_gguf},
    Architecture{"MistralForCausalLM", nullptr, arch::mistral_hf, nullptr},
    Architecture{"Qwen2ForCausalLM", "qwen2", arch::qwen2_hf, arch::qwen2_gguf},
    Architecture{"Qwen3ForCausalLM", "qwen3", arch::qwen3_hf, arch::qwen3_gguf},
};

const Architecture& find(std::string_view name, const char* Architecture::* column, const char* where) {
  std::string supported;
  for (const Architecture& architecture : kArchitectures) {
    if (!(architecture.*column)) continue;
    if (name == architecture.*column) return architecture;
    supported += (supported.empty() ? "" : ", ") + std::string(architecture.*column);
  }
  throw InvalidArgument(str(where, ": architecture '", name, "' is not supported; supported are ", supported));
}

}  // namespace

const Architecture& find_hf_architecture(std::string_view name) { return find(name, &Architecture::hf_name, "config.json"); }

const Architecture& find_gguf_architecture(std::string_view name) {
  return find(name, &Architecture::gguf_name, "general.architecture");
}

}  // namespace pagoda
