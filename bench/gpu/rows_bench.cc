// Operations that move each row once: all are bound by the bytes they read and write.
#include <algorithm>
#include <numeric>
#include <random>

#include "cuda/kernels.h"
#include "families.h"

namespace pagoda::bench {
namespace {

struct Sizes {
  int64_t hidden = 4096, intermediate = 14336, vocab = 128256;
  int num_heads = 32, kv_heads = 8, head_dim = 128;
};

/// Times `make(tokens)`, which prepares one set of data and gives the work on it, for several numbers of tokens.
void each_size(BenchDevice& device, Report& report, const char* family, double bytes_per_token,
               const std::function<std::function<void()>(int64_t tokens)>& make) {
  for (const int64_t tokens : device.smoke() ? std::vector<int64_t>{1, 5} : std::vector<int64_t>{1, 16, 256, 2048, 8192}) {
    const double bytes = bytes_per_token * static_cast<double>(tokens);
    const int copies = device.copies(static_cast<size_t>(bytes));
    std::vector<std::function<void()>> sets;
    for (int i = 0; i < copies; ++i) sets.push_back(make(tokens));
    const Timing timing = device.time(copies, [&](int run) { sets[static_cast<size_t>(run)](); });
    report.add(family, {field("tokens", tokens)}, {bytes, 0}, timing);
    device.clear();
  }
}

void bench_norms(BenchDevice& device, Report& report, const Sizes& sizes) {
  const auto row = static_cast<double>(sizes.hidden) * 2;
  const auto weight_of = [&] { return static_cast<float*>(device.random(static_cast<size_t>(sizes.hidden) * 4, Fill::f32)); };
  each_size(device, report, "rms_norm", 2 * row, [&](int64_t tokens) {
    const Tensor x = device.random_tensor(DType::bf16, tokens, sizes.hidden),
                 out = device.random_tensor(DType::bf16, tokens, sizes.hidden);
    const Norm norm{NormKind::rms, weight_of(), nullptr, 1e-5f};
    return [&device, x, out, norm] { cuda::norm(device.queue(), out, x, norm); };
  });
  each_size(device, report, "add_rms_norm", 4 * row, [&](int64_t tokens) {
    const Tensor x = device.random_tensor(DType::bf16, tokens, sizes.hidden),
                 out = device.random_tensor(DType::bf16, tokens, sizes.hidden);
    const Tensor residual = device.random_tensor(DType::bf16, tokens, sizes.hidden);
    const Norm norm{NormKind::rms, weight_of(), nullptr, 1e-5f};
    return [&device, x, out, residual, norm] { cuda::add_norm(device.queue(), out, residual, x, 1, norm); };
  });
}

void bench_activation(BenchDevice& device, Report& report, const Sizes& sizes) {
  each_size(device, report, "gated_silu", 3 * 2.0 * static_cast<double>(sizes.intermediate), [&](int64_t tokens) {
    const Tensor gate_up = device.random_tensor(DType::bf16, tokens, 2 * sizes.intermediate);
    const Tensor out = device.random_tensor(DType::bf16, tokens, sizes.intermediate);
    return [&device, gate_up, out] { cuda::gated_activation(device.queue(), out, gate_up, Activation::silu); };
  });
}

void bench_embedding(BenchDevice& device, Report& report, const Sizes& sizes) {
  cuda::Matrix table{cuda::MatrixFormat::bf16, sizes.vocab, sizes.hidden, sizes.hidden, nullptr, nullptr};
  std::mt19937 random(1);
  int64_t table_for = -1;
  each_size(device, report, "embedding", 2 * 2.0 * static_cast<double>(sizes.hidden), [&](int64_t tokens) {
    // One table for all sets of a size: each reads other rows of it.
    if (table_for != tokens) table.values = device.random_tensor(DType::bf16, sizes.vocab, sizes.hidden).data;
    table_for = tokens;
    std::vector<int32_t> ids;
    for (int64_t t = 0; t < tokens; ++t) ids.push_back(static_cast<int32_t>(random() % static_cast<unsigned>(sizes.vocab)));
    const int32_t* device_ids = device.array(ids);
    const Tensor out = device.random_tensor(DType::bf16, tokens, sizes.hidden);
    return [&device, table, device_ids, out] { cuda::embed(device.queue(), out, table, device_ids); };
  });
}

/// Rotation of q and k, and the stores of k and v into the cache.
void bench_rope_store(BenchDevice& device, Report& report, const Sizes& sizes) {
  const int cols = (sizes.num_heads + 2 * sizes.kv_heads) * sizes.head_dim, kept = sizes.num_heads * sizes.head_dim;
  const int stored = 2 * sizes.kv_heads * sizes.head_dim, positions = device.smoke() ? 64 : 8192;
  each_size(device, report, "rope_store_kv", 2.0 * (cols + kept + stored) + 4.0 * sizes.head_dim, [&](int64_t tokens) {
    RopeStoreArgs args{
        .num_heads = sizes.num_heads, .kv_heads = sizes.kv_heads, .head_dim = sizes.head_dim, .rotary_dim = sizes.head_dim};
    args.cos_sin = static_cast<float*>(device.random(static_cast<size_t>(positions * sizes.head_dim) * 4, Fill::f32));
    KvLayer kv{nullptr, {DType::bf16, 16, sizes.kv_heads, sizes.head_dim}};
    const int64_t blocks = cuda::divide_up(tokens, 16);
    kv.data = device.memory(static_cast<size_t>(blocks) * kv.layout.block_bytes());
    std::vector<int32_t> indices(static_cast<size_t>(tokens));
    std::iota(indices.begin(), indices.end(), 0);
    Batch batch;
    batch.num_tokens = static_cast<int>(tokens);
    batch.block_size = 16;
    batch.slots = device.array(indices);
    for (int32_t& index : indices) index %= positions;
    batch.positions = device.array(indices);
    const Tensor qkv = device.random_tensor(DType::bf16, tokens, cols);
    return [&device, args, kv, batch, qkv] { cuda::rope_store_kv(device.queue(), qkv, args, kv, batch); };
  });
}

void bench_copies(BenchDevice& device, Report& report, const Sizes& sizes) {
  const KvLayout layout{DType::bf16, 16, sizes.kv_heads, sizes.head_dim};
  for (const int num_blocks : device.smoke() ? std::vector{3} : std::vector{64, 4096, 65536}) {
    const size_t bytes = static_cast<size_t>(num_blocks) * layout.block_bytes();
    void* from = device.random(bytes, Fill::bytes);
    void* to = device.memory(bytes);
    std::vector<BlockCopy> copies;
    for (int i = 0; i < num_blocks; ++i) copies.push_back({i, num_blocks - 1 - i});
    const BlockCopy* list = device.array(copies);
    const Timing timing = device.time(
        1, [&](int) { cuda::copy_blocks(device.queue(), to, from, layout.block_bytes(), list, std::ssize(copies)); });
    report.add("copy_blocks", {field("blocks", num_blocks), field("block_bytes", static_cast<int64_t>(layout.block_bytes()))},
               {2.0 * static_cast<double>(bytes), 0}, timing);
    device.clear();
  }
}

}  // namespace

void bench_rows(BenchDevice& device, Report& report) {
  Sizes sizes;
  if (device.smoke()) sizes = {128, 256, 300, 4, 2, 64};
  bench_norms(device, report, sizes);
  bench_activation(device, report, sizes);
  bench_embedding(device, report, sizes);
  bench_rope_store(device, report, sizes);
  bench_copies(device, report, sizes);
}

}  // namespace pagoda::bench
