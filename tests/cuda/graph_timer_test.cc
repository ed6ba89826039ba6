// Times on the emulated device, where work says how long it takes.
#include "cuda/graph_timer.h"

#include <gtest/gtest.h>

#include <vector>

#include "emulation_support.h"

namespace pagoda::cuda {
namespace {

class GraphTimerTest : public testing::Test {
 protected:
  void SetUp() override {
    emu::device().least_milliseconds = 0.000001;
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream");
  }
  void TearDown() override {
    emu::device().least_milliseconds = 1;
    check(cudaStreamDestroy(stream_), "destroy");
  }

  /// Work whose run takes `microseconds` and is noted in runs_.
  std::function<void(int)> work(double microseconds) {
    return [=, this](int run) {
      started_.push_back(run);
      check(emu::enqueue(stream_,
                         [=, this] {
                           runs_.push_back(run);
                           emu::spend_time(microseconds / 1000);
                         }),
            "work");
    };
  }

  cudaStream_t stream_ = nullptr;
  std::vector<int> started_, runs_;
};

TEST_F(GraphTimerTest, the_time_of_one_run_is_told) {
  for (const double microseconds : {1.0, 7.5, 100.0, 3000.0}) {
    EXPECT_NEAR(GraphTimer(stream_).microseconds({.work = work(microseconds)}), microseconds, 0.01 * microseconds);
  }
}

TEST_F(GraphTimerTest, short_runs_follow_each_other_and_differ) {
  EXPECT_GT(GraphTimer(stream_).microseconds({.work = work(20), .num_different = 30}), 0);
  EXPECT_EQ(started_.size(), 2u + 30u) << "a replay starts nothing";
  ASSERT_EQ(runs_.size(), 2u + 5u * 30u);
  for (size_t i = 2; i < runs_.size(); ++i) EXPECT_EQ(runs_[i], static_cast<int>((i - 2) % 30));
}

TEST_F(GraphTimerTest, long_runs_stand_alone) {
  GraphTimer(stream_).microseconds({.work = work(1000), .num_different = 30});
  EXPECT_EQ(runs_.size(), 2u + 5u);
}

TEST_F(GraphTimerTest, what_is_slower_than_the_limit_is_tried_once) {
  EXPECT_NEAR(GraphTimer(stream_).microseconds({.work = work(50), .num_different = 30, .limit = 40}), 50, 1);
  EXPECT_EQ(runs_.size(), 2u);
}

TEST_F(GraphTimerTest, an_exception_of_the_work_ends_the_recording) {
  int calls = 0;
  const auto failing = [&](int) {
    if (++calls > 2) throw DeviceError("broken");
  };
  EXPECT_THROW(GraphTimer(stream_).microseconds({.work = failing}), DeviceError);
  EXPECT_FALSE(emu::is_recording(stream_));
}

}  // namespace
}  // namespace pagoda::cuda
