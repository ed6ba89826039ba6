// The memory plan: how many KV blocks fit, what is refused with which numbers, and that a real step takes what the dry one
// measured.
#include <gtest/gtest.h>

#include <numeric>

#include "model/memory_plan.h"
#include "model_files.h"

namespace pagoda {
namespace {

constexpr size_t kMiB = size_t{1} << 20;

class MemoryPlanTest : public testing::Test {
 protected:
  MemoryPlanTest() {
    write_model(directory_, tiny_config(), tiny_tensors());
    checkpoint_ = open_checkpoint(directory_.path());
    request_.max_num_seqs = 8;
    request_.max_num_batched_tokens = 32;
    request_.max_logit_rows = 16;
    request_.index_bytes = [](int64_t) { return size_t{1000}; };
  }

  static DeviceInfo cpu(size_t total, size_t available) { return {"test", "portable", 1, total, available}; }
  MemoryPlan plan(const DeviceInfo& device) const { return plan_memory(checkpoint_, cpu_traits(), device, request_); }
  MemoryPlan plan() const { return plan(cpu(64 * kMiB, 32 * kMiB)); }
  std::string refusal(const DeviceInfo& device) const {
    return error_of([&] { plan(device); });
  }
  std::string refusal() const { return refusal(cpu(64 * kMiB, 32 * kMiB)); }

  TempDir directory_;
  Checkpoint checkpoint_;
  MemoryRequest request_;
};

TEST_F(MemoryPlanTest, a_block_holds_keys_and_values_of_every_layer) {
  EXPECT_EQ(plan().kv_block, size_t{2} * 2 * 2 * 8 * 16 * 2);  // layers, keys and values, heads, head_dim, tokens, bytes
  request_.kv_dtype = DType::f32;
  request_.block_size = 4;
  EXPECT_EQ(plan().kv_block, size_t{2} * 2 * 2 * 8 * 4 * 4);
  request_.kv_dtype = DType::i8;
  EXPECT_EQ(plan().kv_block, size_t{2} * 2 * 2 * 4 * (8 + 4));  // layers, keys and values, heads, tokens, codes and a scale
}

TEST_F(MemoryPlanTest, no_more_blocks_are_taken_than_the_sequences_can_fill) {
  const MemoryPlan planned = plan();
  EXPECT_EQ(planned.num_blocks, 8 * 64 / 16);
  EXPECT_EQ(planned.max_concurrency, 8.0);
  EXPECT_EQ(planned.max_model_len, 64);
}

TEST_F(MemoryPlanTest, without_a_wish_the_cpu_gives_a_share_of_what_is_free) {
  EXPECT_EQ(plan().budget, static_cast<size_t>(0.4 * 32 * kMiB));
}

TEST_F(MemoryPlanTest, utilization_is_a_share_of_all_memory) {
  request_.utilization = 0.25;
  EXPECT_EQ(plan().budget, 16 * kMiB);
}

TEST_F(MemoryPlanTest, utilization_leaves_what_weights_and_workspace_do_not_take) {
  request_.max_num_seqs = 4096;
  request_.utilization = 0.25;
  const MemoryPlan planned = plan();
  EXPECT_LE(planned.needed(), planned.budget);
  EXPECT_GT(planned.needed() + planned.kv_block, planned.budget);
}

TEST_F(MemoryPlanTest, kv_cache_memory_is_taken_as_whole_blocks) {
  request_.kv_cache_memory = static_cast<int64_t>(plan().kv_block) * 7 + 5;
  EXPECT_EQ(plan().num_blocks, 7);
}

TEST_F(MemoryPlanTest, num_kv_blocks_is_taken_as_it_is) {
  request_.num_kv_blocks = 9;
  EXPECT_EQ(plan().num_blocks, 9);
  EXPECT_DOUBLE_EQ(plan().max_concurrency, 9.0 / 4);
}

TEST_F(MemoryPlanTest, few_blocks_shorten_an_unset_context_and_its_rotary_table) {
  const size_t weights = plan().weights;
  request_.num_kv_blocks = 2;
  const MemoryPlan planned = plan();
  EXPECT_EQ(planned.max_model_len, 32);
  EXPECT_EQ(weights - planned.weights, size_t{32} * 8 * sizeof(float));
  EXPECT_EQ(planned.max_concurrency, 1.0);
}

TEST_F(MemoryPlanTest, a_context_that_was_asked_for_is_not_shortened) {
  request_.num_kv_blocks = 2;
  request_.max_model_len = 40;
  const std::string text = refusal();
  EXPECT_TRUE(contains(text, "max_model_len 40 needs 3 KV blocks"));
  EXPECT_TRUE(contains(text, "only 2 fit; max_model_len up to 32 would fit"));
}

TEST_F(MemoryPlanTest, a_context_beyond_the_models_is_refused) {
  request_.max_model_len = 65;
  EXPECT_TRUE(contains(refusal(), "max_model_len must be <= 64, the model's context, got 65"));
}

TEST_F(MemoryPlanTest, too_many_blocks_are_refused_with_the_number_that_fits) {
  request_.num_kv_blocks = std::numeric_limits<int64_t>::max();
  const std::string text = refusal();
  const std::string mark = "num_kv_blocks up to ";
  ASSERT_TRUE(contains(text, mark)) << text;
  const int64_t fitting = std::stoll(text.substr(text.find(mark) + mark.size()));
  request_.num_kv_blocks = fitting;
  EXPECT_EQ(plan().num_blocks, fitting);
  request_.num_kv_blocks = fitting + 1;
  EXPECT_TRUE(contains(refusal(), mark + std::to_string(fitting)));
}

TEST_F(MemoryPlanTest, too_much_cache_is_refused_in_the_words_of_the_option) {
  request_.kv_cache_memory = int64_t{1} << 50;
  const std::string text = refusal(), mark = "kv_cache_memory up to ";
  EXPECT_TRUE(contains(text, "need 1048576.00 GiB")) << text;
  ASSERT_TRUE(contains(text, mark)) << text;
  request_.kv_cache_memory = std::stoll(text.substr(text.find(mark) + mark.size()));
  EXPECT_GT(plan().num_blocks, 0);
}

TEST_F(MemoryPlanTest, a_small_share_of_the_memory_is_refused_with_one_that_fits) {
  request_.utilization = 0.0001;
  const std::string text = refusal(), mark = "memory_utilization from ";
  ASSERT_TRUE(contains(text, mark)) << text;
  request_.utilization = std::stod(text.substr(text.find(mark) + mark.size()));
  EXPECT_GT(plan().num_blocks, 0);
}

TEST_F(MemoryPlanTest, a_swap_space_that_leaves_no_room_is_refused_with_one_that_does) {
  request_.swap_bytes = size_t{1} << 40;
  EXPECT_TRUE(contains(refusal(), "swap_space up to ")) << refusal();
}

TEST_F(MemoryPlanTest, less_than_one_block_of_cache_is_refused) {
  request_.kv_cache_memory = 100;
  EXPECT_TRUE(contains(refusal(), "kv_cache_memory must hold at least one block of 2048 bytes, got 100"));
}

TEST_F(MemoryPlanTest, a_device_too_small_for_the_weights_is_refused_with_sizes) {
  const std::string text = refusal(cpu(100000, 50000));
  for (const char* part :
       {"not enough memory", "weights", "workspace", "GiB", "max_num_batched_tokens (32)", "max_num_seqs (8)"}) {
    EXPECT_TRUE(contains(text, part)) << part << " in: " << text;
  }
}

TEST_F(MemoryPlanTest, what_other_processes_hold_is_not_promised) {
  request_.utilization = 1.0;
  EXPECT_EQ(plan(cpu(64 * kMiB, 64 * kMiB)).budget, 64 * kMiB);
  EXPECT_TRUE(contains(refusal(cpu(64 * kMiB, 4096)), "of 0.0625 GiB are free"));
}

/// A step of `num_seqs` sequences of equal query length over contexts of max_model_len, as large as the request allows.
struct LargestStep {
  std::vector<int32_t> ids, positions, slots, starts, lengths, tables, rows, logit_positions, logit_starts;

  Batch batch(const MemoryRequest& request, int num_seqs, int max_model_len) {
    const int query = static_cast<int>(request.max_num_batched_tokens) / num_seqs;
    const int max_blocks = max_model_len / request.block_size;
    for (int seq = 0; seq < num_seqs; ++seq) {
      starts.push_back(seq * query);
      lengths.push_back(max_model_len);
      for (int block = 0; block < max_blocks; ++block) tables.push_back(seq * max_blocks + block);
      for (int i = 0; i < query; ++i) {
        const int position = max_model_len - query + i;
        ids.push_back((seq * 7 + i) % 40);
        positions.push_back(position);
        slots.push_back(seq * max_model_len + position);
      }
    }
    starts.push_back(num_seqs * query);
    rows.resize(static_cast<size_t>(request.max_logit_rows));
    std::iota(rows.begin(), rows.end(), 0);
    Batch batch{num_seqs * query, num_seqs,          max_blocks, static_cast<int>(rows.size()), query,
                max_model_len,    request.block_size};
    batch.token_ids = ids.data();
    batch.positions = positions.data();
    batch.slots = slots.data();
    batch.query_start = starts.data();
    batch.kv_len = lengths.data();
    batch.block_table = tables.data();
    batch.logit_rows = rows.data();
    logit_positions.assign(positions.begin(), positions.begin() + std::ssize(rows));
    for (const int32_t start : starts) logit_starts.push_back(std::min(start, static_cast<int32_t>(rows.size())));
    batch.logit_positions = logit_positions.data();
    batch.logit_start = logit_starts.data();
    return batch;
  }
};

TEST_F(MemoryPlanTest, the_largest_real_step_takes_exactly_the_measured_workspace) {
  for (const char* isa : {"portable", "auto"}) {
    const auto backend = make_cpu_backend({2, isa});
    const auto model = load_decoder(checkpoint_, *backend, 64, {});
    const size_t measured = measure_step(*model, backend->traits(), request_, 64).arena_bytes;
    for (int num_seqs : {1, 4, 8}) {
      Arena arena(*backend, measured);
      Ops ops(backend->traits(), backend.get(), arena);
      KvCache kv(backend.get(), model->kv_shape(), request_.kv_dtype, request_.block_size, 8 * 4);
      LargestStep step;
      const Tensor logits = model->forward(step.batch(request_, num_seqs, 64), kv, ops);
      EXPECT_EQ(logits.rows(), request_.max_logit_rows);
      EXPECT_EQ(arena.high_water(), measured) << isa << ", " << num_seqs << " sequences";
    }
  }
}

TEST_F(MemoryPlanTest, smaller_steps_need_no_more_workspace) {
  const auto model = plan_decoder(checkpoint_, cpu_traits(), 64);
  const size_t largest = measure_step(*model, cpu_traits(), request_, 64).arena_bytes;
  MemoryRequest smaller = request_;
  for (int64_t tokens : {1, 5, 16, 31}) {
    smaller.max_num_batched_tokens = tokens;
    smaller.max_logit_rows = std::min<int64_t>(tokens, 16);
    EXPECT_LE(measure_step(*model, cpu_traits(), smaller, 64).arena_bytes, largest);
  }
}

TEST(KvCache, its_size_is_blocks_times_block_bytes_and_planning_allocates_nothing) {
  const KvShape shape{3, 2, 8};
  const KvCache planned(nullptr, shape, DType::bf16, 16, 1 << 20);
  EXPECT_EQ(planned.block_bytes(), size_t{3} * 2 * 2 * 8 * 16 * 2);
  EXPECT_EQ(planned.layer(2).data, nullptr);
  const auto backend = make_cpu_backend({1, "portable"});
  const KvCache real(backend.get(), shape, DType::f32, 16, 4);
  EXPECT_EQ(real.num_blocks(), 4);
  EXPECT_EQ(real.layout().block_bytes(), size_t{2} * 2 * 8 * 16 * 4);
  EXPECT_NE(real.layer(0).data, real.layer(1).data);
}

}  // namespace
}  // namespace pagoda
