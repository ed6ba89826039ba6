// How a run of equal units of work is cut into tasks that even out threads of different speed with few claims: each round gives
// every thread a share of half of what is left, so that the tasks shrink to the end (factoring; Hummel, Schonberg and Flynn,
// CACM 1992).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace pagoda::cpu {

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
/// To whole cache lines.
constexpr size_t round_up(size_t bytes) { return (bytes + 63) / 64 * 64; }

/// Tasks over units [0, num_units). Pure and O(log num_units) per call; any thread.
class Shares {
 public:
  struct Range {
    int64_t begin, end;
  };

  /// `least` >= 1: units of the smallest tasks, but for the last.
  Shares(int64_t num_units, int64_t num_threads, int64_t least) : num_units_(num_units), threads_(num_threads), least_(least) {}

  int64_t count() const {
    int64_t tasks = 0;
    for (int64_t begin = 0; begin < num_units_;) {
      const int64_t size = share(begin);
      const int64_t round = std::min(threads_, (num_units_ - begin + size - 1) / size);
      tasks += round;
      begin += round * size;
    }
    return tasks;
  }

  /// The units of task `index` of count().
  Range operator[](int64_t index) const {
    int64_t begin = 0, size = share(0);
    for (; index >= threads_; index -= threads_, size = share(begin)) begin += threads_ * size;
    begin += index * size;
    return {begin, std::min(begin + size, num_units_)};
  }

 private:
  /// Units of each task of the round that begins at `begin`.
  int64_t share(int64_t begin) const { return std::max((num_units_ - begin) / (2 * threads_), least_); }

  int64_t num_units_, threads_, least_;
};

}  // namespace pagoda::cpu
