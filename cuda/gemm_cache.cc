// A file is right if it is, byte for byte, what would be written for the plans that are read from it: this finds damage of
// every kind, the checksum among the text damage within the algorithms.
#include "cuda/gemm_cache.h"

#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <filesystem>
#include <sstream>
#include <utility>

#include "core/check.h"
#include "core/hash.h"
#include "core/json.h"
#include "io/mapped_file.h"
#include "io/output_file.h"

namespace pagoda::cuda {
namespace {

/// Raised when files of before must not be used any more: another layout, or kernels of ours that are faster than they were.
constexpr int kRevision = 2;
constexpr const char* kOwn = "own";
constexpr const char *kBf16 = "bf16", *kF8 = "f8";

/// Text that can stand in a file's name and in a JSON string.
std::string plain(const std::string& text) {
  std::string plain;
  for (const char c : text) plain += std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
  return plain;
}

std::string hex(uint64_t value) {
  char digits[17];
  std::snprintf(digits, sizeof(digits), "%016llx", static_cast<unsigned long long>(value));
  return digits;
}

std::string algorithm_text(const std::optional<lt::Algorithm>& algorithm) {
  if (!algorithm) return kOwn;
  std::string text;
  for (const uint64_t word : algorithm->data) text += hex(word);
  return text;
}

/// What does not read as an algorithm is found out by being written differently.
std::optional<lt::Algorithm> parse_algorithm(const std::string& text) {
  if (text == kOwn) return std::nullopt;
  lt::Algorithm algorithm{};
  for (size_t i = 0; i < 8 && 16 * (i + 1) <= text.size(); ++i) {
    const char* begin = text.data() + 16 * i;
    std::from_chars(begin, begin + 16, algorithm.data[i], 16);
  }
  return algorithm;
}

std::string plan_text(const GemmPlan& plan) {
  std::ostringstream out;
  out << "{\"rows\": " << plan.shape.rows << ", \"cols\": " << plan.shape.cols << ", \"stride\": " << plan.shape.stride
      << ", \"out\": \"" << dtype_name(plan.shape.out) << "\", \"max_tokens\": " << plan.shape.max_tokens << ", \"format\": \""
      << (plan.shape.format == MatrixFormat::f8 ? kF8 : kBf16) << '"'
      << ", \"deterministic\": " << (plan.deterministic ? "true" : "false") << ", \"buckets\": [";
  const char* separator = "";
  for (const GemmBucket& bucket : plan.buckets) {
    out << separator << "\n  {\"max_tokens\": " << bucket.max_tokens << ", \"algorithm\": \""
        << algorithm_text(bucket.algorithm) << "\"}";
    separator = ",";
  }
  out << "]}";
  return out.str();
}

GemmPlan parse_plan(const Json& json) {
  GemmPlan plan;
  plan.shape = {json.get_int("rows"),       json.get_int("cols"),
                json.get_int("stride"),     json.get_string("out") == dtype_name(DType::f32) ? DType::f32 : DType::bf16,
                json.get_int("max_tokens"), json.get_string("format") == kF8 ? MatrixFormat::f8 : MatrixFormat::bf16};
  plan.deterministic = json.get_bool("deterministic");
  for (const Json& bucket : json.at("buckets").items()) {
    plan.buckets.push_back({bucket.get_int("max_tokens"), parse_algorithm(bucket.get_string("algorithm"))});
  }
  return plan;
}

}  // namespace

GemmCache::GemmCache(const std::string& folder, const GemmMachine& machine) : machine_(machine) {
  machine_.device_name = plain(machine.device_name);
  if (folder.empty()) return;
  const std::string name =
      str("gemm-", machine_.device_name, "-", machine_.driver_version, "-", machine_.library_version, ".json");
  path_ = (std::filesystem::path(folder) / name).string();
  read();
}

std::string GemmCache::text() const {
  std::string plans;
  for (const GemmPlan& plan : plans_) plans += (plans.empty() ? "" : ",\n ") + plan_text(plan);
  const std::string machine = str("\"revision\": ", kRevision, ", \"device\": \"", machine_.device_name,
                                  "\", \"driver\": ", machine_.driver_version, ", \"cublaslt\": ", machine_.library_version);
  const std::string content = machine + plans;
  const Hash128 hash = hash_bytes(content.data(), content.size(), {});
  return str("{", machine, ", \"checksum\": \"", hex(hash.hi), hex(hash.lo), "\", \"plans\": [\n ", plans, "]}\n");
}

void GemmCache::read() {
  try {
    const MappedFile file(path_);
    const Json json = Json::parse(file.text());
    for (const Json& plan : json.at("plans").items()) plans_.push_back(parse_plan(plan));
    if (text() != file.text()) plans_.clear();
  } catch (const std::exception&) {
    plans_.clear();
  }
}

const GemmPlan* GemmCache::find(const GemmShape& shape, bool deterministic) const {
  const auto found = std::ranges::find_if(
      plans_, [&](const GemmPlan& plan) { return plan.shape == shape && plan.deterministic == deterministic; });
  return found == plans_.end() ? nullptr : &*found;
}

void GemmCache::put(GemmPlan plan) {
  std::erase_if(plans_,
                [&](const GemmPlan& old) { return old.shape == plan.shape && old.deterministic == plan.deterministic; });
  plans_.push_back(std::move(plan));
}

void GemmCache::save() const {
  if (path_.empty()) return;
  const std::string unfinished = str(path_, ".", getpid(), ".unfinished");
  std::error_code ignored;
  std::filesystem::create_directories(std::filesystem::path(path_).parent_path(), ignored);
  std::filesystem::remove(unfinished, ignored);
  try {
    OutputFile file(unfinished);
    file.write(text());
    file.close();
    std::filesystem::rename(unfinished, path_);
  } catch (const std::exception&) {
    std::filesystem::remove(unfinished, ignored);
  }
}

}  // namespace pagoda::cuda
