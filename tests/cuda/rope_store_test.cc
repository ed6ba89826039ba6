// Norm of heads, rotary embedding and the stores into the cache, against doubles; every byte of the cache that no token owns
// stays.
#include "cuda/attention_common.cuh"
#include "cuda/kernels.h"
#include "elementwise_support.h"

namespace pagoda::cuda {
namespace {

constexpr int kBlocks = 6;
constexpr int kPositions = 64;

struct Case {
  int num_heads = 4, kv_heads = 2, head_dim = 64, rotary_dim = 64;
  NormKind kind = NormKind::rms;
  bool q_norm = false, k_norm = false, norm_per_head = false;
  DType dtype = DType::bf16;
  int block_size = 16;
  Margins margins = {};

  int64_t cols() const { return int64_t{num_heads + 2 * kv_heads} * head_dim; }
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c.num_heads << "/" << c.kv_heads << " heads of " << c.head_dim << ", " << c.rotary_dim << " rotated, "
             << (c.kind == NormKind::rms ? "rms" : "layer") << (c.q_norm ? " q" : "") << (c.k_norm ? " k" : "")
             << (c.norm_per_head ? " per head, " : ", ") << dtype_name(c.dtype) << " in blocks of " << c.block_size
             << ", margins " << c.margins.before << ", " << c.margins.after;
}

/// The step's constants for some tokens, and a cache full of NaN.
struct Step {
  Step(const Case& c, int64_t tokens, std::mt19937& random) : c(c) {
    std::uniform_real_distribution<float> angle(-3, 3);
    for (int i = 0; i < kPositions * c.rotary_dim / 2; ++i) angles.push_back(angle(random));
    for (int i = 0; i < kPositions * c.rotary_dim; ++i) {
      const int half = c.rotary_dim / 2, position = i / c.rotary_dim, j = i % c.rotary_dim;
      const float a = angles[static_cast<size_t>(position * half + j % half)];
      cos_sin.push_back(j < half ? std::cos(a) : std::sin(a));
    }
    std::normal_distribution<float> normal(1, 0.3f);
    for (int i = 0; i < c.num_heads * c.head_dim; ++i) q_norm.push_back(normal(random));
    for (int i = 0; i < c.kv_heads * c.head_dim; ++i) k_norm.push_back(normal(random));
    std::vector<int32_t> all(static_cast<size_t>(kBlocks * c.block_size));
    for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int32_t>(i);
    std::shuffle(all.begin(), all.end(), random);
    for (int64_t t = 0; t < tokens; ++t) {
      positions.push_back(static_cast<int32_t>(random() % kPositions));
      slots.push_back(t % 5 == 3 ? -1 : all[static_cast<size_t>(t)]);
    }
    layout = {c.dtype, c.block_size, c.kv_heads, c.head_dim};
    cache.assign(layout.block_bytes() * kBlocks, 0xff);
  }

  RopeStoreArgs args() const {
    return {c.num_heads,
            c.kv_heads,
            c.head_dim,
            c.rotary_dim,
            cos_sin.data(),
            c.kind,
            c.q_norm ? q_norm.data() : nullptr,
            c.k_norm ? k_norm.data() : nullptr,
            c.norm_per_head ? c.head_dim : 0,
            1e-5f};
  }

  /// For tokens `first` and later.
  void run(const Tensor& qkv, int64_t first = 0, int num_multiprocessors = 4) {
    Batch batch;
    batch.num_tokens = static_cast<int>(qkv.rows());
    batch.block_size = c.block_size;
    batch.positions = positions.data() + first;
    batch.slots = slots.data() + first;
    rope_store_kv(test_queue(num_multiprocessors), qkv, args(), {cache.data(), layout}, batch);
  }

  /// A head (in q | k | v) of a token as it is to be stored.
  std::vector<double> expected_head(const Window& qkv, int64_t token, int head) const {
    std::vector<double> x;
    for (int i = 0; i < c.head_dim; ++i) x.push_back(qkv.get(token, int64_t{head} * c.head_dim + i));
    const bool is_q = head < c.num_heads, is_v = head >= c.num_heads + c.kv_heads;
    if (is_v) return x;
    if (is_q ? c.q_norm : c.k_norm) {
      const int own = is_q ? head : head - c.num_heads;
      norm_head(x, (is_q ? q_norm : k_norm).data() + (c.norm_per_head ? own * c.head_dim : 0));
    }
    const int half = c.rotary_dim / 2;
    for (int i = 0; i < half; ++i) {
      const double angle = angles[static_cast<size_t>(positions[static_cast<size_t>(token)] * half + i)];
      double &low = x[static_cast<size_t>(i)], &high = x[static_cast<size_t>(half + i)];
      const double a = low, b = high;
      low = a * std::cos(angle) - b * std::sin(angle);
      high = a * std::sin(angle) + b * std::cos(angle);
    }
    return x;
  }

  void norm_head(std::vector<double>& x, const float* weights) const {
    double mean = 0, variance = 0;
    for (double v : x) mean += c.kind == NormKind::layer ? v / c.head_dim : 0;
    for (double v : x) variance += (v - mean) * (v - mean) / c.head_dim;
    for (size_t i = 0; i < x.size(); ++i) x[i] = (x[i] - mean) / std::sqrt(variance + 1e-5) * double{weights[i]};
  }

  double cached(size_t element) const {
    if (c.dtype == DType::f8_e4m3) return to_float(E4m3{cache[element]});
    uint16_t bits;
    std::memcpy(&bits, cache.data() + 2 * element, 2);
    return c.dtype == DType::f16 ? f16_to_float(bits) : bf16_to_float(bits);
  }
  Precision precision() const {
    return c.dtype == DType::f8_e4m3 ? kE4m3Precision : c.dtype == DType::f16 ? kF16Precision : kBf16Precision;
  }

  const Case c;
  std::vector<float> angles, cos_sin, q_norm, k_norm;
  std::vector<int32_t> positions, slots;
  KvLayout layout;
  std::vector<uint8_t> cache;
};

void check_q(const Step& step, const Window& before, const Window& after) {
  for (int64_t t = 0; t < before.rows(); ++t) {
    for (int head = 0; head < step.c.num_heads; ++head) {
      const std::vector<double> expected = step.expected_head(before, t, head);
      for (int i = 0; i < step.c.head_dim; ++i) {
        const double got = after.get(t, int64_t{head} * step.c.head_dim + i);
        ASSERT_TRUE(is_rounded(expected[static_cast<size_t>(i)], got, 2e-5))
            << "q, token " << t << ", head " << head << ", " << i;
      }
    }
  }
  ASSERT_TRUE(after.margins_are_untouched());
}

void check_cache(const Step& step, const Window& before) {
  const Case& c = step.c;
  AttentionParams layout;
  layout.kv_heads = c.kv_heads;
  layout.head_dim = c.head_dim;
  layout.block_shift = std::countr_zero(static_cast<unsigned>(c.block_size));
  std::vector<bool> owned(step.cache.size() / dtype_bytes(c.dtype));
  for (int64_t t = 0; t < before.rows(); ++t) {
    const int32_t slot = step.slots[static_cast<size_t>(t)];
    for (int head = 0; slot >= 0 && head < 2 * c.kv_heads; ++head) {
      const std::vector<double> expected = step.expected_head(before, t, c.num_heads + head);
      const auto start =
          static_cast<size_t>(layout.kv_offset(slot / c.block_size, head / c.kv_heads, head % c.kv_heads, slot % c.block_size));
      for (size_t i = 0; i < expected.size(); ++i) {
        owned[start + i] = true;
        ASSERT_TRUE(is_rounded(expected[i], step.cached(start + i), 2e-5, step.precision()))
            << "token " << t << ", head " << head << ", " << i << ": " << step.cached(start + i) << " instead of "
            << expected[i];
      }
    }
  }
  for (size_t i = 0; i < owned.size(); ++i) {
    ASSERT_TRUE(owned[i] || std::isnan(step.cached(i))) << "element " << i << " of the cache belongs to nobody";
  }
}

void check(const Case& c, int64_t tokens, std::mt19937& random) {
  SCOPED_TRACE(testing::Message() << c << ", " << tokens << " tokens");
  Step step(c, tokens, random);
  const Window before = Window::random(DType::bf16, tokens, c.cols(), c.margins, random);
  Window qkv = before;
  step.run(qkv.view());
  synchronize();
  check_q(step, before, qkv);
  check_cache(step, before);
}

/// Heads as models have them, and some as none has.
constexpr int kHeads[][2] = {{64, 64},  {128, 128}, {128, 64},  {256, 256}, {96, 96},  {80, 32},   {64, 16},
                             {192, 64}, {256, 64},  {512, 512}, {8, 0},     {128, 0},  {96, 24},   {80, 20},
                             {64, 6},   {20, 20},   {72, 64},   {5, 2},     {576, 64}, {640, 640}, {33, 0}};

TEST(RopeStore, rotates_heads_of_every_size) {
  std::mt19937 random(1);
  for (const auto& [head_dim, rotary_dim] : kHeads) {
    for (int64_t tokens : kTokens) check({.head_dim = head_dim, .rotary_dim = rotary_dim}, tokens, random);
  }
}

TEST(RopeStore, norms_heads_before_it_rotates_them) {
  std::mt19937 random(2);
  for (const auto& [head_dim, rotary_dim] : kHeads) {
    for (NormKind kind : {NormKind::rms, NormKind::layer}) {
      for (int which : {1, 2, 3}) {
        for (bool per_head : {false, true}) {
          const Case c{.head_dim = head_dim,
                       .rotary_dim = rotary_dim,
                       .kind = kind,
                       .q_norm = (which & 1) != 0,
                       .k_norm = (which & 2) != 0,
                       .norm_per_head = per_head};
          check(c, 7, random);
        }
      }
    }
  }
}

TEST(RopeStore, stores_every_type_in_blocks_of_every_size) {
  std::mt19937 random(3);
  for (DType dtype : {DType::bf16, DType::f16, DType::f8_e4m3}) {
    for (int block_size : {8, 16, 64}) {
      for (int head_dim : {64, 128, 20}) {
        for (bool normed : {false, true}) {
          const Case c{.head_dim = head_dim,
                       .rotary_dim = 16,
                       .q_norm = normed,
                       .k_norm = normed,
                       .dtype = dtype,
                       .block_size = block_size};
          for (int64_t tokens : kTokens) check(c, tokens, random);
        }
      }
    }
  }
}

TEST(RopeStore, takes_any_number_of_heads_in_rows_of_any_stride) {
  std::mt19937 random(4);
  for (const auto& [num_heads, kv_heads] :
       std::initializer_list<std::pair<int, int>>{{1, 1}, {9, 3}, {14, 2}, {32, 8}, {5, 5}}) {
    for (const Margins& margins : kMargins) {
      for (int64_t tokens : kTokens) {
        check({.num_heads = num_heads, .kv_heads = kv_heads, .q_norm = true, .margins = margins}, tokens, random);
      }
    }
  }
}

TEST(RopeStore, leaves_q_alone_when_there_is_nothing_to_do) {
  std::mt19937 random(5);
  const Case c{.rotary_dim = 0};
  Step step(c, 7, random);
  const Window before = Window::random(DType::bf16, 7, c.cols(), {}, random);
  Window qkv = before;
  step.run(qkv.view());
  synchronize();
  EXPECT_EQ(qkv, before);
  check_cache(step, before);
}

TEST(RopeStore, bits_of_a_token_depend_on_it_alone) {
  std::mt19937 random(6);
  for (int head_dim : {128, 80, 20}) {
    for (NormKind kind : {NormKind::rms, NormKind::layer}) {
      const Case c{.head_dim = head_dim, .rotary_dim = 16, .kind = kind, .q_norm = true, .k_norm = true};
      Step whole(c, 40, random);
      const Window before = Window::random(DType::bf16, 40, c.cols(), {}, random);
      Window qkv = before;
      whole.run(qkv.view());
      synchronize();
      for (int64_t count : {1, 2, 7}) {
        Step parts = whole;
        parts.cache.assign(parts.cache.size(), 0xff);
        Window part = before;
        for (int64_t i = 0; i < 40; i += count) parts.run(part.rows_view(i, std::min<int64_t>(i + count, 40)), i);
        synchronize();
        for (int64_t i = 0; i < 40; ++i) {
          for (int64_t j = 0; j < c.num_heads * head_dim; ++j) ASSERT_EQ(part.get(i, j), qkv.get(i, j));
        }
        EXPECT_EQ(parts.cache, whole.cache);
      }
    }
  }
}

TEST(RopeStore, no_schedule_changes_a_bit) {
  std::mt19937 random(7);
  for (int head_dim : {64, 20}) {
    for (NormKind kind : {NormKind::rms, NormKind::layer}) {
      const Case c{.head_dim = head_dim, .rotary_dim = 16, .kind = kind, .q_norm = true, .k_norm = true};
      Step step(c, 7, random);
      const Window before = Window::random(DType::bf16, 7, c.cols(), {}, random);
      Window first = before;
      std::vector<uint8_t> first_cache;
      for (unsigned seed : kSchedules) {
        const ScheduleScope scope(seed);
        Window qkv = before;
        step.run(qkv.view());
        synchronize();
        if (seed == 0) first = qkv, first_cache = step.cache;
        EXPECT_EQ(qkv, first) << "schedule " << seed;
        EXPECT_EQ(step.cache, first_cache) << "schedule " << seed;
      }
    }
  }
}

}  // namespace
}  // namespace pagoda::cuda
