// The events of the latest sequences and steps, for timelines and traces. Owned by the engine, filled when a step is published
// and read by the bindings, both under the engine's lock.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engine/trace.h"

namespace pagoda {

/// The life of one choice of a request so far.
struct Timeline {
  std::string request_id;
  int32_t choice = 0;
  std::vector<TraceEvent> events;  ///< in order; at most kMaxEvents, the last place being kept for the end
  int64_t num_dropped = 0;         ///< events that found no place

  static constexpr size_t kMaxEvents = 128;
};

/// Invariant: sequence i lies at place i % capacity, or has given its place to a later one.
class TraceLog {
 public:
  static constexpr size_t kMaxSteps = 16384;

  /// Keeps the latest `num_seqs` sequences, which may be 0.
  explicit TraceLog(int64_t num_seqs) : places_(static_cast<size_t>(num_seqs)) {}

  /// Takes over what `trace` recorded.
  void take(Trace& trace);

  /// Timelines of the requests whose id begins with `prefix`, in order of arrival.
  std::vector<Timeline> timelines(std::string_view prefix) const;
  /// The latest steps, oldest first.
  std::vector<StepTrace> steps() const;

 private:
  struct Place {
    uint64_t seq_id = 0;
    Timeline timeline;  ///< without events: nobody's
  };

  void add(const Trace::Entry& entry);

  std::vector<Place> places_;
  std::vector<StepTrace> steps_;
  size_t next_step_ = 0;  ///< the place of the oldest, once all are taken
};

}  // namespace pagoda
