// The instructions of sm_80 and newer that CUDA C++ has no name for. With gpu90.h the only file with PTX: each function has a
// device body and, for g++, an emulated one (tests/cuda/emulation) with the same meaning. Used by the kernels only.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#if defined(__CUDACC__)
/// The block's dynamic shared memory, the only kind that the kernels use. 1024-byte aligned.
#define DYNAMIC_SHARED(name) extern __shared__ __align__(1024) unsigned char name[]
#define PAGODA_EMULATED_SITE
#else
#include <emulated_gpu.h>
#define DYNAMIC_SHARED(name) unsigned char* name = ::emu::current_block().shared
#define PAGODA_EMULATED_SITE , EMU_SITE_PARAMETERS
#endif

namespace pagoda::gpu {

#if defined(__CUDACC__)

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

#endif

/// Starts copying 16 bytes to shared memory, past L1; zeros instead if not `valid` (then `global` is not read). Both 16-byte
/// aligned. Visible to this thread after a wait for its group, to others after a barrier too.
__device__ __forceinline__ void cp_async16(void* shared, const void* global, bool valid PAGODA_EMULATED_SITE) {
#if defined(__CUDACC__)
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(valid ? 16 : 0)
               : "memory");
#else
  emu::cp_async(shared, global, valid ? 16 : 0, valid ? 0 : 16, EMU_SITE("cp.async"));
#endif
}

/// The same for 4 bytes, both 4-byte aligned, always valid.
__device__ __forceinline__ void cp_async4(void* shared, const void* global PAGODA_EMULATED_SITE) {
#if defined(__CUDACC__)
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(shared_address(shared)), "l"(global) : "memory");
#else
  emu::cp_async(shared, global, 4, 0, EMU_SITE("cp.async"));
#endif
}

/// Closes the group of the copies started so far.
__device__ __forceinline__ void cp_async_commit() {
#if defined(__CUDACC__)
  asm volatile("cp.async.commit_group;" ::: "memory");
#else
  emu::cp_async_commit();
#endif
}

/// Waits until at most the `kNewest` newest groups of this thread are on their way.
template <int kNewest>
__device__ __forceinline__ void cp_async_wait() {
#if defined(__CUDACC__)
  asm volatile("cp.async.wait_group %0;" ::"n"(kNewest) : "memory");
#else
  emu::cp_async_wait(kNewest);
#endif
}

/// Four 8x8 matrices of 16-bit elements. Lane l gives the address of row l % 8 of matrix l / 8 (16-byte aligned, 8 elements);
/// it receives of matrix i, in r[i], elements 2 * (l % 4) and the next of row l / 4.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* row PAGODA_EMULATED_SITE) {
#if defined(__CUDACC__)
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
#else
  emu::ldmatrix(r, row, false, EMU_SITE("ldmatrix"));
#endif
}

/// The same, each matrix transposed: r[i] holds rows 2 * (l % 4) and the next of column l / 4.
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row PAGODA_EMULATED_SITE) {
#if defined(__CUDACC__)
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
#else
  emu::ldmatrix(r, row, true, EMU_SITE("ldmatrix.trans"));
#endif
}

/// An 8x8 matrix of 16-bit elements, of which a lane holds 2 * (l % 4) and the next of row l / 4, transposed.
__device__ __forceinline__ uint32_t transpose_8x8(uint32_t elements PAGODA_EMULATED_SITE) {
#if defined(__CUDACC__)
  uint32_t transposed;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(transposed) : "r"(elements));
  return transposed;
#else
  return emu::transpose_8x8(elements, EMU_SITE("movmatrix"));
#endif
}

/// d[16x8] += a[16x16] * b[16x8], f32 sums. With g = lane / 4, q = 2 * (lane % 4), each register two elements, lower first:
/// a: rows {g, g+8, g, g+8}, columns {q, q, q+8, q+8} and the next; b: rows {q, q+8} and the next, column g;
/// d: rows {g, g, g+8, g+8}, columns {q, q+1, q, q+1}.
__device__ __forceinline__ void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1 PAGODA_EMULATED_SITE) {
#if defined(__CUDACC__)
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  emu::mma(d, a, b0, b1, emu::bf16_value, EMU_SITE("mma.bf16"));
#endif
}

/// The same with f16 elements.
__device__ __forceinline__ void mma_f16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1 PAGODA_EMULATED_SITE) {
#if defined(__CUDACC__)
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
  emu::mma(d, a, b0, b1, emu::f16_value, EMU_SITE("mma.f16"));
#endif
}

/// 2^x with about 22 good bits; 2^-infinity = 0. The same bits for the same x on one device.
__device__ __forceinline__ float exp2_approx(float x) {
#if defined(__CUDACC__)
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return std::exp2(x);
#endif
}

/// Two floats to bf16, round to nearest even; `low` in the lower half.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
#if defined(__CUDACC__)
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
#else
  return emu::bf16_bits(low) | static_cast<uint32_t>(emu::bf16_bits(high)) << 16;
#endif
}

/// Two floats to f16, round to nearest even; `low` in the lower half.
__device__ __forceinline__ uint32_t pack_f16(float low, float high) {
#if defined(__CUDACC__)
  uint32_t packed;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
#else
  return emu::f16_bits(low) | static_cast<uint32_t>(emu::f16_bits(high)) << 16;
#endif
}

/// f16 bits to float, exact.
__device__ __forceinline__ float f16_to_float(uint16_t bits) {
#if defined(__CUDACC__)
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
#else
  return emu::f16_value(bits);
#endif
}

/// Two e4m3, the first in the lower byte, to two f16, exact; a NaN becomes a NaN.
__device__ __forceinline__ uint32_t unpack_e4m3(uint16_t pair) {
#if defined(__CUDACC__)
  uint32_t values;
#if __CUDA_ARCH__ >= 890
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(values) : "h"(pair));
#else
  // The same mantissas with the exponents' bias 7 taken for 15: 2^8 too small, which a product mends, subnormals included.
  const uint32_t bytes = __byte_perm(pair, 0, 0x1404), magnitudes = (bytes & 0x7f007f00u) >> 1;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(values) : "r"(magnitudes), "r"(0x5c005c00u));
  values |= (bytes & 0x80008000u) | (__vcmpeq2(magnitudes, 0x3f803f80u) & 0x7fff7fffu);
#endif
  return values;
#else
  uint32_t values = 0;
  for (int i = 0; i < 2; ++i) {
    const uint32_t byte = pair >> 8 * i & 0xffu, sign = (byte & 0x80u) << 8;
    const uint32_t magnitude = emu::f16_bits(256 * emu::f16_value(static_cast<uint16_t>((byte & 0x7fu) << 7)));
    values |= (sign | ((byte & 0x7fu) == 0x7fu ? 0x7fffu : magnitude)) << 16 * i;
  }
  return values;
#endif
}

/// Two e4m3, each the upper byte of a half, to two bf16, exact; what would be NaN becomes 480 of its sign.
__device__ __forceinline__ uint32_t e4m3_to_bf16(uint32_t bytes) {
#if defined(__CUDACC__)
  // The same mantissas with the exponents' bias 7 taken for 127: 2^120 too small, which a product mends, subnormals included.
  uint32_t values = (bytes & 0x80008000u) | (bytes >> 4 & 0x07f007f0u);
  asm("fma.rn.bf16x2 %0, %0, %1, %2;" : "+r"(values) : "r"(0x7b807b80u), "r"(0x80008000u));
  return values;
#else
  uint32_t values = 0;
  for (int i = 0; i < 2; ++i) {
    const uint32_t byte = bytes >> (16 * i + 8) & 0xffu, code = byte & 0x7fu;
    const float magnitude = code < 8 ? std::ldexp(static_cast<float>(code), -9)
                                     : std::ldexp(static_cast<float>(8 + code % 8), static_cast<int>(code / 8) - 10);
    values |= (emu::bf16_bits(magnitude) | (byte & 0x80u) << 8) << 16 * i;
  }
  return values;
#endif
}

/// The same value, about which the compiler knows nothing: what depends on it is computed where it is used, not kept in
/// registers over a loop.
__device__ __forceinline__ uint32_t opaque(uint32_t value) {
#if defined(__CUDACC__)
  asm volatile("" : "+r"(value));
#endif
  return value;
}
__device__ __forceinline__ float opaque(float value) {
#if defined(__CUDACC__)
  asm volatile("" : "+f"(value));
#endif
  return value;
}

/// The same for a pointer to global memory.
template <class T>
__device__ __forceinline__ const T* opaque(const T* global) {
#if defined(__CUDACC__)
  asm volatile("" : "+l"(global));
#endif
  return global;
}
/// The same for a pointer to shared memory: the compiler keeps it in one register instead of making it anew for every access.
__device__ __forceinline__ unsigned char* opaque_shared(unsigned char* shared) {
#if defined(__CUDACC__)
  uint32_t address = shared_address(shared);
  asm volatile("" : "+r"(address));
  return static_cast<unsigned char*>(__cvta_shared_to_generic(address));
#else
  return shared;
#endif
}

/// 16 bytes that are read once: past L1, and first to leave L2.
__device__ __forceinline__ uint4 load_once(const void* global) {
#if defined(__CUDACC__)
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(global));
  return v;
#else
  return *static_cast<const uint4*>(global);
#endif
}

/// Asks for the 128 bytes around `global` to be brought to L2.
__device__ __forceinline__ void prefetch_l2([[maybe_unused]] const void* global) {
#if defined(__CUDACC__)
  asm volatile("prefetch.global.L2 [%0];" ::"l"(global));
#endif
}

/// Waits until the kernels before this one in the stream have ended and their writes are seen. Every kernel calls it in every
/// thread before it reads or writes what another kernel touches (the launch lets it start early); no-op before sm_90.
__device__ __forceinline__ void wait_for_grid() {
#if defined(__CUDACC__)
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
#else
  emu::wait_for_grid();
#endif
}

/// Lets the next kernel of the stream start up to its wait_for_grid; no-op before sm_90.
__device__ __forceinline__ void launch_dependents() {
#if defined(__CUDACC__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/// `threads` (whole warps) of the block meet at barrier `id` in [1, 15].
__device__ __forceinline__ void named_barrier_sync(unsigned id, unsigned threads PAGODA_EMULATED_SITE) {
#if defined(__CUDACC__)
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
#else
  emu::meet_at_barrier(id, threads, true, EMU_SITE("bar.sync"));
#endif
}

/// Counts this warp as arrived at barrier `id`, where others wait with named_barrier_sync, and goes on.
__device__ __forceinline__ void named_barrier_arrive(unsigned id, unsigned threads PAGODA_EMULATED_SITE) {
#if defined(__CUDACC__)
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
#else
  emu::meet_at_barrier(id, threads, false, EMU_SITE("bar.arrive"));
#endif
}

}  // namespace pagoda::gpu
