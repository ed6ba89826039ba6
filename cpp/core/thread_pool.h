// A fixed team of threads for the CPU backend's parallel regions: hundreds of regions per step, each some ten microseconds
// long. Owns its worker threads. The thread that calls run() is one of the team, so a pool of one has no workers.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <thread>
#include <type_traits>
#include <vector>

#include "core/usable_cores.h"

namespace pagoda {

/// Invariants:
/// 1. `tasks_left_` > 0 holds exactly while unclaimed tasks exist. Taking a positive value with fetch_sub claims one task of
/// the
///    current region, whichever region that is.
/// 2. A claimed task is reported in `tasks_done_` after its body returned, and run() returns only when all are reported. So the
///    region's description (`invoke_`, `body_`, `num_tasks_`, `order_`, the shares' ends) is stable for whoever holds a claim,
///    and a worker that wakes late neither delays run() nor sees an old region. In Order::near the shares are filled before
///    the tasks can be claimed, and hold as many tasks that nobody has begun as there are claims that have taken none yet.
/// 3. Between regions workers spin for kSpin and then sleep in the kernel: an idle pool uses no CPU.
class ThreadPool {
 public:
  /// A pool of `num_threads` >= 1, the caller of run() counted. Throws InvalidArgument otherwise. Threads beyond usable_cores()
  /// are allowed; such a pool never spins, because a spinning thread would keep a working one off its core.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(workers_.size()) + 1; }

  /// Calls `body(int64_t task, int thread)` once for every task in [0, num_tasks), `thread` in [0, num_threads()), no two calls
  /// with the same `thread` at once, and returns when all have ended. Tasks start in ascending order, on whichever thread is
  /// free; the caller is thread 0. If bodies throw, the remaining tasks still run and the first exception is rethrown here. One
  /// region at a time: a call from inside a body, or from a second thread meanwhile, throws InternalError. Allocates nothing.
  template <class F>
  void run(int64_t num_tasks, F&& body) {
    run_in(Order::shared, num_tasks, body);
  }

  /// As run(), but each thread begins with the tasks of its own share, [share_begin(n, t), share_begin(n, t + 1)) of n tasks
  /// for thread t, in ascending order, and then takes those that others have left. So what region after region does with the
  /// same rows is found in one core's caches.
  template <class F>
  void run_near(int64_t num_tasks, F&& body) {
    run_in(Order::near, num_tasks, body);
  }
  int64_t share_begin(int64_t num_tasks, int thread) const { return num_tasks * thread / num_threads(); }

 private:
  enum class Order : uint8_t { shared, near };

  template <class F>
  void run_in(Order order, int64_t num_tasks, F&& body) {
    using Body = std::remove_reference_t<F>;
    run_region(
        order, num_tasks, [](void* self, int64_t task, int thread) { (*static_cast<Body*>(self))(task, thread); },
        const_cast<void*>(static_cast<const void*>(&body)));
  }

  using Invoke = void (*)(void* body, int64_t task, int thread);

  void run_region(Order order, int64_t num_tasks, Invoke invoke, void* body);
  void work(int thread);
  int64_t take_near(int thread);
  void invoke_one(int64_t task, int thread);
  void stop();
  void worker_loop(int thread);
  bool await_work();
  void await_stragglers(int64_t num_tasks);
  template <class Ready>
  bool spin_until(const Ready& ready) const;

  static constexpr size_t kLine = 64;  // cache line, keeps independent counters apart

  /// The tasks of one thread's share that nobody has begun.
  struct alignas(kLine) Share {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };

  alignas(kLine) std::atomic<int64_t> tasks_left_{0};  // negative after threads found nothing left
  alignas(kLine) std::atomic<int64_t> tasks_done_{0};
  alignas(kLine) Invoke invoke_ = nullptr;
  void* body_ = nullptr;
  int64_t num_tasks_ = 0;
  Order order_ = Order::shared;
  alignas(kLine) std::atomic<int> wake_epoch_{0};  // sleeping workers wait for it to change
  std::atomic<int> num_sleeping_{0};
  std::atomic<bool> stopping_{false};
  alignas(kLine) std::atomic<int> caller_waits_{0};  // 1 while the caller sleeps until the last task is reported
  std::atomic<bool> failed_{false};
  std::atomic<bool> running_{false};
  std::exception_ptr exception_;  // of the first body that threw; written by whoever set failed_
  bool spins_ = false;
  std::vector<Share> shares_;  // of a region in Order::near, one for each thread
  std::vector<std::thread> workers_;
};

}  // namespace pagoda
