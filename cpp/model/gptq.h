// Checkpoints of AutoGPTQ and GPTQModel: 4- or 8-bit integers with scales and zeros, in groups of columns or in the order of
// their activations.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "backend/weight.h"
#include "core/json.h"
#include "io/weight_source.h"

namespace pagoda {

/// Keeps a matrix transposed, the columns of 32/bits adjacent places to a word: qweight I32 [cols*bits/32, rows], qzeros
/// I32 [groups, rows*bits/32], scales [groups, rows], g_idx I32 [cols] (the group of each column; may be missing).
class Gptq {
 public:
  /// `config` is the object quantization_config. Throws InvalidArgument naming the field.
  explicit Gptq(const Json& config);

  /// As HfQuantisation::find.
  std::optional<WeightPart> find(const WeightSource& source, const std::string& name, int64_t rows, int64_t cols) const;

  std::string describe() const;

 private:
  struct Scheme {
    int64_t bits;
    int64_t group_size;  // -1: a row is one group
  };

  static Scheme read_scheme(const Json& config, const Scheme& fallback);
  const Scheme& scheme_of(const WeightSource& source, const std::string& name, int64_t rows, int64_t cols) const;

  std::vector<Scheme> schemes_;  // the checkpoint's own, then those it has for some matrices
  bool activation_order_;
  bool zeros_minus_one_;  // format "gptq": stored zeros are one less than meant
};

}  // namespace pagoda
