// Where a key or value element lies inside a KV block on the CPU. Only the kernels know this; see KvLayout for what everyone
// knows.
//
// A block holds all keys, then all values:
//   keys   [kv_head][block_size / g][head_dim][g], g = min(16, block_size): 16 lanes of a register are the same dimension of 16
//   tokens,
//                                                  so that a score needs no horizontal sum
//   values [kv_head][block_size][head_dim]
// With i8 these are codes in [-127, 127], and behind them lie the f32 numbers that they are multiplied with:
//   key scales, then value scales [kv_head][block_size]
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/backend.h"

namespace pagoda::cpu {

/// One layer's KV cache with the numbers of its layout worked out.
struct KvPlace {
  char* data = nullptr;
  DType dtype = DType::bf16;  ///< f32, bf16 or i8
  int block_size = 0;
  int block_shift = 0;  ///< log2(block_size)
  int group = 0;        ///< g
  int head_dim = 0;
  int64_t block_elements = 0;     ///< from block to block; with i8 the scales count as bytes
  int64_t value_begin = 0;        ///< element offset of the values in a block
  int64_t head_scale_bytes = 0;   ///< of one head's scales of keys, or of values
  int64_t value_scale_begin = 0;  ///< bytes from a key's scale to its value's

  /// Element offset of dimension 0 of a key; dimension d lies d * group further.
  [[gnu::always_inline]] int64_t key_offset(int64_t block, int head, int offset) const {
    return block * block_elements + (static_cast<int64_t>(head) * block_size + offset / group * group) * head_dim +
           offset % group;
  }
  /// Element offset of dimension 0 of a value.
  [[gnu::always_inline]] int64_t value_offset(int64_t block, int head, int offset) const {
    return block * block_elements + value_begin + (static_cast<int64_t>(head) * block_size + offset) * head_dim;
  }
  /// Where the scale of a key lies with i8, an f32 number at any address; the value's lies value_scale_begin bytes further.
  [[gnu::always_inline]] char* key_scale(int64_t block, int head, int offset) const {
    return data + block * block_elements + 2 * value_begin + head * head_scale_bytes + offset * int64_t{sizeof(float)};
  }
};

inline KvPlace make_kv_place(const KvLayer& kv) {
  const KvLayout& layout = kv.layout;
  KvPlace place;
  place.data = static_cast<char*>(kv.data);
  place.dtype = layout.dtype;
  place.block_size = layout.block_size;
  while ((1 << place.block_shift) < layout.block_size) ++place.block_shift;
  place.group = layout.block_size < 16 ? layout.block_size : 16;
  place.head_dim = layout.head_dim;
  place.value_begin = int64_t{layout.kv_heads} * layout.block_size * layout.head_dim;
  place.block_elements = static_cast<int64_t>(layout.block_bytes() / dtype_bytes(layout.dtype));
  place.head_scale_bytes = int64_t{layout.block_size} * int64_t{sizeof(float)};
  place.value_scale_begin = layout.kv_heads * place.head_scale_bytes;
  return place;
}

}  // namespace pagoda::cpu
