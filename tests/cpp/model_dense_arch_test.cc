// What config.json switches on in Llama's relatives, Phi, Gemma, Granite, OLMo 2 and 3 and SmolLM3; what the families take for
// granted; what is refused by name. That the switches compute the right thing is for tests/e2e.
#include <gtest/gtest.h>

#include <cmath>

#include "model/loader.h"
#include "model_files.h"

namespace pagoda {
namespace {

using Values = std::map<std::string, std::string>;

constexpr int kNone = ModelConfig::kNoRope;

/// tiny_config() of four layers of another architecture.
ModelConfig config_for(const std::string& name, const Values& changes = {}) {
  Values values = tiny_config();
  values["architectures"] = "[\"" + name + "\"]";
  values["num_hidden_layers"] = "4";
  for (const auto& [key, value] : changes) values[key] = value;
  return config_of(values);
}

std::string refusal(const std::string& name, const Values& changes) {
  return error_of([&] { config_for(name, changes); });
}

TEST(Mistral, an_absent_window_is_the_usual_one_and_null_is_none) {
  EXPECT_EQ(config_for("MistralForCausalLM").windows, (std::vector<int>{4096, 4096, 4096, 4096}));
  EXPECT_EQ(config_for("MistralForCausalLM", {{"sliding_window", "null"}}).windows, (std::vector<int>{0, 0, 0, 0}));
  const Values listed = {{"sliding_window", "9"},
                         {"layer_types", R"(["full_attention", "sliding_attention", "full_attention", "sliding_attention"])"}};
  EXPECT_EQ(config_for("MinistralForCausalLM", listed).windows, (std::vector<int>{0, 9, 0, 9}));
  EXPECT_EQ(config_for("MinistralForCausalLM", {{"sliding_window", "9"}}).windows, (std::vector<int>{9, 9, 9, 9}));
}

TEST(Mistral, an_image_model_with_another_text_part_is_refused) {
  const auto with = [](const char* text) {
    return error_of([&] { config_of({{"architectures", R"(["Mistral3ForConditionalGeneration"])"}, {"text_config", text}}); });
  };
  EXPECT_TRUE(contains(with(R"({"model_type": "ministral3", "vocab_size": 40, "hidden_size": 32, "intermediate_size": 48,
                                "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64})"),
                       "text_config.model_type 'ministral3' is not supported"));
}

TEST(Phi3, the_original_context_stands_outside_of_the_scaling) {
  const std::string factors = R"("short_factor": [1, 1, 1, 1], "long_factor": [2, 3, 4, 5])";
  const ModelConfig config = config_for("Phi3ForCausalLM", {{"original_max_position_embeddings", "16"},
                                                            {"rope_scaling", R"({"type": "longrope", )" + factors + "}"}});
  EXPECT_EQ(config.rope.scaling, RopeScaling::longrope);
  EXPECT_EQ(config.rope.original_context, 16);
  EXPECT_NEAR(config.rope.attention_factor, std::sqrt(1 + std::log(4.0) / std::log(16.0)), 1e-12);
  EXPECT_EQ(config.rope.long_divisors, (std::vector<float>{2, 3, 4, 5}));
  const ModelConfig silent = config_for("Phi3ForCausalLM", {{"rope_scaling", R"({"type": "su", )" + factors + "}"}});
  EXPECT_EQ(silent.rope.original_context, 4096);
  EXPECT_EQ(config_for("Phi3ForCausalLM", {{"partial_rotary_factor", "0.75"}}).rope.rotary_dim, 6);
}

TEST(Phi3, another_scaling_is_refused) {
  EXPECT_EQ(refusal("Phi3ForCausalLM", {{"rope_scaling", R"({"type": "linear", "factor": 2})"}}),
            "config.json: Phi3ForCausalLM's rope scaling type must be default or longrope");
}

TEST(Phi, half_of_a_head_rotates_and_everything_has_a_bias) {
  const ModelConfig config = config_for("PhiForCausalLM");
  EXPECT_EQ(config.rope.rotary_dim, 4);
  EXPECT_TRUE(config.parallel_block && !config.mlp_norm && !config.gated_mlp);
  EXPECT_TRUE(config.qkv_bias && config.out_bias && config.mlp_bias && config.lm_head_bias && config.norm_bias);
  EXPECT_EQ(config.activation, Activation::gelu_tanh);
  EXPECT_EQ(refusal("PhiForCausalLM", {{"qk_layernorm", "true"}}), "config.json: qk_layernorm = true is not supported");
}

TEST(Gemma, what_files_leave_out_is_as_transformers_has_it) {
  const ModelConfig gemma = config_for("GemmaForCausalLM", {{"hidden_act", "\"gelu\""}});
  EXPECT_TRUE(gemma.tied_embeddings);
  EXPECT_EQ(gemma.head_dim, 256);
  EXPECT_EQ(gemma.activation, Activation::gelu_tanh);
  EXPECT_EQ(gemma.embedding_scale, std::sqrt(32.0f));
  EXPECT_EQ(gemma.layout.norm_offset, 1);
  const ModelConfig gemma2 = config_for("Gemma2ForCausalLM", {{"head_dim", "8"}});
  EXPECT_EQ(gemma2.windows, (std::vector<int>{4096, 0, 4096, 0}));
  EXPECT_EQ(gemma2.attention_soft_cap, 50);
  EXPECT_EQ(gemma2.logit_soft_cap, 30);
  EXPECT_EQ(gemma2.attention_scale, 1.0f / 16);
  const Values uncapped = {{"attn_logit_softcapping", "null"}, {"final_logit_softcapping", "null"}};
  EXPECT_EQ(config_for("Gemma2ForCausalLM", uncapped).attention_soft_cap, 0);
  EXPECT_EQ(config_for("Gemma2ForCausalLM", uncapped).logit_soft_cap, 0);
}

TEST(Gemma, what_attends_otherwise_is_refused) {
  for (const char* name : {"GemmaForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM"}) {
    EXPECT_EQ(refusal(name, {{"use_bidirectional_attention", "true"}}),
              "config.json: use_bidirectional_attention = true is not supported");
  }
  EXPECT_EQ(refusal("Gemma3ForCausalLM", {{"attn_logit_softcapping", "50.0"}}),
            "config.json: attn_logit_softcapping 50.0 is not supported");
  EXPECT_EQ(refusal("Gemma2ForCausalLM", {{"query_pre_attn_scalar", "0"}}),
            "config.json: query_pre_attn_scalar must be > 0, got 0");
  EXPECT_TRUE(contains(refusal("Gemma3ForCausalLM", {{"sliding_window_pattern", "0"}}), "must be >= 1, got 0"));
}

TEST(Gemma3, layers_with_a_window_have_a_rotation_of_their_own) {
  const ModelConfig usual = config_for("Gemma3ForCausalLM", {{"num_hidden_layers", "7"}, {"sliding_window", "9"}});
  EXPECT_EQ(usual.windows, (std::vector<int>{9, 9, 9, 9, 9, 0, 9}));
  EXPECT_EQ(usual.layer_ropes, (std::vector<int>{1, 1, 1, 1, 1, 0, 1}));
  EXPECT_EQ(usual.rope.theta, 1e6);
  EXPECT_EQ(usual.more_ropes.at(0).theta, 1e4);
  const ModelConfig old = config_for(
      "Gemma3ForCausalLM",
      {{"rope_theta", "50"}, {"rope_local_base_freq", "60"}, {"rope_scaling", R"({"rope_type": "linear", "factor": 8})"}});
  EXPECT_EQ(old.rope.theta, 50);
  EXPECT_EQ(old.rope.factor, 8);
  EXPECT_EQ(old.more_ropes.at(0).theta, 60);
  EXPECT_EQ(old.more_ropes.at(0).scaling, RopeScaling::none);
  const ModelConfig by_type = config_for(
      "Gemma3ForCausalLM", {{"rope_parameters", R"({"full_attention": {"rope_type": "linear", "factor": 8, "rope_theta": 70},
                                                   "sliding_attention": {"rope_type": "default", "rope_theta": 80}})"}});
  EXPECT_EQ(by_type.rope.theta, 70);
  EXPECT_EQ(by_type.rope.scaling, RopeScaling::linear);
  EXPECT_EQ(by_type.more_ropes.at(0).theta, 80);
}

TEST(Gemma3, the_text_part_of_an_image_model_may_say_next_to_nothing) {
  const ModelConfig config = config_of({{"architectures", R"(["Gemma3ForConditionalGeneration"])"},
                                        {"eos_token_id", "[1, 106]"},
                                        {"text_config", R"({"hidden_size": 2560, "num_hidden_layers": 34})"}});
  EXPECT_EQ(config.vocab_size, 262208);
  EXPECT_EQ(config.hidden_size, 2560);
  EXPECT_EQ(config.num_heads, 8);
  EXPECT_EQ(config.kv_heads, 4);
  EXPECT_EQ(config.head_dim, 256);
  EXPECT_EQ(config.max_context, 131072);
  EXPECT_EQ(config.eos_tokens, (std::vector<int32_t>{1, 106}));
  EXPECT_TRUE(contains(error_of([] { config_of({{"architectures", R"(["Gemma3ForConditionalGeneration"])"}}); }),
                       "text_config is missing"));
}

TEST(Granite, factors_are_read_and_a_division_by_zero_is_refused) {
  const ModelConfig config = config_for("GraniteForCausalLM", {{"embedding_multiplier", "12"},
                                                               {"attention_multiplier", "0.5"},
                                                               {"residual_multiplier", "0.25"},
                                                               {"logits_scaling", "8"}});
  EXPECT_EQ(config.embedding_scale, 12);
  EXPECT_EQ(config.attention_scale, 0.5f);
  EXPECT_EQ(config.residual_scale, 0.25f);
  EXPECT_EQ(config.logit_scale, 0.125f);
  EXPECT_EQ(config_for("GraniteForCausalLM").attention_scale, 1) << "not 1 / sqrt(head_dim)";
  EXPECT_EQ(refusal("GraniteForCausalLM", {{"logits_scaling", "0"}}), "config.json: logits_scaling must not be 0");
}

TEST(Olmo3, only_layers_without_window_are_scaled) {
  const ModelConfig config = config_for(
      "Olmo3ForCausalLM",
      {{"rope_theta", "70"}, {"rope_scaling", R"({"rope_type": "yarn", "factor": 8, "original_max_position_embeddings": 8})"}});
  EXPECT_EQ(config.windows, (std::vector<int>{4096, 4096, 4096, 0}));
  EXPECT_EQ(config.layer_ropes, (std::vector<int>{1, 1, 1, 0}));
  EXPECT_EQ(config.rope.scaling, RopeScaling::yarn);
  EXPECT_EQ(config.more_ropes.at(0).scaling, RopeScaling::none);
  EXPECT_EQ(config.more_ropes.at(0).theta, 70);
  EXPECT_TRUE(!config.attn_norm && config.post_attn_norm && !config.mlp_norm && config.post_mlp_norm);
  EXPECT_EQ(config.qk_norm, QkNorm::row);
  EXPECT_TRUE(config_for("Olmo2ForCausalLM").layer_ropes.empty());
}

TEST(SmolLm3, the_list_says_which_layers_rotate) {
  EXPECT_EQ(config_for("SmolLM3ForCausalLM").layer_ropes, (std::vector<int>{0, 0, 0, kNone}));
  EXPECT_EQ(config_for("SmolLM3ForCausalLM").rope.theta, 2e6);
  EXPECT_EQ(config_for("SmolLM3ForCausalLM", {{"no_rope_layer_interval", "2"}}).layer_ropes,
            (std::vector<int>{0, kNone, 0, kNone}));
  const ModelConfig listed = config_for(
      "SmolLM3ForCausalLM", {{"no_rope_layers", "[0, 1, 1, 0]"}, {"use_sliding_window", "true"}, {"sliding_window", "9"}});
  EXPECT_EQ(listed.layer_ropes, (std::vector<int>{kNone, 0, 0, kNone}));
  EXPECT_EQ(listed.windows, (std::vector<int>{9, 0, 0, 9}));
  EXPECT_EQ(refusal("SmolLM3ForCausalLM", {{"no_rope_layers", "[1]"}}),
            "config.json: no_rope_layers has 1 entries, num_hidden_layers is 4");
  EXPECT_EQ(refusal("SmolLM3ForCausalLM", {{"no_rope_layer_interval", "0"}}),
            "config.json: no_rope_layer_interval must be >= 1, got 0");
}

TEST(RopeScalings, dynamic_stretches_the_models_own_context_whatever_else_is_said) {
  const ModelConfig config = config_for(
      "LlamaForCausalLM", {{"rope_scaling", R"({"type": "dynamic", "factor": 4, "original_max_position_embeddings": 16})"}});
  EXPECT_EQ(config.rope.original_context, 64);
  EXPECT_EQ(config.max_context, 256);
}

}  // namespace
}  // namespace pagoda
