// The list of decode attention's work against one written down sequence by sequence on the host.
#include "cuda/work_list.cuh"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "emulation_support.h"

namespace pagoda::cuda {
namespace {

/// A batch's index arrays.
struct Lengths {
  std::vector<int32_t> query_start{0}, kv_len;
  int window = 0, num_partials = 0;

  void add(int query_len, int context) {
    query_start.push_back(query_start.back() + query_len);
    kv_len.push_back(context);
  }
  AttentionParams params() const {
    AttentionParams p;
    p.query_start = query_start.data();
    p.kv_len = kv_len.data();
    p.num_seqs = static_cast<int>(kv_len.size());
    p.window = window;
    p.num_partials = num_partials;
    return p;
  }
};

using Items = std::vector<WorkItem>;
struct Lists {
  Items lists[WorkList::kNumLists];
};

bool same(const WorkItem& a, const WorkItem& b) {
  return a.seq == b.seq && a.first_leaf == b.first_leaf && a.num_leaves == b.num_leaves && a.slot == b.slot;
}

Lists expected_lists(const Lengths& lengths) {
  Lists result;
  int slot = 0;
  for (int seq = 0; seq < static_cast<int>(lengths.kv_len.size()); ++seq) {
    const auto s = static_cast<size_t>(seq);
    if (lengths.query_start[s + 1] - lengths.query_start[s] != 1) continue;
    const int position = lengths.kv_len[s] - 1;
    const int first = (lengths.window ? std::max(position - lengths.window + 1, 0) : 0) / 256,
              count = position / 256 - first + 1;
    const bool room = count > 1 && slot + count <= lengths.num_partials;
    if (count > 1 && !room) result.lists[WorkList::kWhole].push_back({seq, first, count, -1});
    if (room) result.lists[WorkList::kSplit].push_back({seq, first, count, slot});
    for (int i = 0; i < count && (room || count == 1); ++i) {
      result.lists[WorkList::kLeaves].push_back({seq, first + i, 1, room ? slot + i : -1});
    }
    slot += count > 1 ? count : 0;
  }
  return result;
}

/// Writes down `list`: each warp every so many of its items.
__global__ void write_list_kernel(AttentionParams p, WorkList::List list, int* size, WorkItem* items, int room) {
  DYNAMIC_SHARED(shared);
  const WorkList work(p, shared);
  gpu::wait_for_grid();
  if (threadIdx.x == 0) *size = work.size(list);
  const int warps = static_cast<int>(blockDim.x) / 32;
  for (int i = static_cast<int>(threadIdx.x) / 32; i < work.size(list) && i < room; i += warps) {
    const WorkItem item = work.at(list, i);
    if (threadIdx.x % 32 == 7) items[i] = item;
  }
}

void expect_right_lists(const Lengths& lengths, unsigned threads) {
  const Lists expected = expected_lists(lengths);
  for (int list = 0; list < WorkList::kNumLists; ++list) {
    const Items& items = expected.lists[list];
    Items got(items.size());
    int size = -1;
    launch(test_queue(), {1, threads, WorkList::kSharedBytes}, "list", write_list_kernel, lengths.params(),
           static_cast<WorkList::List>(list), &size, got.data(), static_cast<int>(got.size()));
    synchronize();
    ASSERT_EQ(size, static_cast<int>(items.size())) << "list " << list << ", " << threads << " threads";
    for (size_t i = 0; i < items.size(); ++i) ASSERT_TRUE(same(got[i], items[i])) << "item " << i << " of list " << list;
  }
}

Lengths random_lengths(int num_seqs, unsigned seed) {
  std::mt19937 random(seed);
  Lengths lengths;
  for (int i = 0; i < num_seqs; ++i) {
    const int query_len = random() % 4 ? 1 : static_cast<int>(2 + random() % 50);
    lengths.add(query_len, query_len + static_cast<int>(random() % (random() % 3 ? 300 : 2000)));
  }
  return lengths;
}

TEST(WorkList, lists_every_leaf_once_for_any_number_of_sequences_and_threads) {
  for (const int num_seqs : {1, 2, 31, 33, 128, 129, 300}) {
    for (const unsigned threads : {32u, 96u, 256u}) {
      Lengths lengths = random_lengths(num_seqs, static_cast<unsigned>(num_seqs));
      lengths.num_partials = num_seqs;
      expect_right_lists(lengths, threads);
    }
  }
}

TEST(WorkList, ranges_of_more_than_a_warp_of_sequences_are_searched) {
  Lengths lengths = random_lengths(1500, 5);
  lengths.num_partials = 1000;
  expect_right_lists(lengths, 32);
  Lengths none;
  for (int i = 0; i < 4500; ++i) none.add(2, 700);
  none.add(1, 700);
  expect_right_lists(none, 128);
}

TEST(WorkList, windows_leave_the_leaves_that_are_seen) {
  for (const int window : {1, 2, 256, 257, 258, 600}) {
    Lengths lengths = random_lengths(40, 9);
    for (const int context : {1, 255, 256, 257, 511, 512, 513, 768, 1025}) lengths.add(1, context);
    lengths.window = window;
    lengths.num_partials = 60;
    expect_right_lists(lengths, 64);
  }
}

TEST(WorkList, sequences_take_room_in_order_and_whole_or_not_at_all) {
  Lengths lengths;
  for (const int context : {257, 1024, 256, 513, 300}) lengths.add(1, context);  // 2, 4, 1, 3 and 2 leaves
  for (int room = 0; room <= 12; ++room) {
    lengths.num_partials = room;
    expect_right_lists(lengths, 32);
    const size_t split = expected_lists(lengths).lists[WorkList::kSplit].size();
    EXPECT_EQ(split, static_cast<size_t>((room >= 2) + (room >= 6) + (room >= 9) + (room >= 11)));
  }
}

TEST(WorkList, is_the_same_under_every_schedule) {
  for (const unsigned seed : kSchedules) {
    const ScheduleScope scope(seed);
    Lengths lengths = random_lengths(200, 11);
    lengths.num_partials = 150;
    expect_right_lists(lengths, 96);
  }
}

}  // namespace
}  // namespace pagoda::cuda
