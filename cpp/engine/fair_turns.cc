// The ring is a vector: tenants are few. Rounds in which nobody could go are skipped at once.
#include "engine/fair_turns.h"

#include <algorithm>
#include <limits>

#include "core/check.h"

namespace pagoda {

void FairTurns::arrived(std::string_view tenant) {
  const auto found = std::ranges::find(ring_, tenant, &Tenant::name);
  if (found != ring_.end()) {
    ++found->num_live;
  } else {
    ring_.push_back({std::string(tenant), 0, 1});
  }
}

void FairTurns::left(std::string_view tenant) {
  Tenant& leaving = of(tenant);
  if (--leaving.num_live > 0) return;
  const auto index = static_cast<size_t>(&leaving - ring_.data());
  ring_.erase(ring_.begin() + static_cast<std::ptrdiff_t>(index));
  if (index < turn_) {
    --turn_;
  } else if (index == turn_) {
    has_begun_ = false;
  }
  if (turn_ >= ring_.size()) turn_ = 0;
}

void FairTurns::charge(std::string_view tenant, int64_t tokens) { of(tenant).credit -= tokens; }

FairTurns::Tenant& FairTurns::of(std::string_view tenant) {
  const auto found = std::ranges::find(ring_, tenant, &Tenant::name);
  ensure(found != ring_.end(), "tenant \"", std::string(tenant), "\" has no live sequence");
  return *found;
}

size_t FairTurns::choose(std::span<const Candidate> candidates) {
  // Rounds until the first can go, but for the round it can go in.
  int64_t idle_rounds = std::numeric_limits<int64_t>::max();
  for (const Candidate& candidate : candidates) {
    const int64_t missing = candidate.cost - of(candidate.tenant).credit;
    idle_rounds = std::min(idle_rounds, missing <= 0 ? 0 : (missing - 1) / kQuantum);
  }
  for (const Candidate& candidate : candidates) of(candidate.tenant).credit += idle_rounds * kQuantum;

  for (size_t visits = 0; visits <= 2 * ring_.size(); ++visits) {
    Tenant& tenant = ring_[turn_];
    const auto candidate = std::ranges::find(candidates, tenant.name, &Candidate::tenant);
    if (candidate != candidates.end()) {
      if (!has_begun_) tenant.credit += kQuantum;
      has_begun_ = true;
      if (tenant.credit >= candidate->cost) {
        tenant.credit -= candidate->cost;
        return static_cast<size_t>(candidate - candidates.begin());
      }
    }
    turn_ = (turn_ + 1) % ring_.size();
    has_begun_ = false;
  }
  ensure(false, "no tenant's turn came");
  return 0;
}

}  // namespace pagoda
