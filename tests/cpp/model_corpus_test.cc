// Replays the corpora of the fuzzers, tests/corpus: seeds, and inputs that once went wrong or lead deep into the readers.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "targets.h"

namespace pagoda {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxBytes = 4096;

std::string read(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// Runs every file of a corpus through its target: a crash or an exception fails the test. Some must be accepted and some
/// refused, or the corpus leads nowhere.
void replay(const char* corpus, bool (*target)(std::string_view)) {
  int accepted = 0, refused = 0;
  for (const fs::directory_entry& entry : fs::directory_iterator(fs::path(PAGODA_CORPUS) / corpus)) {
    SCOPED_TRACE(entry.path().string());
    const std::string bytes = read(entry.path());
    EXPECT_LE(bytes.size(), kMaxBytes);
    bool result = false;
    ASSERT_NO_THROW(result = target(bytes));
    ++(result ? accepted : refused);
  }
  EXPECT_GE(accepted, 5);
  EXPECT_GE(refused, 5);
}

TEST(Corpus, safetensors_files_are_read_or_refused) { replay("safetensors", fuzz_safetensors); }
TEST(Corpus, gguf_files_are_read_or_refused) { replay("gguf", fuzz_gguf); }
TEST(Corpus, json_texts_are_read_or_refused) { replay("json", fuzz_json); }

TEST(Corpus, no_bytes_at_all_are_refused) {
  EXPECT_FALSE(fuzz_safetensors(""));
  EXPECT_FALSE(fuzz_gguf(""));
  EXPECT_FALSE(fuzz_json(""));
}

}  // namespace
}  // namespace pagoda
