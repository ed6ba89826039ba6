// A TensorTable over borrowed memory.
#include "io/memory_weights.h"

#include <utility>

#include "core/check.h"
#include "io/tensor_table.h"

namespace pagoda {
namespace {

class MemoryWeights final : public WeightSource {
 public:
  MemoryWeights(std::string where, std::vector<TableEntry> entries) : where_(std::move(where)), table_(std::move(entries)) {
    const TableEntry* twice = table_.first_duplicate();
    require(!twice, where_, ": two tensors are named ", twice ? quote_name(twice->tensor.name) : "");
  }

  const StoredTensor* find(std::string_view name) const override { return table_.find(name, where_); }
  std::optional<TensorBytes> find_bytes(std::string_view name) const override { return table_.find_bytes(name); }
  std::vector<std::string> names() const override { return table_.names(); }
  std::vector<TensorListing> list() const override { return table_.list(); }
  std::string describe() const override { return where_; }
  size_t total_bytes() const override { return table_.total_bytes(); }
  std::vector<std::string> warnings() const override { return {}; }

 private:
  std::string where_;
  TensorTable table_;
};

}  // namespace

std::unique_ptr<WeightSource> make_memory_weights(const std::string& where, const std::vector<MemoryTensor>& tensors) {
  std::vector<TableEntry> entries;
  for (const MemoryTensor& tensor : tensors) {
    TableEntry entry;
    entry.tensor = {tensor.name, WeightFormat::f32, tensor.shape, tensor.data, tensor.bytes};
    entry.type = tensor.type;
    if (tensor.type == "F16") {
      entry.tensor.format = WeightFormat::f16;
    } else if (tensor.type == "BF16") {
      entry.tensor.format = WeightFormat::bf16;
    } else if (tensor.type != "F32") {
      entry.refusal = "its type " + tensor.type + " is not a weight type (F32, F16 or BF16)";
    }
    if (tensor.bytes == 0) entry.refusal = "its shape " + shape_text(tensor.shape) + " has no elements";
    entries.push_back(std::move(entry));
  }
  return std::make_unique<MemoryWeights>(where, std::move(entries));
}

}  // namespace pagoda
