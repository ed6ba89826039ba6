// From stored weights to matrices in the GPU's memory. Called by CudaBackend::pack and, for sizes only, by the memory planner.
#pragma once

#include <functional>
#include <span>

#include "backend/backend.h"
#include "cuda/matrix.h"

namespace pagoda::cuda {

/// What Weight::packed points to.
struct PackedMatrix {
  Matrix matrix;
  Buffer memory;
};

/// q8_0 stays q8, q4_0 and q4_1 stay q4, f8_e4m3 stays f8_blocks if all parts are; everything else becomes bf16.
MatrixFormat matrix_format(std::span<const WeightFormat> formats);
/// The same, but f8 where all rows of f8_e4m3 have one scale.
MatrixFormat matrix_format(std::span<const WeightPart> parts);

/// Bytes of the packed form of stacked parts, each array rounded up to the unit of device memory. Pure.
size_t packed_bytes(std::span<const WeightPart> parts);

/// Writes host memory to the device; `host` may be changed after the return.
using Upload = std::function<void(void* device, const void* host, size_t bytes)>;

/// Stacks the parts' rows into one matrix in `memory` of packed_bytes(parts). Throws InvalidArgument for a q4_0 scale whose
/// eightfold does not fit in f16.
Weight pack_weight(std::span<const WeightPart> parts, const Buffer& memory, const Upload& upload);

/// The matrix of a packed weight.
inline const Matrix& matrix_of(const Weight& weight) { return static_cast<const PackedMatrix*>(weight.packed.get())->matrix; }

}  // namespace pagoda::cuda
