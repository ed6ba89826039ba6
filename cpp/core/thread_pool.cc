// The thread pool's protocol; its invariants stand in the header.
#include "core/thread_pool.h"

#include <chrono>
#include <utility>

#include "core/check.h"

namespace pagoda {
namespace {

/// How long a thread watches for the next region, or for stragglers, before it sleeps. Longer than the serial stretches between
/// the regions of one step, far shorter than the time between requests.
constexpr std::chrono::microseconds kSpin{80};

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb" ::: "memory");  // takes about as long as x86's pause; `yield` is a no-op on most cores
#endif
}

}  // namespace

ThreadPool::ThreadPool(int num_threads) {
  require(num_threads >= 1, "num_threads must be >= 1, got ", num_threads);
  spins_ = num_threads <= usable_cores();
  shares_ = std::vector<Share>(static_cast<size_t>(num_threads));
  workers_.reserve(static_cast<size_t>(num_threads - 1));
  try {
    for (int thread = 1; thread < num_threads; ++thread) workers_.emplace_back([this, thread] { worker_loop(thread); });
  } catch (...) {  // the system refused a thread: end those that run
    stop();
    throw;
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
  stopping_.store(true);
  wake_epoch_.fetch_add(1);
  wake_epoch_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

/// Watches `ready` for kSpin; true when it became ready. The clock is read only now and then: it costs more than a look.
template <class Ready>
bool ThreadPool::spin_until(const Ready& ready) const {
  if (ready()) return true;
  if (!spins_) return false;
  const auto deadline = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 16; ++i) {
      if (ready()) return true;
      pause();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  return false;
}

void ThreadPool::run_region(Order order, int64_t num_tasks, Invoke invoke, void* body) {
  ensure(!running_.exchange(true, std::memory_order_acquire),
         "ThreadPool::run is not reentrant and takes one caller at a time");
  invoke_ = invoke;
  body_ = body;
  num_tasks_ = num_tasks;
  order_ = order;
  if (num_tasks == 1 || workers_.empty()) {  // nothing to share: leave the workers alone
    for (int64_t task = 0; task < num_tasks; ++task) invoke_one(task, 0);
  } else if (num_tasks > 1) {
    tasks_done_.store(0, std::memory_order_relaxed);
    for (int t = 0; order == Order::near && t < num_threads(); ++t) {
      Share& share = shares_[static_cast<size_t>(t)];
      share.next.store(share_begin(num_tasks, t), std::memory_order_relaxed);
      share.end = share_begin(num_tasks, t + 1);
    }
    // Pairs with await_work: a worker counts itself sleeping and then looks for tasks, we publish tasks and then look for
    // sleepers; sequential consistency makes at least one of the two see the other.
    tasks_left_.store(num_tasks, std::memory_order_seq_cst);
    if (num_sleeping_.load(std::memory_order_seq_cst) > 0) {
      wake_epoch_.fetch_add(1);
      wake_epoch_.notify_all();
    }
    work(0);
    await_stragglers(num_tasks);
  }
  std::exception_ptr exception;
  if (failed_.load(std::memory_order_relaxed)) {
    exception = std::exchange(exception_, nullptr);
    failed_.store(false, std::memory_order_relaxed);
  }
  running_.store(false, std::memory_order_release);
  if (exception) std::rethrow_exception(std::move(exception));
}

void ThreadPool::invoke_one(int64_t task, int thread) {
  try {
    invoke_(body_, task, thread);
  } catch (...) {
    if (!failed_.exchange(true, std::memory_order_relaxed)) exception_ = std::current_exception();
  }
}

/// Claims and runs tasks until none is left, then reports them all at once.
void ThreadPool::work(int thread) {
  int64_t num_done = 0;
  int64_t num_tasks = 0;
  for (int64_t left; (left = tasks_left_.fetch_sub(1, std::memory_order_acquire)) > 0; ++num_done) {
    num_tasks = num_tasks_;
    invoke_one(order_ == Order::near ? take_near(thread) : num_tasks - left, thread);
  }
  if (num_done == 0) return;
  const bool last = tasks_done_.fetch_add(num_done, std::memory_order_seq_cst) + num_done == num_tasks;
  if (last && thread != 0 && caller_waits_.load(std::memory_order_seq_cst) != 0) {
    caller_waits_.store(0);
    caller_waits_.notify_one();
  }
}

/// The next task of the thread's own share, or of the first share behind it that has one. For whoever holds a claim: there are
/// as many claims as tasks, so some share has one.
int64_t ThreadPool::take_near(int thread) {
  for (auto t = static_cast<size_t>(thread);; t = (t + 1) % shares_.size()) {
    Share& share = shares_[t];
    if (share.next.load(std::memory_order_relaxed) >= share.end) continue;
    const int64_t task = share.next.fetch_add(1, std::memory_order_relaxed);
    if (task < share.end) return task;
  }
}

/// Waits until tasks of other threads are reported. A worker that was slow to leave an earlier region may wake us too early,
/// hence the loop.
void ThreadPool::await_stragglers(int64_t num_tasks) {
  if (spin_until([&] { return tasks_done_.load(std::memory_order_acquire) == num_tasks; })) return;
  while (true) {
    caller_waits_.store(1, std::memory_order_seq_cst);
    if (tasks_done_.load(std::memory_order_seq_cst) == num_tasks) break;
    caller_waits_.wait(1);
  }
  caller_waits_.store(0, std::memory_order_relaxed);
}

void ThreadPool::worker_loop(int thread) {
  while (await_work()) work(thread);
}

/// Returns true when there may be tasks to claim, false when the pool is being destroyed.
bool ThreadPool::await_work() {
  const auto ready = [&] {
    return tasks_left_.load(std::memory_order_relaxed) > 0 || stopping_.load(std::memory_order_relaxed);
  };
  if (!spin_until(ready)) {
    const int epoch = wake_epoch_.load();
    num_sleeping_.fetch_add(1, std::memory_order_seq_cst);
    if (tasks_left_.load(std::memory_order_seq_cst) <= 0 && !stopping_.load()) wake_epoch_.wait(epoch);
    num_sleeping_.fetch_sub(1, std::memory_order_seq_cst);
  }
  return !stopping_.load();
}

}  // namespace pagoda
