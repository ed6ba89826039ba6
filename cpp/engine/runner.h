// Carries out a step on the device: build, upload, forward, sample, and hand the rows back to their sequences.
// Owns the index buffers on both sides; borrows model, backend, KV cache and workspace. Called by the engine loop.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <unordered_map>
#include <vector>

#include "backend/arena.h"
#include "backend/backend.h"
#include "backend/ops.h"
#include "engine/batch_builder.h"
#include "engine/limits.h"
#include "engine/step.h"
#include "model/kv_cache.h"
#include "model/model.h"

namespace pagoda {

class Runner {
 public:
  /// Allocates limits.batch_bytes() on the device. What is borrowed must outlive the runner; `arena` must hold the workspace of
  /// a forward of max_num_batched_tokens tokens and max_logit_rows rows.
  Runner(Model& model, Backend& backend, KvCache& kv, Arena& arena, const Limits& limits, std::vector<int32_t> eos_tokens,
         AddSampleRow add_row = add_sample_row);
  /// The longest that a step waits for its token masks, once its forward was started; 2 s unless set.
  void set_mask_timeout(std::chrono::steady_clock::duration timeout) { mask_timeout_ = timeout; }

  /// Starts the step, with fewer than kMaxStepsInFlight launched and not collected. Throws what the model or the device throws;
  /// then the step is lost.
  void launch(const StepPlan& plan);
  /// Waits for the oldest launched step, whose plan this is, and fills `result`, in plan order. A row without a usable logit
  /// sets that sequence's error only.
  void collect(const StepPlan& plan, StepResult& result);

 private:
  BatchBuilder& builder_of(uint64_t step) { return builders_[step % kMaxStepsInFlight]; }
  void forward();
  void download_hidden(const StepPlan& plan);
  void take_rows(const PlannedSeq& planned, size_t& row, SequenceResult& result) const;
  void take_draws(const PlannedSeq& planned, size_t row, SequenceResult& result) const;
  TokenLogprobs logprobs_of(size_t row) const;

  Model& model_;
  Backend& backend_;
  KvCache& kv_;
  Arena& arena_;
  Ops ops_;
  std::array<BatchBuilder, kMaxStepsInFlight> builders_;
  std::chrono::steady_clock::duration mask_timeout_ = std::chrono::seconds(2);
  uint64_t num_launched_ = 0;
  uint64_t num_collected_ = 0;
  // Of the newest step. The device carries out steps in order, so one set of buffers serves them all.
  Buffer indices_;  // on the device
  Batch batch_;
  std::optional<Arena::Scope> scratch_;
  Tensor logits_;                                         // [R, vocab] in the arena
  std::unordered_map<uint64_t, Tensor> captured_logits_;  // of each step that the backend may replay
  SampleResult sampled_;
  Tensor hidden_;                                             // [T, H] in the arena
  std::vector<std::byte> downloaded_;                         // the same on the host
  std::array<std::vector<float>, kMaxStepsInFlight> pooled_;  // of each step: the hidden states it was asked for
};

}  // namespace pagoda
