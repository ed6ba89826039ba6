// Finding the text part's tensors.
#include "model/arch/text_part.h"

#include <string>

namespace pagoda::arch {
namespace {

bool has_matrix(const WeightSource& source, const char* name) {
  return source.find_bytes(std::string(name) + ".weight").has_value();
}

}  // namespace

void choose_text_part(const WeightSource& source, const TensorNames& published, const TensorNames& nested,
                      ModelConfig& config) {
  config.layout.names = has_matrix(source, nested.embedding) ? &nested : &published;
  config.tied_embeddings = !has_matrix(source, config.layout.names->lm_head);
}

}  // namespace pagoda::arch
