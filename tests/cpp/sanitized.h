// Whether sanitizers watch, which makes kernels many times slower: the longest tests then take fewer of their cases. Addresses
// and overflows show in a few of them; equal bits are a matter of the builds without.
#pragma once

namespace pagoda::test {

#ifdef PAGODA_SANITIZED
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

}  // namespace pagoda::test
