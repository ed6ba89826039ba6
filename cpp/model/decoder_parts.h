// The tensors of a checkpoint's decoder one by one, in canonical form, whatever the file's own names and arrangement. Read by
// weight_builder.cc, which packs them, and by gguf_export.cc, which writes them.
#pragma once

#include <optional>
#include <vector>

#include "backend/weight.h"
#include "model/config.h"
#include "model/stored_weights.h"
#include "model/tensor_places.h"

namespace pagoda {

/// What the parts are made from. All outlive them.
struct PartsSource {
  const ModelConfig& config;
  const WeightSource& source;
  const HfQuantisation* quantisation = nullptr;  ///< null: stored plainly
  std::optional<WeightFormat> weight_format;     ///< matrices of plain floats are quantised to it: see open_checkpoint
  bool read_vectors = true;                      ///< false: vectors are zeros of the right size, checked but not read
};

/// Throws InvalidArgument for a missing tensor or a wrong shape, naming it, what was found and what was expected. Vectors are
/// read when asked for, matrices row by row by whoever takes the part. Immutable, any thread.
class DecoderParts {
 public:
  explicit DecoderParts(const PartsSource& from);

  WeightPart matrix(MatrixId id) const;
  std::vector<float> bias(MatrixId id) const;  ///< [rows of the matrix]
  /// [hidden]: what normalised values are multiplied by (ones where the model has no weights), and what is added.
  std::vector<float> norm_weight(NormRole role, int layer) const;
  std::vector<float> norm_bias(NormRole role, int layer) const;
  std::vector<float> q_norm(int layer) const;  ///< by ModelConfig::qk_norm
  std::vector<float> k_norm(int layer) const;
  std::vector<float> sinks(int layer) const;  ///< [num_heads]

 private:
  std::optional<WeightFormat> format_of(MatrixRole role) const;
  std::vector<float> head_norm(const HeadNormPlace& place) const;

  PartsSource from_;
  TensorPlaces places_;
  StoredWeights stored_;
};

}  // namespace pagoda
