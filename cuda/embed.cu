// Rows of an embedding table. Parallel over vectors of eight elements of the output, four to a thread and all four under way
// before the first is used, so that few tokens keep memory busy too. Bound by memory: a row is read once (2 bytes an element,
// of q8 1.06, q4 0.63, f8 1 and f8_blocks 1.13) and written once as bf16. Called by CudaBackend.
#include "cuda/elementwise.cuh"
#include "cuda/kernels.h"

namespace pagoda::cuda {
namespace {

constexpr int kUnroll = 4;
using Grid = VectorGrid<kUnroll>;

/// Table rows; the vector in which a row ends is whole, see matrix.h.
struct Bf16Table {
  struct Loaded {
    Packed<Bf16> packed;
  };
  const Bf16* values;
  const void* scales;
  int64_t stride;

  __device__ __forceinline__ Loaded load(int64_t row, int col) const {
    return {load_vector<Bf16>(values + row * stride + col, kVector, true)};
  }
  __device__ __forceinline__ static Packed<Bf16> dequantise(const Loaded& loaded, int) { return loaded.packed; }
};

struct Q8Table {
  struct Loaded {
    uint2 values;
    F16 d;
  };
  const uint8_t* values;
  const F16* scales;  ///< [rows, stride / 32]
  int64_t stride;

  __device__ __forceinline__ Loaded load(int64_t row, int col) const {
    return {*reinterpret_cast<const uint2*>(values + row * stride + col), scales[(row * stride + col) / 32]};
  }
  __device__ __forceinline__ static Packed<Bf16> dequantise(const Loaded& loaded, int) {
    const float d = to_float(loaded.d);
    const uint32_t words[2] = {loaded.values.x, loaded.values.y};
    float out[kVector];
#pragma unroll
    for (int i = 0; i < kVector; ++i) out[i] = d * static_cast<float>(static_cast<int8_t>(words[i / 4] >> (i % 4 * 8)));
    Packed<Bf16> packed;
    pack(packed, out);
    return packed;
  }
};

struct Q4Table {
  struct Loaded {
    uint2 values;
    uint32_t d_m;
  };
  const uint8_t* values;
  const uint32_t* scales;  ///< [rows, stride / 32] pairs of f16: d in the low half, m in the high one
  int64_t stride;

  /// A vector is the low or the high halves of eight bytes.
  __device__ __forceinline__ Loaded load(int64_t row, int col) const {
    const int64_t block = (row * stride + col) / 32;
    return {*reinterpret_cast<const uint2*>(values + block * 16 + col % 16), scales[block]};
  }
  __device__ __forceinline__ static Packed<Bf16> dequantise(const Loaded& loaded, int col) {
    const float d = gpu::f16_to_float(static_cast<uint16_t>(loaded.d_m));
    const float m = gpu::f16_to_float(static_cast<uint16_t>(loaded.d_m >> 16));
    const int shift = col % 32 < 16 ? 0 : 4;
    const uint32_t words[2] = {loaded.values.x >> shift, loaded.values.y >> shift};
    float out[kVector];
#pragma unroll
    for (int i = 0; i < kVector; ++i) out[i] = fmaf(d, static_cast<float>(words[i / 4] >> (i % 4 * 8) & 0xfu), m);
    Packed<Bf16> packed;
    pack(packed, out);
    return packed;
  }
};

/// e4m3 with a scale for each row, or for each block of 32.
template <bool kBlocks>
struct E4m3Table {
  struct Loaded {
    uint2 values;
    float d;
  };
  const uint8_t* values;
  const float* scales;  ///< [rows] or [rows, stride / 32]
  int64_t stride;

  __device__ __forceinline__ Loaded load(int64_t row, int col) const {
    const int64_t at = row * stride + col;
    return {*reinterpret_cast<const uint2*>(values + at), scales[kBlocks ? at / 32 : row]};
  }
  __device__ __forceinline__ static Packed<Bf16> dequantise(const Loaded& loaded, int) {
    const uint32_t words[2] = {loaded.values.x, loaded.values.y};
    float out[kVector];
#pragma unroll
    for (int i = 0; i < kVector; ++i) out[i] = loaded.d * to_float(E4m3{static_cast<uint8_t>(words[i / 4] >> (i % 4 * 8))});
    Packed<Bf16> packed;
    pack(packed, out);
    return packed;
  }
};

template <class Table>
__global__ void __launch_bounds__(kVectorThreads) embed_kernel(Rows<Bf16> out, Table table, const int32_t* ids, Grid grid) {
  gpu::wait_for_grid();
  VectorPlace places[kUnroll];
  grid.places(places);
  int64_t rows[kUnroll];
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) rows[i] = places[i].count > 0 ? ids[places[i].row] : 0;
  typename Table::Loaded loaded[kUnroll];
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) loaded[i] = table.load(rows[i], places[i].col);
  gpu::launch_dependents();
#pragma unroll
  for (int i = 0; i < kUnroll; ++i) {
    const auto [row, col, count] = places[i];
    store_vector(out.at(row, col), Table::dequantise(loaded[i], col), count, grid.aligned);
  }
}

template <class Table>
void embed_from(const Queue& queue, const Tensor& out, const Matrix& table, const int32_t* ids) {
  const Grid grid(out.rows(), out.cols(), rows_are_aligned(out));
  const Table rows{static_cast<decltype(Table::values)>(table.values), static_cast<decltype(Table::scales)>(table.scales),
                   table.stride};
  launch(queue, grid.launch_shape(), "embed", embed_kernel<Table>, rows_of<Bf16>(out), rows, ids, grid);
}

}  // namespace

void embed(const Queue& queue, const Tensor& out, const Matrix& table, const int32_t* ids) {
  switch (table.format) {
    case MatrixFormat::bf16:
      return embed_from<Bf16Table>(queue, out, table, ids);
    case MatrixFormat::q8:
      return embed_from<Q8Table>(queue, out, table, ids);
    case MatrixFormat::q4:
      return embed_from<Q4Table>(queue, out, table, ids);
    case MatrixFormat::f8:
      return embed_from<E4m3Table<false>>(queue, out, table, ids);
    case MatrixFormat::f8_blocks:
      return embed_from<E4m3Table<true>>(queue, out, table, ids);
  }
}

}  // namespace pagoda::cuda
