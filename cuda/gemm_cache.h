// The plans that an earlier start found, in a file for each GPU, driver and version of cuBLASLt. Owned by Gemm while it
// prepares.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "cuda/gemm_plan.h"

namespace pagoda::cuda {

/// What plans hold for.
struct GemmMachine {
  std::string device_name;
  int driver_version = 0;
  size_t library_version = 0;
};

/// A file that is absent, damaged, or of another machine counts as one without plans, and one that cannot be written is left
/// out: nothing here is an error. A file is replaced as a whole.
class GemmCache {
 public:
  /// Reads what there is. `folder` is created when it is written to; an empty one keeps nothing.
  GemmCache(const std::string& folder, const GemmMachine& machine);

  const std::string& path() const { return path_; }  ///< empty: nothing is kept
  /// Null if there is no plan for the shape.
  const GemmPlan* find(const GemmShape& shape, bool deterministic) const;
  /// Takes the place of a plan for the same.
  void put(GemmPlan plan);
  /// Writes all plans.
  void save() const;

 private:
  std::string text() const;
  void read();

  GemmMachine machine_;
  std::string path_;
  std::vector<GemmPlan> plans_;
};

}  // namespace pagoda::cuda
