// How the ranks of a tensor-parallel group exchange activations. The decoder calls it at the two places where a split layer
// needs a sum.
#pragma once

#include "core/tensor.h"

namespace pagoda {

class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  /// In-place sum of `x` over all ranks, in rank order. Engine thread only.
  virtual void all_reduce(const Tensor& x) = 0;
};

/// A group of one: a sum over one rank is the value itself.
class SingleRank final : public Communicator {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void all_reduce(const Tensor&) override {}
};

}  // namespace pagoda
