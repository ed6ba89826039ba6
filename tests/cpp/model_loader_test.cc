// Opening and loading checkpoints: every tensor is there with its shape, and what is planned is what is packed.
#include <gtest/gtest.h>

#include <cstring>
#include <tuple>

#include "model/loader.h"
#include "model_files.h"

namespace pagoda {
namespace {

std::string refusal(const std::map<std::string, std::string>& config,
                    const std::map<std::string, std::vector<int64_t>>& tensors) {
  const TempDir directory;
  write_model(directory, config, tensors);
  return error_of([&] { plan_decoder(open_checkpoint(directory.path()), cpu_traits(), 64); });
}

TEST(Loader, planned_bytes_are_the_packed_bytes) {
  const TempDir directory;
  write_model(directory, tiny_config(), tiny_tensors());
  const Checkpoint checkpoint = open_checkpoint(directory.path());
  for (const char* isa : {"portable", "auto"}) {
    const auto backend = make_cpu_backend({1, isa});
    const auto planned = plan_decoder(checkpoint, backend->traits(), 64);
    const auto loaded = load_decoder(checkpoint, *backend, 64, {});
    EXPECT_EQ(planned->weights().bytes, loaded->weights().bytes);
    EXPECT_GT(loaded->weights().bytes, safetensors_bytes(tiny_tensors()).size() / 2);
  }
}

TEST(Loader, a_longer_context_takes_a_longer_rotary_table) {
  const TempDir directory;
  write_model(directory, tiny_config(), tiny_tensors());
  const Checkpoint checkpoint = open_checkpoint(directory.path());
  const size_t longer = plan_decoder(checkpoint, cpu_traits(), 64)->weights().bytes;
  const size_t shorter = plan_decoder(checkpoint, cpu_traits(), 24)->weights().bytes;
  EXPECT_EQ(longer - shorter, size_t{64 - 24} * 8 * sizeof(float));
}

TEST(Loader, progress_counts_every_matrix_once) {
  const TempDir directory;
  write_model(directory, tiny_config(), tiny_tensors());
  const auto backend = make_cpu_backend({1, "portable"});
  std::vector<int64_t> seen;
  load_decoder(open_checkpoint(directory.path()), *backend, 64, [&](int64_t done, int64_t total) {
    seen.push_back(done);
    EXPECT_EQ(total, 10);  // embedding, head and four in each of two layers
  });
  EXPECT_EQ(seen, (std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}));
}

TEST(Loader, a_tied_head_shares_the_embeddings_bytes) {
  const TempDir directory;
  auto config = tiny_config();
  config["tie_word_embeddings"] = "true";
  auto tensors = tiny_tensors();
  tensors.erase("lm_head.weight");
  write_model(directory, config, tensors);
  const size_t tied = plan_decoder(open_checkpoint(directory.path()), cpu_traits(), 64)->weights().bytes;
  write_model(directory, tiny_config(), tiny_tensors());
  const auto untied = plan_decoder(open_checkpoint(directory.path()), cpu_traits(), 64);
  EXPECT_EQ(untied->weights().bytes - tied, untied->weights().lm_head.bytes);
}

TEST(Loader, a_stored_head_is_tied_only_if_it_is_the_embedding) {
  const TempDir directory;
  auto config = tiny_config();
  config["tie_word_embeddings"] = "true";
  write_model(directory, config, tiny_tensors());
  EXPECT_FALSE(open_checkpoint(directory.path()).config.tied_embeddings);
  std::string file = safetensors_bytes(tiny_tensors());
  uint64_t header = 0;
  std::memcpy(&header, file.data(), sizeof header);
  const size_t head = sizeof header + header, bytes = 40 * 32 * sizeof(float);  // the embedding lies behind it
  file.replace(head, bytes, file, head + bytes, bytes);
  directory.write("model.safetensors", file);
  EXPECT_TRUE(open_checkpoint(directory.path()).config.tied_embeddings);
}

TEST(Loader, faulty_tensors_are_named_with_both_shapes) {
  auto tensors = tiny_tensors();
  tensors.erase("model.layers.1.mlp.up_proj.weight");
  EXPECT_TRUE(contains(refusal(tiny_config(), tensors), "tensor model.layers.1.mlp.up_proj.weight is missing"));
  tensors = tiny_tensors();
  tensors["model.layers.0.self_attn.k_proj.weight"] = {32, 16};
  EXPECT_TRUE(contains(
      refusal(tiny_config(), tensors),
      "tensor model.layers.0.self_attn.k_proj.weight has shape [32, 16], expected [16, 32] from the model configuration"));
  tensors = tiny_tensors();
  tensors["model.norm.weight"] = {33};
  EXPECT_TRUE(contains(refusal(tiny_config(), tensors), "model.norm.weight has shape [33], expected [32]"));
  tensors = tiny_tensors();
  tensors.erase("lm_head.weight");
  EXPECT_TRUE(contains(refusal(tiny_config(), tensors), "tensor lm_head.weight is missing"));
}

TEST(Loader, tensors_of_a_layer_that_nobody_asked_for_are_refused_unless_they_are_zero) {
  auto tensors = tiny_tensors();
  tensors["model.layers.1.self_attn.rotary_emb.inv_freq"] = {4};
  tensors["model.layers.2.self_attn.q_proj.bias"] = {32};  // beyond the two layers
  tensors["vision.layers.0.norm.weight"] = {32};
  EXPECT_EQ(refusal(tiny_config(), tensors), "nothing was thrown");
  tensors["model.layers.1.self_attn.q_proj.bias"] = {32};
  EXPECT_TRUE(contains(refusal(tiny_config(), tensors),
                       "tensor model.layers.1.self_attn.q_proj.bias is no part of the LlamaForCausalLM that the "
                       "configuration describes"));
  auto config = tiny_config();
  config["attention_bias"] = "true";
  EXPECT_TRUE(contains(refusal(config, tensors), "model.layers.0.self_attn.q_proj.bias is missing"));
}

TEST(Loader, biases_are_wanted_when_the_configuration_says_so) {
  auto config = tiny_config();
  config["attention_bias"] = "true";
  EXPECT_TRUE(contains(refusal(config, tiny_tensors()), "model.layers.0.self_attn.q_proj.bias is missing"));
}

TEST(Loader, end_tokens_of_both_configurations_are_joined) {
  const TempDir directory;
  auto config = tiny_config();
  config["eos_token_id"] = "3";
  write_model(directory, config, tiny_tensors());
  directory.write("generation_config.json", R"({"eos_token_id": [3, 9]})");
  EXPECT_EQ(open_checkpoint(directory.path()).config.eos_tokens, (std::vector<int32_t>{3, 9}));
  directory.write("generation_config.json", R"({"eos_token_id": 40})");
  EXPECT_TRUE(contains(error_of([&] { open_checkpoint(directory.path()); }),
                       "generation_config.json: eos_token_id must be in [0, 40), got 40"));
}

TEST(Loader, a_refused_configuration_is_named_with_its_path) {
  const TempDir directory;
  const std::string path = directory.path() + "/config.json: ";
  for (const auto& [key, value, message] : {std::tuple{"hidden_act", "[1]", "hidden_act: expected a string, got an array of 1"},
                                            {"hidden_act", "\"tanh\"", "hidden_act 'tanh' is not supported"},
                                            {"head_dim", "258", "model configuration: head_dim must be even"},
                                            {"quantization_config", "[]", "quantization_config must be an object"}}) {
    auto config = tiny_config();
    config[key] = value;
    write_model(directory, config, tiny_tensors());
    EXPECT_TRUE(error_of([&] { open_checkpoint(directory.path()); }).starts_with(path + message)) << key;
  }
}

TEST(Loader, a_directory_without_a_configuration_says_what_is_missing) {
  const TempDir directory;
  EXPECT_TRUE(contains(error_of([&] { open_checkpoint(directory.path()); }), "config.json is missing"));
}

}  // namespace
}  // namespace pagoda
