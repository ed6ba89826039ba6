// What the backend hands out is what the GPU has lost: nothing is taken in secret, and everything comes back.
#include <cuda_runtime.h>

#include "core/check.h"
#include "device_support.h"
#include "stored_matrix.h"

namespace pagoda::device_test {
namespace {

/// The driver hands out memory in pages of this size; sizes that divide by it are taken as they are.
constexpr size_t kPage = size_t{2} << 20;
/// Once a new kernel runs, the driver may load its code and take room for that; memory of ours is larger.
constexpr size_t kDriverSlack = 4 * kPage;

class Memory : public DeviceTest {
 protected:
  static size_t free_bytes() {
    size_t free = 0, total = 0;
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    EXPECT_EQ(cudaMemGetInfo(&free, &total), cudaSuccess);
    return free;
  }
};

/// Bytes that the GPU has less than before.
#define EXPECT_TAKEN(before, bytes)               \
  do {                                            \
    const size_t taken = (before) - free_bytes(); \
    EXPECT_GE(taken, (bytes));                    \
    EXPECT_LE(taken, (bytes) + kPage);            \
  } while (false)

TEST_F(Memory, the_device_is_described) {
  const DeviceInfo info = cuda_device_info({});
  EXPECT_FALSE(info.name.empty());
  EXPECT_EQ(info.isa.rfind("sm_", 0), 0u);
  EXPECT_EQ(info.num_threads, 0);
  EXPECT_GT(info.total_bytes, 0u);
  EXPECT_LE(info.available_bytes, info.total_bytes);
}

TEST_F(Memory, allocations_take_what_they_are_asked_for_and_give_it_back) {
  const size_t before = free_bytes();
  Buffer buffer = gpu()->allocate(32 * kPage);
  EXPECT_TAKEN(before, 32 * kPage);
  buffer.reset();
  EXPECT_TAKEN(before, size_t{0});
}

TEST_F(Memory, a_reserved_piece_serves_allocations_until_it_is_full) {
  const size_t before = free_bytes();
  gpu()->reserve(16 * kPage);
  EXPECT_TAKEN(before, 16 * kPage);
  const Buffer first = gpu()->allocate(10 * kPage), second = gpu()->allocate(6 * kPage);
  EXPECT_TAKEN(before, 16 * kPage);
  EXPECT_EQ(static_cast<char*>(second.get()) - static_cast<char*>(first.get()), static_cast<std::ptrdiff_t>(10 * kPage));
  const Buffer third = gpu()->allocate(4 * kPage);
  EXPECT_TAKEN(before, 20 * kPage);
}

TEST_F(Memory, a_packed_weight_takes_its_bytes) {
  const int64_t rows = is_emulated() ? 64 : 8192, cols = is_emulated() ? 256 : 4096;
  for (const WeightFormat format : {WeightFormat::bf16, WeightFormat::q8_0, WeightFormat::q4_0}) {
    const StoredMatrix stored(format, rows, cols, 1);
    const WeightPart part = stored.part();
    const size_t planned = allocated_bytes(gpu()->traits(), gpu()->traits().packed_bytes({&part, 1}));
    pack(gpu(), {stored});  // whatever is set up on first use
    const size_t before = free_bytes();
    const Weight weight = pack(gpu(), {stored});
    EXPECT_EQ(allocated_bytes(gpu()->traits(), weight.bytes), planned);
    EXPECT_TAKEN(before, planned);
  }
}

TEST_F(Memory, operations_take_nothing_but_the_samplers_scratch) {
  Machine& machine = gpu();
  const int64_t vocab = 32000;
  const Tensor logits = machine.floats(random_values(vocab, 1), vocab);
  const Tensor x = machine.activations(random_values(64 * 64, 2), 64);
  SampleBatch batch;
  batch.vocab_size = static_cast<int32_t>(vocab);
  batch.rows.resize(1);
  const auto run = [&] {
    SampleResult result;
    machine->scale(x, 2, 0);
    machine->sample(logits, batch, result);
  };
  const size_t before = free_bytes();
  run();
  const size_t scratch = allocated_bytes(machine->traits(), machine->traits().own_scratch(0, vocab));
  const size_t after = free_bytes();
  EXPECT_GE(before - after + kPage, scratch);  // the backend took a small part of it when it was made
  EXPECT_LE(before - after, scratch + kDriverSlack);
  run();
  EXPECT_EQ(free_bytes(), after);
}

/// Blocks on the device and on the host in pools of 5 and 3, and what moves between them.
TEST_F(Memory, blocks_move_to_the_host_and_back_and_among_themselves) {
  constexpr size_t kBlockBytes = 4096, kLayers = 3;
  using Bytes = std::vector<unsigned char>;
  std::vector<Buffer> pools;
  const Buffer host = gpu()->allocate_host(3 * kLayers * kBlockBytes);
  std::vector<BlockPools> out, in, within;
  for (size_t layer = 0; layer < kLayers; ++layer) {
    pools.push_back(gpu()->allocate(5 * kBlockBytes));
    Bytes bytes(5 * kBlockBytes);
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<unsigned char>(i / kBlockBytes * 16 + layer);
    gpu()->upload(pools.back().get(), bytes.data(), bytes.size());
    void* const far = static_cast<char*>(host.get()) + 3 * layer * kBlockBytes;
    out.push_back({far, pools.back().get()});
    in.push_back({pools.back().get(), far});
    within.push_back({pools.back().get(), pools.back().get()});
  }
  const std::vector<BlockCopy> first = {{1, 2}, {4, 0}}, second = {{2, 0}, {0, 3}}, third = {{0, 2}};
  gpu()->copy_blocks(out, kBlockBytes, first);     // host: 4 _ 1
  gpu()->copy_blocks(in, kBlockBytes, second);     // device: 1 1 2 4 4
  gpu()->copy_blocks(within, kBlockBytes, third);  // device: 1 1 1 4 4
  gpu()->copy_blocks(within, kBlockBytes, {});
  for (size_t layer = 0; layer < kLayers; ++layer) {
    Bytes got(5 * kBlockBytes), expected;
    gpu()->download(got.data(), pools[layer].get(), got.size());
    for (const size_t block : {1, 1, 1, 4, 4})
      expected.insert(expected.end(), kBlockBytes, static_cast<unsigned char>(block * 16 + layer));
    EXPECT_EQ(got, expected) << "layer " << layer;
  }
}

TEST_F(Memory, too_much_is_refused_with_the_size) {
  const size_t bytes = cuda_device_info({}).total_bytes + kPage;
  try {
    gpu()->allocate(bytes);
    FAIL() << "the GPU has room for more than it has";
  } catch (const DeviceError& error) {
    EXPECT_NE(std::string(error.what()).find(std::to_string(bytes)), std::string::npos) << error.what();
  }
  const Buffer fits = gpu()->allocate(kPage);  // the failure has left nothing behind
  EXPECT_TRUE(fits);
}

}  // namespace
}  // namespace pagoda::device_test
