// The host's side of the fused sampler: packs a batch's rows and lists into one upload, puts the passes (sample_work.h) into
// the queue, and makes tokens and logprobs from the integers and raw floats that come back in one download. Tokens, ranks,
// logprobs and faults are those of the CPU's sampler, bit for bit, for any batch. Owned by CudaBackend.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <cstddef>
#include <functional>
#include <vector>

#include "backend/backend.h"
#include "cuda/queue.h"
#include "cuda/sample_work.h"

namespace pagoda::cuda {

/// Where everything lies in the sampler's device memory, in bytes from its start. A pure function of the vocabulary's size.
struct SampleLayout {
  explicit SampleLayout(int64_t vocab);

  static constexpr int64_t kMaxRows = 256;              ///< of one part of a batch
  static constexpr int64_t kMaxDrawn = (1 << 16) + 64;  ///< rows of a batch: sequences and prompt positions

  size_t list_bytes;    ///< room for a part's edits, counts and masks; at least for any one row's
  size_t upload_bytes;  ///< room for states, tasks and those lists
  size_t states;        ///< where the upload goes to; the best logits end here, so that both are one download
  size_t saved;
  size_t groups;
  size_t sums;
  size_t list;
  size_t drawn;
  size_t bytes;
};

/// Invariants: 1. A slot is written only after the copies out of it and into it have ended. 2. Launches are collected in their
/// order; at most kMaxLaunches are on their way.
class Sampler {
 public:
  static constexpr size_t kMaxLaunches = 2;

  /// `allocate` gives device memory; it is called once for a vocabulary's size, with device_bytes.
  explicit Sampler(std::function<Buffer(size_t)> allocate);
  ~Sampler();
  Sampler(const Sampler&) = delete;
  Sampler& operator=(const Sampler&) = delete;

  /// Takes memory for a vocabulary of this size, if there is not enough yet.
  void prepare(int64_t vocab);
  /// Samples every row of logits[R, vocab] (f32), which are overwritten. Does not wait, unless the batch takes more than one
  /// part (more than SampleLayout::kMaxRows rows, or longer lists than fit). `batch` may be changed after the return. Throws
  /// InvalidArgument, with nothing launched, when one row's lists do not fit.
  void launch(const Queue& queue, const Tensor& logits, const SampleBatch& batch);
  /// Waits for the oldest launch and takes its result. Throws DeviceError.
  void collect(SampleResult& result);
  /// ids[t] = the token of row sources[t] of the newest launch, for t in [0, n) with sources[t] >= 0; ids and sources lie on
  /// the device. Only enters the queue.
  void feed(const Queue& queue, int32_t* ids, const int32_t* sources, int64_t n);

  static size_t device_bytes(int64_t vocab_size) { return SampleLayout(vocab_size).bytes; }

 private:
  struct Launch {
    SampleResult result;
    size_t max_top = 0;
    int64_t vocab = 0;
  };
  /// Rows [begin, end) of a batch, with as many list entries as the device has room for.
  struct Part {
    int64_t begin = 0, end = 0;
    size_t edits = 0, counts = 0, masks = 0;
  };
  /// Pinned memory of one part on its way.
  struct Slot {
    Buffer upload, download;
    cudaEvent_t done = nullptr;
    Launch* launch = nullptr;  ///< null: free
    Part part;
    const SampleTask* tasks = nullptr;  ///< in `upload`
  };

  Slot& next_slot();
  Part part_from(const SampleBatch& batch, int64_t begin, size_t list_bytes) const;
  void launch_part(const Queue& queue, const Tensor& logits, const SampleBatch& batch, const Part& part, Launch& launch);
  void pack_rows(const SampleBatch& batch, const Part& part, SampleTask* tasks, LogitEdit* edits, TokenCount* counts,
                 uint32_t* masks);
  void copy_edits(const LogitEdit* from, size_t n, LogitEdit* to);
  void finish(Slot& slot);

  const std::function<Buffer(size_t)> allocate_;
  Buffer memory_;
  int64_t vocab_ = 0;  ///< largest so far
  std::array<Slot, kMaxLaunches> slots_;
  size_t next_slot_ = 0;
  std::array<Launch, kMaxLaunches> launches_;
  size_t first_launch_ = 0, num_launches_ = 0;
  std::vector<Part> parts_;      ///< scratch of launch
  std::vector<uint64_t> order_;  ///< scratch of copy_edits
};

}  // namespace pagoda::cuda
