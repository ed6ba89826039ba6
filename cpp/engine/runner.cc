// One upload, one forward, one sampling operation per step.
#include "engine/runner.h"

#include <cstring>
#include <span>
#include <utility>

#include "core/check.h"

namespace pagoda {
namespace {

/// Whether the request itself can have ruled out every token.
bool restricts_tokens(const SamplingParams& params) {
  return !params.allowed_token_ids.empty() || !params.logit_bias.empty() || !params.bad_words.empty() ||
         params.min_tokens > 0 || params.is_guided();
}

/// Activations as floats.
void append_floats(std::vector<float>& to, DType dtype, std::span<const std::byte> bytes) {
  const size_t width = dtype_bytes(dtype);
  for (size_t at = 0; at < bytes.size(); at += width) {
    if (dtype == DType::f32) {
      std::memcpy(&to.emplace_back(), &bytes[at], sizeof(float));
    } else {
      uint16_t bits;
      std::memcpy(&bits, &bytes[at], sizeof(bits));
      to.push_back(dtype == DType::bf16 ? bf16_to_float(bits) : f16_to_float(bits));
    }
  }
}

}  // namespace

Runner::Runner(Model& model, Backend& backend, KvCache& kv, Arena& arena, const Limits& limits, std::vector<int32_t> eos_tokens,
               AddSampleRow add_row)
    : model_(model),
      backend_(backend),
      kv_(kv),
      arena_(arena),
      ops_(backend.traits(), &backend, arena),
      builders_{BatchBuilder(limits, eos_tokens, add_row, backend.traits().pads_decode_steps),
                BatchBuilder(limits, eos_tokens, add_row, backend.traits().pads_decode_steps)},
      indices_(backend.allocate(limits.batch_bytes())) {}

void Runner::launch(const StepPlan& plan) {
  BatchBuilder& builder = builder_of(num_launched_);
  builder.build(plan);
  backend_.upload(indices_.get(), builder.host().data(), builder.host().size_bytes());
  auto* indices = static_cast<int32_t*>(indices_.get());
  batch_ = builder.batch_at(indices);
  if (batch_.token_sources) {
    backend_.feed_tokens(indices + (batch_.token_ids - indices), batch_.token_sources, batch_.num_tokens);
  }
  kv_.swap_out(plan.swap_out);
  kv_.swap_in(plan.swap_in);
  kv_.copy(plan.copies);
  scratch_.reset();
  scratch_.emplace(arena_);
  if (plan.wants_hidden) {
    logits_ = model_.forward(batch_, kv_, ops_, &hidden_);
  } else if (builder.shape_key() == 0) {
    forward();
  } else {
    backend_.run_captured(builder.shape_key(), [this] {
      forward();
      captured_logits_[builder_of(num_launched_).shape_key()] = logits_;
    });
    logits_ = captured_logits_.at(builder.shape_key());
  }
  builder.add_masks(plan, std::chrono::steady_clock::now() + mask_timeout_);
  if (!builder.samples().rows.empty()) backend_.start_sampling(logits_, builder.samples());
  if (plan.wants_hidden) download_hidden(plan);
  ++num_launched_;
}

/// Waits for the step: what it leaves in the workspace is gone with the next one.
void Runner::download_hidden(const StepPlan& plan) {
  const size_t row_bytes = static_cast<size_t>(model_.hidden_size()) * dtype_bytes(hidden_.dtype);
  std::vector<float>& pooled = pooled_[num_launched_ % kMaxStepsInFlight];
  pooled.clear();
  int64_t row = 0;
  for (const PlannedSeq& planned : plan.seqs) {
    const int64_t begin = row + planned.pool_begin - planned.begin, count = planned.pool_end - planned.pool_begin;
    row += planned.draft_end() - planned.begin;
    if (count == 0) continue;
    downloaded_.resize(static_cast<size_t>(count) * row_bytes);
    backend_.download(downloaded_.data(), hidden_.as<std::byte>() + static_cast<size_t>(begin) * row_bytes, downloaded_.size());
    append_floats(pooled, hidden_.dtype, downloaded_);
  }
}

void Runner::forward() { logits_ = model_.forward(batch_, kv_, ops_); }

void Runner::collect(const StepPlan& plan, StepResult& result) {
  const BatchBuilder& builder = builder_of(num_collected_);
  if (!builder.samples().rows.empty()) backend_.collect_samples(sampled_);
  result.seqs.resize(plan.seqs.size());
  size_t row = 0;
  auto pooled = pooled_[num_collected_ % kMaxStepsInFlight].cbegin();
  for (size_t i = 0; i < plan.seqs.size(); ++i) {
    SequenceResult& got = result.seqs[i];
    const auto num_pooled = (plan.seqs[i].pool_end - plan.seqs[i].pool_begin) * model_.hidden_size();
    got.hidden.assign(pooled, pooled + num_pooled);
    pooled += num_pooled;
    got.tokens.clear();
    got.logprobs.clear();
    got.prompt_logprobs.clear();
    got.error = builder.errors()[i];
    got.invalid_logits = false;
    got.ended = builder.ended()[i];
    take_rows(plan.seqs[i], row, got);
  }
  ensure(row == builder.samples().rows.size(), "a step sampled ", builder.samples().rows.size(), " rows and used ", row);
  ++num_collected_;
}

/// Takes the planned sequence's rows, starting at `row`, which moves on behind them.
void Runner::take_rows(const PlannedSeq& planned, size_t& row, SequenceResult& result) const {
  const auto complain = [&](int64_t position) {
    result.invalid_logits = true;
    if (result.error.empty()) result.error = str("the model gave no usable logits at position ", position);
  };
  for (int64_t position = planned.rows_begin; position < planned.rows_end; ++position, ++row) {
    if (sampled_.rows[row].invalid) complain(position);
    result.prompt_logprobs.push_back(logprobs_of(row));
  }
  if (!planned.wants_token) return;
  if (sampled_.rows[row].invalid && result.error.empty() && !result.ended) {
    complain(planned.end - 1);
    if (restricts_tokens(planned.seq->params())) {  // then that is the likely cause, and no fault of the model's
      result.invalid_logits = false;
      result.error = str("the request's restrictions leave no token to choose at position ", planned.end - 1,
                         ", or the model gave no usable logits there");
    }
  }
  take_draws(planned, row, result);
  row += static_cast<size_t>(planned.num_draws());
}

/// Takes the drawn tokens as long as they are those of the draft, and the first one behind that. If a later row is not usable
/// the next step will find out.
void Runner::take_draws(const PlannedSeq& planned, size_t row, SequenceResult& result) const {
  for (int64_t draw = 0; draw < planned.num_draws(); ++draw, ++row) {
    const SampledRow& drawn = sampled_.rows[row];
    if (draw > 0 && drawn.invalid) return;
    result.tokens.push_back(drawn.token);
    if (planned.seq->params().logprobs) result.logprobs.push_back(logprobs_of(row));
    if (draw == std::ssize(planned.draft) || drawn.token != planned.draft[static_cast<size_t>(draw)]) return;
  }
}

TokenLogprobs Runner::logprobs_of(size_t row) const {
  TokenLogprobs logprobs{sampled_.rows[row].logprob, sampled_.rows[row].rank, {}, {}};
  const SampleBatch& samples = builders_[num_collected_ % kMaxStepsInFlight].samples();
  const int32_t num_top = samples.rows[row].num_top;
  if (num_top <= 0) return logprobs;
  const auto begin = static_cast<std::ptrdiff_t>(row) * samples.max_top;
  logprobs.top_tokens.assign(sampled_.top_tokens.begin() + begin, sampled_.top_tokens.begin() + begin + num_top);
  logprobs.top_logprobs.assign(sampled_.top_logprobs.begin() + begin, sampled_.top_logprobs.begin() + begin + num_top);
  return logprobs;
}

}  // namespace pagoda
