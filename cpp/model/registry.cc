// The table of supported architectures.
#include "model/registry.h"

#include "core/check.h"

namespace pagoda {

namespace arch {
extern const Architecture llama, mistral, qwen2, qwen3;
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
  static const std::vector<const Architecture*> rows{&arch::llama, &arch::mistral, &arch::qwen2, &arch::qwen3};
  return rows;
}

const Architecture& find_hf_architecture(std::string_view name) { return find(name, &Architecture::hf_name, "config.json"); }

const Architecture& find_gguf_architecture(std::string_view name) {
  return find(name, &Architecture::gguf_name, "general.architecture");
}

}  // namespace pagoda
