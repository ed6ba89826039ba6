// Safetensors: single files, shards, and a table of malformed files with what their messages must say.
#include <vector>

#include "io/safetensors.h"
#include "io_test_files.h"

namespace pagoda {
namespace {

/// A file with that header text and `data_bytes` bytes of data counting up from 0.
std::string file_of(const std::string& header, size_t data_bytes) {
  std::string bytes = raw(uint64_t{header.size()}) + header;
  for (size_t i = 0; i < data_bytes; ++i) bytes += static_cast<char>(i);
  return bytes;
}

/// A header entry `"name":{...}`.
std::string entry(const std::string& name, const std::string& dtype, const std::string& shape, int64_t begin, int64_t end) {
  return str('"', name, R"(":{"dtype":")", dtype, R"(","shape":)", shape, R"(,"data_offsets":[)", begin, ",", end, "]}");
}

/// A valid file with one BF16 tensor [1, 2] named `name`.
std::string small_file(const std::string& name) { return file_of("{" + entry(name, "BF16", "[1,2]", 0, 4) + "}", 4); }

TEST(Safetensors, gives_tensors_by_name_with_shape_format_and_data) {
  const TempDir dir;
  const std::string header = "{" + entry("w", "F32", "[2,3]", 4, 28) + R"(,"__metadata__":{"format":"pt"},)" +
                             entry("b", "BF16", "[2]", 0, 4) + "," + entry("s", "F16", "[]", 28, 30) + "}   ";
  const auto source = open_safetensors(dir.write("model.safetensors", file_of(header, 30)));
  EXPECT_EQ(source->names(), (std::vector<std::string>{"b", "s", "w"}));
  EXPECT_EQ(source->total_bytes(), 30u);
  EXPECT_EQ(source->describe(), dir.file("model.safetensors"));
  const StoredTensor* w = source->find("w");
  ASSERT_NE(w, nullptr);
  EXPECT_EQ(w->format, WeightFormat::f32);
  EXPECT_EQ(w->shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(w->bytes, 24u);
  EXPECT_EQ(static_cast<int>(w->data[0]), 4);
  EXPECT_EQ(source->find("b")->format, WeightFormat::bf16);
  EXPECT_TRUE(source->find("s")->shape.empty());
  EXPECT_EQ(source->find("missing"), nullptr);
}

TEST(Safetensors, a_buffer_that_is_no_weight_is_listed_and_refused_only_when_used) {
  const TempDir dir;
  const std::string header = "{" + entry("ids", "I64", "[2]", 0, 16) + "," + entry("w", "F32", "[1]", 16, 20) + "," +
                             entry("none", "F32", "[0,5]", 20, 20) + "}";
  const auto source = open_safetensors(dir.write("model.safetensors", file_of(header, 20)));
  ASSERT_EQ(source->list().size(), 3u);
  EXPECT_EQ(source->list()[0].type, "I64");
  EXPECT_NE(source->find("w"), nullptr);
  EXPECT_TRUE(
      contains(error_of([&] { source->find("ids"); }), "tensor 'ids' cannot be used: its type I64 is not a weight type"));
  EXPECT_TRUE(
      contains(error_of([&] { source->find("none"); }), "tensor 'none' cannot be used: its shape [0, 5] has no elements"));
}

TEST(Safetensors, the_bytes_of_a_tensor_are_there_whatever_its_type) {
  const std::string header = "{" + entry("f8", "F8_E4M3", "[2,2]", 0, 4) + "," + entry("ids", "I32", "[1]", 4, 8) + "," +
                             entry("none", "U8", "[0]", 8, 8) + "}";
  const auto source = open_safetensors(MappedFile::from_bytes("memory", file_of(header, 8)));
  const auto f8 = source->find_bytes("f8");
  ASSERT_TRUE(f8);
  EXPECT_EQ(f8->type, "F8_E4M3");
  EXPECT_EQ(f8->shape, (std::vector<int64_t>{2, 2}));
  EXPECT_EQ(f8->bytes, 4u);
  EXPECT_EQ(static_cast<int>(source->find_bytes("ids")->data[0]), 4);
  EXPECT_EQ(source->find_bytes("none")->bytes, 0u);
  EXPECT_FALSE(source->find_bytes("absent"));
  EXPECT_EQ(error_of([&] { source->find("f8"); }),
            "memory: tensor 'f8' cannot be used: its type F8_E4M3 is not a weight type (F32, F16 or BF16)");
}

TEST(Safetensors, a_directory_stands_for_its_model_file) {
  const TempDir dir;
  dir.write("model.safetensors", small_file("w"));
  dir.write("pytorch_model.bin", "ignored");
  const auto source = open_safetensors(dir.path());
  EXPECT_NE(source->find("w"), nullptr);
  EXPECT_EQ(source->describe(), dir.file("model.safetensors"));
}

TEST(Safetensors, a_path_that_holds_no_model_says_why) {
  const TempDir dir;
  std::filesystem::create_directories(dir.file("empty"));
  std::filesystem::create_directories(dir.file("pickles"));
  std::filesystem::create_directories(dir.file("others"));
  dir.write("pickles/pytorch_model.bin", "x");
  dir.write("others/adapter.safetensors", "x");
  dir.write("weights.pt", "x");
  dir.write("lfs.safetensors", "version https://git-lfs.github.com/spec/v1\n");
  const std::pair<std::string, std::string> cases[] = {
      {"absent", "No such file"},
      {"empty", "the directory is empty"},
      {"pickles",
       "pickle formats are not loaded, because reading them can run code (found pytorch_model.bin); convert with `enginectl "
       "convert "},
      {"weights.pt", "pickle formats are not loaded"},
      {"others",
       "has no model.safetensors and no model.safetensors.index.json; name one file to load it alone: 'adapter.safetensors'"},
      {"lfs.safetensors", "git lfs pull"},
  };
  for (const auto& [name, part] : cases) {
    const std::string error = error_of([&] { open_safetensors(dir.file(name)); });
    EXPECT_TRUE(contains(error, part) && contains(error, name)) << name << " gave " << error;
  }
}

struct BadFile {
  std::string bytes;
  std::string message;
};

void expect_refusals(const std::vector<BadFile>& cases) {
  const TempDir dir;
  for (const BadFile& bad : cases) {
    const std::string path = dir.write("bad.safetensors", bad.bytes);
    const std::string error = error_of([&] { open_safetensors(path); });
    EXPECT_TRUE(contains(error, bad.message) && contains(error, path)) << "wanted " << bad.message << "\n  got " << error;
  }
}

TEST(Safetensors, refuses_a_malformed_header) {
  const std::string good = small_file("w");
  expect_refusals({
      {"abc", "byte 0: the header length takes 8 bytes, the file has 3"},
      {raw(uint64_t{1} << 63) + "{}", "header length 9223372036854775808 is above the limit of 100000000"},
      {raw(uint64_t{100'000'001}) + "{}", "header length 100000001 is above the limit of 100000000"},
      {raw(uint64_t{3}) + "{}", "header length 3, but only 2 bytes follow"},
      {raw(uint64_t{0}), "byte 0: expected a value, found the end of the text"},
      {file_of("{\"\xff\":1}", 0), "byte 10: the header is not UTF-8"},
      {file_of("{\"a\":}", 0), "header: byte 5: expected a value, found '}'"},
      {file_of("null", 0), "expected an object of tensors, found null"},
      {file_of("[1,2]", 0), "expected an object of tensors, found an array of 2"},
      {file_of(std::string(100, '['), 0), "nested deeper than 64"},
      {file_of(R"({"__metadata__":1})", 0), "__metadata__ must be an object, found 1"},
      {good.substr(0, good.size() - 1),
       "tensor 'w': data_offsets [0, 4] lie beyond the 3 bytes of data (is the file truncated?)"},
      {good + "xy", "the tensors end at byte 4 of the data, but 2 more bytes follow"},
      {file_of("{}", 1), "the tensors end at byte 0 of the data, but 1 more bytes follow"},
  });
}

TEST(Safetensors, refuses_a_malformed_tensor) {
  const std::string huge = "[4294967296,4294967296]";
  expect_refusals({
      {file_of(R"({"w":3})", 0), "tensor 'w': expected an object, found 3"},
      {file_of(R"({"w":{"shape":[1],"data_offsets":[0,4]}})", 4), "tensor 'w': dtype must be one of F32"},
      {file_of("{" + entry("w", "F128", "[1]", 0, 16) + "}", 16), "tensor 'w': dtype must be one of F32 F16 BF16"},
      {file_of("{" + entry("w", "F128", "[1]", 0, 16) + "}", 16), "found the string \"F128\""},
      {file_of(R"({"w":{"dtype":"F32","data_offsets":[0,4]}})", 4), "tensor 'w': shape must be an array, found nothing"},
      {file_of("{" + entry("w", "F32", "[-1]", 0, 4) + "}", 4),
       "tensor 'w': shape must hold integers from 0 to 2^63-1, found -1"},
      {file_of("{" + entry("w", "F32", "[1.0]", 0, 4) + "}", 4), "shape must hold integers from 0 to 2^63-1, found 1.0"},
      {file_of("{" + entry("w", "F32", "[99999999999999999999]", 0, 4) + "}", 4), "shape must hold integers"},
      {file_of(R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", 4),
       "data_offsets must be [begin, end], found 1 numbers"},
      {file_of(R"({"w":{"dtype":"F32","shape":[1],"data_offsets":"x"}})", 4),
       "data_offsets must be an array, found the string"},
      {file_of("{" + entry("w", "F32", "[1]", 4, 0) + "}", 4), "tensor 'w': data_offsets [4, 0] end before they begin"},
      {file_of("{" + entry("w", "F32", "[2]", 0, 8) + "}", 4), "data_offsets [0, 8] lie beyond the 4 bytes of data"},
      {file_of("{" + entry("w", "F32", "[2]", 0, 4) + "}", 4), "shape [2] of F32 takes 8 bytes, data_offsets [0, 4] hold 4"},
      {file_of("{" + entry("w", "F4", "[3]", 0, 1) + "}", 1), "shape [3] of F4 takes 2 bytes"},
      {file_of("{" + entry("w", "F32", huge, 0, 0) + "}", 0), "has more elements than 64 bits can count"},
      {file_of("{" + entry("w", "F32", "[4611686018427387904]", 0, 0) + "}", 0), "has more elements than 64 bits can count"},
      {file_of("{" + entry("w", "F32", "[1]", 0, 4) + "," + entry("w", "F32", "[1]", 4, 8) + "}", 8),
       "the key \"w\" appears twice"},
  });
}

TEST(Safetensors, refuses_tensors_that_do_not_cover_the_data_exactly_once) {
  expect_refusals({
      {file_of("{" + entry("a", "F32", "[1]", 0, 4) + "," + entry("b", "F32", "[1]", 8, 12) + "}", 12),
       "tensor 'b' begins at byte 8 of the data, leaving a hole after tensor 'a', which ends at 4"},
      {file_of("{" + entry("a", "F32", "[2]", 0, 8) + "," + entry("b", "F32", "[1]", 4, 8) + "}", 8),
       "tensor 'b' begins at byte 4 of the data, inside tensor 'a', which ends at 8"},
      {file_of("{" + entry("a", "F32", "[1]", 0, 4) + "," + entry("b", "F32", "[1]", 0, 4) + "}", 4), "inside tensor"},
      {file_of("{" + entry("a", "F32", "[1]", 4, 8) + "}", 8), "leaving a hole after the header"},
  });
}

TEST(Safetensors, refuses_a_header_of_too_many_tensors) {
  std::string header = "{";
  for (int i = 0; i < (1 << 18) + 2; ++i) header += str(i ? "," : "", '"', i, "\":0");
  expect_refusals({{file_of(header + "}", 0), "262146 tensors are above the limit of 262144"}});
}

TEST(Safetensors, any_truncation_is_refused) {
  const std::string whole = small_file("w");
  for (size_t size = 1; size < whole.size(); ++size) {
    const auto open = [&] { open_safetensors(MappedFile::from_bytes("memory", whole.substr(0, size))); };
    EXPECT_NE(error_of(open), "nothing was thrown") << size;
  }
}

TEST(Safetensors, one_changed_header_byte_gives_an_error_or_a_readable_tensor) {
  const std::string whole = small_file("w");
  int refused = 0;
  for (size_t i = 0; i < whole.size() - 4; ++i) {
    for (int byte = 0; byte < 256; byte += 31) {
      std::string changed = whole;
      changed[i] = static_cast<char>(byte);
      const std::string error = error_of([&] {
        const auto source = open_safetensors(MappedFile::from_bytes("memory", changed));
        for (const std::string& name : source->names()) {
          const StoredTensor* tensor = source->find(name);
          for (size_t k = 0; k < tensor->bytes; ++k) EXPECT_LT(static_cast<int>(tensor->data[k]), 256);
        }
      });
      refused += error != "nothing was thrown";
    }
  }
  EXPECT_GT(refused, 300);
}

class ShardedSafetensors : public testing::Test {
 protected:
  void write_index(const std::string& weight_map, const std::string& metadata = "{}") {
    dir_.write("model.safetensors.index.json", str(R"({"metadata":)", metadata, R"(,"weight_map":)", weight_map, "}"));
  }
  std::string error() {
    return error_of([&] { open_safetensors(dir_.path()); });
  }
  TempDir dir_;
};

TEST_F(ShardedSafetensors, join_into_one_source) {
  dir_.write("a.safetensors", small_file("x"));
  dir_.write("b.safetensors", small_file("y"));
  write_index(R"({"x":"a.safetensors","y":"b.safetensors"})", R"({"total_size":8})");
  const auto source = open_safetensors(dir_.path());
  EXPECT_EQ(source->names(), (std::vector<std::string>{"x", "y"}));
  EXPECT_NE(source->find("y"), nullptr);
  EXPECT_EQ(source->total_bytes(), 8u);
  EXPECT_TRUE(source->warnings().empty());
}

TEST_F(ShardedSafetensors, a_wrong_total_size_is_only_a_warning) {
  dir_.write("a.safetensors", small_file("x"));
  write_index(R"({"x":"a.safetensors"})", R"({"total_size":9e0})");
  const auto source = open_safetensors(dir_.path());
  ASSERT_EQ(source->warnings().size(), 1u);
  EXPECT_TRUE(contains(source->warnings()[0], "metadata.total_size says 9 bytes, the tensors of the 1 shards have 4"));
}

TEST_F(ShardedSafetensors, absent_shards_are_all_named) {
  dir_.write("a.safetensors", small_file("x"));
  write_index(R"({"x":"a.safetensors","y":"b.safetensors","z":"c.safetensors"})");
  EXPECT_TRUE(contains(error(), "names 2 of 3 shards that do not exist: 'b.safetensors', 'c.safetensors'")) << error();
}

TEST_F(ShardedSafetensors, a_weight_in_two_shards_is_refused) {
  dir_.write("a.safetensors", small_file("x"));
  dir_.write("b.safetensors", small_file("x"));
  write_index(R"({"x":"a.safetensors","y":"b.safetensors"})");
  EXPECT_TRUE(contains(error(), "tensor 'x' is in two shards: a.safetensors and b.safetensors")) << error();
  write_index(R"({"x":"a.safetensors","x":"b.safetensors"})");
  EXPECT_TRUE(contains(error(), "the key \"x\" appears twice")) << error();
}

TEST_F(ShardedSafetensors, weights_that_no_shard_has_are_named) {
  dir_.write("a.safetensors", small_file("x"));
  write_index(R"({"x":"a.safetensors","p":"a.safetensors","q":"a.safetensors"})");
  EXPECT_TRUE(contains(error(), "names 2 tensors that are in none of the shards: 'p', 'q'")) << error();
}

TEST_F(ShardedSafetensors, a_weight_in_another_shard_than_the_index_says_is_refused) {
  dir_.write("a.safetensors", small_file("x"));
  dir_.write("b.safetensors", small_file("y"));
  write_index(R"({"x":"b.safetensors","y":"b.safetensors","z":"a.safetensors"})");
  EXPECT_TRUE(contains(error(), "puts tensor 'x' into b.safetensors, but it is in a.safetensors")) << error();
}

TEST_F(ShardedSafetensors, a_shard_outside_of_the_directory_is_refused) {
  for (const char* shard : {"\"../a.safetensors\"", "\"/etc/a.safetensors\"", "\"a.bin\"", "7"}) {
    write_index(str(R"({"x":)", shard, "}"));
    EXPECT_TRUE(contains(error(), "must be in a .safetensors file named without a directory")) << error();
  }
}

TEST_F(ShardedSafetensors, an_index_without_weight_map_is_refused) {
  for (const char* text : {"[]", "{}", R"({"weight_map":[]})", R"({"weight_map":{}})"}) {
    dir_.write("model.safetensors.index.json", text);
    EXPECT_TRUE(contains(error(), "weight_map must be an object of tensor name to file name")) << error();
  }
}

}  // namespace
}  // namespace pagoda
