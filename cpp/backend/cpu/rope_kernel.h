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

/// The scale of an i8 vector: its largest magnitude / 127, or NaN if it holds an infinity or a NaN.
template <class S>
[[gnu::always_inline]] inline float code_scale(const float* x, int head_dim) {
  using V = typename S::Vec;
  V largest = S::zero(), poison = S::zero();
  for_vectors(head_dim, [&](int64_t d, int lanes) __attribute__((always_inline)) {
    const V value = load_some<S>(x + d, lanes);
    largest = S::max(S::max(value, S::sub(S::zero(), value)), largest);
    poison = S::fma(value, S::zero(), poison);
  });
  return S::max_lane(largest) / 127.0f + S::sum(poison);
}

/// codes[head_dim] = x / scale, to be rounded; 0 where the scale is 0 or NaN.
template <class S>
[[gnu::always_inline]] inline void scale_to_codes(float* codes, const float* x, float scale, int head_dim) {
  using V = typename S::Vec;
  const V divisor = S::set(scale), end = S::set(127.0f), begin = S::set(-127.0f);
  const bool holds = scale > 0;
  for_vectors(head_dim, [&](int64_t d, int lanes) __attribute__((always_inline)) {
    const V code = holds ? S::div(load_some<S>(x + d, lanes), divisor) : S::zero();
    store_some<S>(codes + d, S::min(S::max(code, begin), end), lanes);  // a scale that underflows is too small
  });
}

/// As store_head, of an i8 cache, with the scales.
template <class S>
[[gnu::always_inline]] inline void store_codes(const KvPlace& kv, int64_t block, int head, int offset, const float* k,
                                               const float* v) {
  const float scales[2] = {code_scale<S>(k, kv.head_dim), code_scale<S>(v, kv.head_dim)};
  float codes[2][kAttentionMaxHeadDim];
  scale_to_codes<S>(codes[0], k, scales[0], kv.head_dim);
  scale_to_codes<S>(codes[1], v, scales[1], kv.head_dim);
  int8_t* cache = reinterpret_cast<int8_t*>(kv.data);
  store_head<S>(cache + kv.key_offset(block, head, offset), cache + kv.value_offset(block, head, offset), codes[0], codes[1],
                kv.head_dim, kv.group);
  char* to = kv.key_scale(block, head, offset);
  __builtin_memcpy(to, &scales[0], sizeof(float));
  __builtin_memcpy(to + kv.value_scale_begin, &scales[1], sizeof(float));
}

template <class S, class T>
[[gnu::always_inline]] inline void store_token(const RopeStoreJob& job, const float* k, int32_t slot) {
  const int head_dim = job.args.head_dim;
  const float* v = k + static_cast<int64_t>(job.args.kv_heads) * head_dim;
  T* cache = reinterpret_cast<T*>(job.kv.data);
  const int64_t block = slot >> job.kv.block_shift;
  const int offset = slot & (job.kv.block_size - 1);
  for (int h = 0; h < job.args.kv_heads; ++h) {
    const float *key = k + static_cast<int64_t>(h) * head_dim, *value = v + static_cast<int64_t>(h) * head_dim;
    if constexpr (sizeof(T) == sizeof(int8_t)) {
      store_codes<S>(job.kv, block, h, offset, key, value);
    } else {
      store_head<S>(cache + job.kv.key_offset(block, h, offset), cache + job.kv.value_offset(block, h, offset), key, value,
                    head_dim, job.kv.group);
    }
  }
}

/// Asks for the lines of the cache that token t's keys and values go to: a store to each would wait for it. A token whose
/// neighbour was stored just before finds them near.
template <class S>
[[gnu::always_inline]] inline void prefetch_slot(const RopeStoreJob& job, int64_t t) {
  const KvPlace& kv = job.kv;
  const int32_t slot = job.slots[t];
  const int64_t block = slot >> kv.block_shift;
  const int offset = slot & (kv.block_size - 1), group_begin = offset / kv.group * kv.group;
  if (slot < 0 || (t > 0 && job.slots[t - 1] == slot - 1 && offset != group_begin)) return;
  const int64_t element = kv.dtype == DType::f32 ? 4 : kv.dtype == DType::bf16 ? 2 : 1;
  for (int h = 0; h < job.args.kv_heads; ++h) {
    const char* keys = kv.data + kv.key_offset(block, h, group_begin) * element;
    const char* value = kv.data + kv.value_offset(block, h, offset) * element;
    for (int64_t i = 0; i < kv.head_dim * kv.group * element; i += 64) __builtin_prefetch(keys + i, 1);
    for (int64_t i = 0; i < kv.head_dim * element; i += 64) __builtin_prefetch(value + i, 1);
  }
}

template <class S>
void rope_store_token(const RopeStoreJob& job, int64_t t) {
  const RopeStoreArgs& args = job.args;
  prefetch_slot<S>(job, t);
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
  if (job.kv.dtype == DType::i8) return store_token<S, int8_t>(job, k, job.slots[t]);
  if (job.kv.dtype == DType::bf16) return store_token<S, uint16_t>(job, k, job.slots[t]);
  store_token<S, float>(job, k, job.slots[t]);
}

}  // namespace pagoda::cpu
