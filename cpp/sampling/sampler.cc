// Builds sampling rows: edits (bias, bans), the allowed mask, token counts, Philox key and counter.
#include "sampling/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/philox.h"

namespace pagoda {
namespace {

constexpr float kBan = -std::numeric_limits<float>::infinity();
constexpr double kMaxBias = 100;

uint32_t mix(int32_t token) { return static_cast<uint32_t>(token) * 0x9E3779B1u; }

void add_bias_edits(SampleBatch& batch, const SamplingParams& params) {
  for (const auto& [token, bias] : params.logit_bias) {
    const float value = bias <= -kMaxBias ? kBan : static_cast<float>(std::min(bias, kMaxBias));
    batch.edits.push_back({static_cast<int32_t>(token), value});
  }
}

void add_min_token_edits(SampleBatch& batch, const SampleSource& source) {
  const auto num_output = static_cast<int64_t>(source.tokens.size()) + source.num_unknown - source.num_prompt;
  if (num_output >= source.params->min_tokens) return;
  for (int32_t token : source.eos_tokens) batch.edits.push_back({token, kBan});
  for (int64_t token : source.params->stop_token_ids) batch.edits.push_back({static_cast<int32_t>(token), kBan});
}

/// Bans the last token of every bad word whose other tokens end the output so far.
void add_bad_word_edits(SampleBatch& batch, const SampleSource& source) {
  const auto output = source.tokens.subspan(static_cast<size_t>(source.num_prompt));
  for (const std::vector<int32_t>& word : source.bad_words) {
    if (word.empty()) continue;
    const size_t head = word.size() - 1;
    if (head <= output.size() && std::equal(word.begin(), word.end() - 1, output.end() - static_cast<std::ptrdiff_t>(head))) {
      batch.edits.push_back({word.back(), kBan});
    }
  }
}

int32_t add_mask(SampleBatch& batch, const std::vector<int64_t>& allowed) {
  const auto words = static_cast<size_t>(batch.mask_words());
  const size_t begin = batch.masks.size();
  batch.masks.resize(begin + words, 0u);
  for (int64_t token : allowed) batch.masks[begin + static_cast<size_t>(token >> 5)] |= 1u << (token & 31);
  return static_cast<int32_t>(begin / words);
}

}  // namespace

uint64_t choice_key(int64_t seed, int32_t choice) {
  const auto key = static_cast<uint64_t>(seed);
  if (choice == 0) return key;
  // A counter no token position reaches, so that the keys do not repeat any draw of choice 0.
  return philox(key, ~uint64_t{0} - static_cast<uint64_t>(choice));
}

int32_t& TokenCounts::index_of(int32_t token) {
  if ((entries_.size() + 1) * 2 > slots_.size()) {
    slots_.assign(std::max<size_t>(64, slots_.size() * 2), -1);
    for (size_t i = 0; i < entries_.size(); ++i) {
      size_t slot = mix(entries_[i].token) & (slots_.size() - 1);
      while (slots_[slot] >= 0) slot = (slot + 1) & (slots_.size() - 1);
      slots_[slot] = static_cast<int32_t>(i);
    }
  }
  size_t slot = mix(token) & (slots_.size() - 1);
  while (slots_[slot] >= 0 && entries_[static_cast<size_t>(slots_[slot])].token != token)
    slot = (slot + 1) & (slots_.size() - 1);
  return slots_[slot];
}

void TokenCounts::add_prompt(std::span<const int32_t> tokens) {
  for (int32_t token : tokens) {
    int32_t& index = index_of(token);
    if (index >= 0) continue;
    index = static_cast<int32_t>(entries_.size());
    entries_.push_back({token, 0});
  }
}

void TokenCounts::add_output(int32_t token) {
  int32_t& index = index_of(token);
  if (index < 0) {
    index = static_cast<int32_t>(entries_.size());
    entries_.push_back({token, 0});
  }
  ++entries_[static_cast<size_t>(index)].output_count;
}

void add_sample_row(SampleBatch& batch, const SampleSource& source) {
  const SamplingParams& params = *source.params;
  SampleRow row;
  row.temperature = params.greedy() ? 0 : static_cast<float>(params.temperature);
  row.top_p = static_cast<float>(params.top_p);
  row.min_p = static_cast<float>(params.min_p);
  row.log_min_p = params.min_p > 0 ? static_cast<float>(std::log(params.min_p)) : 0;
  row.repetition_penalty = static_cast<float>(params.repetition_penalty);
  row.frequency_penalty = static_cast<float>(params.frequency_penalty);
  row.presence_penalty = static_cast<float>(params.presence_penalty);
  row.top_k = params.top_k > 0 ? static_cast<int32_t>(std::min<int64_t>(params.top_k, batch.vocab_size)) : 0;
  row.key = source.key;
  row.counter = source.tokens.size() + static_cast<uint64_t>(source.num_unknown);
  row.num_top = params.logprobs ? static_cast<int32_t>(std::min<int64_t>(*params.logprobs, batch.vocab_size)) : -1;
  batch.max_top = std::max(batch.max_top, row.num_top);

  row.edits_begin = static_cast<int32_t>(batch.edits.size());
  add_bias_edits(batch, params);
  add_min_token_edits(batch, source);
  add_bad_word_edits(batch, source);
  row.edits_end = static_cast<int32_t>(batch.edits.size());

  row.counts_begin = row.counts_end = static_cast<int32_t>(batch.counts.size());
  if (params.uses_penalties() && source.counts) {
    const auto entries = source.counts->entries();
    batch.counts.insert(batch.counts.end(), entries.begin(), entries.end());
    row.counts_end = static_cast<int32_t>(batch.counts.size());
  }
  if (!params.allowed_token_ids.empty()) row.mask = add_mask(batch, params.allowed_token_ids);
  batch.rows.push_back(row);
}

void add_forced_row(SampleBatch& batch, int32_t token, int32_t num_top) {
  SampleRow row;
  row.forced_token = token;
  row.num_top = std::min(num_top, batch.vocab_size);
  batch.max_top = std::max(batch.max_top, row.num_top);
  batch.rows.push_back(row);
}

}  // namespace pagoda
