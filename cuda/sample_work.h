// What the sampler's kernels work on: rows and lists as they were uploaded, the state that one kernel hands to the next, and
// scratch memory, with the launchers of all of them in the order in which a batch takes them. Laid out and called by Sampler.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/sample_batch.h"
#include "core/host_device.h"
#include "cuda/queue.h"

namespace pagoda::cuda {

/// A sum of masses (sampling_math.h), of the type that CUDA's atomics take.
using Mass = unsigned long long;

constexpr int kSampleChunk = 1024;  ///< tokens that one warp takes at a time
constexpr int kChunkGroups = 8;     ///< of 128 tokens each, whose largest values bound the list from below
constexpr int kMaxTop = 64;         ///< largest num_top of a row

/// A row's parameters, with ranges into the work's own lists. top_k is 0 if it keeps everything; a forced row has no mask and
/// empty ranges.
struct SampleTask {
  SampleRow row;
  /// The list of the likely tokens holds what is at least as large as the largest value of the list_rank-th best group;
  /// 0: everything; -1: there is no list.
  int32_t list_rank = -1;
  float list_depth = 0;  ///< nor does it hold what lies further below the largest value

  PAGODA_HOST_DEVICE bool forced() const { return row.forced_token >= 0; }
  /// Whether edits or penalties change logits in place.
  PAGODA_HOST_DEVICE bool edited() const { return row.edits_begin != row.edits_end || row.counts_begin != row.counts_end; }
  /// Whether the logits to draw from have another order than the raw ones.
  PAGODA_HOST_DEVICE bool adjusted() const { return edited() || row.mask >= 0; }
  PAGODA_HOST_DEVICE bool filters() const { return row.top_k > 0 || row.top_p < 1; }
  PAGODA_HOST_DEVICE bool reports() const { return row.num_top >= 0; }
};

/// What is known of a row so far. Starts as zeros.
struct SampleState {
  /// float_key of the largest value << 32 | ~(lowest token that has it): [0] of the values to draw from before the
  /// temperature, [1] of the raw ones if they differ.
  Mass best[2];
  Mass raw_mass;       ///< of all raw logits, relative to raw_max
  float max;           ///< largest value to draw from, divided by the temperature
  float raw_max;       ///< largest raw logit
  float raw_logit;     ///< of `token`
  int32_t token;       ///< -1: none
  uint32_t num_bad;    ///< NaNs and +infinities after edits
  uint32_t bad_added;  ///< how many of them the edits have made (modulo 2^32)
  uint32_t list_key;   ///< the list holds what has at least this key
  uint32_t list_size;  ///< entries that the list would have with unlimited room
  uint32_t top_key;    ///< the same two of the best raw logits
  uint32_t top_size;
  uint32_t num_above;  ///< raw logits larger than that of `token`
  uint32_t flags;      ///< SampleFlag
};

enum SampleFlag : uint32_t {
  kRowInvalid = 1,     ///< a NaN or +infinity in the raw logits, or nothing to draw from
  kRowDraws = 2,       ///< the token is drawn
  kRowSums = 4,        ///< needs the masses of its chunks
  kRowLists = 8,       ///< needs the list of its likely tokens
  kRowOverflows = 16,  ///< its filters keep more than its list holds, or it has none
};

/// One of the best raw logits.
struct TopEntry {
  int32_t token;
  float logit;
};

/// Plain data for the kernels. R rows of `vocab` logits in `num_chunks` chunks.
struct SampleWork {
  float* logits = nullptr;  ///< [R, vocab], rows `stride` apart; edited in place
  int64_t stride = 0;
  int vocab = 0;
  int num_rows = 0;
  int num_chunks = 0;
  bool aligned = false;               ///< every row begins at a multiple of 16 bytes
  const SampleTask* tasks = nullptr;  ///< [R]
  SampleState* states = nullptr;      ///< [R]
  const LogitEdit* edits = nullptr;   ///< a row's are sorted by token, those of one token in the order of their additions
  const TokenCount* counts = nullptr;
  const uint32_t* masks = nullptr;
  int mask_words = 0;
  float* edits_saved = nullptr;   ///< logits before the edits
  float* counts_saved = nullptr;  ///< logits before the penalties
  uint32_t* groups = nullptr;     ///< [R, num_chunks * kChunkGroups] largest key of each group
  Mass* sums = nullptr;           ///< [R, num_chunks] mass of each chunk
  Mass* list = nullptr;           ///< [R, list_capacity] float_key of a value << 32 | ~token, in no order
  int list_capacity = 0;
  TopEntry* tops = nullptr;  ///< [R, max_top] best first
  int max_top = 0;
};

/// Entries of a row's list: a small part of the row, which holds all that top-k or top-p keep of it as a rule.
constexpr int sample_list_capacity(int64_t vocab) {
  const int64_t part = vocab / 16;
  return static_cast<int>(part < 64 ? 64 : part > 4096 ? 4096 : part);
}
constexpr int sample_chunks(int64_t vocab) { return static_cast<int>((vocab + kSampleChunk - 1) / kSampleChunk); }
inline bool sample_aligned(const float* logits, int64_t stride) {
  return stride % 4 == 0 && reinterpret_cast<uintptr_t>(logits) % 16 == 0;
}

/// Threads of a block that takes a whole row with one warp per chunk.
constexpr unsigned sample_threads(int num_chunks, int max_warps) {
  return 32u * static_cast<unsigned>(num_chunks < max_warps ? num_chunks : max_warps);
}

/// How many of the passes' blocks run on a multiprocessor at once, by their registers.
constexpr int kBlocksPerMultiprocessor = 6;

/// Blocks that share a row in the passes over all of it, so that few rows use the whole GPU.
inline unsigned sample_slices(const Queue& queue, const SampleWork& work, int warps) {
  const int wanted = queue.num_multiprocessors * kBlocksPerMultiprocessor / work.num_rows;
  const int most = static_cast<int>(divide_up(work.num_chunks, warps));
  return static_cast<unsigned>(wanted < 1 ? 1 : wanted < most ? wanted : most);
}

/// Which values a pass over the rows reads.
enum class SampleValues : uint8_t {
  adjusted,  ///< every row's, with edits, penalties and mask
  raw,       ///< of adjusted rows that report: the logits as they came, once the edits are undone
};

// penalties.cu
void apply_penalties(const Queue& queue, const SampleWork& work);
void undo_penalties(const Queue& queue, const SampleWork& work);
// sample_scan.cu: the largest values of rows and of groups; what follows from them for the passes to come.
void scan_rows(const Queue& queue, const SampleWork& work, SampleValues values);
void plan_rows(const Queue& queue, const SampleWork& work, SampleValues values);
// sample_mass.cu: masses of chunks and lists of likely tokens.
void sum_rows(const Queue& queue, const SampleWork& work);
// sample_draw.cu; then the rows whose lists are too short (only rows with filters can be).
void draw_rows(const Queue& queue, const SampleWork& work);
void draw_overflowing_rows(const Queue& queue, const SampleWork& work);
// sample_report.cu: what logprobs and ranks are made from; then the best logits in order.
void report_rows(const Queue& queue, const SampleWork& work);
void rank_tops(const Queue& queue, const SampleWork& work);

}  // namespace pagoda::cuda
