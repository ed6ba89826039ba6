// Mixture of experts on every instruction set: how logits choose experts, and products by expert that have the bits of plain
// ones.
#include <gtest/gtest.h>

#include <bit>
#include <utility>

#include "cpu_support.h"

namespace pagoda {
namespace {

/// The arrays of a Routing, one more entry than it has in each to show writes past the end.
class RoutingArrays {
 public:
  RoutingArrays(int num_experts, int top_k, int64_t num_tokens)
      : experts_(static_cast<size_t>(num_tokens * top_k) + 1, kUntouched),
        start_(static_cast<size_t>(num_experts) + 2, kUntouched),
        pairs_(experts_),
        places_(experts_),
        weights_(experts_.size(), -7.0f) {
    view = {num_experts, top_k, num_tokens, experts_.data(), weights_.data(), start_.data(), pairs_.data(), places_.data()};
  }

  RoutingArrays(RoutingArrays&&) = default;  // what `view` points to stays where it is

  void expect_ends_untouched() const {
    for (const auto* array : {&experts_, &start_, &pairs_, &places_}) EXPECT_EQ(array->back(), kUntouched);
    EXPECT_EQ(weights_.back(), -7.0f);
  }

  Routing view;

 private:
  static constexpr int32_t kUntouched = -77;
  std::vector<int32_t> experts_, start_, pairs_, places_;
  std::vector<float> weights_;
};

RoutingArrays route(Backend& backend, std::vector<float>& logits, int num_experts, const RouteArgs& args) {
  const int64_t num_tokens = std::ssize(logits) / num_experts;
  RoutingArrays arrays(num_experts, args.top_k, num_tokens);
  backend.route(arrays.view, test::matrix(logits, num_tokens, num_experts), args);
  return arrays;
}

/// The chosen experts and their weights by definition.
std::vector<std::pair<int32_t, double>> route_reference(const float* logits, int num_experts, const RouteArgs& args) {
  std::vector<int32_t> order(static_cast<size_t>(num_experts));
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
  double all = 0, chosen = 0;
  const auto exponential = [&](int32_t e) { return std::exp(double{logits[e]} - double{logits[order[0]]}); };
  for (const int32_t e : order) all += exponential(e);
  for (int j = 0; j < args.top_k; ++j) chosen += exponential(order[static_cast<size_t>(j)]);
  std::vector<std::pair<int32_t, double>> routed;
  for (int j = 0; j < args.top_k; ++j) {
    const int32_t e = order[static_cast<size_t>(j)];
    double weight = exponential(e) / (args.softmax_first ? all : chosen);
    if (args.softmax_first && args.normalise) weight /= chosen / all;
    routed.emplace_back(e, weight * double{args.scale});
  }
  return routed;
}

void expect_routed(const Routing& routing, const std::vector<float>& logits, const RouteArgs& args) {
  for (int64_t t = 0; t < routing.num_tokens; ++t) {
    const auto want = route_reference(logits.data() + t * routing.num_experts, routing.num_experts, args);
    for (int64_t j = 0; j < routing.top_k; ++j) {
      const auto& [expert, weight] = want[static_cast<size_t>(j)];
      ASSERT_EQ(routing.experts[t * routing.top_k + j], expert) << "token " << t << " choice " << j;
      ASSERT_NEAR(routing.weights[t * routing.top_k + j], weight, 1e-6 * weight + 1e-37) << "token " << t << " choice " << j;
    }
  }
}

/// Places are the pairs sorted by expert, in order of pairs within one.
void expect_sorted(const Routing& routing) {
  std::vector<int32_t> pairs(static_cast<size_t>(routing.num_pairs()));
  std::iota(pairs.begin(), pairs.end(), 0);
  std::ranges::stable_sort(pairs, {}, [&](int32_t pair) { return routing.experts[pair]; });
  ASSERT_EQ(routing.expert_start[0], 0);
  for (int e = 0; e < routing.num_experts; ++e) {
    const auto count = std::ranges::count(routing.experts, routing.experts + routing.num_pairs(), e);
    ASSERT_EQ(routing.expert_start[e + 1] - routing.expert_start[e], count) << "expert " << e;
  }
  for (int32_t place = 0; place < std::ssize(pairs); ++place) {
    ASSERT_EQ(routing.pairs[place], pairs[static_cast<size_t>(place)]);
    ASSERT_EQ(routing.places[routing.pairs[place]], place);
  }
}

TEST(CpuRoute, every_kind_of_weight_matches_the_reference) {
  for (const std::string& isa : test::available_isas()) {
    const std::unique_ptr<Backend> backend = make_cpu_backend({2, isa});
    for (const auto& [num_experts, top_k] : {std::pair{1, 1}, {4, 2}, {7, 7}, {8, 1}, {16, 16}, {60, 4}, {128, 8}}) {
      for (const auto& [softmax_first, normalise] : {std::pair{true, false}, {true, true}, {false, false}, {false, true}}) {
        for (const float scale : {1.0f, 2.5f}) {
          SCOPED_TRACE(str(isa, ": ", top_k, " of ", num_experts, " experts"));
          const RouteArgs args{top_k, softmax_first, normalise, scale};
          std::vector<float> logits = test::random_floats(static_cast<size_t>(num_experts) * 150, 1, 3.0f);
          const RoutingArrays arrays = route(*backend, logits, num_experts, args);
          expect_routed(arrays.view, logits, args);
          expect_sorted(arrays.view);
          arrays.expect_ends_untouched();
        }
      }
    }
  }
}

TEST(CpuRoute, of_equal_logits_the_lower_expert_comes_first) {
  const std::unique_ptr<Backend> backend = make_cpu_backend({1, "auto"});
  std::vector<float> logits = {1, 2,     2,  0, 2,     1,  //
                               0, -0.0f, -1, 0, -0.0f, -2};
  const RoutingArrays arrays = route(*backend, logits, 6, {.top_k = 4});
  EXPECT_EQ(std::vector<int32_t>(arrays.view.experts, arrays.view.experts + 8), (std::vector<int32_t>{1, 2, 4, 0, 0, 1, 3, 4}));
}

TEST(CpuRoute, extreme_logits_give_finite_weights) {
  const std::unique_ptr<Backend> backend = make_cpu_backend({1, "auto"});
  std::vector<float> logits = {3e38f, -3e38f, 0, -INFINITY};
  const RoutingArrays arrays = route(*backend, logits, 4, {.top_k = 4});
  EXPECT_EQ(std::vector<float>(arrays.view.weights, arrays.view.weights + 4), (std::vector<float>{1, 0, 0, 0}));
  EXPECT_EQ(std::vector<int32_t>(arrays.view.experts, arrays.view.experts + 4), (std::vector<int32_t>{0, 2, 1, 3}));
}

TEST(CpuRoute, a_nan_makes_its_token_nan_and_leaves_the_others) {
  const std::unique_ptr<Backend> backend = make_cpu_backend({1, "auto"});
  for (const float nan : {std::bit_cast<float>(0x7fc00000u), std::bit_cast<float>(0xffffffffu)}) {
    for (const bool softmax_first : {true, false}) {
      const RouteArgs args{.top_k = 2, .softmax_first = softmax_first};
      std::vector<float> logits = {1, 2, 3, 4, 4, 3, 2, 1, 5, 6, 5, 6};
      logits[5] = nan;
      const RoutingArrays arrays = route(*backend, logits, 4, args);
      EXPECT_EQ(std::vector<int32_t>(arrays.view.experts, arrays.view.experts + 6), (std::vector<int32_t>{3, 2, 1, 0, 1, 3}));
      for (int i = 0; i < 6; ++i) EXPECT_EQ(std::isnan(arrays.view.weights[i]), i / 2 == 1) << i;
      expect_sorted(arrays.view);
    }
  }
}

TEST(CpuRoute, a_token_is_routed_alike_alone_in_a_batch_and_on_every_instruction_set) {
  std::vector<float> logits = test::random_floats(1000 * 60, 4, 2.0f), expected;
  for (const std::string& isa : test::available_isas()) {
    const std::unique_ptr<Backend> backend = make_cpu_backend({3, isa});
    const RoutingArrays all = route(*backend, logits, 60, {.top_k = 4});
    const std::vector<float> weights(all.view.weights, all.view.weights + 4000);
    if (expected.empty()) expected = weights;
    EXPECT_TRUE(test::same_bits(weights, expected)) << isa;
    for (size_t t = 0; t < 1000; t += 111) {
      std::vector<float> one(logits.begin() + t * 60, logits.begin() + (t + 1) * 60);
      const RoutingArrays alone = route(*backend, one, 60, {.top_k = 4});
      EXPECT_EQ(std::memcmp(alone.view.weights, &weights[t * 4], 16), 0) << isa << " token " << t;
    }
  }
}

TEST(CpuRoute, no_tokens_leave_every_expert_empty) {
  const std::unique_ptr<Backend> backend = make_cpu_backend({2, "auto"});
  std::vector<float> logits;
  RoutingArrays arrays(5, 2, 0);
  backend->route(arrays.view, Tensor::dense(nullptr, DType::f32, {0, 5}), {.top_k = 2});
  for (int e = 0; e <= 5; ++e) EXPECT_EQ(arrays.view.expert_start[e], 0);
  arrays.expect_ends_untouched();
}

/// Stored rows of random bytes with small scales, so that sums stay finite.
std::vector<std::byte> random_rows(WeightFormat format, int64_t rows, int64_t cols, unsigned seed) {
  std::mt19937 generator(seed);
  std::vector<std::byte> stored(static_cast<size_t>(rows) * weight_row_bytes(format, cols));
  const std::vector<float> values = test::random_floats(stored.size(), seed, 0.1f);
  const WeightFormatInfo info = weight_format_info(format);
  for (size_t at = 0; at < stored.size(); at += info.block_bytes) {
    for (size_t i = 0; i < info.block_bytes; ++i) stored[at + i] = static_cast<std::byte>(generator() & 0xfeu);  // no f8 NaN
    const uint16_t half = format == WeightFormat::bf16 ? float_to_bf16(values[at]) : float_to_f16(values[at]);
    if (format == WeightFormat::f32 || format == WeightFormat::f8_e4m3) {
      std::memcpy(&stored[at], &values[at], 4);
    } else {
      std::memcpy(&stored[at], &half, 2);
    }
    if (format == WeightFormat::q4_1 || format == WeightFormat::q4_k) std::memcpy(&stored[at + 2], &half, 2);
  }
  return stored;
}

/// Experts stacked in one weight, and each alone.
struct Experts {
  Weight stacked;
  std::vector<Weight> alone;
};

/// `parts`: format and rows of each part that an expert is packed from.
Experts make_experts(Backend& backend, int num_experts, const std::vector<std::pair<WeightFormat, int64_t>>& parts,
                     int64_t cols) {
  std::vector<std::vector<std::byte>> stored;
  std::vector<WeightPart> stacked;
  Experts experts;
  for (int e = 0; e < num_experts; ++e) {
    std::vector<WeightPart> own;
    for (const auto& [format, rows] : parts) {
      stored.push_back(random_rows(format, rows, cols, static_cast<unsigned>(stored.size()) + 1));
      own.push_back({format, rows, cols, stored.back().data(), {}, nullptr});
    }
    experts.alone.push_back(backend.pack(own));
    stacked.insert(stacked.end(), own.begin(), own.end());
  }
  experts.stacked = backend.pack(stacked);
  experts.stacked.num_groups = num_experts;
  return experts;
}

/// The product of all places, with a workspace whose end is watched.
std::vector<float> multiply(Backend& backend, const Tensor& x, const Experts& experts, const float* bias,
                            const Routing& routing, ExpertInput input) {
  const int64_t rows = experts.alone[0].rows;
  std::vector<float> out(static_cast<size_t>(routing.num_pairs() * rows));
  const size_t bytes =
      backend.traits().grouped_linear_workspace(routing.num_pairs(), experts.stacked.cols, experts.stacked.part_formats, input);
  const Buffer workspace = backend.allocate(bytes + 64);
  std::memset(workspace.get(), 0x7a, bytes + 64);
  backend.grouped_linear(test::matrix(out, routing.num_pairs(), rows), x, experts.stacked, bias, routing, input,
                         workspace.get());
  for (size_t i = bytes; i < bytes + 64; ++i) EXPECT_EQ(static_cast<char*>(workspace.get())[i], 0x7a);
  return out;
}

/// The same by one plain product for each place.
std::vector<float> multiply_alone(Backend& backend, const Tensor& x, const Experts& experts, const float* bias,
                                  const Routing& routing, ExpertInput input) {
  const int64_t rows = experts.alone[0].rows;
  std::vector<float> out;
  for (int32_t place = 0; place < routing.num_pairs(); ++place) {
    const int32_t pair = routing.pairs[place], expert = routing.experts[pair];
    const Weight& weight = experts.alone[static_cast<size_t>(expert)];
    float* row = x.row<float>(input == ExpertInput::by_token ? pair / routing.top_k : place);
    std::vector<float> one(static_cast<size_t>(rows));
    const Buffer workspace =
        backend.allocate(backend.traits().linear_workspace(1, weight.rows, weight.cols, weight.part_formats));
    backend.linear(test::matrix(one, 1, rows), Tensor::dense(row, DType::f32, {1, weight.cols}), weight,
                   bias ? bias + expert * rows : nullptr, workspace.get());
    out.insert(out.end(), one.begin(), one.end());
  }
  return out;
}

struct ProductCase {
  int num_experts, top_k;
  int64_t num_tokens;
  std::vector<std::pair<WeightFormat, int64_t>> parts;
  int64_t cols;
};

void expect_plain_bits(const ProductCase& test, const std::string& isa, int num_threads) {
  SCOPED_TRACE(str(isa, ", ", num_threads, " threads, ", test.top_k, " of ", test.num_experts, " experts, ", test.num_tokens,
                   " tokens, ", weight_format_info(test.parts[0].first).name));
  const std::unique_ptr<Backend> backend = make_cpu_backend({num_threads, isa});
  const Experts experts = make_experts(*backend, test.num_experts, test.parts, test.cols);
  const int64_t rows = experts.alone[0].rows;
  std::vector<float> logits = test::random_floats(static_cast<size_t>(test.num_tokens * test.num_experts), 5);
  const RoutingArrays arrays = route(*backend, logits, test.num_experts, {.top_k = test.top_k});
  const std::vector<float> bias = test::random_floats(static_cast<size_t>(test.num_experts * rows), 6);
  for (const ExpertInput input : {ExpertInput::by_token, ExpertInput::by_place}) {
    const int64_t num_rows = input == ExpertInput::by_token ? test.num_tokens : arrays.view.num_pairs();
    std::vector<float> values = test::random_floats(static_cast<size_t>(num_rows * (test.cols + 3)), 7);
    const Tensor x = test::matrix(values, num_rows, test.cols + 3).columns(1, test.cols + 1);
    for (const float* b : {static_cast<const float*>(nullptr), bias.data()}) {
      const std::vector<float> out = multiply(*backend, x, experts, b, arrays.view, input);
      EXPECT_TRUE(test::same_bits(out, multiply_alone(*backend, x, experts, b, arrays.view, input)))
          << (input == ExpertInput::by_token ? "by token" : "by place") << (b ? " with bias" : "");
    }
  }
}

TEST(CpuGroupedLinear, a_row_has_the_bits_of_a_plain_product_with_its_expert) {
  for (const std::string& isa : test::available_isas()) {
    for (const auto& [format, cols] : {std::pair{WeightFormat::f32, 35},
                                       {WeightFormat::f16, 96},
                                       {WeightFormat::bf16, 97},
                                       {WeightFormat::q8_0, 96},
                                       {WeightFormat::q4_1, 96},
                                       {WeightFormat::q4_k, 256},
                                       {WeightFormat::f8_e4m3, 96}}) {
      for (const auto& [num_tokens, num_threads] : {std::pair{1, 2}, {9, 1}, {70, 3}}) {
        expect_plain_bits({8, 3, num_tokens, {{format, 20}, {format, 20}}, cols}, isa, num_threads);
      }
    }
  }
}

TEST(CpuGroupedLinear, one_choice_all_experts_and_parts_of_two_formats_give_the_same_bits) {
  for (const std::string& isa : test::available_isas()) {
    expect_plain_bits({3, 1, 10, {{WeightFormat::q4_1, 33}}, 64}, isa, 2);
    expect_plain_bits({5, 5, 7, {{WeightFormat::f16, 16}}, 33}, isa, 2);
    expect_plain_bits({4, 2, 30, {{WeightFormat::q8_0, 17}, {WeightFormat::bf16, 31}}, 160}, isa, 2);
    expect_plain_bits({4, 2, 30, {{WeightFormat::f8_e4m3, 16}, {WeightFormat::q8_0, 16}}, 64}, isa, 2);
    expect_plain_bits({1, 1, 5, {{WeightFormat::f32, 1}}, 1}, isa, 2);
  }
}

TEST(CpuGroupedLinear, wide_rows_are_cut_into_blocks_that_change_nothing) {
  expect_plain_bits({2, 1, 61, {{WeightFormat::q8_0, 20}}, 8192}, "auto", 2);
}

TEST(CpuGroupedLinear, no_tokens_are_allowed) {
  const std::unique_ptr<Backend> backend = make_cpu_backend({2, "auto"});
  const Experts experts = make_experts(*backend, 4, {{WeightFormat::q8_0, 16}}, 64);
  std::vector<float> logits;
  const RoutingArrays arrays = route(*backend, logits, 4, {.top_k = 2});
  const Tensor none = Tensor::dense(nullptr, DType::f32, {0, 64});
  EXPECT_TRUE(multiply(*backend, none, experts, nullptr, arrays.view, ExpertInput::by_token).empty());
  EXPECT_TRUE(multiply(*backend, none, experts, nullptr, arrays.view, ExpertInput::by_place).empty());
}

TEST(CpuExperts, a_routed_layer_matches_a_dense_double_precision_reference) {
  constexpr int kExperts = 6, kTopK = 2, kTokens = 23, kHidden = 40, kInner = 24;
  std::vector<float> x = test::random_floats(kTokens * kHidden, 1), logits = test::random_floats(kTokens * kExperts, 2);
  std::vector<float> up = test::random_floats(kExperts * 2 * kInner * kHidden, 3, 0.2f);
  std::vector<float> down = test::random_floats(kExperts * kHidden * kInner, 4, 0.2f);
  for (int t = 0; t < kTokens; ++t) logits[static_cast<size_t>(t * kExperts + 4)] = -50;  // expert 4 gets no token
  for (const std::string& isa : test::available_isas()) {
    const std::unique_ptr<Backend> backend = make_cpu_backend({2, isa});
    const auto pack = [&](const std::vector<float>& values, int64_t rows, int64_t cols) {
      const auto* data = reinterpret_cast<const std::byte*>(values.data());
      std::vector<WeightPart> parts;
      for (int e = 0; e < kExperts; ++e)
        parts.push_back({WeightFormat::f32, rows, cols, data + e * rows * cols * 4, {}, nullptr});
      Experts experts{backend->pack(parts), {backend->pack(std::span(parts).first(1))}};
      experts.stacked.num_groups = kExperts;
      return experts;
    };
    const RoutingArrays arrays = route(*backend, logits, kExperts, {.top_k = kTopK, .normalise = true});
    const Routing& routing = arrays.view;
    std::vector<float> gate_up = multiply(*backend, test::matrix(x, kTokens, kHidden), pack(up, 2 * kInner, kHidden), nullptr,
                                          routing, ExpertInput::by_token);
    std::vector<float> inner(kTokens * kTopK * kInner), out(kTokens * kHidden);
    backend->gated_activation(test::matrix(inner, kTokens * kTopK, kInner), test::matrix(gate_up, kTokens * kTopK, 2 * kInner),
                              Activation::relu);
    std::vector<float> y = multiply(*backend, test::matrix(inner, kTokens * kTopK, kInner), pack(down, kHidden, kInner),
                                    nullptr, routing, ExpertInput::by_place);
    backend->combine_experts(test::matrix(out, kTokens, kHidden), test::matrix(y, kTokens * kTopK, kHidden), routing);

    for (size_t t = 0; t < kTokens; ++t) {
      std::vector<double> want(kHidden);
      for (const auto& [expert, weight] :
           route_reference(&logits[t * kExperts], kExperts, {.top_k = kTopK, .normalise = true})) {
        const float* u = &up[static_cast<size_t>(expert) * 2 * kInner * kHidden];
        const float* d = &down[static_cast<size_t>(expert) * kHidden * kInner];
        for (size_t i = 0; i < kInner; ++i) {
          double g = 0, v = 0;
          for (size_t k = 0; k < kHidden; ++k) {
            g += double{u[i * kHidden + k]} * double{x[t * kHidden + k]};
            v += double{u[(kInner + i) * kHidden + k]} * double{x[t * kHidden + k]};
          }
          for (size_t h = 0; h < kHidden; ++h) want[h] += weight * double{d[h * kInner + i]} * std::max(g, 0.0) * v;
        }
      }
      for (size_t h = 0; h < kHidden; ++h) ASSERT_NEAR(out[t * kHidden + h], want[h], 2e-5) << isa << " token " << t;
    }
  }
}

TEST(CpuExperts, a_sum_of_experts_has_the_same_bits_alone_and_in_a_batch_and_on_avx2_and_avx512) {
  constexpr int64_t kTokens = 400, kWidth = 70;
  std::vector<float> logits = test::random_floats(kTokens * 9, 1);
  std::vector<std::vector<float>> results;
  for (const std::string& isa : test::available_isas()) {
    const std::unique_ptr<Backend> backend = make_cpu_backend({3, isa});
    const RoutingArrays arrays = route(*backend, logits, 9, {.top_k = 3});
    std::vector<float> y = test::random_floats(kTokens * 3 * kWidth, 2), out(kTokens * kWidth), one(kWidth);
    backend->combine_experts(test::matrix(out, kTokens, kWidth), test::matrix(y, kTokens * 3, kWidth), arrays.view);
    for (int64_t t = 0; t < kTokens; t += 57) {
      Routing alone = arrays.view;  // of token t, with the places it has in the batch
      alone.num_tokens = 1, alone.weights += t * 3, alone.places += t * 3;
      backend->combine_experts(test::matrix(one, 1, kWidth), test::matrix(y, kTokens * 3, kWidth), alone);
      EXPECT_EQ(std::memcmp(one.data(), &out[static_cast<size_t>(t * kWidth)], sizeof(float) * kWidth), 0) << isa;
    }
    if (isa != "portable") results.push_back(out);
  }
  for (size_t i = 1; i < results.size(); ++i) EXPECT_TRUE(test::same_bits(results[0], results[i]));
}

TEST(CpuExperts, the_shared_expert_is_scaled_by_the_sigmoid_of_its_gate) {
  std::vector<float> gate = {0, 1, -1, 30, -30, 200, -200, -INFINITY, INFINITY, NAN};
  const auto num_tokens = std::ssize(gate);
  constexpr int64_t kWidth = 21;
  for (const std::string& isa : test::available_isas()) {
    const std::unique_ptr<Backend> backend = make_cpu_backend({2, isa});
    std::vector<float> values = test::random_floats(static_cast<size_t>(num_tokens * (kWidth + 2)), 1);
    const std::vector<float> before = values;
    backend->sigmoid_scale(test::matrix(values, num_tokens, kWidth + 2).columns(1, kWidth + 1),
                           test::matrix(gate, num_tokens, 1));
    for (size_t i = 0; i < values.size(); ++i) {
      const auto column = static_cast<int64_t>(i) % (kWidth + 2);
      const double g = double{gate[i / (kWidth + 2)]};
      const bool scaled = column >= 1 && column <= kWidth;
      if (scaled && std::isnan(g)) {
        EXPECT_TRUE(std::isnan(values[i])) << isa;
      } else {
        const double want = scaled ? double{before[i]} / (1 + std::exp(-g)) : double{before[i]};
        EXPECT_NEAR(values[i], want, 3e-7 * std::abs(want) + 1e-37) << isa << " gate " << g;
      }
    }
  }
}

}  // namespace
}  // namespace pagoda
