// The operations a model needs, implemented once per kind of device (cpu/, cuda/), and the pure facts that planning needs.
// Models never call a Backend: they call Ops, which checks shapes and owns scratch memory. Nothing here checks its arguments.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/batch.h"
#include "backend/sample_batch.h"
#include "backend/weight.h"
#include "core/tensor.h"

namespace pagoda {

/// Shape of one layer's paged keys and values. How they lie inside a block is the backend's secret; their size is not:
/// a block of one layer takes 2 * kv_heads * block_size * head_dim * dtype_bytes(dtype) bytes, and with i8, whose numbers are
/// codes times a scale, 2 * kv_heads * block_size f32 scales more: one for each token's key and value of a head.
struct KvLayout {
  DType dtype = DType::bf16;  ///< one that the backend's traits hold
  int block_size = 16;        ///< tokens per block, a power of two
  int kv_heads = 0;
  int head_dim = 0;

  size_t block_bytes() const {
    const size_t vector_bytes = static_cast<size_t>(head_dim) * dtype_bytes(dtype) + (dtype == DType::i8 ? sizeof(float) : 0);
    return size_t{2} * static_cast<size_t>(kv_heads) * static_cast<size_t>(block_size) * vector_bytes;
  }
};

/// One layer's part of the KV cache: num_blocks blocks of layout.block_bytes() each, contiguous.
struct KvLayer {
  void* data = nullptr;
  KvLayout layout;
};

enum class Activation : uint8_t {
  silu,       ///< x / (1 + e^-x)
  gelu_tanh,  ///< x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))
  gelu,       ///< x / 2 * (1 + erf(x / sqrt(2)))
  relu,       ///< max(x, 0)
  /// gpt-oss; gated only: with gate g clamped to at most 7 and up u clamped to [-7, 7], g / (1 + e^(-1.702 g)) * (u + 1)
  clamped_swiglu,
};

enum class NormKind : uint8_t {
  rms,    ///< x / sqrt(mean(x^2) + eps) * weight
  layer,  ///< (x - mean(x)) / sqrt(variance(x) + eps) * weight + bias, with the variance over H (not H - 1)
};

/// A normalisation over rows of H values.
struct Norm {
  NormKind kind = NormKind::rms;
  const float* weight = nullptr;  ///< [H]
  const float* bias = nullptr;    ///< [H], or null for none; layer only
  float eps = 0;
};

/// Prepares one layer's fused projection: optional norm of each q and k head, rotary embedding (half-split pairs i, i +
/// rotary_dim/2), then stores k and v in the cache.
struct RopeStoreArgs {
  int num_heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int rotary_dim = 0;              ///< leading part of the head that is rotated; 0 = none
  const float* cos_sin = nullptr;  ///< [max_position, rotary_dim]: rotary_dim/2 cosines, then rotary_dim/2 sines
  NormKind norm_kind = NormKind::rms;
  const float* q_norm = nullptr;  ///< [head_dim], or [num_heads, head_dim], or null
  const float* k_norm = nullptr;  ///< [head_dim], or [kv_heads, head_dim], or null
  int norm_stride = 0;            ///< 0: one weight for all heads; head_dim: one for each
  float norm_eps = 0;
};

struct AttentionArgs {
  int num_heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  float scale = 1;     ///< factor of q·k
  int window = 0;      ///< sliding window: a query at position p sees keys in (p - window, p]; 0 = all of [0, p]
  float soft_cap = 0;  ///< score = cap * tanh(score / cap); 0 = off
  /// [num_heads] or null: the logit of a key of value 0 that every query of the head sees besides the others (gpt-oss).
  const float* sinks = nullptr;
};

/// How a router's logits choose experts.
struct RouteArgs {
  int top_k = 0;
  /// Weights are the softmax over all experts, of which the top_k count; false: the softmax over the chosen logits alone.
  bool softmax_first = true;
  bool normalise = false;  ///< with softmax_first: divide the chosen weights by their sum
  float scale = 1;         ///< then multiply them by this
};

/// Which experts each token goes to, sorted by expert so that each expert's rows are adjacent. All arrays lie in the backend's
/// memory. A pair is token * top_k + j, the token's j-th choice; its place is where it stands in the sorted order.
struct Routing {
  int num_experts = 0;     ///< E
  int top_k = 0;           ///< k
  int64_t num_tokens = 0;  ///< T
  /// [T, k] chosen experts, the best first; of equal logits the lower expert first. NaN counts as the largest logit.
  int32_t* experts = nullptr;
  float* weights = nullptr;         ///< [T, k]
  int32_t* expert_start = nullptr;  ///< [E + 1] range of places of each expert
  int32_t* pairs = nullptr;         ///< [T * k] place -> pair, ascending within an expert
  int32_t* places = nullptr;        ///< [T * k] pair -> place

  int64_t num_pairs() const { return num_tokens * top_k; }
};

/// What row i of a grouped_linear's input belongs to. (The number of rows cannot tell when top_k is 1.)
enum class ExpertInput : uint8_t {
  by_token,  ///< token i: each expert takes the rows of its tokens
  by_place,  ///< place i: the rows are sorted by expert already, as grouped_linear leaves them
};

/// A kind of product that a model makes: out[T, rows] = x[T, cols] * weight^T with T up to max_tokens.
struct LinearUse {
  int64_t rows = 0;
  int64_t cols = 0;
  DType out = DType::f32;
  int64_t max_tokens = 0;

  bool operator==(const LinearUse&) const = default;
};

/// What the memory planner must know of a backend without creating one. All functions are pure.
struct BackendTraits {
  const char* name = "";
  DType activation_dtype = DType::f32;  ///< type of activations between operations
  size_t allocation_unit = 1;           ///< `allocate` takes multiples of this many bytes
  /// Steps of single tokens are filled up with rows that nobody reads, so that few sizes occur and run_captured can replay
  /// them.
  bool pads_decode_steps = false;
  /// Steps that may be started before the first is collected, 1 or 2: more only where a step costs the host time of its own.
  int max_steps_in_flight = 1;
  /// paged_attention takes a query's place from Batch::positions; else a sequence's queries are the last of its context.
  bool attends_by_position = false;
  /// Rows of GatedMlp::gate_up that gated_mlp writes to, at most; 0: as many as x has.
  int64_t most_gate_up_rows = 0;
  /// Whether the cache of keys and values can be of this type.
  bool (*holds_kv)(DType dtype) = nullptr;
  /// Bytes of the packed form of stacked parts.
  size_t (*packed_bytes)(std::span<const WeightPart> parts) = nullptr;
  /// Scratch bytes that one linear of `num_tokens` rows needs. `formats` are the weight's part formats.
  size_t (*linear_workspace)(int64_t num_tokens, int64_t rows, int64_t cols, std::span<const WeightFormat> formats) = nullptr;
  /// Scratch bytes that one grouped_linear to `num_pairs` places needs. `formats` are the weight's part formats.
  size_t (*grouped_linear_workspace)(int64_t num_pairs, int64_t cols, std::span<const WeightFormat> formats,
                                     ExpertInput input) = nullptr;
  /// Scratch bytes of one paged_attention.
  size_t (*attention_workspace)(int64_t num_tokens, int64_t max_context, const AttentionArgs& args) = nullptr;
  /// Bytes that the backend itself keeps for as long as it lives, for a vocabulary of this size and `num_threads` (0 on a GPU).
  size_t (*own_scratch)(int num_threads, int64_t vocab_size) = nullptr;
};

/// `bytes` as `allocate` counts them.
constexpr size_t allocated_bytes(const BackendTraits& traits, size_t bytes) {
  return (bytes + traits.allocation_unit - 1) / traits.allocation_unit * traits.allocation_unit;
}

struct DeviceInfo {
  std::string name;            ///< "AMD EPYC 9R14" or the GPU's name
  std::string isa;             ///< "avx512", "avx2", "portable" or "sm_90"
  int num_threads = 0;         ///< compute threads; 0 on a GPU
  size_t total_bytes = 0;      ///< memory of the device (of the cgroup, if smaller)
  size_t available_bytes = 0;  ///< what is free now
};

/// Copies block `from` of one pool to block `to` of another.
struct BlockCopy {
  int32_t from = 0, to = 0;
};
/// Two pools of blocks of one size, each in memory of `allocate` or `allocate_host`.
struct BlockPools {
  void* to = nullptr;
  const void* from = nullptr;
};

/// Device memory, freed with the object. Contents are undefined until written; large CPU buffers are untouched pages.
using Buffer = std::shared_ptr<void>;

/// The weights of a gated MLP and where its steps go.
struct GatedMlp {
  const Weight& up;      ///< [2I, H]: gates over ups
  const float* up_bias;  ///< [2I] f32 or null
  Activation activation;
  const Weight& down;      ///< [H, I]
  const float* down_bias;  ///< [H] f32 or null
  Tensor gate_up;          ///< [min(T, most_gate_up_rows), 2I] act, [T, 2I] if that is 0
  Tensor gated;            ///< [T, I] act
  void* workspace;         ///< linear_workspace of either product, whichever is more
};

/// One device. Calls come from the engine thread only. Operations may return before they are done; `download` waits.
class Backend {
 public:
  virtual ~Backend() = default;

  virtual const BackendTraits& traits() const = 0;
  virtual const DeviceInfo& device() const = 0;

  /// Takes room for the coming allocations, `bytes` of allocated_bytes() in all, in one piece; what earlier pieces have left is
  /// not used any more. A device whose memory needs no such care does nothing.
  virtual void reserve(size_t bytes) = 0;
  /// 64-byte aligned. Throws DeviceError naming the size when the device has no room.
  virtual Buffer allocate(size_t bytes) = 0;
  /// Has the system provide the memory of these bytes of an allocation now, so that the first write to it does not delay a
  /// request. Only whole pages; contents stay. A device whose allocations have their memory at once does nothing.
  virtual void make_resident(void* /*data*/, size_t /*bytes*/) {}
  /// Takes what sampling from a vocabulary of this size needs; without it the first start_sampling does.
  virtual void prepare_sampling(int64_t vocab_size) = 0;
  /// Bytes of the device that are taken, as planned: by weights, buffers and what the backend keeps for itself.
  virtual size_t num_allocated_bytes() const = 0;
  /// Memory of the host that copy_blocks reaches, for blocks that have no room on the device. 64-byte aligned; pages of the CPU
  /// backend are untouched, those of a GPU's are pinned. Throws DeviceError when there is no room.
  virtual Buffer allocate_host(size_t bytes) = 0;
  virtual void upload(void* device, const void* host, size_t bytes) = 0;
  virtual void download(void* host, const void* device, size_t bytes) = 0;

  /// Runs `body`; a device with graphs may record it under `key` (not 0; equal keys: same operations on the same addresses) and
  /// later replay it instead of calling `body`.
  virtual void run_captured(uint64_t key, const std::function<void()>& body) = 0;

  /// Makes each copy in each pair of pools. On GPUs `block_bytes` is a multiple of 16. No block is written twice, and none that
  /// is read, unless it lies in another pool.
  virtual void copy_blocks(std::span<const BlockPools> pools, size_t block_bytes, std::span<const BlockCopy> copies) = 0;

  /// Stacks and repacks stored rows into one matrix.
  virtual Weight pack(std::span<const WeightPart> parts) = 0;
  /// After all weights are packed: chooses what can only be chosen by trying, for the products that the model makes.
  virtual void tune(std::span<const LinearUse> uses) = 0;

  // Below: T tokens, H hidden, "act" = traits().activation_dtype. Shapes are row-major; rows may be strided where a Tensor is
  // taken.

  /// out[T, H] = rows `ids` of table, dequantised.
  virtual void embed(const Tensor& out, const Weight& table, const int32_t* ids) = 0;
  /// out[T, H] = norm(x[T, H]); `out` may be `x`.
  virtual void norm(const Tensor& out, const Tensor& x, const Norm& norm) = 0;
  /// residual += scale * x; out = norm(residual). This is where a product's output is added: adding it in the product itself
  /// would save no launch and one of five passes over [T, H].
  virtual void add_norm(const Tensor& out, const Tensor& residual, const Tensor& x, float scale, const Norm& norm) = 0;
  /// residual[T, H] += scale * x[T, H].
  virtual void add(const Tensor& residual, const Tensor& x, float scale) = 0;
  /// x[T, H] = factor * x, then, if cap > 0, cap * tanh(x / cap). x is act or f32.
  virtual void scale(const Tensor& x, float factor, float cap) = 0;
  /// out[T, rows] = x[T, cols] * weight^T + bias[rows] (f32 or null). `out` is act or f32. One output element is reduced in an
  /// order that depends on neither T nor the thread count.
  virtual void linear(const Tensor& out, const Tensor& x, const Weight& weight, const float* bias, void* workspace) = 0;
  /// gate_up = linear(x), out = gated_activation(gate_up), bit for bit; what `gate_up`[T, 2I] holds afterwards is undefined, so
  /// that a backend can do both at once.
  virtual void gated_linear(const Tensor& out, const Tensor& gate_up, const Tensor& x, const Weight& weight, const float* bias,
                            Activation activation, void* workspace) {
    linear(gate_up, x, weight, bias, workspace);
    gated_activation(out, gate_up, activation);
  }
  /// gate_up = linear(x, up), gated = gated_activation(gate_up), out = linear(gated, down), bit for bit; what `gate_up` and
  /// `gated` hold afterwards is undefined.
  virtual void gated_mlp(const Tensor& out, const Tensor& x, const GatedMlp& mlp) {
    gated_linear(mlp.gated, mlp.gate_up, x, mlp.up, mlp.up_bias, mlp.activation, mlp.workspace);
    linear(out, mlp.gated, mlp.down, mlp.down_bias, mlp.workspace);
  }
  /// Chooses args.top_k experts per token from logits[T, E] (f32) and sorts the pairs by expert.
  virtual void route(const Routing& out, const Tensor& logits, const RouteArgs& args) = 0;
  /// out[T * k, R] (by place) = row of x * expert^T + bias[E, R] (null: none), with the expert whose place it is. x is [T, K]
  /// or [T * k, K], see `input`; `experts` has num_groups E of R rows each. A row's bits are those of `linear` with its expert.
  virtual void grouped_linear(const Tensor& out, const Tensor& x, const Weight& experts, const float* bias,
                              const Routing& routing, ExpertInput input, void* workspace) = 0;
  /// out[T, H] = sum over j, ascending, of weights[t, j] * y[places[t * k + j]]; y is [T * k, H] by place.
  virtual void combine_experts(const Tensor& out, const Tensor& y, const Routing& routing) = 0;
  /// x[T, H] *= 1 / (1 + e^-gate[T, 1]).
  virtual void sigmoid_scale(const Tensor& x, const Tensor& gate) = 0;
  /// qkv[T, (num_heads + 2 * kv_heads) * head_dim] holds q | k | v; q is left normed and rotated in place. Slot -1 is not
  /// stored.
  virtual void rope_store_kv(const Tensor& qkv, const RopeStoreArgs& args, const KvLayer& kv, const Batch& batch) = 0;
  /// out[T, num_heads * head_dim] = causal softmax attention of q (same shape, strided) over the paged cache, in an order that
  /// depends only on the query's own position.
  virtual void paged_attention(const Tensor& out, const Tensor& q, const AttentionArgs& args, const KvLayer& kv,
                               const Batch& batch, void* workspace) = 0;
  /// out[T, I] = activation(gate) * up with gate | up = gate_up[T, 2I].
  virtual void gated_activation(const Tensor& out, const Tensor& gate_up, Activation activation) = 0;
  /// x[T, I] = activation(x).
  virtual void activation(const Tensor& x, Activation activation) = 0;
  /// out[R, H] = rows `rows` of x.
  virtual void gather_rows(const Tensor& out, const Tensor& x, const int32_t* rows) = 0;
  /// Starts sampling the first batch.rows.size() rows of logits[R, vocab] (f32; may be overwritten). `batch` may be changed
  /// after the return. At most traits().max_steps_in_flight starts may be uncollected.
  virtual void start_sampling(const Tensor& logits, const SampleBatch& batch) = 0;
  /// Waits for the oldest start that is not collected.
  virtual void collect_samples(SampleResult& result) = 0;
  /// ids[t] = the token of row sources[t] of the newest start, for t in [0, n) with sources[t] >= 0.
  virtual void feed_tokens(int32_t* ids, const int32_t* sources, int64_t n) = 0;

  void sample(const Tensor& logits, const SampleBatch& batch, SampleResult& result) {
    start_sampling(logits, batch);
    collect_samples(result);
  }
};

struct CpuOptions {
  int num_threads = 0;       ///< 0 = usable physical cores
  std::string isa = "auto";  ///< auto | avx512 | avx2 | portable; a forced ISA the machine lacks is an InvalidArgument
  std::string activation_dtype =
      "auto";  ///< auto | int8 | mixed | bf16 | int16: what the inputs of quantised weights are rounded to
};

/// The planning facts of the CPU backend.
const BackendTraits& cpu_traits();
/// The CPU's memory and cores, seen without creating a backend.
DeviceInfo cpu_device_info(const CpuOptions& options);
/// Throws InvalidArgument for options the machine cannot meet.
std::unique_ptr<Backend> make_cpu_backend(const CpuOptions& options);

struct CudaOptions {
  int device_index = 0;
  bool deterministic = false;                ///< no order of summation depends on what else is in the batch
  std::vector<std::string> library_folders;  ///< where cuBLASLt may lie besides the loader's own places
  std::string cache_folder;                  ///< keeps what `tune` found; empty = nothing is kept
};

/// What stands behind make_cuda_backend: nothing (no_cuda.cc), kernels for GPUs (cuda/), or the same kernels emulated on the
/// CPU for tests (tests/cuda/emulation).
enum class CudaBuild : uint8_t { none, hardware, emulated };
CudaBuild cuda_build();
/// Empty if there is a GPU that this build can use; else why there is none, in words. Starts CUDA on the first GPU.
std::string cuda_unavailable();
/// The planning facts of the CUDA backend. Throws DeviceError in a build without it, as do the next two.
const BackendTraits& cuda_traits();
/// The GPU's name and memory. Throws DeviceError when there is no such device.
DeviceInfo cuda_device_info(const CudaOptions& options);
std::unique_ptr<Backend> make_cuda_backend(const CudaOptions& options);

}  // namespace pagoda
