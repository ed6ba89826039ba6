// What each family's config.json and GGUF metadata switch on, which layers get windows and rotations, which tensor names are
// chosen, and which options are refused by name. That the switches compute the right thing is for tests/e2e.
#include <gtest/gtest.h>

#include "io/gguf.h"
#include "io_gguf_builder.h"
#include "model/gguf_config.h"
#include "model/loader.h"
#include "model_files.h"

namespace pagoda {
namespace {

using Values = std::map<std::string, std::string>;

constexpr int kNone = ModelConfig::kNoRope;

/// tiny_config() of four layers of another architecture.
Values family(const std::string& name, const Values& changes = {}) {
  Values values = tiny_config();
  values["architectures"] = "[\"" + name + "\"]";
  values["num_hidden_layers"] = "4";
  for (const auto& [key, value] : changes) values[key] = value;
  return values;
}

ModelConfig config_for(const std::string& name, const Values& changes = {}) { return config_of(family(name, changes)); }

std::string refusal(const std::string& name, const Values& changes) {
  return error_of([&] { config_for(name, changes); });
}

TEST(StableLm, a_parallel_block_has_one_norm_and_a_quarter_of_each_head_rotates) {
  const ModelConfig plain = config_for("StableLmForCausalLM");
  EXPECT_TRUE(plain.norm == NormKind::layer && plain.norm_bias && plain.mlp_norm && !plain.parallel_block);
  EXPECT_EQ(plain.rope.rotary_dim, 2);
  EXPECT_EQ(plain.qk_norm, QkNorm::none);
  const ModelConfig large = config_for("StableLmForCausalLM", {{"use_parallel_residual", "true"},
                                                               {"qk_layernorm", "true"},
                                                               {"use_qkv_bias", "true"},
                                                               {"partial_rotary_factor", "0.5"}});
  EXPECT_TRUE(large.parallel_block && !large.mlp_norm && large.qkv_bias && !large.out_bias);
  EXPECT_EQ(large.qk_norm, QkNorm::own_head);
  EXPECT_EQ(large.rope.rotary_dim, 4);
}

TEST(Cohere, the_head_is_tied_and_the_context_is_the_longer_of_two_keys) {
  const ModelConfig config = config_for("CohereForCausalLM", {{"model_max_length", "640"}, {"use_qk_norm", "true"}});
  EXPECT_TRUE(config.tied_embeddings && config.parallel_block && config.layout.rope_rows_interleaved);
  EXPECT_FALSE(config.mlp_norm || config.norm_bias);
  EXPECT_EQ(config.max_context, 640);
  EXPECT_EQ(config.logit_scale, 0.0625f);
  EXPECT_EQ(config.qk_norm, QkNorm::own_head);
  EXPECT_FALSE(config_for("CohereForCausalLM", {{"tie_word_embeddings", "false"}}).tied_embeddings);
  EXPECT_EQ(config_for("CohereForCausalLM").max_context, 64);
}

TEST(Cohere, unknown_blocks_are_refused) {
  EXPECT_EQ(refusal("CohereForCausalLM", {{"use_parallel_block", "false"}}),
            "config.json: use_parallel_block = false is not supported");
  EXPECT_EQ(refusal("Cohere2ForCausalLM", {{"use_gated_activation", "false"}}),
            "config.json: use_gated_activation = false is not supported");
}

TEST(Cohere2, layers_without_window_do_not_rotate) {
  const ModelConfig usual = config_for("Cohere2ForCausalLM", {{"sliding_window", "9"}});
  EXPECT_EQ(usual.windows, (std::vector<int>{9, 9, 9, 0}));
  EXPECT_EQ(usual.layer_ropes, (std::vector<int>{0, 0, 0, kNone}));
  const ModelConfig counted = config_for("Cohere2ForCausalLM", {{"sliding_window", "9"}, {"sliding_window_pattern", "2"}});
  EXPECT_EQ(counted.windows, (std::vector<int>{9, 0, 9, 0}));
  const ModelConfig listed =
      config_for("Cohere2ForCausalLM",
                 {{"sliding_window", "9"},
                  {"layer_types", R"(["full_attention", "sliding_attention", "sliding_attention", "full_attention"])"}});
  EXPECT_EQ(listed.windows, (std::vector<int>{0, 9, 9, 0}));
  EXPECT_EQ(listed.layer_ropes, (std::vector<int>{kNone, 0, 0, kNone}));
}

TEST(Cohere2, a_window_below_one_and_a_period_below_one_are_refused) {
  EXPECT_EQ(refusal("Cohere2ForCausalLM", {{"sliding_window", "0"}}), "config.json: sliding_window must be >= 1, got 0");
  EXPECT_TRUE(contains(refusal("Cohere2ForCausalLM", {{"sliding_window_pattern", "0"}}),
                       "the period of sliding_window_pattern must be >= 1, got 0"));
}

/// As gpt2 says it: other keys for the sizes, and hardly any switch.
Values gpt2_values() {
  return {{"architectures", R"(["GPT2LMHeadModel"])"},
          {"vocab_size", "40"},
          {"n_embd", "32"},
          {"n_layer", "2"},
          {"n_head", "4"},
          {"n_positions", "64"},
          {"n_inner", "null"},
          {"layer_norm_epsilon", "1e-5"}};
}

ModelConfig gpt2_with(const Values& changes) {
  Values values = gpt2_values();
  for (const auto& [key, value] : changes) values[key] = value;
  return config_of(values);
}

TEST(Gpt2, sizes_have_keys_of_their_own_and_positions_are_learned) {
  const ModelConfig config = gpt2_with({});
  EXPECT_EQ(config.intermediate_size, 128);
  EXPECT_EQ(gpt2_with({{"n_inner", "50"}}).intermediate_size, 50);
  EXPECT_EQ(config.max_context, 64);
  EXPECT_EQ(config.activation, Activation::gelu_tanh);
  EXPECT_TRUE(config.tied_embeddings && config.learned_positions && config.layout.transposed && !config.gated_mlp);
  EXPECT_EQ(config.layer_rope(0), nullptr);
  EXPECT_EQ(config.attention_scale, 0);
  EXPECT_EQ(gpt2_with({{"scale_attn_weights", "false"}}).attention_scale, 1);
}

TEST(Gpt2, what_scales_or_attends_otherwise_is_refused) {
  EXPECT_EQ(error_of([] { gpt2_with({{"scale_attn_by_inverse_layer_idx", "true"}}); }),
            "config.json: scale_attn_by_inverse_layer_idx = true is not supported");
  EXPECT_EQ(error_of([] { gpt2_with({{"add_cross_attention", "true"}}); }),
            "config.json: add_cross_attention = true is not supported");
  EXPECT_NO_THROW(gpt2_with({{"reorder_and_upcast_attn", "true"}}));
}

std::map<std::string, std::vector<int64_t>> gpt2_tensors(const std::string& prefix) {
  std::map<std::string, std::vector<int64_t>> shapes = {{prefix + "wte.weight", {40, 32}},
                                                        {prefix + "wpe.weight", {64, 32}},
                                                        {prefix + "ln_f.weight", {32}},
                                                        {prefix + "ln_f.bias", {32}}};
  for (const char* layer : {"h.0.", "h.1."}) {
    const std::string at = prefix + layer;
    for (const char* norm : {"ln_1.weight", "ln_1.bias", "ln_2.weight", "ln_2.bias"}) shapes[at + norm] = {32};
    shapes[at + "attn.c_attn.weight"] = {32, 96};
    shapes[at + "attn.c_attn.bias"] = {96};
    shapes[at + "attn.bias"] = {1, 1, 64, 64};  // the causal mask that old files carry along
    shapes[at + "attn.c_proj.weight"] = {32, 32};
    shapes[at + "mlp.c_fc.weight"] = {32, 128};
    shapes[at + "mlp.c_fc.bias"] = {128};
    shapes[at + "mlp.c_proj.weight"] = {128, 32};
    shapes[at + "attn.c_proj.bias"] = shapes[at + "mlp.c_proj.bias"] = {32};
  }
  return shapes;
}

TEST(Gpt2, tensors_are_found_with_and_without_their_prefix) {
  const TempDir directory;
  std::vector<size_t> bytes;
  for (const char* prefix : {"transformer.", ""}) {
    write_model(directory, gpt2_values(), gpt2_tensors(prefix));
    bytes.push_back(plan_decoder(open_checkpoint(directory.path()), cpu_traits(), 64)->weights().bytes);
  }
  EXPECT_EQ(bytes[0], bytes[1]);
}

TEST(Gpt2, a_matrix_that_is_not_transposed_is_refused) {
  const TempDir directory;
  auto tensors = gpt2_tensors("");
  tensors["h.1.mlp.c_fc.weight"] = {128, 32};
  write_model(directory, gpt2_values(), tensors);
  EXPECT_TRUE(contains(error_of([&] { plan_decoder(open_checkpoint(directory.path()), cpu_traits(), 64); }),
                       "h.1.mlp.c_fc.weight has shape [128, 32], expected [32, 128]"));
}

TEST(NeoX, each_head_has_its_q_k_and_v_together_and_the_block_is_parallel) {
  const ModelConfig config = config_for("GPTNeoXForCausalLM", {{"num_key_value_heads", "null"}, {"rotary_emb_base", "500"}});
  EXPECT_TRUE(config.parallel_block && config.mlp_norm && config.norm_bias && config.mlp_bias && config.qkv_bias);
  EXPECT_EQ(config.layout.qkv_order, QkvOrder::grouped);
  EXPECT_EQ(config.rope.rotary_dim, 2);
  EXPECT_EQ(config.rope.theta, 500);
  EXPECT_EQ(config.activation, Activation::gelu);
  EXPECT_EQ(config_for("GPTNeoXForCausalLM", {{"rotary_pct", "1.0"}}).rope.rotary_dim, 8);
  EXPECT_FALSE(config_for("GPTNeoXForCausalLM", {{"use_parallel_residual", "false"}}).parallel_block);
  EXPECT_FALSE(config_for("GPTNeoXForCausalLM", {{"attention_bias", "false"}}).qkv_bias);
}

TEST(InternLm2, biases_are_there_unless_told_otherwise) {
  EXPECT_TRUE(config_for("InternLM2ForCausalLM").qkv_bias);
  const ModelConfig config =
      config_for("InternLM2ForCausalLM", {{"bias", "false"}, {"rope_scaling", R"({"type": "dynamic", "factor": 2.0})"}});
  EXPECT_FALSE(config.qkv_bias || config.out_bias || config.mlp_bias);
  EXPECT_EQ(config.rope.scaling, RopeScaling::dynamic);
  EXPECT_EQ(config.max_context, 128);
}

TEST(Exaone, layers_are_counted_by_a_key_of_their_own) {
  Values values = family("ExaoneForCausalLM");
  values.erase("num_hidden_layers");
  values.erase("rms_norm_eps");
  values["num_layers"] = "3";
  values["layer_norm_epsilon"] = "0.001";
  const ModelConfig config = config_of(values);
  EXPECT_EQ(config.num_layers, 3);
  EXPECT_EQ(config.norm_eps, 0.001f);
  EXPECT_TRUE(config.tied_embeddings);
}

TEST(Exaone4, every_layer_rotates_unless_there_are_windows) {
  const ModelConfig small = config_for("Exaone4ForCausalLM", {{"sliding_window", "null"}});
  EXPECT_TRUE(small.layer_ropes.empty());
  EXPECT_EQ(small.windows, (std::vector<int>{0, 0, 0, 0}));
  EXPECT_TRUE(!small.attn_norm && small.post_attn_norm && !small.mlp_norm && small.post_mlp_norm);
  const ModelConfig large = config_for("Exaone4ForCausalLM", {{"sliding_window", "9"}});
  EXPECT_EQ(large.windows, (std::vector<int>{9, 9, 9, 0}));
  EXPECT_EQ(large.layer_ropes, (std::vector<int>{0, 0, 0, kNone}));
}

TEST(Exaone4, letters_say_which_layers_have_windows_but_the_last_has_none) {
  const auto windows = [](const char* pattern) {
    return config_for("Exaone4ForCausalLM", {{"sliding_window", "9"}, {"sliding_window_pattern", pattern}}).windows;
  };
  EXPECT_EQ(windows("\"LG\""), (std::vector<int>{9, 0, 9, 0}));
  EXPECT_EQ(windows("\"GL\""), (std::vector<int>{0, 9, 0, 0}));
  EXPECT_EQ(windows("3"), (std::vector<int>{9, 9, 0, 9}));
  EXPECT_EQ(refusal("Exaone4ForCausalLM", {{"sliding_window", "9"}, {"sliding_window_pattern", "\"LX\""}}),
            "config.json: sliding_window_pattern must be a number or letters L and G, got 'LX'");
}

TEST(Starcoder2, every_layer_has_the_window_and_the_epsilon_its_own_name) {
  const ModelConfig config = config_for("Starcoder2ForCausalLM", {{"sliding_window", "9"}, {"norm_epsilon", "0.001"}});
  EXPECT_EQ(config.windows, (std::vector<int>{9, 9, 9, 9}));
  EXPECT_EQ(config.norm_eps, 0.001f);
  EXPECT_TRUE(config.tied_embeddings && config.qkv_bias && config.out_bias && config.mlp_bias && !config.gated_mlp);
  EXPECT_FALSE(config_for("Starcoder2ForCausalLM", {{"use_bias", "false"}}).mlp_bias);
}

TEST(Glm, half_of_each_head_rotates_and_the_newer_one_norms_outputs_too) {
  const ModelConfig glm = config_for("GlmForCausalLM", {{"head_dim", "8"}});
  EXPECT_EQ(glm.rope.rotary_dim, 4);
  EXPECT_TRUE(glm.qkv_bias && !glm.out_bias && !glm.post_attn_norm && glm.layout.rope_rows_interleaved);
  const ModelConfig glm4 = config_for("Glm4ForCausalLM", {{"head_dim", "8"}, {"attention_bias", "false"}});
  EXPECT_TRUE(!glm4.qkv_bias && glm4.attn_norm && glm4.post_attn_norm && glm4.mlp_norm && glm4.post_mlp_norm);
}

TEST(Olmo, clipped_projections_are_refused) {
  EXPECT_FALSE(config_for("OlmoForCausalLM", {{"clip_qkv", "null"}}).norm_weight);
  EXPECT_EQ(refusal("OlmoForCausalLM", {{"clip_qkv", "8.0"}}), "config.json: clip_qkv 8.0 is not supported");
}

/// A file of `architecture` with four layers and an embedding.
GgufBuilder tiny_file(const std::string& architecture) {
  GgufBuilder file;
  const auto size = [&](const char* name, uint32_t value) {
    file.metadata.push_back(number(architecture + "." + name, GgufType::u32, value));
  };
  file.metadata.push_back(key("general.architecture", GgufType::string) + text(architecture));
  size("embedding_length", 32);
  size("feed_forward_length", 48);
  size("block_count", 4);
  size("context_length", 64);
  size("attention.head_count", 4);
  size("attention.layer_norm_epsilon", 0);
  file.tensors.push_back(tensor("token_embd.weight", {32, 40}, 0, 0));
  file.data = std::string(40 * 32 * sizeof(float), '\0');
  return file;
}

/// A tensor of 32 floats that shares the embedding's bytes.
void add_vector(GgufBuilder& file, const std::string& name) {
  file.tensors.push_back(tensor(name, {32}, 0, file.data.size()));
  file.data += std::string(32 * sizeof(float), '\0');
}

void add_pattern(GgufBuilder& file, const std::string& architecture, const std::vector<bool>& layers) {
  std::string entry = key(architecture + ".attention.sliding_window_pattern", GgufType::array) +
                      raw(static_cast<uint32_t>(GgufType::boolean)) + raw(uint64_t{layers.size()});
  for (const bool layer : layers) entry += static_cast<char>(layer);
  file.metadata.push_back(entry);
}

void add_window(GgufBuilder& file, const std::string& architecture) {
  file.metadata.push_back(number(architecture + ".attention.sliding_window", GgufType::u32, uint32_t{9}));
}

ModelConfig read(const GgufBuilder& builder) {
  const TempDir directory;
  const GgufFile file(directory.write("model.gguf", builder.build()));
  return read_gguf_config(file);
}

TEST(GgufFamilies, the_tensors_tell_of_biases_norms_and_parallel_blocks) {
  GgufBuilder file = tiny_file("stablelm");
  const ModelConfig parallel = read(file);
  EXPECT_TRUE(parallel.parallel_block && !parallel.mlp_norm && !parallel.qkv_bias);
  EXPECT_EQ(parallel.qk_norm, QkNorm::none);
  for (const char* name : {"blk.0.ffn_norm.weight", "blk.0.attn_q.bias", "blk.0.attn_q_norm.weight"}) add_vector(file, name);
  const ModelConfig sequential = read(file);
  EXPECT_TRUE(!sequential.parallel_block && sequential.mlp_norm && sequential.qkv_bias);
  EXPECT_EQ(sequential.qk_norm, QkNorm::own_head);
}

TEST(GgufFamilies, windows_come_from_a_list_a_period_or_the_families_own_period) {
  GgufBuilder plain = tiny_file("exaone4");
  EXPECT_TRUE(read(plain).layer_ropes.empty());
  add_window(plain, "exaone4");
  EXPECT_EQ(read(plain).windows, (std::vector<int>{9, 9, 9, 0}));
  EXPECT_EQ(read(plain).layer_ropes, (std::vector<int>{0, 0, 0, kNone}));
  GgufBuilder listed = plain, counted = plain, wrong = plain;
  add_pattern(listed, "exaone4", {false, true, true, false});
  counted.metadata.push_back(number("exaone4.attention.sliding_window_pattern", GgufType::u32, uint32_t{2}));
  add_pattern(wrong, "exaone4", {true});
  EXPECT_EQ(read(listed).windows, (std::vector<int>{0, 9, 9, 0}));
  EXPECT_EQ(read(counted).windows, (std::vector<int>{9, 0, 9, 0}));
  EXPECT_TRUE(
      contains(error_of([&] { read(wrong); }), "exaone4.attention.sliding_window_pattern has 1 entries, block_count is 4"));
}

TEST(GgufFamilies, a_cohere2_file_without_window_is_refused) {
  GgufBuilder file = tiny_file("cohere2");
  EXPECT_TRUE(contains(error_of([&] { read(file); }), "cohere2.attention.sliding_window must be >= 1, got 0"));
  add_window(file, "cohere2");
  EXPECT_EQ(read(file).windows, (std::vector<int>{9, 9, 9, 0}));
}

TEST(GgufFamilies, the_order_of_the_rotary_rows_is_each_familys_own) {
  for (const char* name : {"command-r", "internlm2", "glm4", "olmo"}) {
    EXPECT_TRUE(read(tiny_file(name)).layout.rope_rows_interleaved) << name;
  }
  for (const char* name : {"stablelm", "gptneox", "exaone", "exaone4", "starcoder2", "gpt2"}) {
    EXPECT_FALSE(read(tiny_file(name)).layout.rope_rows_interleaved) << name;
  }
}

}  // namespace
}  // namespace pagoda
