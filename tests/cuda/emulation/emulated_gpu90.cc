// Barriers and copies as in PTX ISA "mbarrier", "cp.async.bulk.tensor" and CUDA's "tensor map"; matrices as in "Asynchronous
// warpgroup-level matrix instructions". A product's sums run over k in ascending order from the old value, as in
// emulated_gpu.cc; hardware may order and round them otherwise.
#include "emulated_gpu90.h"

#include <cuda_runtime.h>

#include <cstring>
#include <limits>

#include "emulated_gpu.h"

namespace emu {
namespace {

/// The 8 bytes of an mbarrier.
struct Mbarrier {
  uint16_t arrivals, pending;  ///< of a phase; still missing in this one
  unsigned phase : 8;
  int bytes : 24;  ///< still missing in this phase

  const unsigned* word() const { return reinterpret_cast<const unsigned*>(this) + 1; }
  void end_phase_if_complete() {
    if (pending || bytes) return;
    pending = arrivals;
    ++phase;
  }
};
static_assert(sizeof(Mbarrier) == sizeof(uint64_t));

constexpr uint16_t kPoisonedArrivals = 0xffff;
constexpr unsigned kMaxBytes = (1u << 20) - 1;
constexpr int kMaxRank = 5;

uint64_t shared_offset(const void* pointer) {
  return static_cast<uint64_t>(static_cast<const unsigned char*>(pointer) - current_block().shared);
}

/// The shared memory holds `bytes` from `pointer`.
bool is_shared(const void* pointer, size_t bytes) {
  const Block& block = current_block();
  const auto* begin = static_cast<const unsigned char*>(pointer);
  return begin >= block.shared && begin + bytes <= block.shared + block.shared_bytes;
}

Mbarrier& mbarrier_at(uint64_t* barrier, const Site& site, bool is_new = false) {
  if (!is_shared(barrier, sizeof(uint64_t))) fail("an mbarrier outside the shared memory that was asked for", site);
  if (reinterpret_cast<uintptr_t>(barrier) % 8) fail("an mbarrier at a misaligned address", site);
  auto& state = *reinterpret_cast<Mbarrier*>(barrier);
  if (!is_new && state.arrivals == kPoisonedArrivals) fail("an mbarrier that was not initialised", site);
  return state;
}

void arrive(Mbarrier& state, const Site& site) {
  if (state.pending == 0) fail("more arrivals than the mbarrier was made for", site);
  --state.pending;
  state.end_phase_if_complete();
}

/// What cuTensorMapEncodeTiled writes into a map.
struct EncodedMap {
  static constexpr uint32_t kMark = 0x7e5a0b0c;
  uint32_t mark, rank;
  const char* base;
  uint64_t sizes[kMaxRank], strides[kMaxRank];  ///< elements, bytes
  uint16_t box[kMaxRank];
  bool swizzled;
};
static_assert(sizeof(EncodedMap) <= sizeof(CUtensorMap));

/// Where a byte of a swizzled matrix lies.
uint64_t swizzle(uint64_t offset) { return offset ^ (offset >> 7 & 7) << 4; }

struct BulkCopy {
  EncodedMap map;
  int at[kMaxRank];
  unsigned char* shared;  ///< the block's
  uint64_t to;            ///< offset in it
  Mbarrier* barrier;
  unsigned phase;  ///< of the barrier when the copy was asked for
  unsigned bytes;
  Site site;

  void carry_out() const {
    const unsigned columns = map.box[0], rows = bytes / (2 * columns);
    for (unsigned row = 0; row < rows; ++row) {
      const char* from = row_address(row);
      for (unsigned column = 0; column < columns; ++column) {
        const int64_t x = int64_t{at[0]} + column;
        const bool inside = from && x >= 0 && static_cast<uint64_t>(x) < map.sizes[0];
        const uint64_t offset = to + uint64_t{2} * (uint64_t{row} * columns + column);
        unsigned char* element = shared + (map.swizzled ? swizzle(offset) : offset);
        if (inside) {
          std::memcpy(element, from + 2 * x, 2);
        } else {
          std::memset(element, 0, 2);
        }
      }
    }
    complete();
  }

 private:
  /// Null if the row is not in the array.
  const char* row_address(unsigned row) const {
    const char* address = map.base;
    for (unsigned i = 1; i < map.rank; ++i) {
      const int64_t index = int64_t{at[i]} + row % map.box[i];
      row /= map.box[i];
      if (index < 0 || static_cast<uint64_t>(index) >= map.sizes[i]) return nullptr;
      address += static_cast<uint64_t>(index) * map.strides[i];
    }
    return address;
  }

  void complete() const {
    if (barrier->phase != phase || (barrier->pending == 0 && barrier->bytes < static_cast<int>(bytes))) {
      throw Fault(std::string("more bytes arrive than the mbarrier was told to expect: ") + site.operation + " at " +
                  site.file + ":" + std::to_string(site.line));
    }
    barrier->bytes -= static_cast<int>(bytes);
    barrier->end_phase_if_complete();
  }
};

}  // namespace

void mbarrier_init(uint64_t* barrier, unsigned arrivals, const Site& site) {
  if (arrivals == 0 || arrivals >= kPoisonedArrivals) fail("an mbarrier takes 1 to 65534 arrivals here", site);
  Mbarrier& state = mbarrier_at(barrier, site, true);
  state.arrivals = state.pending = static_cast<uint16_t>(arrivals);
  state.phase = 0;
  state.bytes = 0;
  current_fiber().unfenced_barrier = true;
  current_fiber().site = site;
}

void mbarrier_fence_init() { current_fiber().unfenced_barrier = false; }

void mbarrier_arrive(uint64_t* barrier, const Site& site) {
  arrive(mbarrier_at(barrier, site), site);
  preempt();
}

void mbarrier_expect(uint64_t* barrier, unsigned bytes, const Site& site) {
  Mbarrier& state = mbarrier_at(barrier, site);
  if (bytes > kMaxBytes || state.bytes + static_cast<int>(bytes) > static_cast<int>(kMaxBytes)) {
    fail("an mbarrier counts less than 2^20 bytes", site);
  }
  if (state.pending) state.bytes += static_cast<int>(bytes);
  arrive(state, site);
  preempt();
}

void mbarrier_wait(uint64_t* barrier, unsigned parity, const Site& site) {
  const Mbarrier& state = mbarrier_at(barrier, site);
  if (parity > 1) fail("a parity is 0 or 1", site);
  while ((state.phase & 1u) == parity) wait_while(state.word(), *state.word(), site);
}

void tma_load(void* shared, const CUtensorMap& map, uint64_t* barrier, const int* at, int rank, const Site& site) {
  Mbarrier& state = mbarrier_at(barrier, site);
  BulkCopy copy{};
  std::memcpy(&copy.map, &map, sizeof(copy.map));
  if (copy.map.mark != EncodedMap::kMark) fail("a tensor map that was not encoded", site);
  if (copy.map.rank != static_cast<unsigned>(rank)) fail("a tensor map of another rank", site);
  copy.bytes = 2;
  for (int i = 0; i < rank; ++i) {
    copy.at[i] = at[i];
    copy.bytes *= copy.map.box[i];
  }
  copy.to = shared_offset(shared);
  if (!is_shared(shared, copy.bytes)) fail("TMA writes outside the shared memory that was asked for", site);
  if (copy.to % (copy.map.swizzled ? 1024 : 128)) fail("TMA with a misaligned destination", site);
  copy.shared = current_block().shared;
  copy.barrier = &state;
  copy.phase = state.phase;
  copy.site = site;
  happen_later([copy] { copy.carry_out(); });
  preempt();
}

namespace {

constexpr uint64_t encode_offset(uint64_t bytes) { return (bytes & 0x3ffff) >> 4; }
constexpr uint64_t kAtomBytes = 1024;  ///< 8 rows of 128
constexpr uint64_t kSwizzled = uint64_t{1} << 62;

/// A descriptor in parts.
struct Matrix {
  explicit Matrix(uint64_t descriptor)
      : start((descriptor & 0x3fff) << 4), panel((descriptor >> 16 & 0x3fff) << 4), atom((descriptor >> 32 & 0x3fff) << 4) {}

  /// Column `column` of a row.
  uint64_t by_rows(uint64_t row, uint64_t column) const {
    return start + column / 64 * panel + row / 8 * atom + row % 8 * 128 + column % 64 * 2;
  }
  float element(uint64_t offset, const Site& site) const {
    offset = swizzle(offset);
    if (offset + 2 > current_block().shared_bytes) fail("a matrix outside the shared memory that was asked for", site);
    uint16_t bits;
    std::memcpy(&bits, current_block().shared + offset, 2);
    return bf16_value(bits);
  }

  uint64_t start, panel, atom;  ///< bytes: of the first element, between 64 columns and the next, between 8 rows and the next
};

/// A warp's product: 16 rows of a, all columns of b.
struct Factors {
  float a[16][16];   ///< [row][k]
  float b[16][256];  ///< [k][column]
};

void read_a(Factors& factors, Fiber* const* lanes, const PendingProduct* const* products) {
  const PendingProduct& first = *products[0];
  if (first.a_registers) {
    for (size_t lane = 0; lane < 32; ++lane) {
      for (size_t i = 0; i < 4; ++i) {
        const uint32_t bits = products[lane]->a_registers[i];
        float* at = &factors.a[lane / 4 + 8 * (i % 2)][2 * (lane % 4) + 8 * (i / 2)];
        at[0] = bf16_value(static_cast<uint16_t>(bits));
        at[1] = bf16_value(static_cast<uint16_t>(bits >> 16));
      }
    }
    return;
  }
  const uint64_t first_row = lanes[0]->index / 32 % 4 * 16;
  const Matrix matrix(first.a);
  for (uint64_t row = 0; row < 16; ++row) {
    for (uint64_t k = 0; k < 16; ++k) factors.a[row][k] = matrix.element(matrix.by_rows(first_row + row, k), first.site);
  }
}

void read_b(Factors& factors, const PendingProduct& product) {
  const Matrix matrix(product.b);
  for (uint64_t column = 0; column < static_cast<uint64_t>(product.columns); ++column) {
    for (uint64_t k = 0; k < 16; ++k) {
      const uint64_t offset = product.b_by_rows ? matrix.by_rows(k, column) : matrix.by_rows(column, k);
      factors.b[k][column] = matrix.element(offset, product.site);
    }
  }
}

PendingSums& find_sums(Fiber& fiber, const float* registers) {
  for (PendingSums& sums : fiber.sums) {
    if (sums.registers == registers) return sums;
  }
  fiber.sums.push_back({const_cast<float*>(registers), {}, 0});
  return fiber.sums.back();
}

void release_sums(Fiber& fiber, PendingSums& sums) {
  if (--sums.num_products) return;
  std::memcpy(sums.registers, sums.values.data(), sums.values.size() * sizeof(float));
  fiber.sums.erase(fiber.sums.begin() + (&sums - fiber.sums.data()));
}

/// One product of all lanes.
void multiply(Fiber* const* lanes, const PendingProduct* const* products) {
  const PendingProduct& first = *products[0];
  for (size_t lane = 1; lane < 32; ++lane) {
    const PendingProduct* product = products[lane];
    if (product->a != first.a || product->b != first.b || product->columns != first.columns ||
        product->accumulates != first.accumulates || product->b_by_rows != first.b_by_rows ||
        !product->a_registers != !first.a_registers) {
      fail("lanes of a warp ask for different products", product->site, first.site);
    }
  }
  Factors factors;
  read_a(factors, lanes, products);
  read_b(factors, first);
  PendingSums* sums[32];
  for (size_t lane = 0; lane < 32; ++lane) sums[lane] = &find_sums(*lanes[lane], products[lane]->sums);
  for (size_t row = 0; row < 16; ++row) {
    float line[256];
    const auto value = [&](size_t column) -> float& {
      return sums[row % 8 * 4 + column % 8 / 2]->values[column / 8 * 4 + row / 8 * 2 + column % 2];
    };
    const auto columns = static_cast<size_t>(first.columns);
    for (size_t column = 0; column < columns; ++column) line[column] = first.accumulates ? value(column) : 0.0f;
    for (size_t k = 0; k < 16; ++k) {
      for (size_t column = 0; column < columns; ++column) line[column] += factors.a[row][k] * factors.b[k][column];
    }
    for (size_t column = 0; column < columns; ++column) value(column) = line[column];
  }
  for (size_t lane = 0; lane < 32; ++lane) release_sums(*lanes[lane], *sums[lane]);
}

/// The oldest group of all lanes.
void carry_out_group(Fiber* const* lanes, const Site& site) {
  const size_t count = lanes[0]->product_groups.front().size();
  for (size_t lane = 0; lane < 32; ++lane) {
    if (lanes[lane]->product_groups.empty() || lanes[lane]->product_groups.front().size() != count) {
      fail("lanes of a warp wait for different products", site);
    }
  }
  for (size_t i = 0; i < count; ++i) {
    const PendingProduct* products[32];
    for (size_t lane = 0; lane < 32; ++lane) products[lane] = &lanes[lane]->product_groups.front()[i];
    multiply(lanes, products);
  }
  current_block().num_products[lanes[0]->index / 32] += count;
  for (size_t lane = 0; lane < 32; ++lane) lanes[lane]->product_groups.erase(lanes[lane]->product_groups.begin());
}

}  // namespace

uint64_t matrix_descriptor(const void* shared, unsigned panel_bytes, const Site& site) {
  const uint64_t offset = shared_offset(shared);
  if (!is_shared(shared, 16)) fail("a matrix outside the shared memory that was asked for", site);
  if (offset % 16 || offset % kAtomBytes >= 128)
    fail("a matrix that does not start in the first row of 1024 aligned bytes", site);
  return encode_offset(offset) | encode_offset(panel_bytes) << 16 | encode_offset(kAtomBytes) << 32 | kSwizzled;
}

static void check_descriptor(uint64_t descriptor, const Site& site) {
  if (descriptor >> 62 != 1) fail("a descriptor without the swizzle of 128 bytes", site);
  if (Matrix(descriptor).start % kAtomBytes >= 128) fail("a matrix that does not start in the first row of its atom", site);
}

void wgmma_fence() { current_fiber().fenced_products = true; }

void wgmma(const PendingProduct& product) {
  Fiber& fiber = current_fiber();
  if (!fiber.fenced_products) fail("a product without wgmma.fence since the last wait", product.site);
  if (!product.a_registers) check_descriptor(product.a, product.site);
  check_descriptor(product.b, product.site);
  PendingSums& sums = find_sums(fiber, product.sums);
  if (sums.num_products++ == 0) {
    sums.values.assign(product.sums, product.sums + product.columns / 2);
    std::fill_n(product.sums, product.columns / 2, std::numeric_limits<float>::quiet_NaN());
  } else if (sums.values.size() != static_cast<size_t>(product.columns / 2)) {
    fail("products of different shapes into the same registers", product.site);
  }
  fiber.open_products.push_back(product);
  fiber.site = product.site;
}

void wgmma_commit() {
  Fiber& fiber = current_fiber();
  fiber.product_groups.push_back(std::move(fiber.open_products));
  fiber.open_products.clear();
}

void wgmma_wait(int newest, const Site& site) {
  Fiber& fiber = current_fiber();
  Block& block = current_block();
  unsigned& turn = block.product_turns[fiber.index / 32];
  if (fiber.product_groups.size() > static_cast<size_t>(newest)) {
    const unsigned now = meet_in_warp<int, unsigned>(~0u, 0, site, [&](int*, unsigned* turns, unsigned) {
      std::fill_n(turns, 32, turn);
      happen_later([&turn] { ++turn; });
    });
    wait_while(&turn, now, site);
  }
  meet_in_warp<Fiber*, int>(~0u, &fiber, site, [&](Fiber** lanes, int*, unsigned mask) {
    if (mask != ~0u) fail("wgmma takes whole warps", site);
    while (lanes[0]->product_groups.size() > static_cast<size_t>(newest)) carry_out_group(lanes, site);
  });
  fiber.fenced_products = false;
}

void set_registers(unsigned count, const Site& site) {
  constexpr unsigned kRegisters = 65536;
  Block& block = current_block();
  meet_in_warp<int, int>(~0u, 0, site, [&](int*, int*, unsigned) {
    block.registers[current_fiber().index / 32] = count;
    unsigned sum = 0;
    for (unsigned of_thread : block.registers) sum += 32 * of_thread;
    if (sum > kRegisters) fail("setmaxnreg asks for more registers than a multiprocessor has", site);
  });
}

bool elect_one(const Site& site) {
  meet_in_warp<int, int>(~0u, 0, site, [](int*, int*, unsigned) {});
  return own_lane() == (schedule() < 2 ? 0 : (7 * schedule() + 3) % 32);
}

}  // namespace emu

CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* base,
                                const cuuint64_t* sizes, const cuuint64_t* strides, const cuuint32_t* box,
                                const cuuint32_t* element_strides, CUtensorMapInterleave, CUtensorMapSwizzle swizzle,
                                CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
  const bool swizzled = swizzle == CU_TENSOR_MAP_SWIZZLE_128B;
  if (type != CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 || rank < 2 || rank > emu::kMaxRank || reinterpret_cast<uintptr_t>(base) % 16 ||
      box[0] * 2 % 16 || (swizzled && box[0] * 2 > 128)) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  emu::EncodedMap encoded{emu::EncodedMap::kMark, rank, static_cast<const char*>(base), {}, {}, {}, swizzled};
  for (cuuint32_t i = 0; i < rank; ++i) {
    if (sizes[i] == 0 || sizes[i] > uint64_t{1} << 32 || box[i] == 0 || box[i] > 256 || element_strides[i] != 1) {
      return CUDA_ERROR_INVALID_VALUE;
    }
    if (i > 0 && (strides[i - 1] % 16 || strides[i - 1] >= uint64_t{1} << 40)) return CUDA_ERROR_INVALID_VALUE;
    encoded.sizes[i] = sizes[i];
    encoded.strides[i] = i > 0 ? strides[i - 1] : 2;
    encoded.box[i] = static_cast<uint16_t>(box[i]);
  }
  std::memcpy(map, &encoded, sizeof(encoded));
  return CUDA_SUCCESS;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult* found) {
  const bool known = std::strcmp(symbol, "cuTensorMapEncodeTiled") == 0;
  *function = known ? reinterpret_cast<void*>(&cuTensorMapEncodeTiled) : nullptr;
  if (found) *found = known ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}
