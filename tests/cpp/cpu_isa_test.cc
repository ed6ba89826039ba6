// Choosing an instruction set by name.
#include <gtest/gtest.h>

#include <string>

#include "backend/cpu/isa.h"
#include "core/check.h"

namespace pagoda::cpu {
namespace {

TEST(Isa, portable_runs_everywhere_and_auto_is_the_widest_supported) {
  EXPECT_TRUE(isa_supported(Isa::portable));
  EXPECT_EQ(parse_isa("auto"), detect_isa());
  EXPECT_TRUE(isa_supported(detect_isa()));
  for (const Isa isa : kIsas) {
    EXPECT_FALSE(isa > detect_isa() && isa_supported(isa)) << isa_name(isa);
  }
}

TEST(Isa, a_supported_name_parses_to_itself_and_an_unsupported_one_is_refused) {
  for (const Isa isa : kIsas) {
    if (isa_supported(isa)) {
      EXPECT_EQ(parse_isa(isa_name(isa)), isa);
    } else {
      EXPECT_THROW(parse_isa(isa_name(isa)), InvalidArgument);
    }
  }
}

TEST(Isa, an_unknown_name_is_refused_with_the_allowed_ones) {
  try {
    parse_isa("sse9");
    FAIL() << "sse9 was accepted";
  } catch (const InvalidArgument& error) {
    EXPECT_STREQ(error.what(), "isa must be one of auto, amx, avx512, avx2_vnni, avx2, portable, got sse9");
  }
}

}  // namespace
}  // namespace pagoda::cpu
