// Quantised Hugging Face checkpoints: every packing gives the numbers that it stands for, and what does not fit is named.
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <initializer_list>

#include "io/dequantise.h"
#include "model/hf_quantisation.h"
#include "quantised_files.h"

namespace pagoda {
namespace {

const std::string kName = "model.layers.0.mlp.down_proj";

std::unique_ptr<HfQuantisation> quantisation(const std::string& config) {
  return HfQuantisation::read(Json::parse(R"({"quantization_config": )" + config + "}"));
}

std::unique_ptr<WeightSource> open(const TempDir& directory, const FileTensors& tensors) {
  return open_safetensors(directory.write("model.safetensors", safetensors_of(tensors)));
}

/// A configuration of compressed-tensors with one group.
std::string compressed(const std::string& format, const std::string& weights, const std::string& more = "") {
  return R"({"quant_method": "compressed-tensors", "format": ")" + format + R"(", "config_groups": {"group_0": {"targets": )" +
         R"(["Linear"], "weights": {)" + weights + "}" + more + R"(}}, "ignore": ["lm_head"]})";
}

/// Checks format and every value of the one matrix of a checkpoint.
void expect_matrix(const std::string& config, const FileTensors& tensors, int64_t rows, int64_t cols, WeightFormat format,
                   const std::function<float(int64_t, int64_t)>& value) {
  const TempDir directory;
  const auto source = open(directory, tensors);
  const auto part = quantisation(config)->find(*source, kName, rows, cols);
  ASSERT_TRUE(part.has_value());
  EXPECT_STREQ(weight_format_info(part->format).name, weight_format_info(format).name);
  ASSERT_EQ(part->rows, rows);
  ASSERT_EQ(part->cols, cols);
  std::vector<std::byte> row(weight_row_bytes(part->format, cols));
  std::vector<float> values(static_cast<size_t>(cols));
  const size_t block_bytes = weight_format_info(format).block_bytes;
  bool one_scale_per_row = format == WeightFormat::f8_e4m3;
  for (int64_t i = 0; i < rows; ++i) {
    part->read(i, row.data());
    for (size_t at = 0; one_scale_per_row && at < row.size(); at += block_bytes) {
      one_scale_per_row = std::memcmp(&row[at], &row[0], sizeof(float)) == 0;
    }
    dequantise_row(part->format, row.data(), cols, values.data());
    for (int64_t k = 0; k < cols; ++k) ASSERT_EQ(values[static_cast<size_t>(k)], value(i, k)) << "row " << i << " column " << k;
  }
  EXPECT_EQ(part->one_scale_per_row, one_scale_per_row);
}

void expect_matrix(const std::string& config, const FileTensors& tensors, const TestMatrix& m, WeightFormat format) {
  expect_matrix(config, tensors, m.rows, m.cols, format, [&](int64_t row, int64_t k) {
    return format == WeightFormat::f16 ? f16_to_float(float_to_f16(m.value(row, k))) : m.value(row, k);
  });
}

const char* kAwq = R"({"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": true, "version": "gemm"})";
const char* kGptq = R"({"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": false, "sym": true})";
const char* kInt4 = R"("num_bits": 4, "type": "int", "strategy": "group", "group_size": 32)";
const char* kFp8 = R"({"quant_method": "fp8", "weight_block_size": [24, 32]})";

TEST(HfQuantisation, awq_keeps_integers_with_scales_and_zeros_of_each_group) {
  const TestMatrix m(4, 24, 96, 32, false);
  expect_matrix(kAwq, awq_tensors(kName, m), m, WeightFormat::int4);
}

TEST(HfQuantisation, awq_groups_of_a_whole_row_and_without_zeros_are_read) {
  const TestMatrix m(4, 8, 64, 64, true);
  FileTensors tensors = awq_tensors(kName, m);
  tensors.erase(kName + ".qzeros");
  expect_matrix(R"({"quant_method": "awq", "group_size": -1, "zero_point": false})", tensors, m, WeightFormat::q4_0);
}

TEST(HfQuantisation, groups_that_cut_blocks_of_32_are_multiplied_out) {
  const TestMatrix m(4, 8, 48, 16, false);
  expect_matrix(R"({"quant_method": "awq", "group_size": 16, "version": "GEMM"})", awq_tensors(kName, m), m, WeightFormat::f16);
}

TEST(HfQuantisation, gptq_adds_one_to_its_zeros_and_v2_does_not) {
  const TestMatrix m(4, 24, 96, 32, false);
  ASSERT_NE(std::find(m.zeros.begin(), m.zeros.end(), 0), m.zeros.end());  // which borrows from its neighbour in the old format
  expect_matrix(kGptq, gptq_tensors(kName, m, false, true), m, WeightFormat::int4);
  expect_matrix(R"({"quant_method": "gptq", "bits": 4, "group_size": 32, "checkpoint_format": "gptq_v2"})",
                gptq_tensors(kName, m, true, false), m, WeightFormat::int4);
}

TEST(HfQuantisation, symmetric_gptq_takes_the_formats_without_a_zero) {
  const TestMatrix four(4, 16, 64, 32, true), eight(8, 16, 64, 64, true);
  expect_matrix(kGptq, gptq_tensors(kName, four, false, true), four, WeightFormat::q4_0);
  expect_matrix(R"({"quant_method": "gptq", "bits": 8, "group_size": -1})", gptq_tensors(kName, eight, false, true), eight,
                WeightFormat::q8_0);
}

TEST(HfQuantisation, eight_bit_numbers_with_other_zeros_are_multiplied_out) {
  const TestMatrix m(8, 16, 64, 32, false);
  expect_matrix(R"({"quant_method": "gptq", "bits": 8, "group_size": 32})", gptq_tensors(kName, m, false, true), m,
                WeightFormat::f16);
}

TEST(HfQuantisation, columns_in_activation_order_find_their_groups) {
  TestMatrix m(4, 16, 64, 32, false);
  for (int64_t k = 0; k < m.cols; ++k) m.group_of[static_cast<size_t>(k)] = k % 3 == 0;
  const char* config = R"({"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": true})";
  expect_matrix(config, gptq_tensors(kName, m, false, true), m, WeightFormat::f16);
  const TestMatrix plain(4, 16, 64, 32, false);
  FileTensors unordered = gptq_tensors(kName, plain, false, true);
  unordered[kName + ".g_idx"].bytes.assign(64 * 4, '\0');
  expect_matrix(config, unordered, plain, WeightFormat::int4);
}

TEST(HfQuantisation, gptq_matrices_may_differ_from_the_rest) {
  const std::string config = R"({"quant_method": "gptq", "bits": 4, "group_size": 128, "dynamic": {"-:lm_head": {},
      "+:.*down_proj": {"bits": 8, "group_size": 32}, ".*up_proj": {"group_size": 64}}})";
  const TestMatrix eight(8, 16, 128, 32, true), four(4, 16, 128, 64, true);
  expect_matrix(config, gptq_tensors(kName, eight, false, true), eight, WeightFormat::q8_0);
  expect_matrix(config, gptq_tensors(kName, four, false, true), four, WeightFormat::q4_0);
}

TEST(HfQuantisation, packed_integers_of_compressed_tensors_are_read) {
  const TestMatrix symmetric(4, 18, 96, 32, true), asymmetric(4, 18, 96, 32, false), channel(8, 10, 64, 64, true);
  expect_matrix(compressed("pack-quantized", kInt4), packed_tensors(kName, symmetric, true, "BF16"), symmetric,
                WeightFormat::int4);
  expect_matrix(compressed("pack-quantized", std::string(kInt4) + R"(, "symmetric": false)"),
                packed_tensors(kName, asymmetric, false, "F32"), asymmetric, WeightFormat::int4);
  expect_matrix(compressed("pack-quantized", R"("num_bits": 8, "strategy": "channel")"),
                packed_tensors(kName, channel, true, "BF16"), channel, WeightFormat::int8);
}

TEST(HfQuantisation, packed_rows_of_odd_length_are_multiplied_out) {
  const TestMatrix m(4, 6, 36, 36, false);
  expect_matrix(compressed("pack-quantized", R"("num_bits": 4, "strategy": "channel", "symmetric": false)"),
                packed_tensors(kName, m, false, "F32"), m, WeightFormat::f32);
}

TEST(HfQuantisation, bytes_of_compressed_tensors_are_read) {
  const TestMatrix channel(8, 10, 64, 64, true), group(8, 10, 64, 32, false);
  expect_matrix(compressed("int-quantized", R"("num_bits": 8, "strategy": "channel")"), int8_tensors(kName, channel, true),
                channel, WeightFormat::int8);
  expect_matrix(compressed("int-quantized", R"("num_bits": 8, "group_size": 32, "symmetric": false)"),
                int8_tensors(kName, group, false), group, WeightFormat::f32);
  FileTensors scalar = int8_tensors(kName, channel, true);
  scalar[kName + ".weight_scale"] = {"F32", {1}, raw(0.25f)};
  expect_matrix(compressed("naive-quantized", R"("num_bits": 8, "strategy": "tensor")"), scalar, 10, 64, WeightFormat::int8,
                [&](int64_t row, int64_t k) { return 0.25f * static_cast<float>(channel.at(row, k) - 128); });
}

TEST(HfQuantisation, groups_of_one_configuration_are_told_apart_by_their_shapes) {
  const std::string config = R"({"config_groups": {
      "a": {"targets": ["re:.*gate"], "format": "pack-quantized", "weights": {"num_bits": 4, "group_size": 32}},
      "b": {"targets": ["re:.*down"], "format": "pack-quantized", "weights": {"num_bits": 4, "group_size": 64}},
      "c": {"targets": ["Linear"], "format": "float-quantized", "weights": {"num_bits": 8, "type": "float", "strategy": "tensor"}},
      "d": {"targets": ["LlamaAttention"], "input_activations": {"num_bits": 8}}},
      "format": "mixed-precision", "quant_method": "compressed-tensors"})";
  const TestMatrix m(4, 8, 128, 64, true);
  expect_matrix(config, packed_tensors(kName, m, true, "BF16"), m, WeightFormat::int4);
  EXPECT_EQ(quantisation(config)->describe(),
            "compressed-tensors, 4 bits, groups of 32 or 4 bits, groups of 64 or e4m3, one scale per matrix");
}

/// Bytes 0, 1, 2, ... without the two NaNs, as [rows, cols].
FileTensor e4m3_tensor(int64_t rows, int64_t cols) {
  std::string bytes;
  for (int64_t i = 0; i < rows * cols; ++i) bytes += static_cast<char>(i % 127 + (i / 127 % 2) * 128);
  return {"F8_E4M3", {rows, cols}, bytes};
}

float e4m3_value(int64_t cols, int64_t row, int64_t k) {
  const int64_t i = row * cols + k;
  return e4m3(static_cast<int>(i % 127 + (i / 127 % 2) * 128));
}

TEST(HfQuantisation, blocks_of_8_bit_floats_take_their_scales) {
  constexpr int64_t kRows = 40, kCols = 96;  // two blocks of 24 rows, the second cut short, and three of 32 columns
  std::string scales;
  for (int i = 0; i < 6; ++i) scales += raw(0.5f + static_cast<float>(i));
  FileTensors tensors = {{kName + ".weight", e4m3_tensor(kRows, kCols)},
                         {kName + ".weight_scale_inv", {"F32", {2, 3}, scales}}};
  const auto value = [](int64_t row, int64_t k) {
    return (0.5f + static_cast<float>(row / 24 * 3 + k / 32)) * e4m3_value(kCols, row, k);
  };
  expect_matrix(kFp8, tensors, kRows, kCols, WeightFormat::f8_e4m3, value);
  tensors[kName + ".weight_scale"] = tensors[kName + ".weight_scale_inv"];
  tensors.erase(kName + ".weight_scale_inv");
  expect_matrix(
      compressed("float-quantized", R"("num_bits": 8, "type": "float", "strategy": "block", "block_structure": [24, 32])"),
      tensors, kRows, kCols, WeightFormat::f8_e4m3, value);
}

TEST(HfQuantisation, power_of_two_scales_are_read) {
  const FileTensors tensors = {{kName + ".weight", e4m3_tensor(24, 64)},
                               {kName + ".weight_scale_inv", {"F8_E8M0", {1, 2}, "\x7e\x80"}}};
  expect_matrix(kFp8, tensors, 24, 64, WeightFormat::f8_e4m3,
                [](int64_t row, int64_t k) { return (k < 32 ? 0.5f : 2.0f) * e4m3_value(64, row, k); });
}

TEST(HfQuantisation, scales_of_a_matrix_or_a_row_of_8_bit_floats_are_read) {
  const char* config = R"({"quant_method": "fp8", "activation_scheme": "static"})";
  FileTensors tensors = {{kName + ".weight", e4m3_tensor(3, 64)},
                         {kName + ".weight_scale", {"BF16", {}, raw(float_to_bf16(3))}}};
  expect_matrix(config, tensors, 3, 64, WeightFormat::f8_e4m3,
                [](int64_t row, int64_t k) { return 3 * e4m3_value(64, row, k); });
  tensors[kName + ".weight_scale"] = {"F32", {3, 1}, raw(1.5f) + raw(2.5f) + raw(3.5f)};
  const auto by_row = [](int64_t row, int64_t k) { return (1.5f + static_cast<float>(row)) * e4m3_value(64, row, k); };
  expect_matrix(R"({"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0})", tensors, 3, 64, WeightFormat::f8_e4m3,
                by_row);
  expect_matrix(compressed("float-quantized", R"("num_bits": 8, "type": "float", "strategy": "channel")"), tensors, 3, 64,
                WeightFormat::f8_e4m3, by_row);
}

TEST(HfQuantisation, plain_and_absent_matrices_are_left_to_the_loader) {
  const TempDir directory;
  const auto source = open(directory, {{"lm_head.weight", {"BF16", {2, 32}, std::string(128, '\0')}}});
  for (const std::string& config :
       {std::string(kAwq), std::string(kGptq), std::string(kFp8), compressed("pack-quantized", kInt4)}) {
    EXPECT_FALSE(quantisation(config)->find(*source, "lm_head", 2, 32).has_value());
    EXPECT_FALSE(quantisation(config)->find(*source, "model.embed_tokens", 2, 32).has_value());
  }
}

TEST(HfQuantisation, a_configuration_without_it_has_none) {
  EXPECT_EQ(HfQuantisation::read(Json::parse("{}")), nullptr);
  EXPECT_EQ(quantisation("null"), nullptr);
}

TEST(HfQuantisation, descriptions_say_method_bits_and_groups) {
  EXPECT_EQ(quantisation(kAwq)->describe(), "awq, 4 bits, groups of 32");
  EXPECT_EQ(quantisation(kAwq)->method(), "awq");
  EXPECT_EQ(quantisation(R"({"quant_method": "gptq", "bits": 8, "group_size": -1, "desc_act": true})")->describe(),
            "gptq, 8 bits, one group per row, in activation order: multiplied out to f16");
  EXPECT_EQ(quantisation(kFp8)->describe(), "fp8, e4m3, blocks of 24 x 32; inputs keep their precision");
  EXPECT_EQ(quantisation(compressed("int-quantized", R"("num_bits": 8, "strategy": "channel")",
                                    R"(, "input_activations": {"num_bits": 8})"))
                ->describe(),
            "compressed-tensors, 8 bits, one scale per row; inputs keep their precision");
}

TEST(HfQuantisation, methods_and_settings_that_are_not_supported_are_named) {
  const std::pair<std::string, std::string> cases[] = {
      {R"({"quant_method": "bitsandbytes"})", "quant_method 'bitsandbytes' is not supported; supported are awq, gptq, "},
      {R"({"load_in_4bit": true})", "quant_method 'bitsandbytes' is not supported"},
      {R"({"quant_method": "hqq"})", "quant_method 'hqq' is not supported"},
      {R"({"bits": 4})", "quant_method '' is not supported"},
      {R"("awq")", "quantization_config must be an object, got the string \"awq\""},
      {R"({"quant_method": "awq", "bits": 8})", "bits must be 4 with awq, got 8"},
      {R"({"quant_method": "awq", "version": "gemv"})", "the awq format must be 'gemm', got 'gemv'"},
      {R"({"quant_method": "awq", "backend": "llm-awq"})", "backend 'llm-awq'"},
      {R"({"quant_method": "awq", "group_size": 0})", "group_size must be -1 (a whole row) or at least 1, got 0"},
      {R"({"quant_method": "gptq", "bits": 4, "group_size": -7})", "group_size must be -1 (a whole row) or at least 1, got -7"},
      {R"({"quant_method": "gptq", "bits": "four"})", "bits: "},
      {R"({"quant_method": "gptq", "bits": 3})", "bits must be 4 or 8 with gptq, got 3"},
      {R"({"quant_method": "gptq"})", "bits is missing"},
      {R"({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"})", "'gptq' or 'gptq_v2', got 'marlin'"},
      {R"({"quant_method": "gptq", "bits": 4, "dynamic": {"+:x": {"bits": 2}}})", "bits must be 4 or 8 with gptq, got 2"},
      {R"({"quant_method": "fp8", "weight_block_size": [128]})",
       "weight_block_size must be two positive integers, got an array"},
      {R"({"quant_method": "fp8", "weight_block_size": [128, -1]})", "weight_block_size must be two positive integers"},
      {R"({"quant_method": "fp8", "fmt": "e5m2"})", "fmt must be 'e4m3' with fp8, got 'e5m2'"},
      {R"({"quant_method": "compressed-tensors"})", "config_groups must be an object of groups, got nothing"},
      {R"({"quant_method": "compressed-tensors", "config_groups": {}})", "config_groups: no group has weights"},
      {R"({"quant_method": "compressed-tensors", "config_groups": {"W8A8": ["Linear"]}})", "W8A8: must be an object"},
      {compressed("nvfp4-pack-quantized", kInt4), "format 'nvfp4-pack-quantized' is not supported; supported are pack-"},
      {compressed("dense", kInt4), "format 'dense' is not supported"},
      {compressed("pack-quantized", R"("num_bits": 3)"), "int of 4 or 8 bits or float of 8 bits, got int of 3 bits"},
      {compressed("float-quantized", R"("num_bits": 4, "type": "float")"), "floats are supported with 8 bits"},
      {compressed("pack-quantized", R"("num_bits": 4, "strategy": "token")"), "strategy 'token' is not supported"},
      {compressed("pack-quantized", R"("num_bits": 4, "strategy": "group")"), "group_size must be at least 1 with strategy"},
      {compressed("pack-quantized", R"("num_bits": 4, "group_size": -2)"), "group_size must be -1 or at least 1, got -2"},
      {compressed("float-quantized", R"("num_bits": 8, "strategy": "block")"), "block_structure must be two positive integers"},
      {R"({"quant_method": "compressed-tensors", "sparsity_config": {"format": "sparse-24-bitmask"}})",
       "sparsity_config: format must be 'dense', got 'sparse-24-bitmask'"},
      {R"({"quant_method": "compressed-tensors", "transform_config": {"config_groups": {}}})", "transform_config"},
  };
  for (const auto& [config, text] : cases) {
    const std::string error = error_of([&] { quantisation(config); });
    EXPECT_TRUE(contains(error, text)) << config << "\n" << error;
    EXPECT_TRUE(contains(error, "quantization_config")) << error;
  }
}

using Damage = std::function<void(FileTensors&)>;

/// One change to a good checkpoint and what must be said of it.
struct Fault {
  std::string config;
  FileTensors tensors;
  Damage damage;
  std::string text;
};

Damage drop(const std::string& suffix) {
  return [=](FileTensors& tensors) { tensors.erase(kName + suffix); };
}

Damage retype(const std::string& suffix, const std::string& type) {
  return [=](FileTensors& tensors) { tensors[kName + suffix].type = type; };
}

Damage reshape(const std::string& suffix, const std::vector<int64_t>& shape, size_t size) {
  return [=](FileTensors& tensors) {
    tensors[kName + suffix].shape = shape;
    tensors[kName + suffix].bytes.resize(size);
  };
}

void expect_refusals(std::initializer_list<Fault> faults) {
  for (const Fault& fault : faults) {
    const TempDir directory;
    FileTensors tensors = fault.tensors;
    fault.damage(tensors);
    const auto source = open(directory, tensors);
    const std::string error = error_of([&] { quantisation(fault.config)->find(*source, kName, 16, 64); });
    EXPECT_TRUE(contains(error, fault.text)) << fault.text << "\n" << error;
    EXPECT_TRUE(contains(error, directory.path())) << error;
  }
}

TEST(HfQuantisation, tensors_of_awq_and_gptq_that_do_not_fit_are_named) {
  const TestMatrix m(4, 16, 64, 32, false);
  const FileTensors awq = awq_tensors(kName, m), gptq = gptq_tensors(kName, m, false, true);
  const auto column = [](int32_t group) {
    return [=](FileTensors& tensors) { tensors[kName + ".g_idx"].bytes.replace(5 * 4, 4, raw(group)); };
  };
  expect_refusals({
      {kAwq, awq, drop(".qweight"), ".qweight is missing, but " + kName + ".scales is there"},
      {kAwq, awq, drop(".qzeros"), "tensor " + kName + ".qzeros is missing"},
      {kAwq, awq, drop(".scales"), ".scales is missing"},
      {kAwq, awq, retype(".qweight", "F32"), ".qweight has type F32, expected I32"},
      {kAwq, awq, reshape(".qweight", {64, 1}, 256), ".qweight has shape [64, 1], expected [64, 2]"},
      {kAwq, awq, reshape(".qweight", {64, 0}, 0), ".qweight has shape [64, 0], expected [64, 2]"},
      {kAwq, awq, reshape(".scales", {1, 16}, 32), ".scales has shape [1, 16], expected [2, 16]"},
      {kAwq, awq, reshape(".qzeros", {4}, 16), ".qzeros has shape [4], expected [2, 2]"},
      {kAwq, awq, [](FileTensors& t) { t["model.layers.0.mlp.act.scales"] = {"F16", {1}, "ab"}; },
       "mlp.act.scales scales the input"},
      {kGptq, gptq, drop(".qweight"), ".qweight is missing"},
      {kGptq, gptq, reshape(".qweight", {4, 16}, 256), ".qweight has shape [4, 16], expected [8, 16]"},
      {kGptq, gptq, reshape(".scales", {4, 16}, 128), ".scales has shape [4, 16], expected [2, 16]"},
      {kGptq, gptq, reshape(".qzeros", {2, 1}, 8), ".qzeros has shape [2, 1], expected [2, 2]"},
      {kGptq, gptq, reshape(".g_idx", {63}, 252), ".g_idx has shape [63], expected [64]"},
      {kGptq, gptq, column(2), ".g_idx: column 5 is in group 2, but there are 2 groups"},
      {kGptq, gptq, column(-1), ".g_idx: column 5 is in group -1"},
      {R"({"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": true})", gptq, drop(".g_idx"),
       ".g_idx is missing, which desc_act needs"},
  });
}

TEST(HfQuantisation, tensors_of_the_other_methods_that_do_not_fit_are_named) {
  const TestMatrix m(4, 16, 64, 32, false), bytes(8, 16, 64, 64, true);
  const FileTensors packed = packed_tensors(kName, m, false, "BF16"), int8 = int8_tensors(kName, bytes, true),
                    f8 = {{kName + ".weight", e4m3_tensor(16, 64)},
                          {kName + ".weight_scale_inv", {"F32", {1, 2}, std::string(8, 0)}}};
  const std::string asymmetric = compressed("pack-quantized", std::string(kInt4) + R"(, "symmetric": false)");
  const std::string channel = compressed("int-quantized", R"("num_bits": 8, "strategy": "channel")");
  expect_refusals({
      {asymmetric, packed, drop(".weight_packed"), ".weight_packed is missing"},
      {asymmetric, packed, drop(".weight_scale"), ".weight_scale is missing"},
      {asymmetric, packed, drop(".weight_zero_point"), ".weight_zero_point is missing"},
      {asymmetric, packed, reshape(".weight_packed", {16, 4}, 256), ".weight_packed has shape [16, 4], expected [16, 8]"},
      {asymmetric, packed, reshape(".weight_scale", {16, 1}, 32), ".weight_scale has shape [16, 1], expected [16, 2]"},
      {asymmetric, packed, [](FileTensors& t) { t[kName + ".weight_shape"].bytes[0] = 17; },
       ".weight_shape holds [17, 64], expected [16, 64]"},
      {channel, packed, [](FileTensors&) {},
       ".weight_packed has type I32, expected what config_groups say: compressed-tensors, 8 bits"},
      {channel, int8, reshape(".weight", {16, 32}, 512), ".weight has shape [16, 32], expected [16, 64]"},
      {channel, int8, reshape(".weight_scale", {8, 1}, 16), ".weight_scale has shape [8, 1], expected [16] or [16, 1]"},
      {channel, int8, retype(".weight", "U8"), ".weight has type U8, expected I8 or F8_E4M3"},
      {kFp8, f8, drop(".weight_scale_inv"), ".weight_scale is missing"},
      {kFp8, f8, retype(".weight", "F8_E5M2"), ".weight has type F8_E5M2, expected F8_E4M3"},
      {kFp8, f8, reshape(".weight", {64, 16}, 1024), ".weight has shape [64, 16], expected [16, 64]"},
      {kFp8, f8, reshape(".weight_scale_inv", {2, 1}, 8), ".weight_scale_inv has shape [2, 1], expected [1, 2]"},
      {kFp8, f8, retype(".weight_scale_inv", "I32"), ".weight_scale_inv has type I32, expected F32 or F16 or BF16"},
      {R"({"quant_method": "fp8", "weight_block_size": [16, 48]})", f8, [](FileTensors&) {},
       "got 64 columns and 48 to a scale"},
  });
}

TEST(HfQuantisation, sizes_that_a_packing_cannot_hold_are_refused) {
  const TempDir directory;
  const auto source = open(directory, awq_tensors(kName, TestMatrix(4, 16, 64, 32, false)));
  EXPECT_TRUE(contains(error_of([&] { quantisation(kAwq)->find(*source, kName, 12, 64); }),
                       "awq keeps [12, 64] only with rows a multiple of 8"));
  EXPECT_TRUE(contains(error_of([&] { quantisation(kAwq)->find(*source, kName, 16, 0); }), "has no elements: [16, 0]"));
  const TempDir other;
  const TestMatrix odd(4, 12, 64, 32, false);
  FileTensors tensors = gptq_tensors(kName, odd, false, true);
  EXPECT_TRUE(contains(error_of([&] { quantisation(kGptq)->find(*open(other, tensors), kName, 12, 64); }),
                       "gptq with 4 bits keeps [12, 64] only with both a multiple of 8"));
}

}  // namespace
}  // namespace pagoda
