// What happens to sequences and steps, with times: feeds the latency histograms and, when recording, a list of events that
// TraceLog keeps. Owned by the scheduler, which calls it once at each turn of a sequence's life. Engine thread only.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/sequence.h"
#include "engine/stats.h"
#include "engine/step.h"

namespace pagoda {

enum class TraceKind : uint8_t {
  queued,       ///< arrived; end: prompt tokens
  admitted,     ///< got blocks for the first time; end: tokens found in the prefix cache
  chunk,        ///< a step was planned that computes tokens [begin, end), more than the newest one
  first_token,  ///< end: prompt tokens
  preempted,    ///< lost its blocks; end: tokens that were computed
  resumed,      ///< got blocks again; end: tokens that need not be computed again
  swapped_out,  ///< what was computed goes to the host; end: blocks
  swapped_in,   ///< and comes back; end: blocks
  finished,     ///< end: tokens generated
};
constexpr int kNumTraceKinds = static_cast<int>(TraceKind::finished) + 1;

/// Lower case, as in the member names.
const char* trace_kind_name(TraceKind kind);

struct TraceEvent {
  TraceKind kind = TraceKind::queued;
  FinishReason finish = FinishReason::none;  ///< of a finished event
  TimePoint time;
  int64_t begin = 0, end = 0;
};

/// One step from its planning to the commit of its tokens.
struct StepTrace {
  TimePoint begin, end;
  int64_t num_seqs = 0;
  int64_t num_tokens = 0;
};

class Trace {
 public:
  using Now = TimePoint (*)();

  /// An event of sequence `seq_id`. `request` is set in the sequence's first event.
  struct Entry {
    uint64_t seq_id = 0;
    int32_t choice = 0;
    std::shared_ptr<const Request> request;
    TraceEvent event;
  };

  /// Fills the histograms of `stats`, which must outlive the trace. `now` is replaced in tests.
  explicit Trace(Stats& stats, Now now = std::chrono::steady_clock::now) : stats_(stats), now_(now) {}

  /// From here on, events are kept until they are taken. Whoever calls this takes them.
  void start_recording() { recording_ = true; }
  /// What was recorded since the last call. Clear both lists after use: their memory is used again.
  std::vector<Entry>& entries() { return entries_; }
  std::vector<StepTrace>& steps() { return steps_; }

  void queued(Sequence& seq);
  /// The sequence was given blocks, num_computed is set and its state is still the old one.
  void admitted(Sequence& seq);
  void planned(const PlannedSeq& planned);
  /// A token was appended.
  void token(Sequence& seq);
  /// It loses its blocks; num_computed still says what was computed.
  void preempted(const Sequence& seq);
  /// `kind` is swapped_out or swapped_in.
  void swapped(const Sequence& seq, TraceKind kind, int64_t num_blocks);
  /// Its finish reason is set.
  void finished(const Sequence& seq);
  void step(TimePoint begin, const StepPlan& plan);

  /// Seconds since `then`.
  double age(TimePoint then) const { return seconds(then, now_()); }

 private:
  static double seconds(TimePoint begin, TimePoint end) { return std::chrono::duration<double>(end - begin).count(); }
  void count_longest(const Sequence& seq);
  void record(const Sequence& seq, TraceKind kind, TimePoint time, int64_t begin, int64_t end);

  Stats& stats_;
  Now now_;
  bool recording_ = false;
  std::vector<Entry> entries_;
  std::vector<StepTrace> steps_;

  /// Of a request of several choices that have not all finished.
  struct FinishedChoices {
    int64_t num_choices = 0;
    int64_t longest = 0;  ///< tokens generated
  };
  std::unordered_map<const Request*, FinishedChoices> finished_choices_;
};

}  // namespace pagoda
