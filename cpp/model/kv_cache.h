// The memory of the paged keys and values of all layers. Which block belongs to whom is the engine's business (kv/); this is
// only storage.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "backend/backend.h"

namespace pagoda {

/// What one token adds to the cache: num_layers layers of kv_heads heads of head_dim keys and values.
struct KvShape {
  int num_layers = 0;
  int kv_heads = 0;
  int head_dim = 0;
};

class KvCache {
 public:
  /// Storage for `num_blocks` blocks, and on the host for `num_host_blocks` that are swapped out. With a null backend nothing
  /// is allocated (planning).
  /// The first blocks, kResidentBytes over all layers, are made resident: blocks are first handed out from the front.
  KvCache(Backend* backend, const KvShape& shape, DType dtype, int block_size, int64_t num_blocks, int64_t num_host_blocks = 0)
      : backend_(backend), layout_{dtype, block_size, shape.kv_heads, shape.head_dim}, num_blocks_(num_blocks) {
    const size_t layer_bytes = layout_.block_bytes() * static_cast<size_t>(num_blocks);
    const size_t host_layer_bytes = layout_.block_bytes() * static_cast<size_t>(num_host_blocks);
    if (backend) backend->reserve(static_cast<size_t>(shape.num_layers) * allocated_bytes(backend->traits(), layer_bytes));
    const size_t resident_bytes = std::min(layer_bytes, kResidentBytes / static_cast<size_t>(std::max(shape.num_layers, 1)));
    if (backend && num_host_blocks) host_ = backend->allocate_host(static_cast<size_t>(shape.num_layers) * host_layer_bytes);
    for (int layer = 0; layer < shape.num_layers; ++layer) {
      if (backend) buffers_.push_back(backend->allocate(layer_bytes));
      if (backend) backend->make_resident(buffers_.back().get(), resident_bytes);
      layers_.push_back({backend ? buffers_.back().get() : nullptr, layout_});
      within_.push_back({layers_.back().data, layers_.back().data});
      if (!host_) continue;
      void* host = static_cast<char*>(host_.get()) + static_cast<size_t>(layer) * host_layer_bytes;
      out_.push_back({host, layers_.back().data});
      in_.push_back({layers_.back().data, host});
    }
  }

  const KvLayer& layer(int index) const { return layers_[static_cast<size_t>(index)]; }
  const KvLayout& layout() const { return layout_; }
  int64_t num_blocks() const { return num_blocks_; }

  /// Bytes of one block over all layers.
  size_t block_bytes() const { return layout_.block_bytes() * layers_.size(); }

  /// Copies blocks in all layers: to blocks of the host, back, or among those of the device. See Backend::copy_blocks.
  void swap_out(std::span<const BlockCopy> copies) { copy(out_, copies); }
  void swap_in(std::span<const BlockCopy> copies) { copy(in_, copies); }
  void copy(std::span<const BlockCopy> copies) { copy(within_, copies); }

 private:
  static constexpr size_t kResidentBytes = size_t{128} << 20;

  void copy(std::span<const BlockPools> pools, std::span<const BlockCopy> copies) {
    if (!copies.empty()) backend_->copy_blocks(pools, layout_.block_bytes(), copies);
  }

  Backend* backend_;
  KvLayout layout_;
  int64_t num_blocks_;
  std::vector<Buffer> buffers_;
  std::vector<KvLayer> layers_;
  Buffer host_;  // [layers][num_host_blocks]
  std::vector<BlockPools> out_, in_, within_;
};

}  // namespace pagoda
