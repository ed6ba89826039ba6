// Checkpoints of llm-compressor in the formats of the compressed-tensors package: integers of 4 or 8 bits and e4m3 floats.
// Their weights are read as they are; inputs keep the engine's precision even where the checkpoint was made for 8-bit inputs.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "backend/weight.h"
#include "core/json.h"
#include "io/weight_source.h"
#include "model/quantised_tensors.h"

namespace pagoda {

/// Keeps a matrix as weight_packed I32 [rows, cols*bits/32], or as weight I8 or F8_E4M3 [rows, cols], with weight_scale and, if
/// asymmetric, weight_zero_point. Which matrices are quantised, and how, shows in the tensors they have: the names and patterns
/// under `targets` and `ignore` are not needed.
class CompressedTensors {
 public:
  /// `config` is the object quantization_config. Throws InvalidArgument naming the field.
  explicit CompressedTensors(const Json& config);

  /// As HfQuantisation::find.
  std::optional<WeightPart> find(const WeightSource& source, const std::string& name, int64_t rows, int64_t cols) const;

  std::string describe() const;

 private:
  enum class Strategy { tensor, channel, group, block };

  /// One of the config_groups.
  struct Scheme {
    bool packed = false;
    bool is_float = false;
    bool symmetric = true;
    int64_t bits = 8;
    Strategy strategy = Strategy::channel;
    int64_t block_rows = 1;
    int64_t block_cols = 1;  // columns of a group or block

    std::string describe() const;
  };

  /// The scales of a matrix and how many columns share one.
  struct Scales {
    TensorBytes tensor;
    ScaleTable::Layout layout;
    int64_t cols_per_scale;
  };

  static Scheme read_scheme(const std::string& group, const Json& json, const std::string& format);
  static void read_tiles(const std::string& field, const Json& weights, Scheme& scheme);
  static std::vector<TensorShape> scale_shapes(const Scheme& scheme, int64_t rows, int64_t cols);
  const Scheme& scheme_of(const WeightSource& source, const std::string& name, const TensorBytes& weights,
                          const TensorShape& shape) const;
  static Scales scales_of(const Scheme& scheme, const TensorBytes& tensor, int64_t cols);
  static WeightPart integers(const WeightSource& source, const std::string& name, const TensorBytes& weights,
                             const Scheme& scheme, const Scales& scales, const TensorShape& shape);

  std::vector<Scheme> schemes_;
  bool quantised_inputs_ = false;
};

}  // namespace pagoda
