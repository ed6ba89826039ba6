// The thread pool: every task once, exclusive thread numbers, exceptions, nesting, wake-up after sleep, idle cost.
#include <gtest/gtest.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "core/check.h"
#include "core/thread_pool.h"

namespace pagoda {
namespace {

double process_cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

class ThreadPoolOfSize : public testing::TestWithParam<int> {};

TEST_P(ThreadPoolOfSize, runs_every_task_exactly_once) {
  ThreadPool pool(GetParam());
  EXPECT_EQ(pool.num_threads(), GetParam());
  for (int64_t num_tasks : {0, 1, 2, 3, 7, 64, 1000}) {
    std::vector<std::atomic<int>> runs(static_cast<size_t>(num_tasks));
    pool.run(num_tasks, [&](int64_t task, int) { runs[static_cast<size_t>(task)].fetch_add(1); });
    for (const auto& count : runs) EXPECT_EQ(count.load(), 1);
    pool.run_near(num_tasks, [&](int64_t task, int) { runs[static_cast<size_t>(task)].fetch_add(1); });
    for (const auto& count : runs) EXPECT_EQ(count.load(), 2);
  }
}

TEST_P(ThreadPoolOfSize, begins_with_a_threads_own_share_and_goes_on_with_those_of_others) {
  ThreadPool pool(GetParam());
  for (int region = 0; region < 50; ++region) {
    // Every task waits for all others, so each thread takes one: that of its share.
    std::atomic<int> arrived{0};
    pool.run_near(GetParam(), [&](int64_t task, int thread) {
      EXPECT_EQ(task, thread);
      arrived.fetch_add(1);
      while (arrived.load() < GetParam()) std::this_thread::yield();
    });
    // The last thread's first task waits for all the others, which only other threads can run.
    const int64_t num_tasks = 5 * GetParam(), last_share = pool.share_begin(num_tasks, GetParam() - 1);
    std::atomic<int64_t> ran{0};
    std::vector<std::vector<int64_t>> tasks(static_cast<size_t>(GetParam()));
    pool.run_near(num_tasks, [&](int64_t task, int thread) {
      tasks[static_cast<size_t>(thread)].push_back(task);
      if (GetParam() > 1 && task == last_share) {
        while (ran.load() < num_tasks - 1) std::this_thread::yield();
      }
      ran.fetch_add(1);
    });
    EXPECT_EQ(ran.load(), num_tasks);
    for (int thread = 0; thread < GetParam(); ++thread) {  // share after share from its own on, in ascending order
      std::vector<int64_t> places;
      for (const int64_t task : tasks[static_cast<size_t>(thread)]) {
        const int64_t share = task / 5;
        places.push_back((share - thread + GetParam()) % GetParam() * num_tasks + task);
      }
      EXPECT_TRUE(std::is_sorted(places.begin(), places.end())) << "thread " << thread;
    }
  }
}

TEST_P(ThreadPoolOfSize, gives_one_thread_number_to_one_running_body_at_a_time) {
  ThreadPool pool(GetParam());
  std::vector<int64_t> scratch(static_cast<size_t>(GetParam()));  // plain memory: TSan sees any overlap
  for (int region = 0; region < 200; ++region) {
    pool.run(50, [&](int64_t task, int thread) { scratch.at(static_cast<size_t>(thread)) += task; });
    pool.run_near(50, [&](int64_t task, int thread) { scratch.at(static_cast<size_t>(thread)) += task; });
  }
  EXPECT_EQ(std::accumulate(scratch.begin(), scratch.end(), int64_t{0}), 2 * 200 * (49 * 50 / 2));
}

TEST_P(ThreadPoolOfSize, makes_what_bodies_wrote_visible_to_the_caller_and_to_the_next_region) {
  ThreadPool pool(GetParam());
  std::vector<int> values(37, 0);
  for (int region = 0; region < 3000; ++region) {
    const auto add_one = [&](int64_t task, int) { ++values[static_cast<size_t>((task + region) % 37)]; };
    region % 3 == 0 ? pool.run_near(37, add_one) : pool.run(37, add_one);
    ASSERT_EQ(values[static_cast<size_t>(region % 37)], region + 1);
  }
  EXPECT_EQ(values, std::vector<int>(37, 3000));
}

TEST_P(ThreadPoolOfSize, rethrows_an_exception_after_all_other_tasks_ran) {
  ThreadPool pool(GetParam());
  for (const auto& [num_tasks, near] : {std::pair{int64_t{1}, false}, {1, true}, {20, false}, {20, true}}) {
    std::atomic<int> ran{0};
    const auto body = [&, num_tasks = num_tasks](int64_t task, int) {
      ran.fetch_add(1);
      if (task == num_tasks / 2) throw InvalidArgument("task " + std::to_string(task));
    };
    try {
      near ? pool.run_near(num_tasks, body) : pool.run(num_tasks, body);
      FAIL() << "nothing was thrown";
    } catch (const InvalidArgument& error) {
      EXPECT_EQ(error.what(), "task " + std::to_string(num_tasks / 2));
    }
    EXPECT_EQ(ran.load(), num_tasks);
    pool.run(5, [&](int64_t, int) { ran.fetch_add(1); });  // the pool still works and has forgotten the exception
    EXPECT_EQ(ran.load(), num_tasks + 5);
  }
}

TEST_P(ThreadPoolOfSize, refuses_a_nested_region) {
  ThreadPool pool(GetParam());
  EXPECT_THROW(pool.run(4, [&](int64_t, int) { pool.run(1, [](int64_t, int) {}); }), InternalError);
  EXPECT_THROW(pool.run_near(4, [&](int64_t, int) { pool.run_near(1, [](int64_t, int) {}); }), InternalError);
}

TEST_P(ThreadPoolOfSize, wakes_sleeping_workers) {
  ThreadPool pool(GetParam());
  for (int round = 0; round < 20; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(round % 3));
    std::atomic<int> arrived{0};
    // Every task waits for all others, so the region ends only when every worker has come.
    const auto wait_for_all = [&](int64_t, int) {
      arrived.fetch_add(1);
      while (arrived.load() < GetParam()) std::this_thread::yield();
    };
    round % 2 ? pool.run_near(GetParam(), wait_for_all) : pool.run(GetParam(), wait_for_all);
    EXPECT_EQ(arrived.load(), GetParam());
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, ThreadPoolOfSize, testing::Values(1, 2, 3, 8));

TEST(ThreadPool, waits_for_a_straggler_longer_than_it_spins) {
  ThreadPool pool(2);
  std::atomic<bool> worker_started{false};
  bool worker_ended = false;
  pool.run(2, [&](int64_t, int thread) {
    if (thread == 0) {
      while (!worker_started) std::this_thread::yield();
      return;
    }
    worker_started = true;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    worker_ended = true;
  });
  EXPECT_TRUE(worker_ended);
}

TEST(ThreadPool, uses_no_cpu_while_idle) {
  ThreadPool pool(4);
  pool.run(100, [](int64_t, int) {});
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const double before = process_cpu_seconds();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_LT(process_cpu_seconds() - before, 0.01);
}

TEST(ThreadPool, may_be_destroyed_right_after_a_region_or_unused) {
  for (int i = 0; i < 100; ++i) {
    ThreadPool pool(1 + i % 4);
    if (i % 2) pool.run(8, [](int64_t, int) {});
  }
}

TEST(ThreadPool, accepts_a_move_only_body) {
  ThreadPool pool(2);
  std::atomic<int> sum{0};
  pool.run(3, [&, owned = std::make_unique<int>(5)](int64_t task, int) { sum.fetch_add(*owned + static_cast<int>(task)); });
  EXPECT_EQ(sum.load(), 18);
}

TEST(ThreadPool, refuses_a_size_below_one) {
  for (int size : {0, -3}) {
    try {
      ThreadPool pool(size);
      FAIL();
    } catch (const InvalidArgument& error) {
      EXPECT_EQ(std::string(error.what()), str("num_threads must be >= 1, got ", size));
    }
  }
}

}  // namespace
}  // namespace pagoda
