// Fibers of x86-64 in a pool of stacks, switched by hand; the scheduler of one block.
#include "fiber.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <utility>

thread_local uint3 threadIdx, blockIdx;
thread_local dim3 blockDim, gridDim;

#if defined(__SANITIZE_ADDRESS__)
extern "C" void __sanitizer_start_switch_fiber(void**, const void*, size_t);
extern "C" void __sanitizer_finish_switch_fiber(void*, const void**, size_t*);
extern "C" void __asan_unpoison_memory_region(const volatile void*, size_t);
#else
static void __sanitizer_start_switch_fiber(void**, const void*, size_t) {}
static void __sanitizer_finish_switch_fiber(void*, const void**, size_t*) {}
static void __asan_unpoison_memory_region(const volatile void*, size_t) {}
#endif

static_assert(sizeof(void*) == 8, "the emulation switches stacks of x86-64");

// Saves the callee-saved registers on this stack, its pointer in *save, and goes on where `to` was saved.
extern "C" __attribute__((naked, noinline)) void emu_switch_stack(void** /*save*/, void* /*to*/) {
  asm volatile(
      "pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15\n"
      "movq %rsp, (%rdi); movq %rsi, %rsp\n"
      "popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp; ret\n");
}

namespace emu {
namespace {

constexpr size_t kStackBytes = 256 * 1024;

unsigned g_schedule = 0;
uint64_t g_switches = 0;

/// What one OS thread is running.
struct Running {
  Block* block = nullptr;
  Fiber* fiber = nullptr;
  const std::function<void()>* body = nullptr;
  std::mt19937* random = nullptr;
  void* scheduler_pointer = nullptr;
  void* scheduler_fake = nullptr;
  const void* scheduler_stack = nullptr;
  size_t scheduler_bytes = 0;
};
thread_local Running g_running;

std::string describe(const Site& site) {
  std::string text = site.operation ? site.operation : "?";
  if (site.file) text += std::string(" at ") + site.file + ":" + std::to_string(site.line);
  return text;
}

void to_scheduler(Fiber& fiber, bool for_good) {
  ++g_switches;
  __sanitizer_start_switch_fiber(for_good ? nullptr : &fiber.fake_stack, g_running.scheduler_stack, g_running.scheduler_bytes);
  emu_switch_stack(&fiber.stack_pointer, g_running.scheduler_pointer);
  __sanitizer_finish_switch_fiber(fiber.fake_stack, &g_running.scheduler_stack, &g_running.scheduler_bytes);
}

void check_exit(const Fiber& fiber) {
  const Block& block = *g_running.block;
  if (!fiber.copy_groups.empty() || !fiber.open_copies.empty())
    fail("a thread ends with cp.async copies in flight", fiber.site);
  if (!fiber.product_groups.empty() || !fiber.open_products.empty()) {
    fail("a thread ends with wgmma products in flight", fiber.site);
  }
  if (fiber.unfenced_barrier) fail("a thread that made an mbarrier ends without fence.mbarrier_init", fiber.site);
  if (block.dependent && !fiber.waited_for_grid) {
    fail("a kernel launched with programmatic dependence ends without griddepcontrol.wait", fiber.site);
  }
  if (block.barriers[0].arrived) fail("a thread ends while others wait at a barrier", fiber.site, block.barriers[0].first);
}

void fiber_main() {
  __sanitizer_finish_switch_fiber(nullptr, &g_running.scheduler_stack, &g_running.scheduler_bytes);
  (*g_running.body)();
  Fiber& fiber = *g_running.fiber;
  check_exit(fiber);
  fiber.done = true;
  --g_running.block->num_live;
  to_scheduler(fiber, true);
  __builtin_unreachable();
}

/// What blocks need and give back. Never freed: a stream may outlive every other static object.
struct Pool {
  std::mutex mutex;
  std::vector<char*> stacks;
  std::vector<std::unique_ptr<Warp>> warps;

  static Pool& instance() {
    static Pool& pool = *new Pool;
    return pool;
  }
  char* take_stack() {
    if (stacks.empty()) {
      void* stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (stack == MAP_FAILED) throw std::bad_alloc();
      return static_cast<char*>(stack);
    }
    return take(stacks);
  }
  std::unique_ptr<Warp> take_warp() { return warps.empty() ? std::make_unique<Warp>() : take(warps); }

 private:
  template <class T>
  static T take(std::vector<T>& from) {
    T taken = std::move(from.back());
    from.pop_back();
    return taken;
  }
};

void reset_fiber(Fiber& fiber, unsigned index, const dim3& threads) {
  char* const stack = fiber.stack;
  fiber = Fiber{};
  fiber.index = index;
  fiber.stack = stack;
  __asan_unpoison_memory_region(fiber.stack, kStackBytes);
  fiber.thread = {index % threads.x, index / threads.x % threads.y, index / (threads.x * threads.y)};
  void** top = reinterpret_cast<void**>(fiber.stack + kStackBytes) - 1;
  *--top = reinterpret_cast<void*>(&fiber_main);
  for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
  fiber.stack_pointer = top;
}

/// Runs the fiber until it waits or ends; false if it cannot run now.
bool step(Block& block, unsigned index) {
  Fiber& fiber = block.fibers[index];
  if (fiber.done || (fiber.waits_on && *fiber.waits_on == fiber.waits_value)) return false;
  g_running.fiber = &fiber;
  threadIdx = fiber.thread;
  __sanitizer_start_switch_fiber(&g_running.scheduler_fake, fiber.stack, kStackBytes);
  emu_switch_stack(&g_running.scheduler_pointer, fiber.stack_pointer);
  __sanitizer_finish_switch_fiber(g_running.scheduler_fake, nullptr, nullptr);
  if (!block.fault.empty()) throw Fault(block.fault);
  return true;
}

bool run_warp(Block& block, unsigned first) {
  const unsigned end = std::min(first + 32, block.num_threads);
  bool moved = false;
  for (bool any = true; any;) {
    any = false;
    for (unsigned i = first; i < end; ++i) any |= step(block, i);
    moved |= any;
  }
  return moved;
}

/// Lets the effects happen that are due, or the next one if threads are `stuck`. Returns whether there was any.
bool let_effects_happen(Block& block, bool stuck) {
  std::vector<Effect>& effects = block.effects;
  const size_t before = effects.size();
  const auto happen = [&](std::vector<Effect>::iterator effect) {
    const std::function<void()> now = std::move(effect->happen);
    effects.erase(effect);
    now();
  };
  const auto earlier = [](const Effect& a, const Effect& b) { return a.due < b.due; };
  if (stuck && before > 0) happen(std::min_element(effects.begin(), effects.end(), earlier));
  while (!effects.empty()) {
    const auto next = std::min_element(effects.begin(), effects.end(), earlier);
    if (next->due > block.clock) break;
    happen(next);
  }
  return effects.size() != before;
}

void check_end(const Block& block) {
  if (!block.effects.empty()) throw Fault("a block ends with TMA copies in flight");
  for (size_t warp = 0; warp < block.num_products.size(); ++warp) {
    if (block.num_products[warp] != block.num_products[warp / 4 * 4]) {
      throw Fault("warp " + std::to_string(warp) + " took part in fewer or more wgmma products than others of its warpgroup");
    }
  }
}

/// Says for each place where threads wait which one is the first there, and of how many.
[[noreturn]] void report_deadlock(const Block& block) {
  std::vector<std::pair<const Fiber*, unsigned>> places;
  for (const Fiber& fiber : block.fibers) {
    if (fiber.done) continue;
    const auto same = [&](const auto& place) {
      const Site &a = place.first->site, &b = fiber.site;
      return a.line == b.line && a.file && b.file && std::strcmp(a.file, b.file) == 0;
    };
    const auto known = std::find_if(places.begin(), places.end(), same);
    if (known == places.end()) {
      places.emplace_back(&fiber, 1);
    } else {
      ++known->second;
    }
  }
  std::string text = "deadlock in block " + std::to_string(block.index.x) + "," + std::to_string(block.index.y) + "," +
                     std::to_string(block.index.z);
  for (const auto& [fiber, count] : places) {
    text += "; thread " + std::to_string(fiber->index) + (count > 1 ? " and " + std::to_string(count - 1) + " others" : "") +
            " for ever in " + describe(fiber->site);
  }
  throw Fault(text);
}

/// Makes the block's threads anew.
void begin_block(Block& block, const uint3& index) {
  block.index = index;
  block.num_live = block.num_threads;
  block.barriers.fill(Barrier{});
  block.votes_or = 0, block.votes_and = 1, block.votes_count = 0;
  block.num_products.fill(0);
  block.product_turns.fill(0);
  block.clock = 0;
  block.registers.fill(0);
  block.effects.clear();
  std::memset(block.shared, 0xff, block.shared_bytes);  // NaN in every float type: what was not written is seen
  for (const std::unique_ptr<Warp>& warp : block.warps) {
    for (Meeting& meeting : warp->meetings) meeting.arrived = meeting.left = meeting.mask = 0;
  }
  for (unsigned i = 0; i < block.num_threads; ++i) reset_fiber(block.fibers[i], i, block.threads);
}

/// Runs the block's threads until they have ended, or with `early` until none can go on.
void run_threads(Block& block, std::mt19937& random, bool early) {
  blockIdx = block.index;
  std::vector<unsigned> order(block.num_threads);
  for (unsigned i = 0; i < block.num_threads; ++i) order[i] = g_schedule == 1 ? block.num_threads - 1 - i : i;
  while (block.num_live) {
    bool moved = false;
    if (g_schedule > 1) std::shuffle(order.begin(), order.end(), random);
    for (unsigned i : order) {
      moved |= g_schedule > 1 && g_schedule % 2 ? run_warp(block, i / 32 * 32) : step(block, i);
      ++block.clock;
      moved |= let_effects_happen(block, false);
    }
    if (moved) continue;
    if (early) return;
    if (!let_effects_happen(block, true)) report_deadlock(block);
  }
  check_end(block);
}

}  // namespace

void set_schedule(unsigned seed) { g_schedule = seed; }
unsigned schedule() { return g_schedule; }
uint64_t num_switches() { return g_switches; }
Block& current_block() { return *g_running.block; }
Fiber& current_fiber() { return *g_running.fiber; }
bool in_kernel() { return g_running.block != nullptr; }

void fail(std::string_view what, const Site& site, const Site& other) {
  Block& block = current_block();
  Fiber& fiber = current_fiber();
  block.fault = std::string(what) + ": " + describe(site) + " (thread " + std::to_string(fiber.index) + ", block " +
                std::to_string(block.index.x) + "," + std::to_string(block.index.y) + "," + std::to_string(block.index.z) + ")";
  if (other.file) block.fault += ", against " + describe(other);
  to_scheduler(fiber, false);
  __builtin_unreachable();
}

void wait_while(const unsigned* counter, unsigned value, const Site& site) {
  Fiber& fiber = current_fiber();
  fiber.waits_on = counter;
  fiber.waits_value = value;
  fiber.site = site;
  to_scheduler(fiber, false);
  fiber.waits_on = nullptr;
}

void preempt() {
  static const unsigned kNothing = 0;
  if (g_schedule > 1) wait_while(&kNothing, 1, current_fiber().site);
}

void happen_later(std::function<void()> effect) {
  constexpr unsigned kLongestDelay = 12;  // its logarithm: short and long ones are equally likely
  Block& block = current_block();
  uint64_t due = block.clock;
  if (g_schedule == 0) due = ~uint64_t{0};
  if (g_schedule > 1) due += (*g_running.random)() & ((1u << (*g_running.random)() % (kLongestDelay + 1)) - 1);
  block.effects.push_back({std::move(effect), due});
}

void wait_for_grid() {
  Fiber& fiber = current_fiber();
  Block& block = current_block();
  fiber.waited_for_grid = true;
  if (!block.grids_ended) wait_while(&block.grids_ended, 0, Site{nullptr, 0, "griddepcontrol.wait"});
}

/// While it lives the kernel's block is the one that runs.
class GridRun::Entered {
 public:
  explicit Entered(GridRun& run) {
    if (in_kernel()) throw Fault("a kernel was launched from a kernel");
    g_running.block = &run.block_;
    g_running.body = &run.body_;
    g_running.random = &run.random_;
    blockDim = run.block_.threads;
    gridDim = run.block_.blocks;
  }
  ~Entered() {
    g_running.block = nullptr;
    g_running.fiber = nullptr;
  }
  Entered(const Entered&) = delete;
  Entered& operator=(const Entered&) = delete;
};

GridRun::GridRun(const Grid& grid, std::function<void()> body)
    : body_(std::move(body)), shared_(nullptr, std::free), random_(g_schedule) {
  block_.threads = grid.threads;
  block_.blocks = grid.blocks;
  block_.num_threads = grid.threads.x * grid.threads.y * grid.threads.z;
  if (block_.num_threads == 0 || block_.num_threads > 1024) {
    throw Fault("a block must have 1 to 1024 threads, got " + std::to_string(block_.num_threads));
  }
  block_.dependent = grid.dependent;
  // Not rounded up: AddressSanitizer watches the first byte that the kernel did not ask for.
  void* memory = nullptr;
  if (posix_memalign(&memory, 1024, std::max<size_t>(grid.shared_bytes, 1))) throw std::bad_alloc();
  shared_.reset(static_cast<unsigned char*>(memory));
  block_.shared = shared_.get();
  block_.shared_bytes = grid.shared_bytes;
  order_.resize(uint64_t{grid.blocks.x} * grid.blocks.y * grid.blocks.z);
  for (uint64_t i = 0; i < order_.size(); ++i) order_[i] = g_schedule == 1 ? order_.size() - 1 - i : i;
  if (g_schedule > 1) std::shuffle(order_.begin(), order_.end(), random_);
  block_.fibers.resize(block_.num_threads);
  Pool& pool = Pool::instance();
  const std::lock_guard lock(pool.mutex);
  for (Fiber& fiber : block_.fibers) fiber.stack = pool.take_stack();
  for (unsigned i = 0; i < block_.num_threads; i += 32) block_.warps.push_back(pool.take_warp());
}

GridRun::~GridRun() {
  Pool& pool = Pool::instance();
  const std::lock_guard lock(pool.mutex);
  for (auto fiber = block_.fibers.rbegin(); fiber != block_.fibers.rend(); ++fiber) pool.stacks.push_back(fiber->stack);
  for (std::unique_ptr<Warp>& warp : block_.warps) pool.warps.push_back(std::move(warp));
}

uint3 GridRun::index(size_t turn) const {
  const uint64_t i = order_[turn], width = block_.blocks.x, height = block_.blocks.y;
  return {static_cast<unsigned>(i % width), static_cast<unsigned>(i / width % height),
          static_cast<unsigned>(i / width / height)};
}

void GridRun::start() {
  const Entered entered(*this);
  begin_block(block_, index(0));
  run_threads(block_, random_, true);
  started_by_ = std::this_thread::get_id();
}

void GridRun::finish() {
  const Entered entered(*this);
  block_.grids_ended = 1;
  // Threads stay with the system's thread that began them: the compiler may have kept addresses of its variables.
  const bool started = started_by_ == std::this_thread::get_id();
  for (size_t turn = 0; turn < order_.size(); ++turn) {
    if (turn > 0 || !started) begin_block(block_, index(turn));
    run_threads(block_, random_, false);
  }
}

}  // namespace emu
