// Models that were split over several GGUF files: name-00001-of-00003.gguf and so on. Called by io/gguf only.
#pragma once

#include <string>
#include <vector>

#include "io/gguf_reader.h"
#include "io/mapped_file.h"
#include "io/tensor_table.h"

namespace pagoda {

/// A further file of a split model. `tensors` point into `file`.
struct GgufPart {
  MappedFile file;
  std::vector<TableEntry> tensors;
};

/// Opens the files that belong to the first one, in order; none for a model in one file. The metadata `split.count`, `split.no`
/// and `split.tensors.count` decide, and all parts must agree on them. Throws InvalidArgument when `first` is not the first
/// part or is not named like one, or when a part is absent, malformed or of another model.
std::vector<GgufPart> read_other_parts(const MappedFile& file, const GgufContents& first);

}  // namespace pagoda
