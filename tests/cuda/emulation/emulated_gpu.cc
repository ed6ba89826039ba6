// Fragments as PTX lays them out (PTX ISA, "Matrix fragments for mma.m16n8k16", "ldmatrix"). A product's sums run over k in
// ascending order from the old value; hardware may order and round them otherwise.
#include "emulated_gpu.h"

#include <cstring>

#include "core/dtype.h"

namespace emu {

float bf16_value(uint16_t bits) { return pagoda::bf16_to_float(bits); }
float f16_value(uint16_t bits) { return pagoda::f16_to_float(bits); }
uint16_t bf16_bits(float value) { return pagoda::float_to_bf16(value); }
uint16_t f16_bits(float value) { return pagoda::float_to_f16(value); }

/// The first time.
static void carry_out(PendingCopy& copy) {
  if (copy.bytes) std::memcpy(copy.to, copy.from, copy.bytes);
  if (copy.zeros) std::memset(static_cast<char*>(copy.to) + copy.bytes, 0, copy.zeros);
  copy.bytes = copy.zeros = 0;
}

void cp_async(void* shared, const void* global, unsigned bytes, unsigned zeros, const Site& site) {
  const Block& block = current_block();
  const auto* begin = static_cast<unsigned char*>(shared);
  if (begin < block.shared || begin + bytes + zeros > block.shared + block.shared_bytes) {
    fail("cp.async writes outside the shared memory that was asked for", site);
  }
  const uintptr_t addresses = reinterpret_cast<uintptr_t>(shared) | (bytes ? reinterpret_cast<uintptr_t>(global) : 0);
  if (addresses % (bytes + zeros)) fail("cp.async with a misaligned address", site);
  Fiber& fiber = current_fiber();
  fiber.site = site;
  PendingCopy copy{shared, global, bytes, zeros};
  if (schedule() % 2) carry_out(copy);
  fiber.open_copies.push_back(copy);
}

void cp_async_commit() {
  Fiber& fiber = current_fiber();
  fiber.copy_groups.push_back(std::move(fiber.open_copies));
  fiber.open_copies.clear();
}

void cp_async_wait(int newest) {
  Fiber& fiber = current_fiber();
  while (fiber.copy_groups.size() > static_cast<size_t>(newest)) {
    for (PendingCopy& copy : fiber.copy_groups.front()) carry_out(copy);
    fiber.copy_groups.erase(fiber.copy_groups.begin());
  }
}

namespace {

struct Registers {
  uint32_t r[4];
};

uint16_t element(const void* row, int column) {
  uint16_t value;
  std::memcpy(&value, static_cast<const char*>(row) + 2 * column, 2);
  return value;
}

}  // namespace

void ldmatrix(uint32_t (&r)[4], const void* row, bool transposed, const Site& site) {
  const Block& block = current_block();
  const auto* begin = static_cast<const unsigned char*>(row);
  if (reinterpret_cast<uintptr_t>(row) % 16) fail("ldmatrix with a misaligned row", site);
  if (begin < block.shared || begin + 16 > block.shared + block.shared_bytes) {
    fail("ldmatrix reads outside the shared memory that was asked for", site);
  }
  const Registers got = meet_in_warp<const void*, Registers>(~0u, row, site, [=](const void** rows, Registers* out, unsigned) {
    for (int lane = 0; lane < 32; ++lane) {
      for (int i = 0; i < 4; ++i) {
        const int major = lane / 4, minor = 2 * (lane % 4);
        const uint16_t low = transposed ? element(rows[8 * i + minor], major) : element(rows[8 * i + major], minor);
        const uint16_t high = transposed ? element(rows[8 * i + minor + 1], major) : element(rows[8 * i + major], minor + 1);
        out[lane].r[i] = low | static_cast<uint32_t>(high) << 16;
      }
    }
  });
  for (int i = 0; i < 4; ++i) r[i] = got.r[i];
}

uint32_t transpose_8x8(uint32_t elements, const Site& site) {
  return meet_in_warp<uint32_t, uint32_t>(~0u, elements, site, [](uint32_t* in, uint32_t* out, unsigned) {
    for (int lane = 0; lane < 32; ++lane) {
      const int row = lane / 4,
                column = 2 * (lane % 4);  // of the result: element (i, row) of what came in, i = column and the next
      const uint32_t low = in[4 * column + row / 2] >> 16 * (row % 2) & 0xffffu;
      const uint32_t high = in[4 * (column + 1) + row / 2] >> 16 * (row % 2) & 0xffffu;
      out[lane] = low | high << 16;
    }
  });
}

namespace {

struct Operands {
  uint32_t a[4], b[2];
  float d[4];
};
struct Sums {
  float d[4];
};

/// The two elements of a register.
void unpack(uint32_t bits, float (*value)(uint16_t), float& low, float& high) {
  low = value(static_cast<uint16_t>(bits));
  high = value(static_cast<uint16_t>(bits >> 16));
}

void multiply(const Operands* in, Sums* out, float (*value)(uint16_t)) {
  float a[16][16], b[8][16];  // b transposed
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4, q = 2 * (lane % 4);
    for (int i = 0; i < 4; ++i) {
      float* at = &a[g + 8 * (i % 2)][q + 8 * (i / 2)];
      unpack(in[lane].a[i], value, at[0], at[1]);
    }
    for (int i = 0; i < 2; ++i) {
      float* at = &b[g][q + 8 * i];
      unpack(in[lane].b[i], value, at[0], at[1]);
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    for (int i = 0; i < 4; ++i) {
      const float* x = a[lane / 4 + 8 * (i / 2)];
      const float* y = b[2 * (lane % 4) + i % 2];
      float sum = in[lane].d[i];
      for (int k = 0; k < 16; ++k) sum += x[k] * y[k];
      out[lane].d[i] = sum;
    }
  }
}

}  // namespace

void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, float (*value)(uint16_t), const Site& site) {
  const Operands own{{a[0], a[1], a[2], a[3]}, {b0, b1}, {d[0], d[1], d[2], d[3]}};
  const Sums sums =
      meet_in_warp<Operands, Sums>(~0u, own, site, [=](Operands* in, Sums* out, unsigned) { multiply(in, out, value); });
  for (int i = 0; i < 4; ++i) d[i] = sums.d[i];
}

}  // namespace emu
