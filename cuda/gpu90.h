// Hopper's instructions (sm_90a): barriers that count arrivals and bytes, the copy engine (TMA) and the tensor cores'
// asynchronous products of a warpgroup, four warps of which the first one's number is a multiple of 4. In the manner of gpu.h.
// Included only by *_sm90a.cu and tests.
#pragma once

#include <cuda.h>

#include "cuda/gpu.h"

#if defined(__CUDACC__)
#define PAGODA_EMULATED_ONLY_SITE
#else
#include <emulated_gpu90.h>
#define PAGODA_EMULATED_ONLY_SITE EMU_SITE_PARAMETERS
#endif

namespace pagoda::gpu {

// An mbarrier is 8 aligned bytes of shared memory. It goes from phase to phase: a phase ends when all arrivals it was made for
// and all bytes it was told to expect have come. The first phase has parity 0, the next 1, and so on by turns.

/// One thread makes the barrier for a number of arrivals per phase, then calls mbarrier_fence_init; the others may use it after
/// the block's next barrier.
__device__ __forceinline__ void mbarrier_init(uint64_t* barrier, unsigned arrivals PAGODA_EMULATED_SITE) {
#if defined(__CUDACC__)
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
#else
  emu::mbarrier_init(barrier, arrivals, EMU_SITE("mbarrier.init"));
#endif
}

/// Shows barriers that this thread has made to the copy engine.
__device__ __forceinline__ void mbarrier_fence_init() {
#if defined(__CUDACC__)
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#else
  emu::mbarrier_fence_init();
#endif
}

/// One arrival. What this thread did before is seen by those who wait.
__device__ __forceinline__ void mbarrier_arrive(uint64_t* barrier PAGODA_EMULATED_SITE) {
#if defined(__CUDACC__)
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
#else
  emu::mbarrier_arrive(barrier, EMU_SITE("mbarrier.arrive"));
#endif
}

/// One arrival, and the phase ends only when `bytes` (below 2^20) more have been copied.
__device__ __forceinline__ void mbarrier_expect(uint64_t* barrier, unsigned bytes PAGODA_EMULATED_SITE) {
#if defined(__CUDACC__)
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes) : "memory");
#else
  emu::mbarrier_expect(barrier, bytes, EMU_SITE("mbarrier.arrive.expect_tx"));
#endif
}

/// Waits for the end of the phase of this parity: returns at once if the barrier is in one of the other parity. On a new
/// barrier parity 1 does not wait.
__device__ __forceinline__ void mbarrier_wait(uint64_t* barrier, unsigned parity PAGODA_EMULATED_SITE) {
#if defined(__CUDACC__)
  const uint32_t address = shared_address(barrier);
  uint32_t ended;
  do {
    asm volatile("{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p;}"
                 : "=r"(ended)
                 : "r"(address), "r"(parity)
                 : "memory");
  } while (!ended);
#else
  emu::mbarrier_wait(barrier, parity, EMU_SITE("mbarrier.try_wait"));
#endif
}

/// Fetches a tensor map (a kernel's parameter) that tma_load will need.
__device__ __forceinline__ void prefetch_map(const CUtensorMap* map) {
#if defined(__CUDACC__)
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
#else
  static_cast<void>(map);
#endif
}

/// One thread starts copying the box whose first element is `at` (dimension 0 first; may lie outside of the array) to shared
/// memory; its bytes count at the barrier, in whose current phase they must be expected. Zeros for what the array does not
/// have. The box lies densely. With rows of 64 bf16 (128 bytes), chunk c (16 bytes) of row r lies in the place of chunk c ^ r %
/// 8, and `shared` is 1024-byte aligned.
template <int kRank>
__device__ __forceinline__ void tma_load(void* shared, const CUtensorMap* map, uint64_t* barrier,
                                         const int (&at)[kRank] PAGODA_EMULATED_SITE) {
  static_assert(kRank == 2 || kRank == 3);
#if defined(__CUDACC__)
  if constexpr (kRank == 2) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
            shared_address(shared)),
        "l"(map), "r"(shared_address(barrier)), "r"(at[0]), "r"(at[1])
        : "memory");
  } else {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(
            shared_address(shared)),
        "l"(map), "r"(shared_address(barrier)), "r"(at[0]), "r"(at[1]), "r"(at[2])
        : "memory");
  }
#else
  emu::tma_load(shared, *map, barrier, at, kRank, EMU_SITE("cp.async.bulk.tensor"));
#endif
}

/// Shows what this thread has stored in shared memory to the copy engine and the tensor cores; then others must be told.
__device__ __forceinline__ void fence_proxy_async() {
#if defined(__CUDACC__)
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

/// True in one lane of the full warp.
__device__ __forceinline__ bool elect_one(PAGODA_EMULATED_ONLY_SITE) {
#if defined(__CUDACC__)
  uint32_t elected;
  asm volatile("{.reg .pred p; elect.sync _|p, 0xffffffff; selp.u32 %0, 1, 0, p;}" : "=r"(elected));
  return elected;
#else
  return emu::elect_one(EMU_SITE("elect.sync"));
#endif
}

/// Gives registers back, so that each thread of the warpgroup has kCount; called by all its warps.
template <int kCount>
__device__ __forceinline__ void release_registers(PAGODA_EMULATED_ONLY_SITE) {
  static_assert(kCount >= 24 && kCount <= 256 && kCount % 8 == 0);
#if defined(__CUDACC__)
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
#else
  emu::set_registers(kCount, EMU_SITE("setmaxnreg.dec"));
#endif
}

/// Waits until others have given back what this warpgroup lacks of kCount registers per thread.
template <int kCount>
__device__ __forceinline__ void acquire_registers(PAGODA_EMULATED_ONLY_SITE) {
  static_assert(kCount >= 24 && kCount <= 256 && kCount % 8 == 0);
#if defined(__CUDACC__)
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
#else
  emu::set_registers(kCount, EMU_SITE("setmaxnreg.inc"));
#endif
}

/// Describes a matrix of bf16 in rows of 64 columns as tma_load leaves them, from its first element: the start of 1024 aligned
/// bytes, or a multiple of 8 columns behind it in the same row. Columns from 64 on lie in panels `panel_bytes` apart.
__device__ __forceinline__ uint64_t matrix_descriptor(const void* shared, unsigned panel_bytes PAGODA_EMULATED_SITE) {
#if defined(__CUDACC__)
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62, kEightRows = 1024 >> 4;
  return kSwizzle128 | kEightRows << 32 | uint64_t{panel_bytes >> 4} << 16 | (shared_address(shared) & 0x3ffffu) >> 4;
#else
  return emu::matrix_descriptor(shared, panel_bytes, EMU_SITE("a matrix descriptor"));
#endif
}

/// The descriptor of the matrix that starts `bytes` behind.
__device__ __forceinline__ uint64_t advance_descriptor(uint64_t descriptor, unsigned bytes) {
  return descriptor + (bytes >> 4);
}

/// Orders this warpgroup's uses of the registers that products read and write before its next products. Needed before the first
/// product after a wait, or after a write to such registers.
__device__ __forceinline__ void wgmma_fence() {
#if defined(__CUDACC__)
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#else
  emu::wgmma_fence();
#endif
}

/// The compiler knows nothing of products that are on their way. Called before a wgmma_fence it keeps what was computed into
/// these registers before it, called after a wgmma_wait what is computed from them behind it.
template <class T, int kCount>
__device__ __forceinline__ void wgmma_hold([[maybe_unused]] T (&registers)[kCount]) {
#if defined(__CUDACC__)
#pragma unroll
  for (int i = 0; i < kCount; ++i) registers[i] = opaque(registers[i]);
#endif
}

/// Closes the group of the products started so far.
__device__ __forceinline__ void wgmma_commit() {
#if defined(__CUDACC__)
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#else
  emu::wgmma_commit();
#endif
}

/// Waits until at most the `kNewest` newest groups of this warp are on their way. Before that nothing may read or write the
/// registers of the others' products, nor may the matrices they read be overwritten.
template <int kNewest>
__device__ __forceinline__ void wgmma_wait(PAGODA_EMULATED_ONLY_SITE) {
#if defined(__CUDACC__)
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kNewest) : "memory");
#else
  emu::wgmma_wait(kNewest, EMU_SITE("wgmma.wait_group"));
#endif
}

/// Which dimension of a product's b [k, n] is contiguous in memory: with `k` row j of the matrix holds b[.., j] (column j's k),
/// with `n` row i holds b[i, ..].
enum class Major { k, n };

#if defined(__CUDACC__)

#define PAGODA_SUMS_4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define PAGODA_SUMS_8(d, i) PAGODA_SUMS_4(d, i), PAGODA_SUMS_4(d, i + 4)
#define PAGODA_SUMS_32(d, i) PAGODA_SUMS_8(d, i), PAGODA_SUMS_8(d, i + 8), PAGODA_SUMS_8(d, i + 16), PAGODA_SUMS_8(d, i + 24)
#define PAGODA_SUMS_64(d, i) PAGODA_SUMS_32(d, i), PAGODA_SUMS_32(d, i + 32)
#define PAGODA_SUMS_128(d, i) PAGODA_SUMS_64(d, i), PAGODA_SUMS_64(d, i + 64)
#define PAGODA_REGISTERS_4 "%0,%1,%2,%3"
#define PAGODA_REGISTERS_8 PAGODA_REGISTERS_4 ",%4,%5,%6,%7"
#define PAGODA_REGISTERS_32 \
  PAGODA_REGISTERS_8 ",%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define PAGODA_REGISTERS_64                                                                          \
  PAGODA_REGISTERS_32                                                                                \
  ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55" \
  ",%56,%57,%58,%59,%60,%61,%62,%63"
#define PAGODA_REGISTERS_128                                                                         \
  PAGODA_REGISTERS_64                                                                                \
  ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87" \
  ",%88,%89,%90,%91,%92,%93,%94,%95,%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108"    \
  ",%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"

/// Products of n columns into `count` = n / 2 registers; p0 to p6 are the numbers of the operands behind those.
#define PAGODA_WGMMA(n, count, p0, p1, p2, p3, p4, p5, p6)                                                                    \
  template <int kByRows>                                                                                                      \
  __device__ __forceinline__ void wgmma_instruction(float (&d)[count], uint64_t a, uint64_t b, int accumulates) {             \
    asm volatile("{.reg .pred p; setp.ne.b32 p, " p2 ", 0; wgmma.mma_async.sync.aligned.m64n" #n                              \
                 "k16.f32.bf16.bf16 {" PAGODA_REGISTERS_##count "}, " p0 ", " p1 ", p, 1, 1, 0, " p3 ";}"                     \
                 : PAGODA_SUMS_##count(d, 0)                                                                                  \
                 : "l"(a), "l"(b), "r"(accumulates), "n"(kByRows));                                                           \
  }                                                                                                                           \
  template <int kByRows>                                                                                                      \
  __device__ __forceinline__ void wgmma_instruction(float (&d)[count], const uint32_t (&a)[4], uint64_t b, int accumulates) { \
    asm volatile("{.reg .pred p; setp.ne.b32 p, " p5 ", 0; wgmma.mma_async.sync.aligned.m64n" #n                              \
                 "k16.f32.bf16.bf16 {" PAGODA_REGISTERS_##count "}, {" p0 "," p1 "," p2 "," p3 "}, " p4 ", p, 1, 1, " p6 ";}" \
                 : PAGODA_SUMS_##count(d, 0)                                                                                  \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulates), "n"(kByRows));                       \
  }

PAGODA_WGMMA(8, 4, "%4", "%5", "%6", "%7", "%8", "%9", "%10")
PAGODA_WGMMA(16, 8, "%8", "%9", "%10", "%11", "%12", "%13", "%14")
PAGODA_WGMMA(64, 32, "%32", "%33", "%34", "%35", "%36", "%37", "%38")
PAGODA_WGMMA(128, 64, "%64", "%65", "%66", "%67", "%68", "%69", "%70")
PAGODA_WGMMA(256, 128, "%128", "%129", "%130", "%131", "%132", "%133", "%134")

#endif

/// Starts d[64, n] = a[64, 16] * b[16, n] (+ d if it accumulates), n = 2 * kCount one of 8, 16, 64, 128, 256; a and b by their
/// descriptors, a's columns contiguous. Register i of thread t of the warpgroup is row 16 * (t / 32) + t % 32 / 4 + i / 2 % 2 *
/// 8 and column i / 4 * 8 + t % 4 * 2 + i % 2.
template <Major kMajor, int kCount>
__device__ __forceinline__ void wgmma_bf16(float (&d)[kCount], uint64_t a, uint64_t b, bool accumulates PAGODA_EMULATED_SITE) {
#if defined(__CUDACC__)
  wgmma_instruction<kMajor == Major::n>(d, a, b, accumulates);
#else
  emu::wgmma({d, 2 * kCount, nullptr, a, b, kMajor == Major::n, accumulates, EMU_SITE("wgmma")});
#endif
}

/// The same with a in registers: each warp's 16 rows as in mma_bf16.
template <Major kMajor, int kCount>
__device__ __forceinline__ void wgmma_bf16(float (&d)[kCount], const uint32_t (&a)[4], uint64_t b,
                                           bool accumulates PAGODA_EMULATED_SITE) {
#if defined(__CUDACC__)
  wgmma_instruction<kMajor == Major::n>(d, a, b, accumulates);
#else
  emu::wgmma({d, 2 * kCount, a, 0, b, kMajor == Major::n, accumulates, EMU_SITE("wgmma")});
#endif
}

}  // namespace pagoda::gpu
