// The memory of the paged keys and values of all layers. Which block belongs to whom is the engine's business (kv/); this is
// only storage.
#pragma once

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
  /// Storage for `num_blocks` blocks. With a null backend nothing is allocated (planning).
  KvCache(Backend* backend, const KvShape& shape, DType dtype, int block_size, int64_t num_blocks)
      : layout_{dtype, block_size, shape.kv_heads, shape.head_dim}, num_blocks_(num_blocks) {
    const size_t layer_bytes = layout_.block_bytes() * static_cast<size_t>(num_blocks);
    if (backend) backend->reserve(static_cast<size_t>(shape.num_layers) * allocated_bytes(backend->traits(), layer_bytes));
    for (int layer = 0; layer < shape.num_layers; ++layer) {
      if (backend) buffers_.push_back(backend->allocate(layer_bytes));
      layers_.push_back({backend ? buffers_.back().get() : nullptr, layout_});
    }
  }

  const KvLayer& layer(int index) const { return layers_[static_cast<size_t>(index)]; }
  const KvLayout& layout() const { return layout_; }
  int64_t num_blocks() const { return num_blocks_; }

  /// Bytes of one block over all layers.
  size_t block_bytes() const { return layout_.block_bytes() * layers_.size(); }

 private:
  KvLayout layout_;
  int64_t num_blocks_;
  std::vector<Buffer> buffers_;
  std::vector<KvLayer> layers_;
};

}  // namespace pagoda
