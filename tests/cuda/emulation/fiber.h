// One CUDA block on the CPU: a fiber per CUDA thread, and the scheduler that runs them in an order chosen by a seed.
// A kernel is run one block at a time on the calling OS thread. Owned by a GridRun; the device functions reach it through
// `current_block()`. What a GPU would leave undefined is a Fault that names the line.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "vector_types.h"

namespace emu {

/// Where a device function was called.
struct Site {
  const char* file = nullptr;
  int line = 0;
  const char* operation = nullptr;
};

/// A fault of the emulated kernel: a race that was provoked, a divergent barrier, a deadlock. Thrown by the launch (or by
/// whatever waits for it).
class Fault : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Order in which threads and blocks run: 0 ascending, 1 descending; from 2 on pseudo-random: even seeds switch threads at
/// every waiting point, odd ones let one random warp run as far as it can. Copies of cp.async happen when they are waited for
/// with even seeds, when they are asked for with odd ones.
void set_schedule(unsigned seed);
unsigned schedule();

/// Thread switches since the process started: what an emulated kernel costs.
uint64_t num_switches();

/// A copy that cp.async has asked for; carried out when the thread waits for its group, if it was not before.
struct PendingCopy {
  void* to;
  const void* from;
  unsigned bytes;
  unsigned zeros;  ///< bytes after them that are cleared
};

/// A product of wgmma on its way; carried out when its warp waits for the group.
struct PendingProduct {
  float* sums;                  ///< this thread's part of the result
  int columns;                  ///< of the result
  const uint32_t* a_registers;  ///< null: a is a descriptor
  uint64_t a, b;                ///< descriptors of matrices in shared memory
  bool b_by_rows;               ///< b's elements of one k are adjacent
  bool accumulates;
  Site site;
};

/// Registers that products on their way will write to. Until then they hold NaN, and their values are here.
struct PendingSums {
  float* registers;
  std::vector<float> values;
  int num_products;
};

struct Fiber {
  void* stack_pointer = nullptr;
  char* stack = nullptr;
  void* fake_stack = nullptr;  // AddressSanitizer's
  uint3 thread{};
  unsigned index = 0;  ///< linear index in the block
  bool done = false;
  const unsigned* waits_on = nullptr;  ///< runs again once *waits_on != waits_value
  unsigned waits_value = 0;
  Site site;
  bool waited_for_grid = false;
  std::vector<PendingCopy> open_copies;
  std::vector<std::vector<PendingCopy>> copy_groups;
  std::vector<PendingProduct> open_products;
  std::vector<std::vector<PendingProduct>> product_groups;
  std::vector<PendingSums> sums;
  bool fenced_products = false;   ///< wgmma.fence since the last wait
  bool unfenced_barrier = false;  ///< an mbarrier was made and not yet shown to the copy engine
};

struct Barrier {
  unsigned arrived = 0;
  unsigned generation = 0;
  Site first;
};

/// One meeting of lanes of a warp: each brings a value, the last to arrive computes all results.
struct Meeting {
  static constexpr size_t kMaxBytes = 96;
  unsigned mask = 0, arrived = 0, left = 0, generation = 0;
  Site site;
  alignas(16) std::array<std::array<unsigned char, kMaxBytes>, 32> in;
  alignas(16) std::array<std::array<unsigned char, kMaxBytes>, 32> out;
};

struct Warp {
  static constexpr int kMaxMeetings = 33;
  std::array<Meeting, kMaxMeetings> meetings;
};

/// What the hardware does by itself, some time after it was asked for.
struct Effect {
  std::function<void()> happen;  ///< in the scheduler's context; may throw Fault
  uint64_t due;                  ///< on the block's clock
};

struct Block {
  unsigned char* shared = nullptr;
  size_t shared_bytes = 0;
  uint3 index{};
  dim3 threads, blocks;
  unsigned num_threads = 0;
  unsigned num_live = 0;
  bool dependent = false;    ///< launched with programmatic dependence: every thread must call griddepcontrol.wait
  unsigned grids_ended = 0;  ///< 1: all kernels before this one have ended
  std::vector<Fiber> fibers;
  std::array<Barrier, 16> barriers;
  std::vector<std::unique_ptr<Warp>> warps;
  int votes_or = 0, votes_and = 1, votes_count = 0;
  std::array<std::array<int, 3>, 2> vote_results{};  ///< by parity of the barrier's generation
  std::vector<Effect> effects;                       ///< to come
  uint64_t clock = 0;                                ///< turns of threads so far
  std::array<uint64_t, 32> num_products{};           ///< of wgmma, by warp
  std::array<unsigned, 32> product_turns{};          ///< times that products came to their end, by warp
  std::array<unsigned, 32> registers{};              ///< of a thread, by warp, where setmaxnreg has set them
  std::string fault;                                 ///< not empty: the launch fails with it
};

/// The block and thread that run now. Only device functions may call these.
Block& current_block();
Fiber& current_fiber();
bool in_kernel();

/// Ends the kernel with a Fault; called from device functions.
[[noreturn]] void fail(std::string_view what, const Site& site, const Site& other = {});

/// Lets other threads run until *counter != value.
void wait_while(const unsigned* counter, unsigned value, const Site& site);

/// Under a random schedule: lets other threads run.
void preempt();

/// Puts off what the hardware does by itself: until no thread can go on (schedule 0), until the next turn of a thread (1), or
/// for a random time.
void happen_later(std::function<void()> effect);

/// What a launch needs to know of a grid.
struct Grid {
  dim3 blocks, threads;
  size_t shared_bytes = 0;
  bool dependent = false;
};

/// griddepcontrol.wait.
void wait_for_grid();

/// A kernel: `body` once for every thread of every block.
class GridRun {
 public:
  /// Throws Fault for a grid that cannot be.
  GridRun(const Grid& grid, std::function<void()> body);
  ~GridRun();
  GridRun(const GridRun&) = delete;
  GridRun& operator=(const GridRun&) = delete;

  /// Runs the first block as far as it comes before the kernels in front of this one have ended, which may not have begun: a
  /// GPU may do so with a dependent kernel. Throws Fault.
  void start();
  /// Runs the rest. Throws Fault.
  void finish();

 private:
  class Entered;

  uint3 index(size_t turn) const;

  std::function<void()> body_;
  Block block_;
  std::vector<uint64_t> order_;  ///< of the blocks
  std::unique_ptr<unsigned char, void (*)(void*)> shared_;
  std::mt19937 random_;
  std::optional<std::thread::id> started_by_;
};

}  // namespace emu

/// CUDA's index variables, set at each switch into a thread.
extern thread_local uint3 threadIdx, blockIdx;
extern thread_local dim3 blockDim, gridDim;
