// The arena: alignment, scopes, measuring, and the wall at the planned size.
#include <gtest/gtest.h>

#include <cstdint>

#include "backend/arena.h"

namespace pagoda {
namespace {

TEST(Arena, measuring_returns_null_and_remembers_the_high_water) {
  Arena arena;
  EXPECT_TRUE(arena.measuring());
  EXPECT_EQ(arena.allocate(1), nullptr);
  {
    const Arena::Scope scope(arena);
    EXPECT_EQ(arena.allocate(1000), nullptr);
    EXPECT_EQ(arena.used(), 64u + 1024u);
  }
  EXPECT_EQ(arena.used(), 64u);
  EXPECT_EQ(arena.high_water(), 64u + 1024u);
}

TEST(Arena, a_scope_gives_back_and_the_next_allocation_reuses) {
  const std::unique_ptr<Backend> backend = make_cpu_backend({1, "auto"});
  Arena arena(*backend, 4096);
  EXPECT_FALSE(arena.measuring());
  void* first = arena.allocate(10);
  void* inner = nullptr;
  {
    const Arena::Scope scope(arena);
    inner = arena.allocate(100);
    EXPECT_EQ(static_cast<char*>(inner) - static_cast<char*>(first), 64);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(inner) % Arena::kAlignment, 0u);
  }
  EXPECT_EQ(arena.allocate(1), inner);
}

TEST(Arena, going_past_the_planned_size_is_an_internal_error) {
  const std::unique_ptr<Backend> backend = make_cpu_backend({1, "auto"});
  Arena arena(*backend, 128);
  arena.allocate(128);
  EXPECT_THROW(arena.allocate(1), InternalError);
}

}  // namespace
}  // namespace pagoda
