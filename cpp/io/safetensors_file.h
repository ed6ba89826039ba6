// One safetensors file: 8 bytes of header length, a JSON header, the tensors' bytes without holes. Called by io/safetensors.
#pragma once

#include <vector>

#include "io/mapped_file.h"
#include "io/tensor_table.h"

namespace pagoda {

/// Reads the header of a mapped file and checks it fully against the file's real size: lengths, JSON, every tensor's dtype,
/// shape and offsets, and that the tensors cover the data without holes or overlaps. Returns the tensors in header order; those
/// of element types that are no weight types, or without elements, carry a refusal. Throws InvalidArgument naming file, field,
/// found, expected.
std::vector<TableEntry> read_safetensors(const MappedFile& file);

}  // namespace pagoda
