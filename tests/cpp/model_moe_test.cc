// Mixtures of experts: which layers have them, how they are routed, where their tensors lie, and which options are refused.
// That the result is right is for tests/e2e.
#include <gtest/gtest.h>

#include <cstring>

#include "io/dequantise.h"
#include "io/gguf.h"
#include "io_gguf_builder.h"
#include "model/gguf_config.h"
#include "model/hf_quantisation.h"
#include "model/loader.h"
#include "model_files.h"
#include "quantised_files.h"

namespace pagoda {
namespace {

using Values = std::map<std::string, std::string>;
using Shapes = std::map<std::string, std::vector<int64_t>>;

/// tiny_config() of another architecture, with 4 experts of 24 of which 2 are chosen.
Values family(const std::string& name, const Values& changes = {}) {
  Values values = tiny_config();
  values["architectures"] = "[\"" + name + "\"]";
  values["num_local_experts"] = "4";
  values["num_experts_per_tok"] = "2";
  values["intermediate_size"] = "24";
  for (const auto& [key, value] : changes) values[key] = value;
  return values;
}

/// Qwen counts by other keys.
Values qwen(const std::string& name, const Values& changes = {}) {
  Values values = family(name, {{"num_hidden_layers", "4"},
                                {"num_experts", "6"},
                                {"moe_intermediate_size", "16"},
                                {"shared_expert_intermediate_size", "20"}});
  values.erase("num_local_experts");
  for (const auto& [key, value] : changes) values[key] = value;
  return values;
}

std::string refusal(const Values& values) {
  return error_of([&] { config_of(values); });
}

TEST(Mixtral, every_layer_has_experts_whose_weights_sum_to_one) {
  const ModelConfig config = config_of(family("MixtralForCausalLM", {{"sliding_window", "9"}}));
  EXPECT_EQ(config.moe.num_experts, 4);
  EXPECT_EQ(config.moe.route.top_k, 2);
  EXPECT_EQ(config.moe.intermediate_size, 24);
  EXPECT_TRUE(config.moe.route.normalise);
  EXPECT_EQ(config.sparse_layers, (std::vector<bool>{true, true}));
  EXPECT_EQ(config.windows, (std::vector<int>{9, 9}));
  EXPECT_EQ(config.rope.theta, 1e6);
}

TEST(QwenMoe, layers_are_sparse_by_their_number_unless_listed) {
  using Layers = std::vector<bool>;
  const auto layers = [](const Values& changes) { return config_of(qwen("Qwen3MoeForCausalLM", changes)).sparse_layers; };
  EXPECT_EQ(layers({}), (Layers{true, true, true, true}));
  EXPECT_EQ(layers({{"decoder_sparse_step", "2"}}), (Layers{false, true, false, true}));
  EXPECT_EQ(layers({{"decoder_sparse_step", "2"}, {"mlp_only_layers", "[1, 7, -1]"}}), (Layers{false, false, false, true}));
  EXPECT_EQ(layers({{"mlp_only_layers", "null"}}), (Layers{true, true, true, true}));
  EXPECT_EQ(refusal(qwen("Qwen3MoeForCausalLM", {{"decoder_sparse_step", "0"}})),
            "config.json: decoder_sparse_step must be >= 1, got 0");
}

TEST(QwenMoe, the_older_one_has_a_gated_shared_expert_and_both_say_whether_weights_are_normalised) {
  const ModelConfig older = config_of(qwen("Qwen2MoeForCausalLM"));
  EXPECT_EQ(older.moe.shared_intermediate_size, 20);
  EXPECT_TRUE(older.moe.shared_gate && older.qkv_bias && !older.out_bias);
  EXPECT_FALSE(older.moe.route.normalise);
  const ModelConfig newer = config_of(qwen("Qwen3MoeForCausalLM", {{"norm_topk_prob", "true"}}));
  EXPECT_EQ(newer.moe.shared_intermediate_size, 0);
  EXPECT_TRUE(newer.moe.route.normalise && !newer.qkv_bias);
  EXPECT_EQ(newer.qk_norm, QkNorm::head);
  EXPECT_EQ(newer.moe.num_experts, 6);
}

TEST(QwenMoe, windows_without_a_list_are_every_other_layers_of_the_first) {
  const Values windows = {{"use_sliding_window", "true"}, {"sliding_window", "9"}, {"max_window_layers", "3"}};
  EXPECT_EQ(config_of(qwen("Qwen2MoeForCausalLM", windows)).windows, (std::vector<int>{9, 0, 9, 0}));
  EXPECT_EQ(config_of(qwen("Qwen3MoeForCausalLM", windows)).windows, (std::vector<int>{9, 9, 9, 9}));
  EXPECT_EQ(config_of(qwen("Qwen2MoeForCausalLM", {{"sliding_window", "9"}})).windows, (std::vector<int>{0, 0, 0, 0}));
}

TEST(GraniteMoe, the_shared_expert_is_optional_and_a_model_without_experts_is_dense) {
  EXPECT_EQ(config_of(family("GraniteMoeForCausalLM", {{"shared_intermediate_size", "20"}})).moe.shared_intermediate_size, 0);
  const ModelConfig shared = config_of(family("GraniteMoeSharedForCausalLM", {{"shared_intermediate_size", "20"}}));
  EXPECT_EQ(shared.moe.shared_intermediate_size, 20);
  EXPECT_FALSE(shared.moe.route.softmax_first || shared.moe.shared_gate);
  const Values dense = {{"num_local_experts", "0"},
                        {"shared_intermediate_size", "20"},
                        {"position_embedding_type", "\"rope\""},
                        {"layer_types", R"(["attention", "attention"])"}};
  const ModelConfig granite4 = config_of(family("GraniteMoeHybridForCausalLM", dense));
  EXPECT_EQ(granite4.intermediate_size, 20);
  EXPECT_TRUE(granite4.sparse_layers.empty() && granite4.layer_ropes.empty());
}

TEST(GraniteMoe, layers_without_attention_are_refused) {
  EXPECT_EQ(refusal(family("GraniteMoeHybridForCausalLM", {{"layer_types", R"(["mamba", "attention"])"}})),
            "config.json: layer_types: layers of type 'mamba' are not supported, only 'attention' is");
}

TEST(Olmoe, clipped_projections_are_refused) {
  const ModelConfig config = config_of(family("OlmoeForCausalLM", {{"clip_qkv", "null"}, {"num_experts", "4"}}));
  EXPECT_EQ(config.qk_norm, QkNorm::row);
  EXPECT_FALSE(config.moe.route.normalise);
  EXPECT_EQ(refusal(family("OlmoeForCausalLM", {{"clip_qkv", "8"}, {"num_experts", "4"}})),
            "config.json: clip_qkv 8 is not supported");
}

TEST(GptOss, every_other_layer_has_a_window_and_yarn_keeps_its_fractions) {
  const Values rope = {{"rope_theta", "150000"},
                       {"rope_scaling", R"({"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 64,
                                            "truncate": false})"}};
  const ModelConfig config = config_of(family("GptOssForCausalLM", rope));
  EXPECT_EQ(config.windows, (std::vector<int>{128, 0}));
  EXPECT_EQ(config.head_dim, 64);
  EXPECT_FALSE(config.rope.truncate || config.moe.route.softmax_first);
  EXPECT_TRUE(config.attention_sinks && config.moe.router_bias && config.moe.expert_bias && config.qkv_bias);
  EXPECT_EQ(config.activation, Activation::clamped_swiglu);
  EXPECT_EQ(config.max_context, 256);
}

TEST(GptOss, another_activation_and_no_word_on_the_rotation_are_refused) {
  EXPECT_EQ(refusal(family("GptOssForCausalLM", {{"rope_scaling", "null"}})),
            "config.json: gpt-oss needs rope_parameters or rope_scaling");
  EXPECT_EQ(refusal(family("GptOssForCausalLM", {{"swiglu_alpha", "1.5"}})),
            "config.json: swiglu_alpha 1.5 is not supported, only 1.702 is");
  EXPECT_EQ(refusal(family("GptOssForCausalLM", {{"hidden_act", "\"gelu\""}})),
            "config.json: gpt-oss is supported with hidden_act silu, got 'gelu'");
}

TEST(Experts, counts_out_of_range_are_refused) {
  EXPECT_EQ(refusal(family("MixtralForCausalLM", {{"num_local_experts", "0"}})),
            "config.json: num_local_experts must be >= 1, got 0");
  EXPECT_TRUE(contains(refusal(family("MixtralForCausalLM", {{"num_local_experts", "5000"}})),
                       "num_experts must be in [1, 4096], got 5000"));
  EXPECT_TRUE(contains(refusal(family("MixtralForCausalLM", {{"num_experts_per_tok", "5"}})),
                       "num_experts_per_tok must be in [1, 4], got 5"));
}

/// tiny_tensors() with experts in the place of the MLPs.
Shapes expert_tensors(const Shapes& of_layer) {
  Shapes shapes = tiny_tensors();
  for (const char* layer : {"model.layers.0.", "model.layers.1."}) {
    const std::string at = layer;
    for (const char* part : {"mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight"}) shapes.erase(at + part);
    for (const auto& [name, shape] : of_layer) shapes[at + name] = shape;
  }
  return shapes;
}

Shapes numbered_mixtral() {
  Shapes shapes = {{"block_sparse_moe.gate.weight", {4, 32}}};
  for (const char* expert : {"0", "1", "2", "3"}) {
    const std::string at = std::string("block_sparse_moe.experts.") + expert;
    shapes[at + ".w1.weight"] = shapes[at + ".w3.weight"] = {24, 32};
    shapes[at + ".w2.weight"] = {32, 24};
  }
  return shapes;
}

std::string planning_error(const Values& config, const Shapes& tensors) {
  const TempDir directory;
  write_model(directory, config, tensors);
  return error_of([&] { plan_decoder(open_checkpoint(directory.path()), cpu_traits(), 64); });
}

TEST(Experts, each_on_its_own_and_stacked_are_the_same_size) {
  const Shapes stacked = {
      {"mlp.gate.weight", {4, 32}}, {"mlp.experts.gate_up_proj", {4, 48, 32}}, {"mlp.experts.down_proj", {4, 32, 24}}};
  std::vector<size_t> bytes;
  for (const Shapes& shapes : {numbered_mixtral(), stacked}) {
    const TempDir directory;
    write_model(directory, family("MixtralForCausalLM"), expert_tensors(shapes));
    const auto decoder = plan_decoder(open_checkpoint(directory.path()), cpu_traits(), 64);
    const DecoderLayer& layer = decoder->weights().layers[1];
    EXPECT_EQ(layer.experts.up.num_groups, 4);
    EXPECT_EQ(layer.experts.up.rows, 4 * 48);
    EXPECT_FALSE(layer.mlp.up);
    bytes.push_back(decoder->weights().bytes);
  }
  EXPECT_EQ(bytes[0], bytes[1]);
}

TEST(Experts, a_missing_expert_is_named) {
  Shapes tensors = expert_tensors(numbered_mixtral());
  tensors.erase("model.layers.1.block_sparse_moe.experts.2.w3.weight");
  EXPECT_TRUE(contains(planning_error(family("MixtralForCausalLM"), tensors),
                       "tensor model.layers.1.block_sparse_moe.experts.2.w3.weight is missing"));
}

TEST(Experts, biases_of_another_shape_are_refused_even_with_as_many_values) {
  const Values config =
      family("GptOssForCausalLM", {{"head_dim", "8"}, {"attention_bias", "false"}, {"rope_parameters", "{}"}});
  Shapes tensors = expert_tensors({{"self_attn.sinks", {4}},
                                   {"mlp.router.weight", {4, 32}},
                                   {"mlp.router.bias", {4}},
                                   {"mlp.experts.gate_up_proj", {4, 32, 48}},
                                   {"mlp.experts.gate_up_proj_bias", {4, 48}},
                                   {"mlp.experts.down_proj", {4, 24, 32}},
                                   {"mlp.experts.down_proj_bias", {4, 32}}});
  EXPECT_EQ(planning_error(config, tensors), "nothing was thrown");
  tensors["model.layers.1.mlp.experts.down_proj_bias"] = {32, 4};
  EXPECT_TRUE(contains(planning_error(config, tensors),
                       "model.layers.1.mlp.experts.down_proj_bias has shape [32, 4], expected [4, 32]"));
}

/// A file of `architecture` with two layers of 4 experts.
GgufBuilder tiny_file(const std::string& architecture) {
  GgufBuilder file;
  const auto size = [&](const char* name, uint32_t value) {
    file.metadata.push_back(number(architecture + "." + name, GgufType::u32, value));
  };
  file.metadata.push_back(key("general.architecture", GgufType::string) + text(architecture));
  size("embedding_length", 32);
  size("feed_forward_length", 48);
  size("block_count", 2);
  size("context_length", 64);
  size("attention.head_count", 4);
  size("attention.layer_norm_epsilon", 0);
  size("expert_count", 4);
  size("expert_used_count", 2);
  file.tensors.push_back(tensor("token_embd.weight", {32, 40}, 0, 0));
  file.data = std::string(40 * 32 * sizeof(float), '\0');
  return file;
}

ModelConfig read(const GgufBuilder& builder) {
  const TempDir directory;
  const GgufFile file(directory.write("model.gguf", builder.build()));
  return read_gguf_config(file);
}

TEST(GgufExperts, what_files_leave_out_is_each_familys_own) {
  EXPECT_TRUE(read(tiny_file("llama")).moe.route.normalise);
  EXPECT_TRUE(read(tiny_file("qwen3moe")).moe.route.normalise);
  EXPECT_FALSE(read(tiny_file("olmoe")).moe.route.normalise);
  EXPECT_FALSE(read(tiny_file("granitemoe")).moe.route.softmax_first);
  const ModelConfig early = read(tiny_file("qwen2moe"));
  EXPECT_FALSE(early.moe.route.normalise);
  EXPECT_EQ(early.moe.intermediate_size, 24);
  EXPECT_EQ(early.moe.shared_intermediate_size, 48);
  EXPECT_TRUE(read(tiny_file("llama")).layout.rope_rows_interleaved);
  EXPECT_FALSE(read(tiny_file("olmoe")).layout.rope_rows_interleaved);
}

TEST(GgufExperts, what_files_say_counts) {
  GgufBuilder file = tiny_file("qwen3moe");
  file.metadata.push_back(number("qwen3moe.expert_weights_norm", GgufType::boolean, uint8_t{0}));
  file.metadata.push_back(number("qwen3moe.expert_weights_scale", GgufType::f32, 2.5f));
  file.metadata.push_back(number("qwen3moe.expert_feed_forward_length", GgufType::u32, uint32_t{16}));
  const ModelConfig config = read(file);
  EXPECT_FALSE(config.moe.route.normalise);
  EXPECT_EQ(config.moe.route.scale, 2.5f);
  EXPECT_EQ(config.moe.intermediate_size, 16);
  EXPECT_EQ(config.sparse_layers, (std::vector<bool>{true, true}));
}

TEST(GgufExperts, another_gating_function_is_refused) {
  GgufBuilder chosen = tiny_file("qwen3moe"), sigmoid = tiny_file("qwen3moe");
  chosen.metadata.push_back(number("qwen3moe.expert_gating_func", GgufType::u32, uint32_t{3}));
  sigmoid.metadata.push_back(number("qwen3moe.expert_gating_func", GgufType::u32, uint32_t{2}));
  EXPECT_FALSE(read(chosen).moe.route.softmax_first);
  EXPECT_TRUE(contains(error_of([&] { read(sigmoid); }), "qwen3moe.expert_gating_func 2 is not supported"));
}

TEST(GgufExperts, gpt_oss_has_windows_in_every_other_layer_from_the_first_on) {
  GgufBuilder file = tiny_file("gpt-oss");
  file.metadata.push_back(number("gpt-oss.attention.sliding_window", GgufType::u32, uint32_t{9}));
  const ModelConfig config = read(file);
  EXPECT_EQ(config.windows, (std::vector<int>{9, 0}));
  EXPECT_FALSE(config.rope.truncate || config.qkv_bias);
  EXPECT_STREQ(config.layout.names->mlp_norm, "post_attention_norm");
}

/// Two experts of 3 rows of 64 columns: code i % 16 at column i, exponents that differ from block to block.
FileTensors mxfp4_tensors() {
  std::string blocks, scales;
  for (int block = 0; block < 2 * 3 * 2; ++block) {
    for (int i = 0; i < 32; i += 2) blocks += static_cast<char>(i % 16 | (i + 1) % 16 << 4);
    scales += static_cast<char>(127 + block - 6);
  }
  return {{"up_blocks", {"U8", {2, 3, 2, 16}, blocks}}, {"up_scales", {"U8", {2, 3, 2}, scales}}};
}

std::optional<WeightPart> find_up(const WeightSource& source, StackPlace place, int64_t rows, int64_t cols) {
  return HfQuantisation::read(Json::parse(R"({"quantization_config": {"quant_method": "mxfp4"}})"))
      ->find_in_stack(source, "up", place, rows, cols);
}

TEST(Mxfp4, rows_of_an_expert_have_the_values_of_its_codes) {
  const TempDir directory;
  directory.write("model.safetensors", safetensors_of(mxfp4_tensors()));
  const auto source = open_safetensors(directory.path());
  const std::optional<WeightPart> part = find_up(*source, {.index = 1, .count = 2}, 3, 64);
  ASSERT_TRUE(part.has_value());
  ASSERT_EQ(part->format, WeightFormat::mxfp4);
  std::vector<std::byte> row(weight_row_bytes(part->format, 64));
  std::vector<float> values(64);
  part->read(2, row.data());
  dequantise_row(part->format, row.data(), 64, values.data());
  const float codes[] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, 0, -0.5f, -1, -1.5f, -2, -3, -4, -6};
  for (int i = 0; i < 64; ++i) EXPECT_EQ(values[static_cast<size_t>(i)], codes[i % 16] * (i < 32 ? 16 : 32)) << i;
}

TEST(Mxfp4, tensors_that_do_not_fit_are_refused_by_name) {
  const TempDir directory;
  FileTensors tensors = mxfp4_tensors();
  directory.write("model.safetensors", safetensors_of(tensors));
  const auto source = open_safetensors(directory.path());
  EXPECT_TRUE(
      contains(error_of([&] { find_up(*source, {0, 4}, 3, 64); }), "up_blocks has shape [2, 3, 2, 16], expected [4, 3"));
  EXPECT_TRUE(
      contains(error_of([&] { find_up(*source, {0, 2}, 3, 60); }), "up_blocks: mxfp4 needs columns in multiples of 32"));
  const TempDir other;
  tensors["up_scales"] = {"U8", {2, 3, 1}, std::string(6, '\0')};
  other.write("model.safetensors", safetensors_of(tensors));
  const auto damaged = open_safetensors(other.path());
  EXPECT_TRUE(
      contains(error_of([&] { find_up(*damaged, {0, 2}, 3, 64); }), "up_scales has shape [2, 3, 1], expected [2, 3, 2]"));
}

TEST(Mxfp4, plain_stacks_and_other_methods_are_left_alone) {
  const TempDir directory;
  directory.write("model.safetensors", safetensors_bytes({{"up", {2, 64, 3}}}));
  const auto source = open_safetensors(directory.path());
  EXPECT_FALSE(find_up(*source, {0, 2}, 3, 64).has_value());
  const auto fp8 = HfQuantisation::read(Json::parse(R"({"quantization_config": {"quant_method": "fp8"}})"));
  EXPECT_FALSE(fp8->find_in_stack(*source, "up", {0, 2}, 3, 64).has_value());
}

}  // namespace
}  // namespace pagoda
