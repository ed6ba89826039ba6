// Safetensors: tensors as they are, and as matrices of the quantised kinds of checkpoints.
#include <algorithm>
#include <memory>
#include <vector>

#include "core/check.h"
#include "core/json.h"
#include "io/safetensors.h"
#include "model/hf_quantisation.h"
#include "targets.h"

namespace pagoda {
namespace {

constexpr int64_t kMaxRowBytes = 1 << 16;
constexpr int64_t kMaxRows = 64;

/// `quantization_config` of the kinds of checkpoints that keep scales beside their integers.
constexpr const char* kQuantisations[] = {
    R"({"quant_method":"awq","bits":4,"group_size":32,"version":"gemm","zero_point":true})",
    R"({"quant_method":"gptq","bits":4,"group_size":32,"desc_act":true,"sym":false})",
    R"({"quant_method":"gptq","bits":8,"group_size":-1,"desc_act":false,"sym":true})",
    R"({"quant_method":"fp8","activation_scheme":"dynamic","weight_block_size":[32,32]})",
    R"({"quant_method":"fp8","activation_scheme":"dynamic"})",
    R"({"quant_method":"compressed-tensors","format":"pack-quantized","config_groups":{"group_0":{"targets":["Linear"],
        "weights":{"num_bits":4,"type":"int","symmetric":false,"strategy":"group","group_size":32}}}})",
    R"({"quant_method":"compressed-tensors","format":"int-quantized","config_groups":{"group_0":{"targets":["Linear"],
        "weights":{"num_bits":8,"type":"int","symmetric":true,"strategy":"channel"}}}})",
};

size_t read_rows(const WeightPart& part) {
  const size_t bytes = weight_row_bytes(part.format, part.cols);
  if (!part.read || bytes > kMaxRowBytes) return 0;
  std::vector<std::byte> row(bytes);
  const int64_t num_rows = std::min(part.rows, kMaxRows);
  for (int64_t i = 0; i < num_rows; ++i) part.read(i, row.data());
  return row.size();
}

/// Takes the tensor's owner as a quantised matrix. Packed words hold 4 or 8 numbers along either dimension.
size_t read_matrix(const HfQuantisation& quantisation, const WeightSource& source, const TensorListing& line) {
  const size_t dot = line.name.rfind('.');
  if (dot == std::string::npos || line.shape.size() != 2) return 0;
  size_t total = 0;
  for (const int64_t pack : {1, 4, 8}) {
    const int64_t a = line.shape[0], b = line.shape[1];
    if (std::max(a, b) > int64_t{1} << 40) return 0;
    for (const auto& [rows, cols] : {std::pair{a, b * pack}, {a * pack, b}, {b, a * pack}, {b * pack, a}}) {
      try {
        const auto part = quantisation.find(source, line.name.substr(0, dot), rows, cols);
        if (part) total += read_rows(*part);
      } catch (const InvalidArgument&) {
        total += 1;
      }
    }
  }
  return total;
}

}  // namespace

bool fuzz_safetensors(std::string_view bytes) {
  std::unique_ptr<WeightSource> source;
  try {
    source = open_safetensors(MappedFile::from_bytes("fuzz.safetensors", bytes));
  } catch (const InvalidArgument&) {
    return false;
  }
  size_t total = read_tensors(*source);
  for (const char* text : kQuantisations) {
    const auto quantisation = HfQuantisation::read(Json::parse(str(R"({"quantization_config":)", text, "}")));
    ensure(quantisation != nullptr, "no quantisation in ", text);
    for (const TensorListing& line : source->list()) total += read_matrix(*quantisation, *source, line);
  }
  ensure(total > 0, "an accepted file without anything to read");
  return true;
}

}  // namespace pagoda
