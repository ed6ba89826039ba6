// The engine loop: commands, schedule, launch, collect, commit, publish.
#include "engine/engine.h"

#include <algorithm>
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

Limits make_limits(const EngineOptions& options, int64_t vocab_size, int64_t max_model_len, int64_t num_blocks,
                   int64_t num_swap_blocks) {
  Limits limits;
  limits.vocab_size = vocab_size;
  limits.max_model_len = max_model_len;
  limits.max_num_seqs = options.max_num_seqs;
  limits.max_num_batched_tokens = options.max_num_batched_tokens;
  limits.max_num_queued_seqs = options.max_num_queued_seqs;
  limits.num_blocks = num_blocks;
  limits.block_size = options.block_size;
  limits.num_swap_blocks = num_swap_blocks;
  limits.watermark_blocks = static_cast<int64_t>(options.watermark * static_cast<double>(num_blocks));
  limits.max_num_queued_tokens = options.max_num_queued_tokens.value_or(0);
  limits.max_prefill_chunk = options.long_prefill_token_threshold.value_or(0);
  limits.max_draft_per_seq = options.scheduling_rules().draft.max_tokens;
  return limits;
}

Engine::Engine(const EngineOptions& options, EngineParts parts)
    : limits_((options.validate(),
               make_limits(options, parts.model->vocab_size(), parts.max_model_len, parts.num_blocks, parts.num_swap_blocks))),
      parts_(std::move(parts)),
      masks_(std::make_shared<MaskExchange>(limits_.vocab_size)),
      kv_manager_(limits_.num_blocks, static_cast<int>(limits_.block_size), options.prefix_cache),
      kv_cache_(parts_.backend.get(), parts_.model->kv_shape(), parts_.kv_dtype, static_cast<int>(limits_.block_size),
                limits_.num_blocks, limits_.num_swap_blocks),
      arena_(*parts_.backend, parts_.workspace_bytes),
      scheduler_(limits_, options.scheduling_rules(), parts_.eos_tokens, kv_manager_),
      runner_(*parts_.model, *parts_.backend, kv_cache_, arena_, limits_, parts_.eos_tokens),
      trace_log_(options.num_traced_seqs) {
  require(limits_.max_model_len >= 2, "max_model_len must be at least 2 (one prompt and one output token), got ",
          limits_.max_model_len);
  runner_.set_mask_timeout(std::chrono::round<std::chrono::steady_clock::duration>(
      std::chrono::duration<double>(options.structured_output_timeout_s)));
  parts_.backend->prepare_sampling(limits_.vocab_size);
  if (limits_.num_swap_blocks) costs_.swap_block = measure_swap();
  if (options.num_traced_seqs > 0) scheduler_.trace().start_recording();
  stats_ = scheduler_.stats();
  last_publish_ = std::chrono::steady_clock::now();
  thread_ = std::thread([this] { loop(); });
}

Engine::~Engine() { stop(); }

/// Seconds for a block's way to the host and back. The first round touches memory that was never used.
double Engine::measure_swap() {
  constexpr int64_t kMostBlocks = 32;
  std::vector<BlockCopy> copies;
  for (int32_t i = 0; i < std::min({kMostBlocks, limits_.num_blocks, limits_.num_swap_blocks}); ++i) copies.push_back({i, i});
  double seconds = 0;
  for (int round = 0; round < 2; ++round) {
    const auto begin = std::chrono::steady_clock::now();
    kv_cache_.swap_out(copies);
    kv_cache_.swap_in(copies);
    char waits_for_the_copies;
    parts_.backend->download(&waits_for_the_copies, kv_cache_.layer(0).data, 1);
    seconds = seconds_since(begin);
  }
  return seconds / static_cast<double>(copies.size());
}

void Engine::submit(Request request) {
  request.arrival = std::chrono::steady_clock::now();
  if (request.params.is_guided()) request.masks = masks_;
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
    limits_.check_queue(queue_, *shared);
    require(live_choices_.emplace(shared->id, n).second, "request id \"", shared->id, "\" is in use");
    queue_.num_seqs += n;
    queue_.num_tokens += n * std::ssize(shared->prompt);
    push({.kind = Command::Kind::add, .request = std::move(shared)});
  }
  work_cv_.notify_one();
}

/// Puts a command into the inbox, under mutex_. From here on a loop that slept has something to do.
void Engine::push(Command command) {
  if (sleeping_ && inbox_.empty()) last_progress_ = std::chrono::steady_clock::now();
  inbox_.push_back(std::move(command));
}

void Engine::hold() {
  const std::scoped_lock lock(mutex_);
  ++num_holds_;
}

void Engine::release() {
  {
    const std::scoped_lock lock(mutex_);
    ensure(num_holds_ > 0, "release() without hold()");
    if (--num_holds_ == 0 && sleeping_) last_progress_ = std::chrono::steady_clock::now();
  }
  work_cv_.notify_one();
}

void Engine::check_accepts() const {
  if (!failure_.empty()) throw DeviceError(str("the engine has failed: ", failure_));
  if (stopping_) throw DeviceError("the engine was stopped");
}

void Engine::abort(const std::string& request_id, int32_t choice, FinishReason reason) {
  {
    const std::scoped_lock lock(mutex_);
    if (ended_ || !live_choices_.contains(request_id)) return;
    push({.kind = Command::Kind::abort, .abort_id = request_id, .abort_choice = choice, .abort_reason = reason});
  }
  work_cv_.notify_one();
}

void Engine::reset_prefix_cache() {
  {
    const std::scoped_lock lock(mutex_);
    check_accepts();
    push({.kind = Command::Kind::reset_prefix_cache});
  }
  work_cv_.notify_one();
}

std::vector<PreemptionNotice> Engine::take_preemptions() {
  const std::scoped_lock lock(mutex_);
  return std::exchange(preemptions_, {});
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
  Stats stats = stats_;
  if (stats.num_waiting > 0) stats.queue_age_seconds += seconds_since(last_publish_);
  return stats;
}

std::vector<Timeline> Engine::timelines(std::string_view prefix) const {
  const std::scoped_lock lock(mutex_);
  return trace_log_.timelines(prefix);
}

std::vector<StepTrace> Engine::steps() const {
  const std::scoped_lock lock(mutex_);
  return trace_log_.steps();
}

double Engine::stalled_seconds() const {
  const std::scoped_lock lock(mutex_);
  const bool idle = sleeping_ && !inbox_is_due();
  return idle || ended_ ? 0 : seconds_since(last_progress_);
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
  sleeping_ = true;
  work_cv_.wait(lock, [this] { return stopping_ || inbox_is_due() || !in_flight_.empty() || scheduler_.has_work(); });
  sleeping_ = false;
  last_progress_ = std::chrono::steady_clock::now();
  if (inbox_is_due()) commands_.swap(inbox_);
  return !stopping_;
}

void Engine::apply(const Command& command) {
  if (command.kind == Command::Kind::reset_prefix_cache) return scheduler_.reset_prefix_cache();
  if (command.kind == Command::Kind::abort) {
    return scheduler_.abort(command.abort_id, command.abort_choice, outputs_, command.abort_reason);
  }
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
  last_step_seconds_ = seconds_since(std::max(oldest.begin, last_collected_));  // without the step before, which ran beside it
  last_collected_ = std::chrono::steady_clock::now();
  scheduler_.trace().step(oldest.begin, *oldest.plan);
  if (oldest.plan->only_decodes() && parts_.backend->traits().max_steps_in_flight == 1) {
    scheduler_.step_cost().add(last_step_tokens_, last_step_seconds_);
  }
  constexpr int64_t kPrefillTokens = 64;  // steps of fewer tokens do not tell what a token of a prompt costs
  if (last_step_tokens_ < kPrefillTokens) return;
  const double cost = last_step_seconds_ / static_cast<double>(last_step_tokens_);
  costs_.recompute_token = costs_.recompute_token == 0 ? cost : 0.75 * costs_.recompute_token + 0.25 * cost;
  scheduler_.set_costs(costs_);
}

/// How often a waiting sequence starts, over about the last ten seconds in which some waited.
void Engine::measure_starts(std::chrono::steady_clock::time_point now) {
  const int64_t num_started = scheduler_.num_started();
  if (queue_.num_seqs > 0) {
    queued_seconds_ += std::chrono::duration<double>(now - last_publish_).count();
    queued_starts_ += static_cast<double>(num_started - last_started_);
    if (queued_seconds_ > 10) queued_seconds_ /= 2, queued_starts_ /= 2;
    queue_.seconds_per_seq = queued_starts_ > 0 ? queued_seconds_ / queued_starts_ : 0;
  }
  last_publish_ = now;
  last_started_ = num_started;
}

/// Hands the step's outputs and counters to the other threads.
void Engine::publish() {
  const bool has_outputs = !outputs_.empty();
  {
    const std::scoped_lock lock(mutex_);
    measure_starts(std::chrono::steady_clock::now());
    queue_.num_seqs = scheduler_.num_unstarted();
    queue_.num_tokens = scheduler_.num_unstarted_tokens();
    for (const Command& command : inbox_) {
      if (!command.request) continue;
      queue_.num_seqs += command.request->params.n;
      queue_.num_tokens += command.request->params.n * std::ssize(command.request->prompt);
    }
    std::ranges::move(scheduler_.take_notices(), std::back_inserter(preemptions_));
    if (preemptions_.size() > kMaxNotices) preemptions_.erase(preemptions_.begin(), preemptions_.end() - kMaxNotices);
    for (const Output& output : outputs_) {
      if (output.finish == FinishReason::none) continue;
      const auto live = live_choices_.find(output.request_id);
      if (live != live_choices_.end() && --live->second == 0) live_choices_.erase(live);
    }
    trace_log_.take(scheduler_.trace());
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
  masks_->stop();
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
    if (command.request->masks) command.request->masks->close(command.request->id, choice);
    Output& output = outputs.emplace_back();
    output.request_id = command.request->id;
    output.choice = choice;
    output.finish = reason;
    output.error = error;
  }
}

}  // namespace pagoda
