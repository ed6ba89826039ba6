// Recorded steps: replayed instead of run, forgotten when there are too many, and never half recorded.
#include "cuda/graph_cache.h"

#include <gtest/gtest.h>

#include <memory>
#include <stdexcept>

#include "cuda/gpu.h"
#include "emulation_support.h"

namespace pagoda::cuda {
namespace {

__global__ void add_kernel(int* value, const int* amount) {
  gpu::wait_for_grid();
  *value += *amount;
}

class GraphCacheTest : public testing::Test {
 protected:
  GraphCacheTest() {
    check(cudaStreamCreateWithFlags(&queue_.stream, cudaStreamNonBlocking), "stream");
    graphs_ = std::make_unique<GraphCache>(queue_.stream);
  }
  ~GraphCacheTest() override {
    graphs_.reset();
    cudaStreamDestroy(queue_.stream);
  }

  void run(uint64_t key) {
    graphs_->run(key, [this] {
      ++num_bodies_;
      launch(queue_, {1, 1}, "add", add_kernel, &value_, &amount_);
    });
  }
  int value() {
    check(cudaStreamSynchronize(queue_.stream), "wait");
    return value_;
  }

  Queue queue_ = test_queue();
  std::unique_ptr<GraphCache> graphs_;
  int value_ = 0, amount_ = 1, num_bodies_ = 0;
};

TEST_F(GraphCacheTest, the_third_run_of_a_key_is_a_replay_that_sees_new_contents) {
  run(1);
  EXPECT_EQ(value(), 1);
  run(1);
  EXPECT_EQ(value(), 2) << "recorded and launched";
  EXPECT_EQ(num_bodies_, 2);
  amount_ = 10;
  run(1);
  run(1);
  EXPECT_EQ(value(), 22);
  EXPECT_EQ(num_bodies_, 2);
}

TEST_F(GraphCacheTest, the_key_used_longest_ago_is_forgotten) {
  for (uint64_t key = 1; key <= GraphCache::kMaxGraphs; ++key) run(key), run(key);
  run(1);
  run(GraphCache::kMaxGraphs + 1);
  EXPECT_EQ(graphs_->size(), GraphCache::kMaxGraphs);
  num_bodies_ = 0;
  run(1);
  EXPECT_EQ(num_bodies_, 0) << "1 was used since";
  run(2);
  EXPECT_EQ(num_bodies_, 1) << "2 was not";
}

TEST_F(GraphCacheTest, a_body_that_throws_while_it_is_recorded_leaves_the_stream_usable) {
  run(1);
  EXPECT_THROW(graphs_->run(1, [] { throw std::runtime_error("no"); }), std::runtime_error);
  run(1);
  EXPECT_EQ(value(), 2);
}

}  // namespace
}  // namespace pagoda::cuda
