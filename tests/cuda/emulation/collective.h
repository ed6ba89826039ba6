// Barriers, votes and warp collectives of the emulation, under CUDA's names. Each remembers its call site, so that threads that
// meet at different lines, with different masks or not at all are reported.
#pragma once

#include <algorithm>
#include <climits>
#include <cstring>
#include <string>
#include <type_traits>

#include "fiber.h"

// Default arguments are evaluated where the caller stands.
#define EMU_SITE_PARAMETERS const char *emu_file = __builtin_FILE(), int emu_line = __builtin_LINE()
#define EMU_SITE(operation) \
  ::emu::Site { emu_file, emu_line, operation }

namespace emu {

/// bar.sync: `count` threads meet at barrier `id`; 0 = all live threads, which must stand at the same line.
inline void meet_at_barrier(unsigned id, unsigned count, bool waits, const Site& site) {
  Block& block = current_block();
  if (id >= block.barriers.size()) fail("there are 16 barriers", site);
  if (count % 32) fail("a barrier takes whole warps", site);
  Barrier& barrier = block.barriers[id];
  const unsigned need = count ? count : block.num_live;
  if (!barrier.arrived) {
    barrier.first = site;
  } else if (!count && (barrier.first.line != site.line || std::strcmp(barrier.first.file, site.file) != 0)) {
    fail("divergent barrier", site, barrier.first);
  }
  const unsigned generation = barrier.generation;
  if (++barrier.arrived == need) {
    if (id == 0) {
      block.vote_results[(generation + 1) & 1] = {block.votes_or, block.votes_and, block.votes_count};
      block.votes_or = 0, block.votes_and = 1, block.votes_count = 0;
    }
    barrier.arrived = 0;
    ++barrier.generation;
    if (waits) preempt();
  } else if (waits) {
    wait_while(&barrier.generation, generation, site);
  }
}

/// A vote at barrier 0; returns its result 0 (or), 1 (and) or 2 (count).
inline int vote(int predicate, int result, const Site& site) {
  Block& block = current_block();
  block.votes_or |= predicate != 0;
  block.votes_and &= predicate != 0;
  block.votes_count += predicate != 0;
  const unsigned generation = block.barriers[0].generation;
  meet_at_barrier(0, 0, true, site);
  return block.vote_results[(generation + 1) & 1][static_cast<size_t>(result)];
}

inline Meeting& find_meeting(Warp& warp, unsigned mask, unsigned lane, const Site& site) {
  Meeting* unused = nullptr;
  for (Meeting& meeting : warp.meetings) {
    if (meeting.left == 0) {
      if (!unused) unused = &meeting;
      if (meeting.mask == 0) break;  // all behind it were never used
      continue;
    }
    const bool gathering = meeting.arrived != meeting.mask;
    if (!gathering || !(meeting.mask & mask)) continue;
    if (meeting.mask != mask) fail("overlapping collectives with different masks", site, meeting.site);
    if (meeting.arrived >> lane & 1) continue;
    if (std::strcmp(meeting.site.operation, site.operation) != 0)
      fail("lanes meet in different collectives", site, meeting.site);
    return meeting;
  }
  if (!unused) fail("too many collectives at once", site);
  unused->mask = unused->left = mask;
  unused->arrived = 0;
  unused->site = site;
  return *unused;
}

/// One collective over the lanes of `mask`: compute(in, out, lanes) runs once, in the last lane to arrive.
template <class In, class Out, class Compute>
Out meet_in_warp(unsigned mask, const In& in, const Site& site, Compute&& compute) {
  static_assert(sizeof(In) <= Meeting::kMaxBytes && sizeof(Out) <= Meeting::kMaxBytes);
  Block& block = current_block();
  const unsigned index = current_fiber().index, lane = index % 32;
  if (!(mask >> lane & 1)) fail("a lane is not in its own mask", site);
  const unsigned rest = block.num_threads - index / 32 * 32;
  if (rest < 32) mask &= (1u << rest) - 1;
  Meeting& meeting = find_meeting(*block.warps[index / 32], mask, lane, site);
  std::memcpy(meeting.in[lane].data(), static_cast<const void*>(&in), sizeof(In));
  meeting.arrived |= 1u << lane;
  if (meeting.arrived == mask) {
    In all_in[32];
    Out all_out[32]{};
    for (unsigned i = 0; i < 32; ++i) std::memcpy(static_cast<void*>(&all_in[i]), meeting.in[i].data(), sizeof(In));
    compute(all_in, all_out, mask);
    for (unsigned i = 0; i < 32; ++i) std::memcpy(meeting.out[i].data(), static_cast<void*>(&all_out[i]), sizeof(Out));
    ++meeting.generation;
  } else {
    wait_while(&meeting.generation, meeting.generation, site);
  }
  Out result;
  std::memcpy(static_cast<void*>(&result), meeting.out[lane].data(), sizeof(Out));
  meeting.left &= ~(1u << lane);
  return result;
}

template <class T>
struct Shuffled {
  T value;
  unsigned source;
};

template <class T>
T shuffle(unsigned mask, T value, unsigned source, const Site& site) {
  return meet_in_warp<Shuffled<T>, T>(mask, {value, source}, site, [&](Shuffled<T>* in, T* out, unsigned lanes) {
    for (unsigned lane = 0; lane < 32; ++lane) {
      if (!(lanes >> lane & 1)) continue;
      if (!(lanes >> in[lane].source & 1)) fail("a shuffle reads a lane outside its mask", site);
      out[lane] = in[in[lane].source].value;
    }
  });
}

inline unsigned own_lane() { return current_fiber().index % 32; }

}  // namespace emu

inline void __syncthreads(EMU_SITE_PARAMETERS) { emu::meet_at_barrier(0, 0, true, EMU_SITE("__syncthreads")); }
inline int __syncthreads_or(int predicate, EMU_SITE_PARAMETERS) {
  return emu::vote(predicate, 0, EMU_SITE("__syncthreads_or"));
}
inline int __syncthreads_and(int predicate, EMU_SITE_PARAMETERS) {
  return emu::vote(predicate, 1, EMU_SITE("__syncthreads_and"));
}
inline int __syncthreads_count(int predicate, EMU_SITE_PARAMETERS) {
  return emu::vote(predicate, 2, EMU_SITE("__syncthreads_count"));
}

inline void __syncwarp(unsigned mask = ~0u, EMU_SITE_PARAMETERS) {
  emu::meet_in_warp<int, int>(mask, 0, EMU_SITE("__syncwarp"), [](int*, int*, unsigned) {});
}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, EMU_SITE_PARAMETERS) {
  const unsigned w = static_cast<unsigned>(width), lane = emu::own_lane();
  return emu::shuffle(mask, value, (lane & ~(w - 1)) | (static_cast<unsigned>(source) & (w - 1)), EMU_SITE("__shfl_sync"));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, EMU_SITE_PARAMETERS) {
  const unsigned w = static_cast<unsigned>(width), lane = emu::own_lane(), source = lane ^ static_cast<unsigned>(bits);
  return emu::shuffle(mask, value, source / w > lane / w ? lane : source, EMU_SITE("__shfl_xor_sync"));
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, EMU_SITE_PARAMETERS) {
  const unsigned w = static_cast<unsigned>(width), lane = emu::own_lane();
  return emu::shuffle(mask, value, (lane & (w - 1)) < delta ? lane : lane - delta, EMU_SITE("__shfl_up_sync"));
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, EMU_SITE_PARAMETERS) {
  const unsigned w = static_cast<unsigned>(width), lane = emu::own_lane();
  return emu::shuffle(mask, value, (lane & (w - 1)) + delta >= w ? lane : lane + delta, EMU_SITE("__shfl_down_sync"));
}

inline unsigned __ballot_sync(unsigned mask, int predicate, EMU_SITE_PARAMETERS) {
  return emu::meet_in_warp<int, unsigned>(mask, predicate, EMU_SITE("__ballot_sync"),
                                          [](int* in, unsigned* out, unsigned lanes) {
                                            unsigned bits = 0;
                                            for (unsigned lane = 0; lane < 32; ++lane)
                                              bits |= (lanes >> lane & 1 && in[lane] ? 1u : 0u) << lane;
                                            for (unsigned lane = 0; lane < 32; ++lane) out[lane] = bits;
                                          });
}
inline int __any_sync(unsigned mask, int predicate, EMU_SITE_PARAMETERS) {
  return __ballot_sync(mask, predicate, emu_file, emu_line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, EMU_SITE_PARAMETERS) {
  return __ballot_sync(mask, !predicate, emu_file, emu_line) == 0;
}

/// The lanes of `mask` that hold the same value.
inline unsigned __match_any_sync(unsigned mask, int value, EMU_SITE_PARAMETERS) {
  return emu::meet_in_warp<int, unsigned>(mask, value, EMU_SITE("__match_any_sync"),
                                          [](int* in, unsigned* out, unsigned lanes) {
                                            for (unsigned lane = 0; lane < 32; ++lane) {
                                              for (unsigned other = 0; other < 32; ++other)
                                                out[lane] |= (lanes >> other & 1 && in[other] == in[lane] ? 1u : 0u) << other;
                                            }
                                          });
}

/// The largest value of the lanes of `mask`.
inline int __reduce_max_sync(unsigned mask, int value, EMU_SITE_PARAMETERS) {
  return emu::meet_in_warp<int, int>(mask, value, EMU_SITE("__reduce_max_sync"), [](int* in, int* out, unsigned lanes) {
    int largest = INT_MIN;
    for (unsigned lane = 0; lane < 32; ++lane) largest = lanes >> lane & 1 ? std::max(largest, in[lane]) : largest;
    for (unsigned lane = 0; lane < 32; ++lane) out[lane] = largest;
  });
}
