// Whose turn it is among tenants that share an engine, by the tokens they were served: deficit round robin (Shreedhar and
// Varghese, 1995). Knows names and numbers only. Used by the scheduler under the policy "fair".
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace pagoda {

/// Tenants stand in a ring in order of arrival. When a turn comes to one, its credit grows by kQuantum tokens; as long as its
/// credit covers the cost of its next sequence, that one goes. Tokens that are generated later are charged too, so that a
/// credit can be negative. A tenant without a live sequence is forgotten, and what it owed with it.
class FairTurns {
 public:
  static constexpr int64_t kQuantum = 512;  ///< tokens

  /// A sequence of the tenant lives from now on.
  void arrived(std::string_view tenant);
  /// It has ended.
  void left(std::string_view tenant);
  /// The tenant was served so many tokens more.
  void charge(std::string_view tenant, int64_t tokens);

  /// The first waiting sequence of a tenant.
  struct Candidate {
    std::string_view tenant;
    int64_t cost = 0;  ///< tokens that are known now, > 0
  };
  /// Index of the candidate whose turn it is, which is charged its cost. One candidate for each tenant that has one; at least
  /// one.
  size_t choose(std::span<const Candidate> candidates);

 private:
  struct Tenant {
    std::string name;
    int64_t credit = 0;
    int64_t num_live = 0;
  };
  Tenant& of(std::string_view tenant);

  std::vector<Tenant> ring_;
  size_t turn_ = 0;         // of ring_
  bool has_begun_ = false;  // the one whose turn it is was given its quantum
};

}  // namespace pagoda
