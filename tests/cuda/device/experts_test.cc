// Mixture of experts: how logits choose, products by expert, and their sums, against the CPU.
#include "stored_matrix.h"

namespace pagoda::device_test {
namespace {

class Experts : public DeviceTest {};

struct Mixture {
  int num_experts, top_k;
  int64_t tokens;
  RouteArgs args;
};

std::ostream& operator<<(std::ostream& out, const Mixture& m) {
  return out << m.tokens << " tokens to " << m.top_k << " of " << m.num_experts << " experts"
             << (m.args.softmax_first ? ", softmax first" : "") << (m.args.normalise ? ", normalised" : "");
}

std::vector<Mixture> mixtures() {
  std::vector<Mixture> all = {{8, 2, 1, {2, true, true, 1}},      {8, 2, 37, {2, false, false, 1}},
                              {60, 4, 5, {4, true, false, 2.5f}}, {128, 8, 19, {8, true, true, 1}},
                              {3, 3, 4, {3, false, false, 1}},    {1, 1, 6, {1, true, false, 1}}};
  if (!is_emulated()) all.insert(all.end(), {{128, 8, 2048, {8, true, true, 1}}, {32, 4, 300, {4, false, false, 1}}});
  return all;
}

Routing make_routing(Machine& machine, const Mixture& m) {
  const auto pairs = static_cast<size_t>(m.tokens * m.top_k);
  const auto integers = [&](size_t n) { return static_cast<int32_t*>(machine.memory(n * sizeof(int32_t))); };
  return {.num_experts = m.num_experts,
          .top_k = m.top_k,
          .num_tokens = m.tokens,
          .experts = integers(pairs),
          .weights = static_cast<float*>(machine.memory(pairs * sizeof(float))),
          .expert_start = integers(static_cast<size_t>(m.num_experts) + 1),
          .pairs = integers(pairs),
          .places = integers(pairs)};
}

/// Logits with equal ones among them.
Routing route(Machine& machine, const Mixture& m) {
  std::vector<float> logits = random_values(m.tokens * m.num_experts, 21, 2);
  for (size_t i = 3; i < logits.size(); i += 5) logits[i] = logits[i - 1];
  const Routing routing = make_routing(machine, m);
  machine->route(routing, machine.floats(logits, m.num_experts), m.args);
  return routing;
}

TEST_F(Experts, routes_are_equal) {
  for (const Mixture& m : mixtures()) {
    SCOPED_TRACE(::testing::Message() << m);
    const Routing expected = route(cpu(), m), got = route(gpu(), m);
    const auto same = [&](auto* Routing::* array, int64_t n) {
      return cpu().read(expected.*array, n) == gpu().read(got.*array, n);
    };
    EXPECT_TRUE(same(&Routing::experts, expected.num_pairs()));
    EXPECT_TRUE(same(&Routing::expert_start, m.num_experts + 1));
    EXPECT_TRUE(same(&Routing::pairs, expected.num_pairs()));
    EXPECT_TRUE(same(&Routing::places, expected.num_pairs()));
    expect_close(cpu().read(expected.weights, expected.num_pairs()), gpu().read(got.weights, got.num_pairs()), {1e-6, 1e-5});
  }
}

Weight pack_experts(Machine& machine, const std::vector<StoredMatrix>& experts, int num_experts) {
  Weight weight = pack(machine, experts);
  weight.num_groups = num_experts;
  return weight;
}

struct GroupedProduct {
  WeightFormat format;
  ExpertInput input;
  bool bias;
  int64_t rows, cols;
};

std::vector<float> multiply_grouped(Machine& machine, const Mixture& m, const GroupedProduct& p,
                                    const std::vector<StoredMatrix>& experts) {
  const Routing routing = route(machine, m);
  const Weight weight = pack_experts(machine, experts, m.num_experts);
  const int64_t num_rows = p.input == ExpertInput::by_token ? m.tokens : routing.num_pairs();
  const Tensor x = machine.activations(random_values(num_rows * p.cols, 7), p.cols, p.cols + 8);
  const Tensor out = machine.empty(machine.act(), routing.num_pairs(), p.rows);
  const float* bias = p.bias ? machine.array(random_values(m.num_experts * p.rows, 9)) : nullptr;
  void* workspace = machine.memory(
      machine->traits().grouped_linear_workspace(routing.num_pairs(), weight.cols, weight.part_formats, p.input));
  machine->grouped_linear(out, x, weight, bias, routing, p.input, workspace);
  return machine.read(out);
}

TEST_F(Experts, grouped_products) {
  const int64_t rows = is_emulated() ? 40 : 768, cols = is_emulated() ? 96 : 1024;
  for (const Mixture& m : mixtures()) {
    if (m.num_experts > 60) continue;
    for (const WeightFormat format : {WeightFormat::bf16, WeightFormat::q8_0, WeightFormat::q4_0}) {
      std::vector<StoredMatrix> experts;
      for (int e = 0; e < m.num_experts; ++e) experts.emplace_back(format, rows, cols, 30 + static_cast<unsigned>(e));
      for (const ExpertInput input : {ExpertInput::by_token, ExpertInput::by_place}) {
        const GroupedProduct p{format, input, input == ExpertInput::by_place, rows, cols};
        SCOPED_TRACE(::testing::Message() << weight_format_info(format).name << ", " << m
                                          << (input == ExpertInput::by_token ? ", by token" : ", by place"));
        expect_same({0.003, 0.01}, [&](Machine& machine) { return multiply_grouped(machine, m, p, experts); });
      }
    }
  }
}

TEST_F(Experts, combine) {
  for (const Mixture& m : mixtures()) {
    for (const int64_t cols : {64, 70}) {
      SCOPED_TRACE(::testing::Message() << m << ", " << cols << " columns");
      expect_same(kOneRounding, [&](Machine& machine) {
        const Routing routing = route(machine, m);
        const Tensor y = machine.activations(random_values(routing.num_pairs() * cols, 8), cols);
        const Tensor out = machine.empty(machine.act(), m.tokens, cols);
        machine->combine_experts(out, y, routing);
        return machine.read(out);
      });
    }
  }
}

TEST_F(Experts, no_tokens_leave_every_expert_empty) {
  const Mixture none{5, 2, 0, {2, true, true, 1}};
  const Routing routing = make_routing(gpu(), none);
  gpu()->route(routing, Tensor::dense(gpu().memory(256), DType::f32, {0, 5}), none.args);
  EXPECT_EQ(gpu().read(routing.expert_start, 6), std::vector<int32_t>(6, 0));
}

}  // namespace
}  // namespace pagoda::device_test
