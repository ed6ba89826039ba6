// Turns a step's plan into the arrays that a backend reads: index arrays (backend/batch.h) in one host buffer, and sampling
// rows. Owns the buffers and reuses them from step to step. Called by the runner.
#pragma once

#include <chrono>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "backend/batch.h"
#include "backend/sample_batch.h"
#include "engine/limits.h"
#include "engine/step.h"
#include "sampling/sampler.h"

namespace pagoda {

/// How a sequence's sampling row is made; tests pass one that fails.
using AddSampleRow = void (*)(SampleBatch&, const SampleSource&);

class BatchBuilder {
 public:
  /// With `pads_decode_steps` (BackendTraits) a step of single tokens is filled up to one of few sizes.
  BatchBuilder(const Limits& limits, std::vector<int32_t> eos_tokens, AddSampleRow add_row = add_sample_row,
               bool pads_decode_steps = false);

  /// Fills everything for `plan`; all spans below are valid until the next call. A sequence whose sampling row cannot be made
  /// keeps its place in the batch, because others may share the keys and values it computes, and gets an error.
  void build(const StepPlan& plan);
  /// Puts the token masks of those sequences that have one into samples(), after waiting for them until `deadline`. A sequence
  /// without an answer gets an error.
  void add_masks(const StepPlan& plan, std::chrono::steady_clock::time_point deadline);

  /// The index arrays, contiguous in the order of Batch, to be uploaded at once.
  std::span<const int32_t> host() const { return host_; }
  /// The batch with its pointers into a copy of host() that starts at `base`.
  Batch batch_at(const int32_t* base) const;
  const SampleBatch& samples() const { return samples_; }
  /// Of a step that was filled up: equal for steps with equal sizes and places of all arrays. 0 for every other step.
  uint64_t shape_key() const { return shape_key_; }
  /// Per planned sequence the error that its sampling row met, mostly empty.
  const std::vector<std::string>& errors() const { return errors_; }
  /// Per planned sequence whether its mask said that it was complete already.
  const std::vector<bool>& ended() const { return ended_; }

 private:
  void measure(const StepPlan& plan);
  void pad();
  void fill_padding(int32_t token);
  void fill_indices(const StepPlan& plan);
  void fill_selection();
  void fill_rows(const StepPlan& plan);
  void add_sample(const PlannedSeq& planned, std::string& error);
  void add_mask(SampleRow& row, std::span<const uint32_t> words);

  Limits limits_;
  std::vector<int32_t> eos_tokens_;
  AddSampleRow add_row_;
  bool pads_decode_steps_;
  Batch shape_;               // the sizes of the step; its pointers stay null
  bool has_sources_ = false;  // some tokens are drawn by the step before
  uint64_t shape_key_ = 0;    // see shape_key()
  std::vector<int32_t> host_;
  SampleBatch samples_;
  std::vector<std::string> errors_;
  std::vector<bool> ended_;
};

}  // namespace pagoda
