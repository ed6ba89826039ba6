// What a benchmark found: printed as a table while it runs, written as JSON at the end. Each row names its ceiling, measured in
// the same run, and the share of it that was reached.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace pagoda::bench {

/// Microseconds of one run: the median of the repeats, and how far the repeats lie apart.
struct Timing {
  double microseconds = 0;
  double spread = 0;  ///< (largest - smallest) / median
};

/// A fact in words or a number.
using Field = std::pair<std::string, std::string>;  ///< name, JSON text
Field field(const char* name, const std::string& words);
Field field(const char* name, const char* words);
Field field(const char* name, double number);
Field field(const char* name, int64_t number);
inline Field field(const char* name, int number) { return field(name, int64_t{number}); }
Field field(const char* name, bool truth);

/// The least that a run must do: bytes that cross the memory bus (read once, written once) and operations of the tensor cores.
struct Work {
  double bytes = 0;
  double flops = 0;
};

/// What the device can do, measured in this run.
struct Ceilings {
  std::optional<double> copy_bytes_per_second;    ///< read and written
  std::optional<double> matmul_flops_per_second;  ///< bf16, f32 sums, random numbers
  /// Seconds below which no run can come that does this work; nothing if a ceiling is missing.
  std::optional<double> least_seconds(const Work& work) const;
};

class Report {
 public:
  /// If not `measured`, rows say only what was run: numbers from an emulated clock are none.
  Report(std::vector<Field> facts, bool measured) : facts_(std::move(facts)), measured_(measured) {}

  Ceilings ceilings;

  /// One measured case of a family, with what distinguishes it from the family's other cases.
  void add(const std::string& family, const std::vector<Field>& what, const Work& work, const Timing& timing);
  /// Numbers that have no ceiling.
  void add_plain(const std::string& family, std::vector<Field> what, const std::vector<Field>& numbers);

  std::string json() const;
  /// Throws DeviceError if the file cannot be written. An empty path is no file.
  void write(const std::string& path) const;

 private:
  std::vector<Field> facts_;
  bool measured_;
  std::vector<std::string> rows_;  // JSON objects
};

}  // namespace pagoda::bench
