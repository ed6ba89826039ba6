// A cuBLASLt for the emulated device: a few algorithms with known orders of summation, times and limits, which tests may
// change.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace emu {

/// One algorithm. Sums are in f32, a fused multiply-add for each of the columns.
struct LtAlgorithm {
  enum class Order : uint8_t {
    ascending,
    descending,
    by_num_tokens,  ///< ascending up to 20 tokens, descending for more
    by_row,         ///< ascending for the first 8 rows of a product, descending for the others
    split,          ///< two halves by themselves, added through the workspace
  };
  Order order = Order::ascending;
  double milliseconds = 1;            ///< of one product
  double milliseconds_per_token = 0;  ///< and for each of its tokens
  int64_t min_tokens = 1;             ///< for fewer and for more the algorithm does not exist
  int64_t max_tokens = std::numeric_limits<int64_t>::max();
};

struct CublasLt {
  bool absent = false;  ///< load_cublaslt finds nothing
  size_t version = 130000;
  /// By how much products of e4m3 are faster, in milliseconds: less than no time, because that is what our own kernels take.
  double e4m3_saves = 1.002;
  bool knows_scales = true;                                                 ///< else of a version before vectors of scales
  bool proposes_e4m3 = true;                                                ///< else on a device that does not multiply e4m3
  bool runs_e4m3 = true;                                                    ///< else it says so only when it is to run
  std::vector<LtAlgorithm> algorithms = {{LtAlgorithm::Order::ascending}};  ///< in the order in which they are proposed
  int num_proposals = 0;                                                    ///< times that algorithms were asked for
  std::vector<bool> used;  ///< which have run: the first run of one must not be recorded
};

/// The library of the process.
CublasLt& cublaslt();

}  // namespace emu
