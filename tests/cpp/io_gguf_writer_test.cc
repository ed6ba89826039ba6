// Files that the writers make, read back by the readers.
#include <sys/resource.h>

#include <csignal>
#include <numeric>
#include <stdexcept>

#include "io/gguf.h"
#include "io/gguf_writer.h"
#include "io/memory_weights.h"
#include "io/safetensors.h"
#include "io/safetensors_writer.h"
#include "io_gguf_builder.h"

namespace pagoda {
namespace {

/// `rows` pieces of `row_bytes` bytes; byte b of piece r is seed + r + b.
OutputTensor counting_tensor(const std::string& name, const std::string& type, std::vector<int64_t> shape, int64_t rows,
                             size_t row_bytes, int seed) {
  OutputTensor tensor{name, type, std::move(shape), rows, row_bytes, {}};
  tensor.read = [row_bytes, seed](int64_t row, std::byte* out) {
    for (size_t b = 0; b < row_bytes; ++b) out[b] = static_cast<std::byte>(static_cast<size_t>(seed + row) + b);
  };
  return tensor;
}

bool counts(const TensorBytes& tensor, int64_t rows, size_t row_bytes, int seed) {
  for (int64_t row = 0; row < rows; ++row) {
    for (size_t b = 0; b < row_bytes; ++b) {
      const auto expected = static_cast<std::byte>(static_cast<size_t>(seed + row) + b);
      if (tensor.data[static_cast<size_t>(row) * row_bytes + b] != expected) return false;
    }
  }
  return tensor.bytes == static_cast<size_t>(rows) * row_bytes;
}

void write_all(GgufWriter& file, ThreadPool& pool, const WriteProgress& progress) {
  TensorWriter writer(pool, file.tensor_bytes(), progress);
  for (size_t i = 0; i < file.num_tensors(); ++i) file.write_next(writer);
  file.finish();
}

GgufMetadata every_kind() {
  GgufMetadata metadata;
  metadata.set("yes", true);
  metadata.set("natural", uint32_t{4000000000});
  metadata.set("integer", int32_t{-7});
  metadata.set("long", uint64_t{1} << 40);
  metadata.set("float", 0.25f);
  metadata.set("text", std::string("h\xc3\xa9"));
  metadata.set("bools", std::vector<bool>{true, false});
  metadata.set("integers", std::vector<int32_t>{-1, 2});
  metadata.set("bytes", std::vector<uint8_t>{0, 255});
  metadata.set("floats", std::vector<float>{1.5f, -2});
  metadata.set("texts", std::vector<std::string>{"", "a b"});
  metadata.set("natural", uint32_t{3});
  return metadata;
}

TEST(GgufWriter, writes_metadata_of_every_kind) {
  const TempDir dir;
  ThreadPool pool(1);
  GgufWriter writer(dir.file("m.gguf"), every_kind(), {});
  write_all(writer, pool, {});
  const GgufFile file(dir.file("m.gguf"));
  EXPECT_EQ(file.version(), 3u);
  EXPECT_EQ(file.metadata().size(), 12u);  // with general.alignment
  EXPECT_EQ(file.metadata()[1].key, "natural");
  EXPECT_TRUE(file.get_bool("yes"));
  EXPECT_EQ(file.get_int("natural"), 3);
  EXPECT_EQ(file.get_int("integer"), -7);
  EXPECT_EQ(file.get_int("long"), int64_t{1} << 40);
  EXPECT_EQ(file.get_double("float"), 0.25);
  EXPECT_EQ(file.get_string("text"), "h\xc3\xa9");
  EXPECT_TRUE(file.get_array("bools").bool_at(0));
  EXPECT_FALSE(file.get_array("bools").bool_at(1));
  EXPECT_EQ(file.get_array("integers").int_at(0), -1);
  EXPECT_EQ(file.get_array("bytes").int_at(1), 255);
  EXPECT_EQ(file.get_array("floats").double_at(1), -2);
  EXPECT_EQ(file.get_array("texts").string_at(1), "a b");
  EXPECT_EQ(file.get_int("general.alignment"), 32);
}

TEST(GgufWriter, copies_metadata_of_another_file_bit_for_bit) {
  const TempDir dir;
  GgufBuilder source;
  source.metadata = {
      number("u8", GgufType::u8, uint8_t{200}),
      number("i16", GgufType::i16, int16_t{-30000}),
      number("u64", GgufType::u64, ~uint64_t{0}),
      number("f32", GgufType::f32, 0.1f),
      number("f64", GgufType::f64, 1e-300),
      number("yes", GgufType::boolean, uint8_t{1}),
      key("string", GgufType::string) + text("\xff"),
      key("ints", GgufType::array) + raw(uint32_t{5}) + raw(uint64_t{2}) + raw(int32_t{-7}) + raw(int32_t{8}),
      key("bools", GgufType::array) + raw(uint32_t{7}) + raw(uint64_t{2}) + raw(uint16_t{0x0100}),
      key("strings", GgufType::array) + raw(uint32_t{8}) + raw(uint64_t{2}) + text("\xff") + text("abc"),
  };
  const GgufFile file(dir.write("m.gguf", source.build()));
  GgufMetadata copy;
  for (const GgufEntry& entry : file.metadata()) copy.set(entry.key, entry.value);
  EXPECT_EQ(copy.encoded(), std::accumulate(source.metadata.begin(), source.metadata.end(), std::string()));
}

TEST(GgufWriter, writes_tensors_of_any_size_in_order_with_any_number_of_threads) {
  const TempDir dir;
  for (const int num_threads : {1, 3}) {
    const std::string path = dir.file("m" + std::to_string(num_threads) + ".gguf");
    ThreadPool pool(num_threads);
    GgufWriter writer(path, {},
                      {counting_tensor("small", "F32", {3}, 1, 12, 1), counting_tensor("blocks", "Q8_0", {5, 64}, 5, 68, 2),
                       counting_tensor("large", "BF16", {3000, 2048}, 3000, 4096, 3)});
    std::vector<size_t> heard;
    write_all(writer, pool, [&](size_t done, size_t total) {
      EXPECT_EQ(total, size_t{12 + 5 * 68 + 3000 * 4096});
      heard.push_back(done);
    });
    EXPECT_EQ(heard.size(), 4u);  // the large one in two pieces
    EXPECT_EQ(heard.back(), size_t{12 + 5 * 68 + 3000 * 4096});
    const GgufFile file(path);
    EXPECT_TRUE(counts(*file.find_bytes("small"), 1, 12, 1));
    EXPECT_TRUE(counts(*file.find_bytes("blocks"), 5, 68, 2));
    EXPECT_TRUE(counts(*file.find_bytes("large"), 3000, 4096, 3));
    EXPECT_EQ(file.find("blocks")->shape, (std::vector<int64_t>{5, 64}));
    EXPECT_EQ(file.find("blocks")->format, WeightFormat::q8_0);
  }
}

TEST(GgufWriter, refuses_two_tensors_of_one_name_and_files_that_exist) {
  const TempDir dir;
  const auto twice = [&] {
    GgufWriter(dir.file("a.gguf"), {}, {counting_tensor("a", "F32", {1}, 1, 4, 0), counting_tensor("a", "F32", {1}, 1, 4, 0)});
  };
  EXPECT_TRUE(contains(error_of(twice), "two tensors would be named a"));
  const std::string path = dir.write("b.gguf", "x");
  EXPECT_TRUE(contains(error_of([&] { GgufWriter(path, {}, {}); }), "b.gguf: cannot be created: File exists"));
}

TEST(GgufWriter, passes_on_what_its_progress_throws) {
  const TempDir dir;
  ThreadPool pool(1);
  GgufWriter writer(dir.file("m.gguf"), {}, {counting_tensor("a", "F32", {1}, 1, 4, 0)});
  EXPECT_THROW(write_all(writer, pool, [](size_t, size_t) { throw std::runtime_error("stop"); }), std::runtime_error);
}

TEST(OutputFile, says_why_a_write_failed) {
  const TempDir dir;
  OutputFile file(dir.file("f"));
  const auto ignored = std::signal(SIGXFSZ, SIG_IGN);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const rlimit small{100, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  const std::string error = error_of([&] { file.write(std::string(101, 'x')); });
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, ignored);
  EXPECT_TRUE(contains(error, "f: cannot be written: File too large"));
}

TEST(SafetensorsWriter, splits_files_at_their_largest_size) {
  const TempDir dir;
  ThreadPool pool(2);
  const std::vector<OutputTensor> tensors = {
      counting_tensor("a\"\n", "F32", {2, 3}, 2, 12, 1), counting_tensor("b", "BF16", {4, 8}, 4, 16, 2),
      counting_tensor("c", "I64", {1}, 1, 8, 3), counting_tensor("d", "F8_E4M3", {9, 9}, 9, 9, 4)};
  const SafetensorsFiles files = write_safetensors(dir.path(), tensors, 70, pool, {});
  EXPECT_EQ(files.num_files, 4u);  // 24; 64; 8 (with 81 too large); 81
  EXPECT_EQ(files.total_bytes, size_t{24 + 64 + 8 + 81});
  EXPECT_EQ(files.file_of[3], std::pair(std::string("d"), std::string("model-00004-of-00004.safetensors")));
  const auto first = open_safetensors(dir.file("model-00001-of-00004.safetensors"));
  EXPECT_TRUE(counts(*first->find_bytes("a\"\n"), 2, 12, 1));
  const auto last = open_safetensors(dir.file("model-00004-of-00004.safetensors"));
  EXPECT_TRUE(counts(*last->find_bytes("d"), 9, 9, 4));
  EXPECT_EQ(last->find_bytes("d")->type, "F8_E4M3");
}

TEST(SafetensorsWriter, writes_one_file_where_all_fits) {
  const TempDir dir;
  ThreadPool pool(1);
  const SafetensorsFiles files = write_safetensors(
      dir.path(), {counting_tensor("a", "F32", {2}, 1, 8, 1), counting_tensor("b", "F16", {0, 4}, 0, 8, 1)}, 100, pool, {});
  EXPECT_EQ(files.num_files, 1u);
  const auto file = open_safetensors(dir.path());
  EXPECT_TRUE(counts(*file->find_bytes("a"), 1, 8, 1));
  EXPECT_EQ(file->find_bytes("b")->shape, (std::vector<int64_t>{0, 4}));
}

TEST(MemoryWeights, are_found_by_name_and_refuse_doubles) {
  const float values[] = {1, 2};
  const auto* data = reinterpret_cast<const std::byte*>(values);
  const auto weights = make_memory_weights("m.bin", {{"w", "F32", {1, 2}, data, 8}, {"ids", "I64", {1}, data, 8}});
  EXPECT_EQ(weights->find("w")->data, data);
  EXPECT_EQ(weights->find("w")->format, WeightFormat::f32);
  EXPECT_TRUE(contains(error_of([&] { weights->find("ids"); }), "I64"));
  EXPECT_EQ(weights->find("other"), nullptr);
  const auto twice = [&] { make_memory_weights("m.bin", {{"w", "F32", {2}, data, 8}, {"w", "F32", {2}, data, 8}}); };
  EXPECT_TRUE(contains(error_of(twice), "m.bin: two tensors are named 'w'"));
}

}  // namespace
}  // namespace pagoda
