// The engine: requests in, tokens out. Owns model, device memory, scheduler and the thread that runs one step after another.
// Called from any thread by the bindings; one consumer waits for outputs.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "backend/arena.h"
#include "backend/backend.h"
#include "engine/mask_exchange.h"
#include "engine/options.h"
#include "engine/request.h"
#include "engine/runner.h"
#include "engine/scheduler.h"
#include "engine/stats.h"
#include "engine/trace_log.h"
#include "kv/kv_manager.h"
#include "model/kv_cache.h"
#include "model/model.h"

namespace pagoda {

/// What a loaded model brings along. The sizes come from the memory plan.
struct EngineParts {
  std::unique_ptr<Backend> backend;
  std::unique_ptr<Model> model;
  std::vector<int32_t> eos_tokens;
  int64_t max_model_len = 0;
  int64_t num_blocks = 0;
  int64_t num_swap_blocks = 0;
  DType kv_dtype = DType::bf16;
  size_t workspace_bytes = 0;  ///< of a forward of max_num_batched_tokens tokens with max_logit_rows rows
};

/// The sizes an engine with these options and parts will have; the memory plan asks them for rows of logits and bytes of
/// indices.
Limits make_limits(const EngineOptions& options, int64_t vocab_size, int64_t max_model_len, int64_t num_blocks,
                   int64_t num_swap_blocks = 0);

/// Threads: everything may be called from any thread, wait() from one at a time. The step loop runs on the engine's own thread,
/// touches no lock during a step and sleeps when there is no work.
class Engine {
 public:
  /// Allocates the KV cache and the workspace and starts the loop. Throws InvalidArgument for bad options, DeviceError without
  /// memory.
  Engine(const EngineOptions& options, EngineParts parts);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  /// Queues a request. Throws InvalidArgument if it can never run or its id is live, Overloaded if the queue is full,
  /// DeviceError if the engine has failed or was stopped.
  void submit(Request request);
  /// Until as many calls of release(), nothing that is submitted starts, and no abort takes effect: so several requests begin
  /// with the same step. What runs goes on.
  void hold();
  void release();
  /// Ends a request soon, or only one choice of it; each choice that was unfinished gives one more output, with finish
  /// `reason`: stop if the caller has found a stop string. No-op for what is not live.
  void abort(const std::string& request_id, int32_t choice = kAllChoices, FinishReason reason = FinishReason::abort);
  /// Outputs since the last call, in order, after waiting for the first at most `timeout_ms` milliseconds. Also returns, empty,
  /// when the engine ends.
  std::vector<Output> wait(int timeout_ms);
  /// As of the last step; the age of the queue as of this moment.
  Stats stats() const;
  /// Preemptions since the last call, in order; the latest Scheduler::kMaxNotices of each step and kMaxNotices in all.
  std::vector<PreemptionNotice> take_preemptions();
  static constexpr size_t kMaxNotices = 64;
  /// Forgets all cached prefixes before the next step. Running requests keep what they have.
  void reset_prefix_cache();
  /// Timelines of the latest requests whose id begins with `prefix`, as of the last step.
  std::vector<Timeline> timelines(std::string_view prefix) const;
  /// The latest steps, oldest first.
  std::vector<StepTrace> steps() const;
  /// How long the loop has had work without getting on: seconds since it last finished a step or took a command; 0 if it has
  /// nothing to do. Longer than the longest step means that it hangs.
  double stalled_seconds() const;
  /// False once the engine has failed or was stopped.
  bool healthy() const;
  /// Why the engine failed; empty if it has not.
  std::string failure() const;
  /// Ends the loop after the current step; live requests are aborted and their outputs can still be fetched. Idempotent. Not
  /// from the loop.
  void stop();

  const Limits& limits() const { return limits_; }
  /// Where the tokens of guided requests go to and their masks come from.
  MaskExchange& masks() { return *masks_; }

 private:
  /// One entry of the inbox.
  struct Command {
    enum class Kind : uint8_t { add, abort, reset_prefix_cache };
    Kind kind = Kind::add;
    std::shared_ptr<const Request> request = nullptr;  ///< to add
    std::string abort_id = {};
    int32_t abort_choice = kAllChoices;
    FinishReason abort_reason = FinishReason::abort;
  };

  bool inbox_is_due() const { return num_holds_ == 0 && !inbox_.empty(); }
  double measure_swap();
  void measure_starts(std::chrono::steady_clock::time_point now);
  void loop();
  bool take_commands();
  void apply(const Command& command);
  void step();
  void finish_oldest();
  void publish();
  void end(FinishReason reason, const std::string& error);
  void push(Command command);
  void check_accepts() const;
  static void refuse(const Command& command, FinishReason reason, const std::string& error, std::vector<Output>& outputs);

  Limits limits_;
  EngineParts parts_;
  std::shared_ptr<MaskExchange> masks_;
  KvManager kv_manager_;
  KvCache kv_cache_;
  Arena arena_;

  // Of the loop thread.
  Scheduler scheduler_;
  Runner runner_;
  /// A step between launch and commit.
  struct StepInFlight {
    const StepPlan* plan;
    std::chrono::steady_clock::time_point begin;
  };
  std::deque<StepInFlight> in_flight_;  // oldest first
  StepResult result_;
  std::vector<Output> outputs_;    // of the current step
  std::vector<Command> commands_;  // taken from the inbox; applied up to next_command_
  size_t next_command_ = 0;
  PreemptionCosts costs_;
  std::chrono::steady_clock::time_point last_publish_;
  int64_t last_started_ = 0;   // of the scheduler's count
  double queued_seconds_ = 0;  // of the recent time in which sequences waited
  double queued_starts_ = 0;   // and how many started in it
  int64_t num_steps_ = 0;
  int64_t last_step_tokens_ = 0;
  double last_step_seconds_ = 0;
  std::chrono::steady_clock::time_point last_collected_{};  // when the step before had ended

  // Shared, under mutex_.
  mutable std::mutex mutex_;
  std::condition_variable work_cv_;    // the loop waits for commands
  std::condition_variable output_cv_;  // the consumer waits for outputs
  std::vector<Command> inbox_;
  int num_holds_ = 0;  // of the inbox
  std::vector<Output> outbox_;
  std::unordered_map<std::string, int64_t> live_choices_;  // unfinished choices of live requests
  QueueLength queue_;                                      // sequences in the inbox or never scheduled, at least
  std::vector<PreemptionNotice> preemptions_;
  Stats stats_;
  TraceLog trace_log_;
  TimePoint last_progress_ = std::chrono::steady_clock::now();  // of the loop; while it sleeps, when it got something to do
  bool sleeping_ = false;                                       // the loop waits in take_commands()
  std::string failure_;
  bool stopping_ = false;
  bool ended_ = false;     // the loop has ended
  bool end_told_ = false;  // and wait() has returned because of it

  std::mutex join_mutex_;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace pagoda
