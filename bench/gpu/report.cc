// JSON by hand: the values are numbers and short texts.
#include "report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>

#include "core/check.h"

namespace pagoda::bench {
namespace {

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return out + "\"";
}

std::string number_text(double number) {
  if (!std::isfinite(number)) return "null";
  char text[40];
  std::snprintf(text, sizeof text, "%.6g", number);
  return text;
}

std::string object(const std::vector<Field>& fields) {
  std::string out;
  for (const auto& [name, value] : fields) out += (out.empty() ? "{" : ", ") + quoted(name) + ": " + value;
  return out.empty() ? "{}" : out + "}";
}

std::string optional_text(const std::optional<double>& number) { return number ? number_text(*number) : "null"; }

void print_line(const std::string& family, const std::vector<Field>& fields) {
  std::string line = family + ":";
  for (const auto& [name, value] : fields) line += " " + name + " " + value;
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

}  // namespace

Field field(const char* name, const std::string& words) { return {name, quoted(words)}; }
Field field(const char* name, const char* words) { return {name, quoted(words)}; }
Field field(const char* name, double number) { return {name, number_text(number)}; }
Field field(const char* name, int64_t number) { return {name, std::to_string(number)}; }
Field field(const char* name, bool truth) { return {name, truth ? "true" : "false"}; }

std::optional<double> Ceilings::least_seconds(const Work& work) const {
  if ((work.bytes > 0 && !copy_bytes_per_second) || (work.flops > 0 && !matmul_flops_per_second)) return std::nullopt;
  const double moving = work.bytes > 0 ? work.bytes / *copy_bytes_per_second : 0;
  const double computing = work.flops > 0 ? work.flops / *matmul_flops_per_second : 0;
  return std::max(moving, computing);
}

void Report::add(const std::string& family, const std::vector<Field>& what, const Work& work, const Timing& timing) {
  const double seconds = timing.microseconds * 1e-6;
  std::vector<Field> numbers = {field("microseconds", timing.microseconds), field("spread", timing.spread)};
  if (work.bytes > 0) numbers.push_back(field("gbytes_per_second", work.bytes / seconds * 1e-9));
  if (work.flops > 0) numbers.push_back(field("tflops_per_second", work.flops / seconds * 1e-12));
  const std::optional<double> least = ceilings.least_seconds(work);
  numbers.emplace_back("share_of_ceiling", least ? number_text(*least / seconds) : "null");
  add_plain(family, what, numbers);
}

void Report::add_plain(const std::string& family, std::vector<Field> what, const std::vector<Field>& numbers) {
  if (measured_) what.insert(what.end(), numbers.begin(), numbers.end());
  print_line(family, what);
  what.insert(what.begin(), field("family", family));
  rows_.push_back(object(what));
}

std::string Report::json() const {
  std::vector<Field> top = facts_;
  top.push_back(field("measured", measured_));
  if (measured_) {
    top.emplace_back("ceilings", object({{"copy_bytes_per_second", optional_text(ceilings.copy_bytes_per_second)},
                                         {"matmul_flops_per_second", optional_text(ceilings.matmul_flops_per_second)}}));
  }
  std::string rows;
  for (const std::string& row : rows_) rows += (rows.empty() ? "\n  " : ",\n  ") + row;
  top.emplace_back("rows", "[" + rows + "\n]");
  return object(top) + "\n";
}

void Report::write(const std::string& path) const {
  if (path.empty()) return;
  std::ofstream file(path);
  file << json();
  file.close();
  if (!file) throw DeviceError(str(path, ": cannot be written"));
}

}  // namespace pagoda::bench
