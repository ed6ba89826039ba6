// The engine loop: commands, schedule, launch, collect, commit, publish.
#include "engine/engine.h"

#include <chrono>
#include <exception>
#include <iterator>
#include <utility>

#include "core/check.h"

namespace pagoda {
namespace {

double seconds_since(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

/// Moves what is behind `from` to the end of `to`.
template <class T>
void append(std::vector<T>& to, std::vector<T>& from) {
  to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
  from.clear();
}

}  // namespace

Limits make_limits(const EngineOptions& options, int64_t vocab_size, int64_t max_model_len, int64_t num_blocks) {
  Limits limits;
  limits.vocab_size = vocab_size;
  limits.max_model_len = max_model_len;
  limits.max_num_seqs = options.max_num_seqs;
  limits.max_num_batched_tokens = options.max_num_batched_tokens;
  limits.max_waiting = options.max_waiting;
  limits.num_blocks = num_blocks;
  limits.block_size = options.block_size;
  return limits;
}

Engine::Engine(const EngineOptions& options, EngineParts parts)
    : limits_((options.validate(), make_limits(options, parts.model->vocab_size(), parts.max_model_len, parts.num_blocks))),
      parts_(std::move(parts)),
      kv_manager_(limits_.num_blocks, static_cast<int>(limits_.block_size), options.prefix_cache),
      kv_cache_(parts_.backend.get(), parts_.model->kv_shape(), parts_.kv_dtype, static_cast<int>(limits_.block_size),
                limits_.num_blocks),
      arena_(*parts_.backend, parts_.workspace_bytes),
      scheduler_(limits_, options.scheduling_policy == "priority", parts_.eos_tokens, kv_manager_),
      runner_(*parts_.model, *parts_.backend, kv_cache_, arena_, limits_, parts_.eos_tokens) {
  require(limits_.max_model_len >= 2, "max_model_len must be at least 2 (one prompt and one output token), got ",
          limits_.max_model_len);
  stats_ = scheduler_.stats();
  thread_ = std::thread([this] { loop(); });
}

Engine::~Engine() { stop(); }

void Engine::submit(Request request) {
  auto shared = std::make_shared<const Request>(std::move(request));
  {
    const std::scoped_lock lock(mutex_);
    check_accepts();
  }
  limits_.validate(*shared);
  const int64_t n = shared->params.n;
  {
    const std::scoped_lock lock(mutex_);
    check_accepts();
    limits_.check_queue(num_queued_, n);
    require(live_choices_.emplace(shared->id, n).second, "request id \"", shared->id, "\" is in use");
    num_queued_ += n;
    inbox_.push_back({std::move(shared), {}, kAllChoices});
  }
  work_cv_.notify_one();
}

void Engine::check_accepts() const {
  if (!failure_.empty()) throw DeviceError(str("the engine has failed: ", failure_));
  if (stopping_) throw DeviceError("the engine was stopped");
}

void Engine::abort(const std::string& request_id, int32_t choice) {
  {
    const std::scoped_lock lock(mutex_);
    if (ended_ || !live_choices_.contains(request_id)) return;
    inbox_.push_back({nullptr, request_id, choice});
  }
  work_cv_.notify_one();
}

std::vector<Output> Engine::wait(int timeout_ms) {
  std::unique_lock lock(mutex_);
  output_cv_.wait_for(lock, std::chrono::milliseconds(timeout_ms),
                      [this] { return !outbox_.empty() || (ended_ && !end_told_); });
  end_told_ = ended_;
  return std::exchange(outbox_, {});
}

Stats Engine::stats() const {
  const std::scoped_lock lock(mutex_);
  return stats_;
}

bool Engine::healthy() const {
  const std::scoped_lock lock(mutex_);
  return failure_.empty() && !stopping_;
}

std::string Engine::failure() const {
  const std::scoped_lock lock(mutex_);
  return failure_;
}

void Engine::stop() {
  {
    const std::scoped_lock lock(mutex_);
    stopping_ = true;
  }
  work_cv_.notify_one();
  const std::scoped_lock lock(join_mutex_);
  if (thread_.joinable()) thread_.join();
}

void Engine::loop() {
  try {
    while (take_commands()) {
      for (; next_command_ < commands_.size(); ++next_command_) apply(commands_[next_command_]);
      step();
      publish();
    }
    end(FinishReason::abort, {});
  } catch (const std::exception& failure) {
    end(FinishReason::error, failure.what());
  }
}

/// Sleeps until there is something to do. False when the engine shall stop.
bool Engine::take_commands() {
  commands_.clear();
  next_command_ = 0;
  std::unique_lock lock(mutex_);
  work_cv_.wait(lock, [this] { return stopping_ || !inbox_.empty() || !in_flight_.empty() || scheduler_.has_work(); });
  commands_.swap(inbox_);
  return !stopping_;
}

void Engine::apply(const Command& command) {
  if (!command.request) return scheduler_.abort(command.abort_id, command.abort_choice, outputs_);
  try {
    scheduler_.add(command.request);
  } catch (const std::exception& failure) {  // out of memory, say: that request ends alone
    refuse(command, FinishReason::error, failure.what(), outputs_);
  }
}

/// Starts a step if one can be planned, then finishes the oldest once as many are in flight as the device wants, or nothing
/// else can be done.
void Engine::step() {
  bool launched = false;
  if (scheduler_.has_work()) {
    const auto begin = std::chrono::steady_clock::now();
    const StepPlan& plan = scheduler_.schedule();
    launched = !plan.seqs.empty();
    ensure(launched || !in_flight_.empty(), "there is work, but nothing can run");
    if (launched) {
      runner_.launch(plan);
      in_flight_.push_back({&plan, begin});
    }
  }
  const bool is_full = std::cmp_greater_equal(in_flight_.size(), parts_.backend->traits().max_steps_in_flight);
  if (!in_flight_.empty() && (is_full || !launched)) finish_oldest();
}

void Engine::finish_oldest() {
  const StepInFlight oldest = in_flight_.front();
  in_flight_.pop_front();
  runner_.collect(*oldest.plan, result_);
  scheduler_.commit(*oldest.plan, result_, outputs_);
  ++num_steps_;
  last_step_tokens_ = oldest.plan->num_tokens;
  last_step_seconds_ = seconds_since(oldest.begin);
}

/// Hands the step's outputs and counters to the other threads.
void Engine::publish() {
  const bool has_outputs = !outputs_.empty();
  {
    const std::scoped_lock lock(mutex_);
    num_queued_ = scheduler_.num_unstarted();
    for (const Command& command : inbox_) num_queued_ += command.request ? command.request->params.n : 0;
    for (const Output& output : outputs_) {
      if (output.finish == FinishReason::none) continue;
      const auto live = live_choices_.find(output.request_id);
      if (live != live_choices_.end() && --live->second == 0) live_choices_.erase(live);
    }
    stats_ = scheduler_.stats();
    stats_.num_steps = num_steps_;
    stats_.last_step_tokens = last_step_tokens_;
    stats_.last_step_seconds = last_step_seconds_;
    append(outbox_, outputs_);
  }
  if (has_outputs) output_cv_.notify_one();
}

/// The loop's last act: every live request hears why it ends, and nobody can submit any more.
void Engine::end(FinishReason reason, const std::string& error) {
  scheduler_.end_all(reason, error, outputs_);
  for (; next_command_ < commands_.size(); ++next_command_) refuse(commands_[next_command_], reason, error, outputs_);
  {
    const std::scoped_lock lock(mutex_);
    stopping_ = true;
    if (reason == FinishReason::error) failure_ = error.empty() ? "unknown error" : error;
    for (const Command& command : inbox_) refuse(command, reason, error, outputs_);
    inbox_.clear();
  }
  publish();
  {
    const std::scoped_lock lock(mutex_);
    ended_ = true;
  }
  output_cv_.notify_all();
}

/// The last outputs of a request that never reached the scheduler.
void Engine::refuse(const Command& command, FinishReason reason, const std::string& error, std::vector<Output>& outputs) {
  if (!command.request) return;
  for (int32_t choice = 0; choice < command.request->params.n; ++choice) {
    Output& output = outputs.emplace_back();
    output.request_id = command.request->id;
    output.choice = choice;
    output.finish = reason;
    output.error = error;
  }
}

}  // namespace pagoda
