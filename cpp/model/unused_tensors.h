// Finds tensors of a checkpoint's layers that no part of the decoder asked for: biases or norms that the configuration does not
// speak of. Without them the model would load and answer wrongly. Called while a decoder is planned.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "io/weight_source.h"
#include "model/config.h"

namespace pagoda {

/// Another source that remembers which tensors were asked for. One thread.
class TrackedSource final : public WeightSource {
 public:
  explicit TrackedSource(const WeightSource& source) : source_(source) {}

  const StoredTensor* find(std::string_view name) const override;
  std::optional<TensorBytes> find_bytes(std::string_view name) const override;
  std::vector<std::string> names() const override { return source_.names(); }
  std::vector<TensorListing> list() const override { return source_.list(); }
  std::string describe() const override { return source_.describe(); }
  size_t total_bytes() const override { return source_.total_bytes(); }
  std::vector<std::string> warnings() const override { return source_.warnings(); }

  bool asked_for(const std::string& name) const { return asked_.contains(name); }

 private:
  const WeightSource& source_;
  mutable std::set<std::string, std::less<>> asked_;
};

/// Throws InvalidArgument naming the first `.weight` or `.bias` of one or two dimensions in one of the decoder's layers that
/// was not asked for and is not all zeros (some quantisers write a bias of zeros everywhere).
void refuse_unused_tensors(const TrackedSource& source, const ModelConfig& config);

}  // namespace pagoda
