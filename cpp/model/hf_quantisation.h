// How a Hugging Face checkpoint is quantised, and its matrices as rows in the engine's formats. The loader asks here for a
// matrix before it looks for a plain one.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>

#include "backend/weight.h"
#include "core/json.h"
#include "io/weight_source.h"
#include "model/awq.h"
#include "model/compressed_tensors.h"
#include "model/fp8.h"
#include "model/gptq.h"
#include "model/mxfp4.h"

namespace pagoda {

/// How a Hugging Face checkpoint is quantised: `quantization_config` of config.json. Immutable, any thread.
class HfQuantisation {
 public:
  /// Null when config.json has none. Throws InvalidArgument naming the field, what it holds and what is supported.
  static std::unique_ptr<HfQuantisation> read(const Json& config_json);

  /// The matrix `name` (without suffix: "model.layers.0.self_attn.q_proj"), [rows, cols] = [out, in] features, if this
  /// checkpoint keeps it quantised; nothing if it keeps it as plain `name.weight`, or not at all. Which of both it is shows in
  /// the tensors, not in lists of module names. Throws InvalidArgument naming the tensor, what was found and expected for
  /// anything that does not fit. Reads shapes, and of the data only zeros and column orders that the format depends on; the
  /// part reads the rest when a row is made. `source` outlives the part.
  std::optional<WeightPart> find(const WeightSource& source, const std::string& name, int64_t rows, int64_t cols) const;

  /// The same for matrix `place` of a tensor that holds those of several experts.
  std::optional<WeightPart> find_in_stack(const WeightSource& source, const std::string& name, StackPlace place, int64_t rows,
                                          int64_t cols) const;

  const std::string& method() const { return method_; }  ///< quant_method: "awq"
  std::string describe() const;                          ///< "awq, 4 bits, groups of 128"

 private:
  using Reader = std::variant<Awq, Gptq, CompressedTensors, Fp8, Mxfp4>;

  HfQuantisation(std::string method, Reader reader);
  static Reader make_reader(const std::string& method, const Json& config);

  std::string method_;
  Reader reader_;
};

}  // namespace pagoda
