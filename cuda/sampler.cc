// Packing, launching and finishing. A part's upload is states (zeros), tasks, edits, counts, masks; its download the best
// logits and the states.
#include "cuda/sampler.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "backend/sampling_math.h"
#include "cuda/device_memory.h"
#include "cuda/feed_tokens.h"

namespace pagoda::cuda {
namespace {

constexpr size_t kEntryBytes = 8;  // of an edit, of a count, and of a place in the best logits
static_assert(sizeof(LogitEdit) == kEntryBytes && sizeof(TokenCount) == kEntryBytes && sizeof(TopEntry) == kEntryBytes);
static_assert(sizeof(SampleState) % alignof(SampleState) == 0 && alignof(SampleState) == kEntryBytes);

constexpr size_t kListBytes = size_t{4} << 20;  // for lists besides one row's longest

constexpr size_t align(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

bool has_new_mask(const SampleBatch& batch, int64_t row, int64_t begin) {
  const auto i = static_cast<size_t>(row);
  return batch.rows[i].mask >= 0 && batch.rows[i].forced_token < 0 &&
         (row == begin || batch.rows[i - 1].mask != batch.rows[i].mask || batch.rows[i - 1].forced_token >= 0);
}

/// How the list of a row's likely tokens is bounded: by the groups' largest values, so that it holds the top_k best for sure,
/// or about half of its capacity; and by a depth below which, of a top_p, no token can be.
void bound_list(SampleTask& task, int64_t vocab) {
  const int capacity = sample_list_capacity(vocab), groups = sample_chunks(vocab) * kChunkGroups;
  task.list_depth = std::numeric_limits<float>::infinity();
  if (vocab <= capacity) {
    task.list_rank = 0;
  } else if (task.row.top_k > 0) {
    task.list_rank = task.row.top_k <= std::min(capacity, groups * 3 / 4) ? task.row.top_k : -1;
  } else if (task.row.top_p < 1) {
    const double tokens = static_cast<double>(vocab), per_group = kSampleChunk / kChunkGroups;
    // The share of groups that have a part in the `capacity / 2` best, if those are spread evenly.
    const double share = 1 - std::exp(-per_group * capacity / 2 / tokens);
    task.list_rank = std::max(1, static_cast<int>(groups * share));
    // All tokens further below weigh together less than 1 - top_p of the best one.
    task.list_depth = static_cast<float>(std::log(tokens / (1 - static_cast<double>(task.row.top_p))) + 1);
  }
}

/// Logprobs with the operations of the CPU's sampler.
void finish_row(const SampleTask& task, const SampleState& state, const TopEntry* tops, int64_t vocab, SampledRow& out,
                int32_t* top_tokens, float* top_logprobs) {
  out.invalid = (state.flags & kRowInvalid) != 0;
  if (out.invalid) return;
  out.token = state.token;
  if (!task.reports()) return;
  const double log_total = std::log(static_cast<double>(state.raw_mass) * kMassUnit);
  const auto logprob = [&](float x) {
    return static_cast<float>(static_cast<double>(x) - static_cast<double>(state.raw_max) - log_total);
  };
  out.logprob = logprob(state.raw_logit);
  out.rank = static_cast<int32_t>(1 + state.num_above);
  const int64_t count = std::min<int64_t>(task.row.num_top, vocab);
  for (int64_t i = 0; i < count; ++i) {
    top_tokens[i] = tops[i].token;
    top_logprobs[i] = logprob(tops[i].logit);
  }
}

/// Which passes a part takes.
struct Passes {
  bool edits = false, draws = false, filters = false, reports = false, rescans = false, tops = false;

  Passes(const SampleTask* tasks, int64_t n) {
    for (const SampleTask* task = tasks; task < tasks + n; ++task) {
      edits |= task->edited();
      draws |= !task->forced() && task->row.temperature != 0;
      filters |= !task->forced() && task->row.temperature != 0 && task->filters();
      reports |= task->reports();
      rescans |= task->reports() && task->adjusted();
      tops |= task->row.num_top > 0;
    }
  }
};

void run_passes(const Queue& queue, const SampleWork& work, const Passes& passes) {
  if (passes.edits) apply_penalties(queue, work);
  scan_rows(queue, work, SampleValues::adjusted);
  plan_rows(queue, work, SampleValues::adjusted);
  if (passes.draws) {
    sum_rows(queue, work);
    draw_rows(queue, work);
  }
  if (passes.filters) draw_overflowing_rows(queue, work);
  if (passes.rescans) {
    if (passes.edits) undo_penalties(queue, work);
    scan_rows(queue, work, SampleValues::raw);
    plan_rows(queue, work, SampleValues::raw);
  }
  if (passes.reports) report_rows(queue, work);
  if (passes.tops) rank_tops(queue, work);
}

template <class T>
T* take(std::byte*& at, size_t n) {
  T* taken = reinterpret_cast<T*>(at);
  at += align(n * sizeof(T), 16);
  return taken;
}

/// Where the lists of an upload lie, the same in pinned memory and on the device.
struct UploadParts {
  SampleState* states;
  SampleTask* tasks;
  LogitEdit* edits;
  TokenCount* counts;
  uint32_t* masks;
  std::byte* end;

  UploadParts(std::byte* at, int64_t rows, size_t num_edits, size_t num_counts, size_t mask_words)
      : states(take<SampleState>(at, static_cast<size_t>(rows))),
        tasks(take<SampleTask>(at, static_cast<size_t>(rows))),
        edits(take<LogitEdit>(at, num_edits)),
        counts(take<TokenCount>(at, num_counts)),
        masks(take<uint32_t>(at, mask_words)),
        end(at) {}
};

}  // namespace

SampleLayout::SampleLayout(int64_t vocab) {
  const auto tokens = static_cast<size_t>(vocab), chunks = static_cast<size_t>(sample_chunks(vocab));
  constexpr auto kRows = static_cast<size_t>(kMaxRows);
  list_bytes = kListBytes + tokens * 2 * kEntryBytes + align(tokens, 32) / 8;
  upload_bytes = kRows * (sizeof(SampleState) + sizeof(SampleTask)) + list_bytes + 5 * 16;
  states = kRows * kMaxTop * sizeof(TopEntry);
  saved = align(states + upload_bytes, 256);
  groups = align(saved + list_bytes / kEntryBytes * sizeof(float), 256);
  sums = align(groups + kRows * chunks * kChunkGroups * sizeof(uint32_t), 256);
  list = align(sums + kRows * chunks * sizeof(Mass), 256);
  drawn = align(list + kRows * static_cast<size_t>(sample_list_capacity(vocab)) * sizeof(Mass), 256);
  bytes = align(drawn + static_cast<size_t>(kMaxDrawn) * sizeof(int32_t), 256);
}

Sampler::Sampler(std::function<Buffer(size_t)> allocate) : allocate_(std::move(allocate)) {}

Sampler::~Sampler() {
  for (Slot& slot : slots_) {
    if (slot.launch) cudaEventSynchronize(slot.done);
    if (slot.done) cudaEventDestroy(slot.done);
  }
}

void Sampler::prepare(int64_t vocab) {
  if (vocab <= vocab_) return;
  const SampleLayout layout(vocab);
  for (Slot& slot : slots_) {
    if (slot.launch) finish(slot);
    slot.upload = allocate_pinned(layout.upload_bytes);
    slot.download = allocate_pinned(layout.states + static_cast<size_t>(SampleLayout::kMaxRows) * sizeof(SampleState));
    if (!slot.done) check(cudaEventCreateWithFlags(&slot.done, cudaEventDisableTiming), "making an event");
  }
  memory_.reset();
  memory_ = allocate_(layout.bytes);
  vocab_ = vocab;
}

Sampler::Slot& Sampler::next_slot() {
  Slot& slot = slots_[next_slot_];
  next_slot_ = (next_slot_ + 1) % slots_.size();
  if (slot.launch) finish(slot);
  return slot;
}

Sampler::Part Sampler::part_from(const SampleBatch& batch, int64_t begin, size_t list_bytes) const {
  const auto words = static_cast<size_t>(batch.mask_words());
  Part part{begin, begin};
  const auto num_rows = static_cast<int64_t>(batch.rows.size());
  while (part.end < num_rows && part.end - begin < SampleLayout::kMaxRows) {
    const SampleRow& row = batch.rows[static_cast<size_t>(part.end)];
    const bool drawn = row.forced_token < 0;
    const size_t edits = part.edits + static_cast<size_t>(drawn ? row.edits_end - row.edits_begin : 0);
    const size_t counts = part.counts + static_cast<size_t>(drawn ? row.counts_end - row.counts_begin : 0);
    const size_t masks = part.masks + (has_new_mask(batch, part.end, begin) ? 1 : 0);
    if ((edits + counts) * kEntryBytes + masks * words * sizeof(uint32_t) > list_bytes) break;
    part = {begin, part.end + 1, edits, counts, masks};
  }
  require(part.end > begin, "a row to sample has more bias entries and bans than fit in ", list_bytes, " bytes");
  return part;
}

/// Sorted by token, those of one token in their order.
void Sampler::copy_edits(const LogitEdit* from, size_t n, LogitEdit* to) {
  if (n == 0) return;
  if (std::is_sorted(from, from + n, [](const LogitEdit& a, const LogitEdit& b) { return a.token < b.token; })) {
    std::memcpy(to, from, n * sizeof(LogitEdit));
    return;
  }
  order_.resize(n);
  for (size_t i = 0; i < n; ++i) order_[i] = uint64_t{static_cast<uint32_t>(from[i].token)} << 32 | i;
  std::sort(order_.begin(), order_.end());
  for (size_t i = 0; i < n; ++i) to[i] = from[order_[i] & 0xffffffffu];
}

void Sampler::pack_rows(const SampleBatch& batch, const Part& part, SampleTask* tasks, LogitEdit* edits, TokenCount* counts,
                        uint32_t* masks) {
  const auto words = static_cast<size_t>(batch.mask_words());
  int32_t num_edits = 0, num_counts = 0, num_masks = 0;
  for (int64_t i = part.begin; i < part.end; ++i) {
    const SampleRow& from = batch.rows[static_cast<size_t>(i)];
    SampleTask task;
    SampleRow& row = task.row = from;
    if (row.top_k >= batch.vocab_size || row.top_k < 0) row.top_k = 0;
    if (task.forced()) row.mask = -1, row.edits_begin = row.edits_end = row.counts_begin = row.counts_end = 0;
    bound_list(task, batch.vocab_size);
    const auto n_edits = row.edits_end - row.edits_begin, n_counts = row.counts_end - row.counts_begin;
    copy_edits(batch.edits.data() + row.edits_begin, static_cast<size_t>(n_edits), edits + num_edits);
    if (n_counts) {
      std::memcpy(counts + num_counts, batch.counts.data() + row.counts_begin, static_cast<size_t>(n_counts) * kEntryBytes);
    }
    if (has_new_mask(batch, i, part.begin)) {
      std::memcpy(masks + static_cast<size_t>(num_masks++) * words, batch.masks.data() + static_cast<size_t>(row.mask) * words,
                  words * sizeof(uint32_t));
    }
    row.edits_begin = std::exchange(num_edits, num_edits + n_edits), row.edits_end = num_edits;
    row.counts_begin = std::exchange(num_counts, num_counts + n_counts), row.counts_end = num_counts;
    if (row.mask >= 0) row.mask = num_masks - 1;
    tasks[i - part.begin] = task;
  }
}

void Sampler::launch_part(const Queue& queue, const Tensor& logits, const SampleBatch& batch, const Part& part,
                          Launch& launch) {
  Slot& slot = next_slot();
  const SampleLayout layout(vocab_);
  const int64_t rows = part.end - part.begin;
  const size_t mask_words = part.masks * static_cast<size_t>(batch.mask_words());
  auto* const memory = static_cast<std::byte*>(memory_.get());
  auto* const pinned = static_cast<std::byte*>(slot.upload.get());
  const UploadParts host(pinned, rows, part.edits, part.counts, mask_words);
  const UploadParts device(memory + layout.states, rows, part.edits, part.counts, mask_words);
  std::memset(static_cast<void*>(host.states), 0, static_cast<size_t>(rows) * sizeof(SampleState));
  pack_rows(batch, part, host.tasks, host.edits, host.counts, host.masks);

  SampleWork work;
  work.stride = logits.row_stride;
  work.logits = logits.row<float>(part.begin);
  work.vocab = batch.vocab_size;
  work.num_rows = static_cast<int>(rows);
  work.num_chunks = sample_chunks(work.vocab);
  work.aligned = sample_aligned(work.logits, work.stride);
  work.tasks = device.tasks;
  work.states = device.states;
  work.edits = device.edits;
  work.counts = device.counts;
  work.masks = device.masks;
  work.mask_words = batch.mask_words();
  work.edits_saved = reinterpret_cast<float*>(memory + layout.saved);
  work.counts_saved = work.edits_saved + part.edits;
  work.groups = reinterpret_cast<uint32_t*>(memory + layout.groups);
  work.sums = reinterpret_cast<Mass*>(memory + layout.sums);
  work.list = reinterpret_cast<Mass*>(memory + layout.list);
  work.list_capacity = sample_list_capacity(work.vocab);
  work.max_top = batch.max_top;
  const size_t tops = static_cast<size_t>(rows) * launch.max_top;
  work.tops = reinterpret_cast<TopEntry*>(device.states) - tops;

  check(cudaMemcpyAsync(device.states, pinned, static_cast<size_t>(host.end - pinned), cudaMemcpyHostToDevice, queue.stream),
        "uploading what to sample");
  run_passes(queue, work, Passes(host.tasks, rows));
  keep_tokens(queue, work, reinterpret_cast<int32_t*>(memory + layout.drawn) + part.begin);
  const size_t bytes = tops * sizeof(TopEntry) + static_cast<size_t>(rows) * sizeof(SampleState);
  check(cudaMemcpyAsync(slot.download.get(), work.tops, bytes, cudaMemcpyDeviceToHost, queue.stream), "downloading samples");
  check(cudaEventRecord(slot.done, queue.stream), "recording a sample");
  slot.launch = &launch;
  slot.part = part;
  slot.tasks = host.tasks;
}

void Sampler::feed(const Queue& queue, int32_t* ids, const int32_t* sources, int64_t n) {
  const std::byte* drawn = static_cast<const std::byte*>(memory_.get()) + SampleLayout(vocab_).drawn;
  feed_tokens(queue, ids, sources, reinterpret_cast<const int32_t*>(drawn), n);
}

void Sampler::finish(Slot& slot) {
  Launch& launch = *std::exchange(slot.launch, nullptr);
  check(cudaEventSynchronize(slot.done), "sampling");
  const auto rows = static_cast<size_t>(slot.part.end - slot.part.begin);
  const auto* tops = static_cast<const TopEntry*>(slot.download.get());
  const auto* states = reinterpret_cast<const SampleState*>(tops + rows * launch.max_top);
  for (size_t i = 0; i < rows; ++i) {
    const size_t row = static_cast<size_t>(slot.part.begin) + i, top = row * launch.max_top;
    finish_row(slot.tasks[i], states[i], tops + i * launch.max_top, launch.vocab, launch.result.rows[row],
               launch.result.top_tokens.data() + top, launch.result.top_logprobs.data() + top);
  }
}

void Sampler::launch(const Queue& queue, const Tensor& logits, const SampleBatch& batch) {
  ensure(num_launches_ < kMaxLaunches, "a sampler has at most ", kMaxLaunches, " launches on their way");
  require(batch.max_top <= kMaxTop, "the best logits of a row are at most ", kMaxTop, ", got ", batch.max_top);
  require(std::cmp_less_equal(batch.rows.size(), SampleLayout::kMaxDrawn), "a batch has at most ", SampleLayout::kMaxDrawn,
          " rows to sample, got ", batch.rows.size());
  prepare(batch.vocab_size);
  Launch& launch = launches_[(first_launch_ + num_launches_) % kMaxLaunches];
  const auto num_rows = static_cast<int64_t>(batch.rows.size());
  launch.vocab = batch.vocab_size;
  launch.max_top = static_cast<size_t>(std::max(0, batch.max_top));
  launch.result.rows.assign(batch.rows.size(), SampledRow{});
  launch.result.top_tokens.assign(batch.rows.size() * launch.max_top, -1);
  launch.result.top_logprobs.assign(batch.rows.size() * launch.max_top, 0.0f);
  const size_t list_bytes = SampleLayout(batch.vocab_size).list_bytes;
  parts_.clear();
  for (int64_t begin = 0; begin < num_rows; begin = parts_.back().end) parts_.push_back(part_from(batch, begin, list_bytes));
  for (const Part& part : parts_) launch_part(queue, logits, batch, part, launch);
  ++num_launches_;
}

void Sampler::collect(SampleResult& result) {
  ensure(num_launches_ > 0, "nothing was launched");
  Launch& launch = launches_[first_launch_];
  for (Slot& slot : slots_) {
    if (slot.launch == &launch) finish(slot);
  }
  std::swap(result, launch.result);
  first_launch_ = (first_launch_ + 1) % kMaxLaunches;
  --num_launches_;
}

}  // namespace pagoda::cuda
