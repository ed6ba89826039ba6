// Rows are made on the host, some megabytes at a time, and uploaded as they are finished.
#include "cuda/pack.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "core/check.h"
#include "core/dtype.h"
#include "cuda/device_memory.h"
#include "io/dequantise.h"

namespace pagoda::cuda {
namespace {

constexpr int64_t kBlock = 32;
constexpr size_t kPieceBytes = size_t{2} << 20;

constexpr size_t round_up(size_t bytes) {
  return (bytes + DeviceMemory::kUnit - 1) / DeviceMemory::kUnit * DeviceMemory::kUnit;
}

Matrix shape_of(std::span<const WeightPart> parts) {
  Matrix matrix;
  for (const WeightPart& part : parts) matrix.rows += part.rows;
  matrix.format = matrix_format(parts);
  matrix.cols = parts[0].cols;
  matrix.stride = matrix_stride(matrix.cols);
  return matrix;
}

size_t value_bytes(const Matrix& matrix) { return matrix_value_bytes(matrix.format, matrix.rows * matrix.stride); }
size_t scale_bytes(const Matrix& matrix) { return matrix_scale_bytes(matrix.format, matrix.rows, matrix.stride); }

uint16_t read_u16(const std::byte* from) {
  uint16_t bits;
  std::memcpy(&bits, from, sizeof(bits));
  return bits;
}

void write_u16(std::byte* to, uint16_t bits) { std::memcpy(to, &bits, sizeof(bits)); }
void write_f32(std::byte* to, float value) { std::memcpy(to, &value, sizeof(value)); }

/// Makes rows of the packed form out of stored ones.
class RowPacker {
 public:
  explicit RowPacker(const Matrix& matrix)
      : matrix_(matrix),
        floats_(static_cast<size_t>(matrix.format == MatrixFormat::bf16 ? matrix.cols : 0)),
        value_bytes_(matrix_value_bytes(matrix.format, matrix.stride)),
        scale_bytes_(matrix_scale_bytes(matrix.format, 1, matrix.stride)) {}

  size_t value_bytes() const { return value_bytes_; }
  size_t scale_bytes() const { return scale_bytes_; }

  /// `values` and `scales` are zeros before.
  void pack(WeightFormat format, const std::byte* stored, std::byte* values, std::byte* scales) {
    if (matrix_.format == MatrixFormat::bf16) return pack_plain(format, stored, values);
    if (matrix_.format == MatrixFormat::f8) return pack_f8_row(stored, values, scales);
    const size_t block_bytes = weight_format_info(format).block_bytes;
    for (int64_t block = 0; block < matrix_.cols / kBlock; ++block, stored += block_bytes) {
      if (matrix_.format == MatrixFormat::q8) {
        write_u16(scales + 2 * block, read_u16(stored));
        std::memcpy(values + kBlock * block, stored + 2, kBlock);
      } else if (matrix_.format == MatrixFormat::f8_blocks) {
        write_f32(scales + sizeof(float) * block, scale_of_f8(stored));
        std::memcpy(values + kBlock * block, stored + sizeof(float), kBlock);
      } else {
        const uint16_t d = read_u16(stored);
        const bool has_minimum = format == WeightFormat::q4_1;
        write_u16(scales + 4 * block, d);
        write_u16(scales + 4 * block + 2, has_minimum ? read_u16(stored + 2) : minimum_of_q4_0(d));
        std::memcpy(values + kBlock / 2 * block, stored + (has_minimum ? 4 : 2), kBlock / 2);
      }
    }
  }

 private:
  void pack_plain(WeightFormat format, const std::byte* stored, std::byte* values) {
    if (format == WeightFormat::bf16) {
      std::memcpy(values, stored, 2 * static_cast<size_t>(matrix_.cols));
      return;
    }
    dequantise_row(format, stored, matrix_.cols, floats_.data());
    for (size_t i = 0; i < floats_.size(); ++i) write_u16(values + 2 * i, float_to_bf16(floats_[i]));
  }

  /// A block that is no number makes none of its row: any product with such a value is none.
  void pack_f8_row(const std::byte* stored, std::byte* values, std::byte* scale) {
    float d = scale_of_f8(stored);
    for (int64_t block = 0; block < matrix_.cols / kBlock; ++block, stored += sizeof(float) + kBlock) {
      const float next = scale_of_f8(stored);
      ensure(next == d || std::isnan(next) || std::isnan(d), "a row of e4m3 with one scale has ", d, " and ", next);
      if (std::isnan(next)) d = next;
      std::memcpy(values + kBlock * block, stored + sizeof(float), kBlock);
    }
    write_f32(scale, d);
  }

  /// NaN if a value of the block is none.
  static float scale_of_f8(const std::byte* stored) {
    float d;
    std::memcpy(&d, stored, sizeof(d));
    const auto is_nan = [](std::byte code) { return (code & std::byte{0x7f}) == std::byte{0x7f}; };
    return std::any_of(stored + sizeof(d), stored + sizeof(d) + kBlock, is_nan) ? std::numeric_limits<float>::quiet_NaN() : d;
  }

  /// d * (n - 8) = d * n + m.
  static uint16_t minimum_of_q4_0(uint16_t d) {
    const float minimum = -8.0f * f16_to_float(d);
    require(std::isfinite(minimum) && std::abs(minimum) <= 65504.0f, "a q4_0 block with the scale ", f16_to_float(d),
            " cannot be run on a GPU: scales up to 8188 can");
    return float_to_f16(minimum);
  }

  const Matrix& matrix_;
  std::vector<float> floats_;
  size_t value_bytes_, scale_bytes_;
};

/// The stored bytes of a part's rows, in packed order.
class StoredRows {
 public:
  explicit StoredRows(const WeightPart& part)
      : part_(part), row_bytes_(weight_row_bytes(part.format, part.cols)), made_(part.read ? row_bytes_ : 0) {
    ensure(part.data || part.read, "a weight part without data cannot be packed");
  }

  const std::byte* row(int64_t i) {
    const int64_t stored = part_.row_order.empty() ? i : part_.row_order[static_cast<size_t>(i)];
    if (!part_.read) return part_.data + static_cast<size_t>(stored) * row_bytes_;
    part_.read(stored, made_.data());
    return made_.data();
  }

 private:
  const WeightPart& part_;
  size_t row_bytes_;
  std::vector<std::byte> made_;
};

}  // namespace

MatrixFormat matrix_format(std::span<const WeightFormat> formats) {
  const auto all = [&](auto&& is) { return std::ranges::all_of(formats, is); };
  if (all([](WeightFormat format) { return format == WeightFormat::q8_0; })) return MatrixFormat::q8;
  if (all([](WeightFormat format) { return format == WeightFormat::q4_0 || format == WeightFormat::q4_1; })) {
    return MatrixFormat::q4;
  }
  if (all([](WeightFormat format) { return format == WeightFormat::f8_e4m3; })) return MatrixFormat::f8_blocks;
  return MatrixFormat::bf16;
}

MatrixFormat matrix_format(std::span<const WeightPart> parts) {
  std::vector<WeightFormat> formats;
  for (const WeightPart& part : parts) formats.push_back(part.format);
  const MatrixFormat format = matrix_format(formats);
  const bool by_row = format == MatrixFormat::f8_blocks && std::ranges::all_of(parts, &WeightPart::one_scale_per_row);
  return by_row ? MatrixFormat::f8 : format;
}

size_t packed_bytes(std::span<const WeightPart> parts) {
  const Matrix matrix = shape_of(parts);
  return round_up(value_bytes(matrix)) + round_up(scale_bytes(matrix));
}

Weight pack_weight(std::span<const WeightPart> parts, const Buffer& memory, const Upload& upload) {
  auto packed = std::make_shared<PackedMatrix>(PackedMatrix{shape_of(parts), memory});
  Matrix& matrix = packed->matrix;
  auto* values = static_cast<std::byte*>(memory.get());
  std::byte* scales = values + round_up(value_bytes(matrix));
  matrix.values = values;
  if (matrix.format != MatrixFormat::bf16) matrix.scales = scales;

  Weight weight{matrix.rows, matrix.cols, packed_bytes(parts), {}, packed};
  RowPacker packer(matrix);
  const auto rows_at_once = static_cast<int64_t>(std::max<size_t>(1, kPieceBytes / packer.value_bytes()));
  std::vector<std::byte> row_values, row_scales;
  for (const WeightPart& part : parts) {
    weight.part_formats.push_back(part.format);
    StoredRows stored(part);
    for (int64_t begin = 0; begin < part.rows; begin += rows_at_once) {
      const auto count = static_cast<size_t>(std::min(rows_at_once, part.rows - begin));
      row_values.assign(count * packer.value_bytes(), std::byte{0});
      row_scales.assign(count * packer.scale_bytes(), std::byte{0});
      for (size_t i = 0; i < count; ++i) {
        packer.pack(part.format, stored.row(begin + static_cast<int64_t>(i)), row_values.data() + i * packer.value_bytes(),
                    row_scales.data() + i * packer.scale_bytes());
      }
      upload(values, row_values.data(), row_values.size());
      if (!row_scales.empty()) upload(scales, row_scales.data(), row_scales.size());
      values += row_values.size();
      scales += row_scales.size();
    }
  }
  return weight;
}

}  // namespace pagoda::cuda
