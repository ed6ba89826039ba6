// One token of rope_store_kv: per-head norm, rotary embedding in place, and the stores into the KV block, written once over S.
// Bound by memory; keys are stored with a stride (see kv_store_layout.h), values as they lie.
#pragma once

#include "backend/cpu/kernels.h"
#include "backend/cpu/norm_kernel.h"
#include "backend/cpu/simd.h"

namespace pagoda::cpu {

/// Rotates the pairs (i, i + half) of a head by the angles of one position: cos_sin is half cosines, then half sines.
template <class S>
[[gnu::always_inline]] inline void rotate_head(float* head, const float* cos_sin, int half) {
  using V = typename S::Vec;
  for_vectors(half, [&](int64_t i, int lanes) __attribute__((always_inline)) {
    const V a = load_some<S>(head + i, lanes), b = load_some<S>(head + half + i, lanes);
    const V cosine = load_some<S>(cos_sin + i, lanes), sine = load_some<S>(cos_sin + half + i, lanes);
    store_some<S>(head + i, S::sub(S::mul(a, cosine), S::mul(b, sine)), lanes);
    store_some<S>(head + half + i, S::fma(a, sine, S::mul(b, cosine)), lanes);
  });
}

/// Stores one head of one token: the key with stride `group` at key, the value contiguously at value.
template <class S, class T>
[[gnu::always_inline]] inline void store_head(T* key, T* value, const float* k, const float* v, int head_dim, int group) {
  for_vectors(head_dim, [&](int64_t d, int lanes) __attribute__((always_inline)) {
    T element[16];
    S::store(element, load_some<S>(k + d, lanes));
    for (int i = 0; i < lanes; ++i) key[(d + i) * group] = element[i];
    store_some<S>(value + d, load_some<S>(v + d, lanes), lanes);
  });
}

template <class S, class T>
[[gnu::always_inline]] inline void store_token(const RopeStoreJob& job, const float* k, int32_t slot) {
  const int head_dim = job.args.head_dim;
  const float* v = k + static_cast<int64_t>(job.args.kv_heads) * head_dim;
  T* cache = reinterpret_cast<T*>(job.kv.data);
  const int64_t block = slot >> job.kv.block_shift;
  const int offset = slot & (job.kv.block_size - 1);
  for (int h = 0; h < job.args.kv_heads; ++h) {
    store_head<S>(cache + job.kv.key_offset(block, h, offset), cache + job.kv.value_offset(block, h, offset),
                  k + static_cast<int64_t>(h) * head_dim, v + static_cast<int64_t>(h) * head_dim, head_dim, job.kv.group);
  }
}

template <class S>
void rope_store_token(const RopeStoreJob& job, int64_t t) {
  const RopeStoreArgs& args = job.args;
  float* row = job.qkv + t * job.qkv_stride;
  const float* cos_sin = args.rotary_dim ? args.cos_sin + static_cast<int64_t>(job.positions[t]) * args.rotary_dim : nullptr;
  for (int h = 0; h < args.num_heads + args.kv_heads; ++h) {
    float* head = row + static_cast<int64_t>(h) * args.head_dim;
    const bool is_q = h < args.num_heads;
    if (const float* weights = is_q ? args.q_norm : args.k_norm) {
      const int64_t index = is_q ? h : h - args.num_heads;
      norm_row<S>(head, head, {args.norm_kind, weights + index * args.norm_stride, nullptr, args.norm_eps}, args.head_dim);
    }
    if (args.rotary_dim) rotate_head<S>(head, cos_sin, args.rotary_dim / 2);
  }
  if (job.slots[t] < 0) return;
  const float* k = row + static_cast<int64_t>(args.num_heads) * args.head_dim;
  if (job.kv.bf16) return store_token<S, uint16_t>(job, k, job.slots[t]);
  store_token<S, float>(job, k, job.slots[t]);
}

}  // namespace pagoda::cpu
