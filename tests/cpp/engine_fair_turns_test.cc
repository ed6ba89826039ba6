// Deficit round robin: tenants with work are served equally in tokens, whatever the size of their requests.
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>

#include "core/check.h"
#include "engine/fair_turns.h"

namespace pagoda {
namespace {

/// Tokens that each tenant was served in `rounds` choices, if each always has a sequence of its cost waiting.
std::map<std::string, int64_t> serve(FairTurns& turns, const std::map<std::string, int64_t>& costs, int rounds) {
  std::vector<FairTurns::Candidate> candidates;
  for (const auto& [tenant, cost] : costs) candidates.push_back({tenant, cost});
  std::map<std::string, int64_t> served;
  for (int i = 0; i < rounds; ++i) {
    const FairTurns::Candidate& chosen = candidates[turns.choose(candidates)];
    served[std::string(chosen.tenant)] += chosen.cost;
  }
  return served;
}

TEST(FairTurns, tenants_get_equal_tokens_from_unequal_requests) {
  FairTurns turns;
  const std::map<std::string, int64_t> costs = {{"long", 5000}, {"middle", 700}, {"short", 10}};
  for (const auto& [tenant, cost] : costs) turns.arrived(tenant);
  const auto served = serve(turns, costs, 20000);
  const int64_t slack = 5000 + 2 * FairTurns::kQuantum;
  EXPECT_LE(std::abs(served.at("long") - served.at("short")), slack);
  EXPECT_LE(std::abs(served.at("middle") - served.at("short")), slack);
}

TEST(FairTurns, generated_tokens_count_too) {
  FairTurns turns;
  for (const char* tenant : {"a", "b"}) turns.arrived(tenant);
  turns.charge("a", 20000);
  const auto served = serve(turns, {{"a", 100}, {"b", 100}}, 100);
  EXPECT_EQ(served.at("b"), 100 * 100);  // a owes more than that
}

TEST(FairTurns, one_tenant_alone_is_served_in_order_and_without_end) {
  FairTurns turns;
  turns.arrived("a");
  EXPECT_EQ(serve(turns, {{"a", 1000000}}, 1000).at("a"), 1000000000);
}

TEST(FairTurns, a_tenant_that_left_owes_nothing_when_it_returns) {
  FairTurns turns;
  for (const char* tenant : {"a", "b"}) turns.arrived(tenant);
  turns.charge("a", 100000);
  turns.left("a");
  turns.arrived("a");
  const auto served = serve(turns, {{"a", 100}, {"b", 100}}, 100);
  EXPECT_LE(std::abs(served.at("a") - served.at("b")), 2 * FairTurns::kQuantum);
}

TEST(FairTurns, tenants_may_leave_in_the_middle_of_their_turn) {
  FairTurns turns;
  for (const char* tenant : {"a", "b", "c"}) turns.arrived(tenant);
  for (int i = 0; i < 50; ++i) {
    serve(turns, {{"a", 60}, {"b", 60}, {"c", 60}}, i);
    turns.left(i % 2 ? "b" : "c");
    turns.arrived(i % 2 ? "b" : "c");
  }
  EXPECT_THROW(turns.left("nobody"), InternalError);
  EXPECT_THROW(turns.charge("nobody", 1), InternalError);
}

}  // namespace
}  // namespace pagoda
