// rope_store_kv: head norms, rotation and where keys and values land in the blocks, on every instruction set.
#include <gtest/gtest.h>

#include "backend/cpu/kv_store_layout.h"
#include "cpu_support.h"

namespace pagoda {
namespace {

enum class HeadNorm : uint8_t { none, one_weight, weight_per_head };

struct RopeCase {
  int num_heads, kv_heads, head_dim, rotary_dim;
  HeadNorm norms;
  NormKind norm_kind;
  DType dtype;
  int block_size;
};

constexpr int kMaxPosition = 50;
constexpr float kEps = 1e-6f;

/// The inputs of one case: tokens at scattered positions and slots, one of them not stored.
class RopeRun {
 public:
  explicit RopeRun(const RopeCase& test)
      : test_(test),
        cos_sin_(static_cast<size_t>(kMaxPosition * test.rotary_dim)),
        q_norm_(test::random_floats(static_cast<size_t>(test.num_heads * test.head_dim), 1)),
        k_norm_(test::random_floats(static_cast<size_t>(test.kv_heads * test.head_dim), 2)),
        qkv_(test::random_floats(positions_.size() * static_cast<size_t>(cols()), 3)) {
    const int half = test.rotary_dim / 2;
    for (int p = 0; p < kMaxPosition; ++p) {
      for (int i = 0; i < half; ++i) {
        const double angle = p * std::pow(10000.0, -2.0 * i / test.rotary_dim);
        cos_sin_[static_cast<size_t>(p * test.rotary_dim + i)] = static_cast<float>(std::cos(angle));
        cos_sin_[static_cast<size_t>(p * test.rotary_dim + half + i)] = static_cast<float>(std::sin(angle));
      }
    }
    args_.num_heads = test.num_heads;
    args_.kv_heads = test.kv_heads;
    args_.head_dim = test.head_dim;
    args_.rotary_dim = test.rotary_dim;
    args_.cos_sin = test.rotary_dim ? cos_sin_.data() : nullptr;
    args_.norm_kind = test.norm_kind;
    args_.q_norm = test.norms == HeadNorm::none ? nullptr : q_norm_.data();
    args_.k_norm = test.norms == HeadNorm::none ? nullptr : k_norm_.data();
    args_.norm_stride = test.norms == HeadNorm::weight_per_head ? test.head_dim : 0;
    args_.norm_eps = kEps;
  }

  int cols() const { return (test_.num_heads + 2 * test_.kv_heads) * test_.head_dim; }

  /// Runs the operation; returns qkv afterwards and leaves the cache in `cache`.
  std::vector<float> run(const std::string& isa, int num_threads, std::vector<char>& cache) const {
    const std::unique_ptr<Backend> backend = make_cpu_backend({num_threads, isa});
    KvLayer kv{nullptr, {test_.dtype, test_.block_size, test_.kv_heads, test_.head_dim}};
    const int num_blocks = 64 / test_.block_size;
    cache.assign(static_cast<size_t>(num_blocks) * kv.layout.block_bytes(), 0);
    kv.data = cache.data();
    std::vector<float> qkv = qkv_;
    Batch batch;
    batch.num_tokens = static_cast<int>(positions_.size());
    batch.positions = positions_.data();
    batch.slots = slots_.data();
    backend->rope_store_kv(test::matrix(qkv, batch.num_tokens, cols()), args_, kv, batch);
    return qkv;
  }

  /// Head h of token t (q heads, k heads, v heads) in double precision.
  std::vector<double> reference(size_t t, int h) const {
    const float* head = qkv_.data() + t * static_cast<size_t>(cols()) + h * test_.head_dim;
    std::vector<double> x(head, head + test_.head_dim);
    if (h >= test_.num_heads + test_.kv_heads) return x;
    if (const float* weight = norm_weight(h)) {
      const double mean = test_.norm_kind == NormKind::layer ? std::accumulate(x.begin(), x.end(), 0.0) / test_.head_dim : 0;
      double squares = 0;
      for (const double value : x) squares += (value - mean) * (value - mean);
      const double inverse = 1 / std::sqrt(squares / test_.head_dim + double{kEps});
      for (size_t i = 0; i < x.size(); ++i) x[i] = (x[i] - mean) * inverse * double{weight[i]};
    }
    const size_t half = static_cast<size_t>(test_.rotary_dim / 2);
    const float* angles = cos_sin_.data() + positions_[t] * test_.rotary_dim;
    for (size_t i = 0; i < half; ++i) {
      const double a = x[i], b = x[half + i];
      x[i] = a * double{angles[i]} - b * double{angles[half + i]};
      x[half + i] = b * double{angles[i]} + a * double{angles[half + i]};
    }
    return x;
  }

  /// One stored element, or the value's when `value` is set.
  double stored(std::vector<char>& cache, int32_t slot, int kv_head, int d, bool value) const {
    const cpu::KvPlace place =
        cpu::make_kv_place({cache.data(), {test_.dtype, test_.block_size, test_.kv_heads, test_.head_dim}});
    const int32_t block = slot / test_.block_size, offset = slot % test_.block_size;
    const int64_t at = value ? place.value_offset(block, kv_head, offset) + d
                             : place.key_offset(block, kv_head, offset) + int64_t{d} * place.group;
    if (test_.dtype == DType::i8) {
      const double code = double(reinterpret_cast<const int8_t*>(place.data)[at]);
      float scale;
      std::memcpy(&scale, place.key_scale(block, kv_head, offset) + (value ? place.value_scale_begin : 0), sizeof scale);
      return scale != 0 ? code * double{scale} : code;
    }
    if (test_.dtype == DType::f32) return double{reinterpret_cast<const float*>(place.data)[at]};
    return double{bf16_to_float(reinterpret_cast<const uint16_t*>(place.data)[at])};
  }

  const std::vector<int32_t>& slots() const { return slots_; }
  RopeStoreArgs& args() { return args_; }

 private:
  /// Of q or k head h, null without a norm.
  const float* norm_weight(int h) const {
    const bool is_q = h < test_.num_heads;
    const float* weights = is_q ? args_.q_norm : args_.k_norm;
    const int head = test_.norms == HeadNorm::weight_per_head ? (is_q ? h : h - test_.num_heads) : 0;
    return weights ? weights + head * test_.head_dim : nullptr;
  }

  RopeCase test_;
  std::vector<int32_t> positions_{0, 1, 2, 30, 49, 7}, slots_{5, 6, 7, 33, -1, 63};
  std::vector<float> cos_sin_, q_norm_, k_norm_, qkv_;
  RopeStoreArgs args_;
};

const std::vector<RopeCase> kCases = {
    {9, 3, 64, 64, HeadNorm::none, NormKind::rms, DType::bf16, 16},
    {9, 3, 64, 64, HeadNorm::one_weight, NormKind::rms, DType::f32, 16},
    {4, 4, 80, 32, HeadNorm::none, NormKind::rms, DType::f32, 32},
    {4, 2, 40, 40, HeadNorm::one_weight, NormKind::rms, DType::bf16, 8},
    {2, 1, 96, 0, HeadNorm::one_weight, NormKind::rms, DType::f32, 1},
    {2, 1, 14, 6, HeadNorm::none, NormKind::rms, DType::bf16, 2},
    {1, 1, 256, 128, HeadNorm::one_weight, NormKind::rms, DType::bf16, 64},
    {6, 2, 64, 64, HeadNorm::weight_per_head, NormKind::rms, DType::f32, 16},
    {6, 2, 64, 64, HeadNorm::weight_per_head, NormKind::layer, DType::f32, 16},
    {4, 4, 40, 10, HeadNorm::one_weight, NormKind::layer, DType::bf16, 4},
    {3, 1, 19, 0, HeadNorm::weight_per_head, NormKind::layer, DType::f32, 16},
    {4, 2, 32, 0, HeadNorm::none, NormKind::rms, DType::f32, 16},
    {9, 3, 64, 64, HeadNorm::none, NormKind::rms, DType::i8, 16},
    {4, 2, 40, 40, HeadNorm::one_weight, NormKind::rms, DType::i8, 8},
    {3, 1, 19, 0, HeadNorm::weight_per_head, NormKind::layer, DType::i8, 1},
    {1, 1, 256, 128, HeadNorm::one_weight, NormKind::rms, DType::i8, 64},
};

TEST(CpuRope, q_is_normed_and_rotated_in_place_and_v_is_untouched) {
  for (const std::string& isa : test::available_isas()) {
    for (const RopeCase& test : kCases) {
      const RopeRun run(test);
      std::vector<char> cache;
      const std::vector<float> qkv = run.run(isa, 1, cache);
      for (size_t t = 0; t < run.slots().size(); ++t) {
        for (int h = 0; h < test.num_heads + 2 * test.kv_heads; ++h) {
          if (h >= test.num_heads && h < test.num_heads + test.kv_heads) continue;  // what is left of k is not promised
          const std::vector<double> want = run.reference(t, h);
          for (int d = 0; d < test.head_dim; ++d) {
            const float got = qkv[t * static_cast<size_t>(run.cols()) + static_cast<size_t>(h * test.head_dim + d)];
            ASSERT_NEAR(got, want[static_cast<size_t>(d)], 3e-6) << isa << " token " << t << " head " << h << " d " << d;
          }
        }
      }
    }
  }
}

TEST(CpuRope, keys_and_values_land_in_their_slots_and_nothing_else_is_written) {
  for (const std::string& isa : test::available_isas()) {
    for (const RopeCase& test : kCases) {
      const RopeRun run(test);
      std::vector<char> cache;
      run.run(isa, 1, cache);
      const double tolerance = test.dtype == DType::bf16 ? 1.0 / 256 : 1e-6;
      std::vector<int> token_of(64, -1);
      for (size_t t = 0; t < run.slots().size(); ++t) {
        if (run.slots()[t] >= 0) token_of[static_cast<size_t>(run.slots()[t])] = static_cast<int>(t);
      }
      for (int32_t slot = 0; slot < 64; ++slot) {
        const int t = token_of[static_cast<size_t>(slot)];
        for (int head = 0; head < 2 * test.kv_heads; ++head) {
          const bool value = head >= test.kv_heads;
          const std::vector<double> want = t < 0 ? std::vector<double>(static_cast<size_t>(test.head_dim))
                                                 : run.reference(static_cast<size_t>(t), test.num_heads + head);
          double largest = 0;
          for (const double x : want) largest = std::max(largest, std::abs(x));
          for (int d = 0; d < test.head_dim; ++d) {
            const double x = want[static_cast<size_t>(d)];
            const double most = test.dtype == DType::i8 ? largest / 253 : tolerance * std::max(1.0, std::abs(x));
            ASSERT_NEAR(run.stored(cache, slot, head % test.kv_heads, d, value), x, most)
                << isa << " slot " << slot << " head " << head << " d " << d;
          }
        }
      }
    }
  }
}

TEST(CpuRope, q_and_k_can_be_normed_one_without_the_other) {
  const RopeCase test{2, 1, 24, 8, HeadNorm::one_weight, NormKind::rms, DType::f32, 16};
  for (const std::string& isa : test::available_isas()) {
    for (const bool only_q : {true, false}) {
      RopeRun run(test);
      (only_q ? run.args().k_norm : run.args().q_norm) = nullptr;
      std::vector<char> cache;
      const std::vector<float> qkv = run.run(isa, 1, cache);
      const std::vector<double> q = run.reference(0, 1), k = run.reference(0, 2);
      for (int d = 0; d < test.head_dim; ++d) {
        EXPECT_NEAR(qkv[static_cast<size_t>(test.head_dim + d)], q[static_cast<size_t>(d)], 3e-6) << isa;
        EXPECT_NEAR(run.stored(cache, run.slots()[0], 0, d, false), k[static_cast<size_t>(d)], 3e-6) << isa;
      }
    }
  }
}

TEST(CpuRope, threads_and_avx_width_do_not_change_the_bits) {
  for (const RopeCase& test : kCases) {
    const RopeRun run(test);
    std::vector<float> first;
    std::vector<char> first_cache;
    for (const std::string& isa : test::available_isas()) {
      if (isa == "portable") continue;  // it has no fused multiply-add
      for (const int num_threads : {1, 2}) {
        std::vector<char> cache;
        const std::vector<float> qkv = run.run(isa, num_threads, cache);
        if (first.empty()) first = qkv, first_cache = cache;
        EXPECT_TRUE(test::same_bits(first, qkv)) << isa << " " << num_threads;
        EXPECT_TRUE(first_cache == cache) << isa << " " << num_threads;
      }
    }
  }
}

/// The only block, of one token and head, that holds `vector` as key and as value.
std::vector<char> stored_block(const std::string& isa, const std::vector<float>& vector, DType dtype) {
  const std::unique_ptr<Backend> backend = make_cpu_backend({1, isa});
  const int head_dim = static_cast<int>(vector.size());
  std::vector<float> qkv;
  for (int part = 0; part < 3; ++part) qkv.insert(qkv.end(), vector.begin(), vector.end());
  KvLayer kv{nullptr, {dtype, 1, 1, head_dim}};
  std::vector<char> block(kv.layout.block_bytes());
  kv.data = block.data();
  const int32_t zero = 0;
  Batch batch;
  batch.num_tokens = 1;
  batch.positions = &zero;
  batch.slots = &zero;
  RopeStoreArgs args;
  args.num_heads = args.kv_heads = 1;
  args.head_dim = head_dim;
  backend->rope_store_kv(test::matrix(qkv, 1, 3 * head_dim), args, kv, batch);
  return block;
}

TEST(CpuRope, bf16_rounds_to_nearest_even_as_the_scalar_conversion_does) {
  const std::vector<float> special = {1.0f,
                                      1.00390625f,  // halfway between two bf16 values, even below
                                      1.01171875f,  // halfway, even above
                                      -0.0f,
                                      1e-40f,   // subnormal
                                      3.4e38f,  // rounds to infinity
                                      std::numeric_limits<float>::infinity(),
                                      std::bit_cast<float>(0x7f800001u)};  // NaN whose upper half is infinity's
  for (const std::string& isa : test::available_isas()) {
    const std::vector<char> block = stored_block(isa, special, DType::bf16);
    std::vector<uint16_t> cache(2 * special.size());
    ASSERT_EQ(block.size(), cache.size() * sizeof(uint16_t));
    std::memcpy(cache.data(), block.data(), block.size());
    for (size_t i = 0; i < cache.size(); ++i) {
      EXPECT_EQ(cache[i], float_to_bf16(special[i % special.size()])) << isa << " element " << i;
    }
  }
}

TEST(CpuRope, i8_codes_are_the_numbers_over_a_127th_of_the_largest_rounded_to_even) {
  const float infinity = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  struct Vector {
    std::vector<float> numbers;
    float scale;
    std::vector<int> codes;
  };
  const std::vector<Vector> vectors = {
      {{127.0f, 0.5f, 1.5f, -2.5f, 126.4f}, 1.0f, {127, 0, 2, -2, 126}},
      {{0.0f, -254.0f, 3.0f}, 2.0f, {0, -127, 2}},
      {{0.0f, -0.0f, 0.0f}, 0.0f, {0, 0, 0}},
      {{1.0f, nan, 2.0f}, nan, {0, 0, 0}},
      {{1.0f, -infinity}, nan, {0, 0}},
      {{3.0e38f, -3.0e38f}, 3.0e38f / 127.0f, {127, -127}},
      {{1e-45f, 0.0f}, 0.0f, {0, 0}},  // the scale underflows
      {std::vector<float>(37, 0.25f), 0.25f / 127.0f, std::vector<int>(37, 127)},
  };
  for (const std::string& isa : test::available_isas()) {
    for (const Vector& vector : vectors) {
      const std::vector<char> block = stored_block(isa, vector.numbers, DType::i8);
      const size_t n = vector.numbers.size();
      ASSERT_EQ(block.size(), 2 * (n + sizeof(float)));
      for (size_t i = 0; i < 2 * n; ++i) EXPECT_EQ(static_cast<signed char>(block[i]), vector.codes[i % n]) << isa << " " << i;
      float scales[2];
      std::memcpy(scales, block.data() + 2 * n, sizeof scales);
      for (const float scale : scales) {
        EXPECT_TRUE(std::isnan(vector.scale) ? std::isnan(scale) : scale == vector.scale) << isa << " " << scale;
      }
    }
  }
}

}  // namespace
}  // namespace pagoda
