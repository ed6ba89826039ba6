// Choosing the reader of a quantisation method.
#include "model/hf_quantisation.h"

#include <utility>

#include "core/check.h"
#include "model/quantisation_fields.h"

namespace pagoda {

HfQuantisation::HfQuantisation(std::string method, Reader reader) : method_(std::move(method)), reader_(std::move(reader)) {}

HfQuantisation::Reader HfQuantisation::make_reader(const std::string& method, const Json& config) {
  if (method == "awq") return Awq(config);
  if (method == "gptq") return Gptq(config);
  if (method == "compressed-tensors") return CompressedTensors(config);
  if (method == "fp8" || method == "fbgemm_fp8") return Fp8(method, config);
  if (method == "mxfp4") return Mxfp4();
  throw InvalidArgument(str(kQuantisationField, "quant_method '", method,
                            "' is not supported; supported are awq, gptq, compressed-tensors, fp8, fbgemm_fp8 and mxfp4, "
                            "plain safetensors in f32, f16 or bf16, and GGUF files"));
}

std::unique_ptr<HfQuantisation> HfQuantisation::read(const Json& config_json) {
  const Json* config = config_json.find("quantization_config");
  if (!config || config->is_null()) config = config_json.find("compression_config");  // older compressed-tensors
  if (!config || config->is_null()) return nullptr;
  require(config->is_object(), "config.json: quantization_config must be an object, got ", config->describe());
  // What bitsandbytes and compressed-tensors wrote before there was a quant_method.
  const char* implied = config->find("load_in_4bit") || config->find("load_in_8bit") ? "bitsandbytes"
                        : config->find("config_groups")                              ? "compressed-tensors"
                                                                                     : "";
  const std::string method = config->get_string("quant_method", implied);
  return std::unique_ptr<HfQuantisation>(new HfQuantisation(method, make_reader(method, *config)));
}

std::optional<WeightPart> HfQuantisation::find(const WeightSource& source, const std::string& name, int64_t rows,
                                               int64_t cols) const {
  require(rows >= 1 && cols >= 1, source.describe(), ": matrix ", name, " has no elements: [", rows, ", ", cols, "]");
  return std::visit([&](const auto& reader) { return reader.find(source, name, rows, cols); }, reader_);
}

std::optional<WeightPart> HfQuantisation::find_in_stack(const WeightSource& source, const std::string& name, StackPlace place,
                                                        int64_t rows, int64_t cols) const {
  const Mxfp4* mxfp4 = std::get_if<Mxfp4>(&reader_);
  return mxfp4 ? mxfp4->find_in_stack(source, name, place, rows, cols) : std::nullopt;
}

std::string HfQuantisation::describe() const {
  return std::visit([](const auto& reader) { return reader.describe(); }, reader_);
}

}  // namespace pagoda
