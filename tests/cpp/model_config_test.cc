// config.json and GGUF metadata become a ModelConfig; what does not fit is refused by name.
#include <gtest/gtest.h>

#include <cmath>

#include "io/gguf.h"
#include "model/gguf_config.h"
#include "model/registry.h"
#include "model_files.h"

namespace pagoda {
namespace {

std::string refusal(const std::map<std::string, std::string>& changes) {
  return error_of([&] { config_with(changes); });
}

TEST(HfConfig, sizes_and_defaults_are_read) {
  const ModelConfig config = config_of(tiny_config());
  EXPECT_EQ(config.architecture, "LlamaForCausalLM");
  EXPECT_EQ(config.head_dim, 8);
  EXPECT_EQ(config.kv_heads, 2);
  EXPECT_EQ(config.rope.theta, 10000);
  EXPECT_EQ(config.rope.rotary_dim, 8);
  EXPECT_FALSE(config.tied_embeddings || config.qkv_bias || config.out_bias || config.mlp_bias);
  EXPECT_EQ(config.qk_norm, QkNorm::none);
  EXPECT_EQ(config.windows, (std::vector<int>{0, 0}));
  EXPECT_TRUE(config.eos_tokens.empty());
}

TEST(HfConfig, absent_and_null_values_mean_the_same) {
  const ModelConfig config =
      config_with({{"head_dim", "null"}, {"sliding_window", "null"}, {"rope_scaling", "null"}, {"eos_token_id", "null"}});
  EXPECT_EQ(config.head_dim, 8);
  EXPECT_EQ(config.rope.scaling, RopeScaling::none);
  EXPECT_TRUE(config.eos_tokens.empty());
}

TEST(HfConfig, kv_heads_default_to_the_heads) {
  auto values = tiny_config();
  values.erase("num_key_value_heads");
  EXPECT_EQ(config_of(values).kv_heads, 4);
}

TEST(HfConfig, rope_parameters_win_over_the_older_keys) {
  const ModelConfig config =
      config_with({{"rope_theta", "7"}, {"rope_parameters", R"({"rope_type": "linear", "factor": 3, "rope_theta": 11})"}});
  EXPECT_EQ(config.rope.theta, 11);
  EXPECT_EQ(config.rope.factor, 3);
  EXPECT_EQ(config.rope.scaling, RopeScaling::linear);
}

TEST(HfConfig, older_rope_keys_are_read) {
  const ModelConfig config = config_with({{"rope_theta", "7"}, {"rope_scaling", R"({"type": "linear", "factor": 3})"}});
  EXPECT_EQ(config.rope.theta, 7);
  EXPECT_EQ(config.rope.factor, 3);
  EXPECT_EQ(config.rope.scaling, RopeScaling::linear);
}

TEST(HfConfig, families_set_their_switches) {
  EXPECT_TRUE(config_with({{"attention_bias", "true"}}).qkv_bias);
  EXPECT_TRUE(config_with({{"attention_bias", "true"}}).out_bias);
  EXPECT_TRUE(config_with({{"mlp_bias", "true"}}).mlp_bias);
  const ModelConfig qwen2 = config_with({{"architectures", R"(["Qwen2ForCausalLM"])"}, {"sliding_window", "9"}});
  EXPECT_TRUE(qwen2.qkv_bias);
  EXPECT_FALSE(qwen2.out_bias);
  EXPECT_EQ(qwen2.windows, (std::vector<int>{0, 0})) << "use_sliding_window is not set";
  const ModelConfig qwen3 = config_with({{"architectures", R"(["Qwen3ForCausalLM"])"}});
  EXPECT_EQ(qwen3.qk_norm, QkNorm::head);
  EXPECT_EQ(qwen3.head_dim, 128) << "not hidden_size / num_attention_heads";
  EXPECT_EQ(config_with({{"architectures", R"(["MistralForCausalLM"])"}, {"sliding_window", "9"}}).windows,
            (std::vector<int>{9, 9}));
}

TEST(HfConfig, qwen_windows_follow_layer_types_or_the_first_windowed_layer) {
  const std::map<std::string, std::string> base = {
      {"architectures", R"(["Qwen2ForCausalLM"])"}, {"use_sliding_window", "true"}, {"sliding_window", "9"}};
  auto typed = base, counted = base, wrong = base;
  typed["layer_types"] = R"(["sliding_attention", "full_attention"])";
  counted["max_window_layers"] = "1";
  wrong["layer_types"] = R"(["full_attention"])";
  EXPECT_EQ(config_with(base).windows, (std::vector<int>{0, 0})) << "the first windowed layer is 28 unless told";
  EXPECT_EQ(config_with(typed).windows, (std::vector<int>{9, 0}));
  EXPECT_EQ(config_with(counted).windows, (std::vector<int>{0, 9}));
  EXPECT_TRUE(contains(refusal(wrong), "layer_types has 1 entries, num_hidden_layers is 2"));
}

TEST(HfConfig, end_tokens_are_one_or_many_without_repetition) {
  EXPECT_EQ(config_with({{"eos_token_id", "5"}}).eos_tokens, (std::vector<int32_t>{5}));
  EXPECT_EQ(config_with({{"eos_token_id", "[5, 7, 5]"}}).eos_tokens, (std::vector<int32_t>{5, 7}));
  EXPECT_TRUE(contains(refusal({{"eos_token_id", "40"}}), "eos_token_id must be in [0, 40), got 40"));
}

TEST(HfConfig, mismatches_are_refused_with_both_sides) {
  EXPECT_TRUE(contains(refusal({{"num_attention_heads", "5"}, {"num_key_value_heads", "5"}}),
                       "hidden_size 32 is not a multiple of num_attention_heads 5"));
  EXPECT_TRUE(
      contains(refusal({{"num_key_value_heads", "3"}}), "num_attention_heads 4 is not a multiple of num_key_value_heads 3"));
  EXPECT_TRUE(contains(refusal({{"head_dim", "258"}}), "in [2, 256], got 258"));
  EXPECT_TRUE(
      contains(refusal({{"num_hidden_layers", "4294967298"}}), "num_hidden_layers must fit in 32 bits, got 4294967298"));
  EXPECT_TRUE(contains(refusal({{"vocab_size", "2147483648"}}), "vocab_size must be in [1, 2147483647], got 2147483648"));
  EXPECT_TRUE(contains(refusal({{"sliding_window", "-1"}, {"architectures", R"(["MistralForCausalLM"])"}}),
                       "sliding_window must be >= 0, got -1"));
  EXPECT_TRUE(contains(refusal({{"hidden_act", "\"tanh\""}}), "'tanh' is not supported; supported are silu, gelu"));
  EXPECT_TRUE(contains(refusal({{"rope_scaling", "[2]"}}), "config.json: rope_scaling must be an object, found an array of 1"));
  EXPECT_TRUE(contains(refusal({{"rope_parameters", "3"}}), "config.json: rope_parameters must be an object, found 3"));
  EXPECT_TRUE(contains(refusal({{"rope_scaling", R"({"type": "spiral", "factor": 2})"}}),
                       "'spiral' is not supported; supported are default, linear, dynamic, llama3, yarn, longrope"));
  EXPECT_TRUE(contains(refusal({{"eos_token_id", R"([2, "x"])"}}), "eos_token_id must hold integers, found the string"));
  EXPECT_TRUE(contains(refusal({{"eos_token_id", R"("2")"}}), "eos_token_id"));
  EXPECT_TRUE(contains(refusal({{"architectures", "[3]"}}), "`architectures` must hold one name"));
  EXPECT_TRUE(contains(refusal({{"rope_theta", "1"}, {"rope_scaling", R"({"type": "yarn", "factor": 2})"}}),
                       "rope_theta must be > 1 with rope scaling, got 1"));
  EXPECT_TRUE(contains(refusal({{"rope_scaling", R"({"type": "dynamic", "factor": 1e300})"}}), "factor must be in (0, 1e+06]"));
  EXPECT_TRUE(contains(refusal({{"rms_norm_eps", "2"}}), "rms_norm_eps must be in [0, 1), got 2"));
}

TEST(Registry, an_unknown_architecture_is_named_with_those_supported) {
  const std::string hf = error_of([] { find_hf_architecture("BertModel"); });
  EXPECT_TRUE(contains(hf, "config.json: architecture 'BertModel' is not supported; supported are LlamaForCausalLM, "));
  EXPECT_TRUE(contains(hf, "Qwen3ForCausalLM"));
  const std::string gguf = error_of([] { find_gguf_architecture("bert"); });
  EXPECT_TRUE(contains(gguf, "general.architecture: architecture 'bert' is not supported; supported are llama, qwen2, qwen3"));
}

/// A GGUF v3 file written value by value.
class GgufText {
 public:
  GgufText& text(const std::string& key, const std::string& value) { return entry(key, 8, sized(value)); }
  GgufText& number(const std::string& key, uint32_t value) { return entry(key, 4, raw(value)); }
  GgufText& flag(const std::string& key, bool value) { return entry(key, 7, raw(static_cast<uint8_t>(value))); }
  GgufText& wide(const std::string& key, uint64_t value) { return entry(key, 10, raw(value)); }

  std::string bytes() const {
    const std::string tensor = sized("token_embd.weight") + raw(uint32_t{2}) + raw(uint64_t{32}) + raw(uint64_t{40}) +
                               raw(uint32_t{0}) + raw(uint64_t{0});
    std::string file = "GGUF" + raw(uint32_t{3}) + raw(uint64_t{1}) + raw(num_entries_) + entries_ + tensor;
    file.resize((file.size() + 31) / 32 * 32, '\0');
    return file + std::string(40 * 32 * sizeof(float), '\0');
  }

 private:
  static std::string sized(const std::string& value) { return raw(static_cast<uint64_t>(value.size())) + value; }
  GgufText& entry(const std::string& key, uint32_t type, const std::string& value) {
    entries_ += sized(key) + raw(type) + value;
    ++num_entries_;
    return *this;
  }

  std::string entries_;
  uint64_t num_entries_ = 0;
};

GgufText tiny_gguf() {
  GgufText file;
  file.text("general.architecture", "llama").number("llama.embedding_length", 32).number("llama.feed_forward_length", 48);
  file.number("llama.block_count", 2).number("llama.context_length", 64);
  file.number("llama.attention.layer_norm_rms_epsilon", 0);
  return file;
}

ModelConfig read(const TempDir& directory, const GgufText& text) {
  const GgufFile file(directory.write("model.gguf", text.bytes()));
  return read_gguf_config(file);
}

TEST(GgufConfig, sizes_come_from_metadata_and_the_embedding) {
  const TempDir directory;
  const ModelConfig config =
      read(directory, tiny_gguf().number("llama.attention.head_count", 4).number("tokenizer.ggml.eos_token_id", 7));
  EXPECT_EQ(config.vocab_size, 40);
  EXPECT_EQ(config.head_dim, 8);
  EXPECT_EQ(config.kv_heads, 4);
  EXPECT_EQ(config.rope.theta, 10000);
  EXPECT_TRUE(config.tied_embeddings) << "there is no output.weight";
  EXPECT_TRUE(config.layout.rope_rows_interleaved);
  EXPECT_EQ(config.eos_tokens, (std::vector<int32_t>{7}));
}

TEST(GgufConfig, a_factor_without_a_type_of_scaling_is_a_linear_one) {
  const TempDir directory;
  const auto with_heads = [] { return tiny_gguf().number("llama.attention.head_count", 4); };
  for (const char* key : {"llama.rope.scaling.factor", "llama.rope.scale_linear"}) {
    const RopeConfig rope = read(directory, with_heads().number(key, 4)).rope;
    EXPECT_EQ(rope.scaling, RopeScaling::linear) << key;
    EXPECT_EQ(rope.factor, 4) << key;
  }
  EXPECT_EQ(read(directory, with_heads()).rope.scaling, RopeScaling::none);
}

TEST(GgufConfig, yarn_scales_cosines_by_its_own_magnitude_or_the_files) {
  const TempDir directory;
  const auto yarn = [] {
    return tiny_gguf()
        .number("llama.attention.head_count", 4)
        .text("llama.rope.scaling.type", "yarn")
        .number("llama.rope.scaling.factor", 4);
  };
  EXPECT_NEAR(read(directory, yarn()).rope.attention_factor, 1 + 0.1 * std::log(4.0), 1e-12);
  EXPECT_EQ(read(directory, yarn().number("llama.rope.scaling.yarn_attn_factor", 2)).rope.attention_factor, 2);
}

TEST(GgufConfig, minus_one_is_no_end_token) {
  const TempDir directory;
  const auto file = tiny_gguf().number("llama.attention.head_count", 4).number("tokenizer.ggml.eos_token_id", 0xffffffffu);
  EXPECT_TRUE(read(directory, file).eos_tokens.empty());
}

TEST(GgufConfig, faults_are_refused_by_key) {
  const TempDir directory;
  const auto refused = [&](const GgufText& text) { return error_of([&] { read(directory, text); }); };
  EXPECT_TRUE(contains(refused(tiny_gguf()), "llama.attention.head_count"));
  EXPECT_TRUE(contains(refused(tiny_gguf().wide("llama.attention.head_count", (uint64_t{1} << 32) + 4)),
                       "must fit in 32 bits, got 4294967300"));
  const auto with_heads = [] { return tiny_gguf().number("llama.attention.head_count", 4); };
  EXPECT_TRUE(
      contains(refused(with_heads().number("tokenizer.ggml.eos_token_id", 40)), "eos_token_id must be in [0, 40), got 40"));
  EXPECT_TRUE(contains(refused(with_heads().number("llama.attention.value_length", 4)), "differs from the key length 8"));
  EXPECT_TRUE(contains(refused(with_heads().text("llama.rope.scaling.type", "spiral")),
                       "'spiral' is not supported; supported are none, linear, yarn, longrope"));
  EXPECT_TRUE(
      contains(refused(with_heads().flag("llama.attention.causal", false)), "llama.attention.causal = false is not supported"));
}

}  // namespace
}  // namespace pagoda
