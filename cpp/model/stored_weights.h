// Finds a checkpoint's tensors and describes them as rows to pack: plain, quantised by a Hugging Face method, transposed,
// sliced, or to be quantised on load. Made by the loader; reads no weight until a row is asked for.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "backend/weight.h"
#include "io/weight_source.h"
#include "model/hf_quantisation.h"

namespace pagoda {

/// A matrix as its checkpoint has it. `index` of `count`: the tensor is a stack [count, rows, cols] and this is one of it.
struct MatrixRequest {
  std::string name;  ///< without suffix
  int64_t rows = 0;
  int64_t cols = 0;
  bool transposed = false;  ///< stored as [cols, rows]
  int64_t index = 0;
  int64_t count = 0;  ///< 0: not a stack
};

/// Throws InvalidArgument naming the file, the tensor, what was found and what was expected. Immutable, any thread.
class StoredWeights {
 public:
  /// `quantisation` may be null. All must outlive this object and the parts it makes.
  StoredWeights(const WeightSource& source, const HfQuantisation* quantisation)
      : source_(source), quantisation_(quantisation) {}

  WeightPart matrix(const MatrixRequest& request) const;

  /// The tensor `name` of `size` values in one or two dimensions as floats; zeros, without reading it, unless `read`.
  std::vector<float> vector(const std::string& name, int64_t size, bool read) const;

  /// Vector `index` of the tensor `name` of [count, size], as `vector` reads it.
  std::vector<float> stacked_vector(const std::string& name, int64_t index, int64_t count, int64_t size, bool read) const;

  /// A matrix of one row, which files may store as [cols].
  WeightPart single_row(const std::string& name, int64_t cols) const;

  /// "base.weight", or `base` itself where only that exists.
  std::string weight_name(const std::string& base) const;
  /// "base.bias", or "base_bias" where only that exists.
  std::string bias_name(const std::string& base) const;

 private:
  const StoredTensor& find(const std::string& name) const;
  /// A tensor of plain floats: [count, size], or `size` of them in one or two dimensions when count is 1.
  const StoredTensor& find_floats(const std::string& name, int64_t count, int64_t size) const;
  /// The matrix if the checkpoint keeps it quantised by a Hugging Face method.
  std::optional<WeightPart> quantised(const MatrixRequest& request) const;

  const WeightSource& source_;
  const HfQuantisation* quantisation_;
};

/// Rows [begin, begin + rows) of a part.
WeightPart slice_rows(const WeightPart& part, int64_t begin, int64_t rows);

/// The part with row i being its row order[i]; `order` may leave rows out.
WeightPart pick_rows(const WeightPart& part, std::vector<int32_t> order);

/// The part with its rows quantised to `format` as they are read, if it holds plain floats and `format` can hold its columns;
/// else the part itself.
WeightPart quantise_part(const WeightPart& part, WeightFormat format);

/// The part with its rows decoded and written in `format` as they are read, whatever they are stored in. `format` can hold its
/// columns.
WeightPart convert_part(const WeightPart& part, WeightFormat format);

/// Row `row` of the part, in its row_order: weight_row_bytes(format, cols) bytes to `out`.
void read_row(const WeightPart& part, int64_t row, std::byte* out);

}  // namespace pagoda
