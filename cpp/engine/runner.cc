// One upload, one forward, one sampling operation per step.
#include "engine/runner.h"

#include <utility>

#include "core/check.h"

namespace pagoda {
namespace {

/// Whether the request itself can have ruled out every token.
bool restricts_tokens(const SamplingParams& params) {
  return !params.allowed_token_ids.empty() || !params.logit_bias.empty() || !params.bad_words.empty() || params.min_tokens > 0;
}

}  // namespace

Runner::Runner(Model& model, Backend& backend, KvCache& kv, Arena& arena, const Limits& limits, std::vector<int32_t> eos_tokens,
               AddSampleRow add_row)
    : model_(model),
      backend_(backend),
      kv_(kv),
      arena_(arena),
      ops_(backend.traits(), &backend, arena),
      builder_(limits, std::move(eos_tokens), add_row, backend.traits().pads_decode_steps),
      indices_(backend.allocate(limits.batch_bytes())) {}

void Runner::launch(const StepPlan& plan) {
  builder_.build(plan);
  backend_.upload(indices_.get(), builder_.host().data(), builder_.host().size_bytes());
  batch_ = builder_.batch_at(static_cast<const int32_t*>(indices_.get()));
  scratch_.emplace(arena_);
  if (builder_.shape_key() == 0) return forward();
  backend_.run_captured(builder_.shape_key(), [this] {
    forward();
    captured_logits_[builder_.shape_key()] = logits_;
  });
  logits_ = captured_logits_.at(builder_.shape_key());
}

void Runner::forward() { logits_ = model_.forward(batch_, kv_, ops_); }

void Runner::collect(const StepPlan& plan, StepResult& result) {
  if (!builder_.samples().rows.empty()) backend_.sample(logits_, builder_.samples(), sampled_);
  scratch_.reset();
  result.seqs.resize(plan.seqs.size());
  size_t row = 0;
  for (size_t i = 0; i < plan.seqs.size(); ++i) {
    SequenceResult& got = result.seqs[i];
    got.token = -1;
    got.prompt_logprobs.clear();
    got.error = builder_.errors()[i];
    take_rows(plan.seqs[i], row, got);
  }
  ensure(row == builder_.samples().rows.size(), "a step sampled ", builder_.samples().rows.size(), " rows and used ", row);
}

/// Takes the planned sequence's rows, starting at `row`, which moves on behind them.
void Runner::take_rows(const PlannedSeq& planned, size_t& row, SequenceResult& result) const {
  const auto complain = [&](int64_t position) {
    if (result.error.empty()) result.error = str("the model gave no usable logits at position ", position);
  };
  for (int64_t position = planned.rows_begin; position < planned.rows_end; ++position, ++row) {
    if (sampled_.rows[row].invalid) complain(position);
    result.prompt_logprobs.push_back(logprobs_of(row));
  }
  if (!planned.wants_token) return;
  if (sampled_.rows[row].invalid && result.error.empty()) {
    complain(planned.end - 1);
    if (restricts_tokens(planned.seq->params())) result.error += ", or the request's restrictions leave no token to choose";
  }
  result.token = sampled_.rows[row].token;
  if (planned.seq->params().logprobs) result.logprobs = logprobs_of(row);
  ++row;
}

TokenLogprobs Runner::logprobs_of(size_t row) const {
  TokenLogprobs logprobs{sampled_.rows[row].logprob, sampled_.rows[row].rank, {}, {}};
  const SampleBatch& samples = builder_.samples();
  const int32_t num_top = samples.rows[row].num_top;
  if (num_top <= 0) return logprobs;
  const auto begin = static_cast<std::ptrdiff_t>(row) * samples.max_top;
  logprobs.top_tokens.assign(sampled_.top_tokens.begin() + begin, sampled_.top_tokens.begin() + begin + num_top);
  logprobs.top_logprobs.assign(sampled_.top_logprobs.begin() + begin, sampled_.top_logprobs.begin() + begin + num_top);
  return logprobs;
}

}  // namespace pagoda
