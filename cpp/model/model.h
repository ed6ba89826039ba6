// What the engine knows of a model: its sizes and one forward pass over a batch. Implementations: decoder.cc; tests have
// simulated ones.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/backend.h"
#include "backend/batch.h"
#include "backend/ops.h"
#include "core/tensor.h"
#include "model/kv_cache.h"

namespace pagoda {

class Model {
 public:
  virtual ~Model() = default;

  virtual int64_t vocab_size() const = 0;
  /// Longest context the model was made for, in tokens.
  virtual int64_t max_context() const = 0;
  /// Keys and values per token and layer; the dtype and block size are the caller's choice.
  virtual KvShape kv_shape() const = 0;

  /// Runs the batch: stores its keys and values in `kv` and returns f32 logits [R, vocab], allocated in ops.arena(). `hidden`,
  /// if not null, gets the last hidden state of every token, normed: [T, H] act, in ops.arena() too.
  /// With a dry `ops` only the shapes are walked, which measures the workspace. Engine thread only.
  virtual Tensor forward(const Batch& batch, KvCache& kv, Ops& ops, Tensor* hidden) = 0;
  Tensor forward(const Batch& batch, KvCache& kv, Ops& ops) { return forward(batch, kv, ops, nullptr); }
  /// H.
  virtual int64_t hidden_size() const = 0;
};

}  // namespace pagoda
