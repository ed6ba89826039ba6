// GGUF: metadata of every kind, tensors, and a table of malformed files with what their messages must say.
#include <vector>

#include "io/gguf.h"
#include "io_gguf_builder.h"

namespace pagoda {
namespace {

constexpr uint32_t kF32 = 0;
constexpr uint32_t kQ4_1 = 3;
constexpr uint32_t kQ8_0 = 8;
constexpr uint32_t kQ6K = 14;
constexpr uint32_t kIq2Xs = 17;

TEST(Gguf, reads_metadata_of_every_kind) {
  const TempDir dir;
  GgufBuilder file;
  file.metadata = {
      number("u8", GgufType::u8, uint8_t{200}),
      number("i8", GgufType::i8, int8_t{-100}),
      number("u16", GgufType::u16, uint16_t{60000}),
      number("i16", GgufType::i16, int16_t{-30000}),
      number("u32", GgufType::u32, uint32_t{1} << 31),
      number("i32", GgufType::i32, int32_t{-5}),
      number("f32", GgufType::f32, 0.5f),
      number("yes", GgufType::boolean, uint8_t{1}),
      key("string", GgufType::string) + text("h\xc3\xa9"),
      number("u64", GgufType::u64, ~uint64_t{0}),
      number("i64", GgufType::i64, INT64_MIN),
      number("f64", GgufType::f64, 1e-300),
      key("ints", GgufType::array) + raw(uint32_t{5}) + raw(uint64_t{2}) + raw(int32_t{-7}) + raw(int32_t{8}),
      key("floats", GgufType::array) + raw(uint32_t{6}) + raw(uint64_t{1}) + raw(2.5f),
      key("bools", GgufType::array) + raw(uint32_t{7}) + raw(uint64_t{2}) + raw(uint16_t{0x0100}),
      key("strings", GgufType::array) + raw(uint32_t{8}) + raw(uint64_t{3}) + text("") + text("\xff") + text("abc"),
      key("empty", GgufType::array) + raw(uint32_t{8}) + raw(uint64_t{0}),
  };
  const GgufFile gguf(dir.write("m.gguf", file.build()));
  EXPECT_EQ(gguf.version(), 3u);
  EXPECT_EQ(gguf.metadata().size(), 17u);
  EXPECT_EQ(gguf.metadata()[0].key, "u8");
  EXPECT_EQ(gguf.get_int("u8"), 200);
  EXPECT_EQ(gguf.get_int("i8"), -100);
  EXPECT_EQ(gguf.get_int("u16"), 60000);
  EXPECT_EQ(gguf.get_int("i16"), -30000);
  EXPECT_EQ(gguf.get_int("u32"), int64_t{1} << 31);
  EXPECT_EQ(gguf.get_int("i32"), -5);
  EXPECT_EQ(gguf.get_int("i64"), INT64_MIN);
  EXPECT_EQ(std::get<uint64_t>(gguf.find_value("u64")->held()), ~uint64_t{0});
  EXPECT_EQ(gguf.get_double("f32"), 0.5);
  EXPECT_EQ(gguf.get_double("f64"), 1e-300);
  EXPECT_EQ(gguf.get_double("i32"), -5.0);
  EXPECT_TRUE(gguf.get_bool("yes"));
  EXPECT_EQ(gguf.get_string("string"), "h\xc3\xa9");
  EXPECT_EQ(gguf.get_array("ints").int_at(0), -7);
  EXPECT_EQ(gguf.get_array("ints").double_at(1), 8.0);
  EXPECT_EQ(gguf.get_array("floats").double_at(0), 2.5);
  EXPECT_FALSE(gguf.get_array("bools").bool_at(0));
  EXPECT_TRUE(gguf.get_array("bools").bool_at(1));
  EXPECT_EQ(gguf.get_array("strings").string_at(0), "");
  EXPECT_EQ(gguf.get_array("strings").string_at(1), "\xff");
  EXPECT_EQ(gguf.get_array("strings").string_at(2), "abc");
  EXPECT_EQ(gguf.get_array("empty").size(), 0u);
}

TEST(Gguf, getters_name_the_key_and_what_was_found) {
  const TempDir dir;
  GgufBuilder file;
  file.metadata = {number("n", GgufType::u32, uint32_t{7}), number("big", GgufType::u64, ~uint64_t{0}),
                   key("s", GgufType::string) + text("x"),
                   key("a", GgufType::array) + raw(uint32_t{8}) + raw(uint64_t{1}) + text("t")};
  const GgufFile gguf(dir.write("m.gguf", file.build()));
  EXPECT_EQ(gguf.get_int("absent", 5), 5);
  EXPECT_EQ(gguf.get_double("absent", 0.5), 0.5);
  EXPECT_EQ(gguf.get_string("absent", "d"), "d");
  EXPECT_TRUE(gguf.get_bool("absent", true));
  EXPECT_EQ(gguf.get_int("n", 5), 7);
  EXPECT_EQ(gguf.find_value("absent"), nullptr);
  EXPECT_TRUE(contains(error_of([&] { gguf.get_int("absent"); }), "m.gguf: metadata 'absent' is missing"));
  EXPECT_TRUE(contains(error_of([&] { gguf.get_int("s", 1); }), "metadata 's': expected an integer, found the string \"x\""));
  EXPECT_TRUE(contains(error_of([&] { gguf.get_int("big"); }), "expected an integer up to 2^63-1"));
  EXPECT_TRUE(contains(error_of([&] { gguf.get_string("n"); }), "metadata 'n': expected a string, found u32 7"));
  EXPECT_TRUE(contains(error_of([&] { gguf.get_bool("n"); }), "expected a bool"));
  EXPECT_TRUE(contains(error_of([&] { gguf.get_double("a"); }), "expected a number, found an array of 1 string"));
  EXPECT_TRUE(contains(error_of([&] { gguf.get_array("n"); }), "expected an array"));
  EXPECT_TRUE(
      contains(error_of([&] { gguf.get_array("a").int_at(0); }), "expected an array of integers, found an array of string"));
  EXPECT_THROW(gguf.get_array("a").string_at(1), InternalError);
}

TEST(Gguf, turns_dimensions_into_row_major_shapes_and_finds_the_data) {
  const TempDir dir;
  GgufBuilder file;
  file.version = 2;
  file.tensors = {tensor("w", {64, 3}, kQ4_1, 0), tensor("b", {2}, kF32, 128), tensor("q", {32, 2, 5}, kQ8_0, 160)};
  file.data = std::string(128, 'w') + raw(1.0f) + raw(2.0f) + std::string(24, '\0') + std::string(340, 'q');
  const GgufFile gguf(dir.write("m.gguf", file.build()));
  const StoredTensor* w = gguf.find("w");
  ASSERT_NE(w, nullptr);
  EXPECT_EQ(w->shape, (std::vector<int64_t>{3, 64}));
  EXPECT_EQ(w->format, WeightFormat::q4_1);
  EXPECT_EQ(w->bytes, 120u);
  EXPECT_EQ(static_cast<char>(w->data[119]), 'w');
  EXPECT_EQ(gguf.find("b")->shape, (std::vector<int64_t>{2}));
  float second = 0;
  std::memcpy(&second, gguf.find("b")->data + 4, 4);
  EXPECT_EQ(second, 2.0f);
  EXPECT_EQ(gguf.find("q")->shape, (std::vector<int64_t>{5, 2, 32}));
  EXPECT_EQ(static_cast<char>(gguf.find("q")->data[339]), 'q');
  EXPECT_EQ(gguf.find("x"), nullptr);
  EXPECT_EQ(gguf.names(), (std::vector<std::string>{"b", "q", "w"}));
  EXPECT_EQ(gguf.total_bytes(), 120u + 8 + 340);
  EXPECT_EQ(gguf.describe(), dir.file("m.gguf"));
}

TEST(Gguf, honours_the_alignment_of_the_file) {
  const TempDir dir;
  GgufBuilder file;
  for (uint32_t alignment : {8u, 16u, 64u, 4096u, 1u << 20}) {
    file.metadata = {number("general.alignment", GgufType::u32, alignment)};
    file.tensors = {tensor("a", {1}, kF32, 0), tensor("b", {1}, kF32, alignment)};
    file.alignment = alignment;
    file.data = "aaaa" + std::string(alignment - 4, '.') + "bbbb";
    const GgufFile gguf(dir.write("m.gguf", file.build()));
    EXPECT_EQ(static_cast<char>(gguf.find("a")->data[0]), 'a') << alignment;
    EXPECT_EQ(static_cast<char>(gguf.find("b")->data[0]), 'b') << alignment;
  }
}

TEST(Gguf, tensors_may_lie_in_any_order_with_gaps_and_padding_behind_them) {
  const TempDir dir;
  GgufBuilder file;
  file.tensors = {tensor("late", {1}, kF32, 128), tensor("early", {1}, kF32, 32)};
  file.data = std::string(128, '.') + "late" + std::string(60, '\0');
  const GgufFile gguf(dir.write("m.gguf", file.build()));
  EXPECT_EQ(static_cast<char>(gguf.find("late")->data[0]), 'l');
  EXPECT_EQ(static_cast<char>(gguf.find("early")->data[0]), '.');
}

TEST(Gguf, a_type_the_engine_does_not_compute_with_is_listed_and_refused_only_when_used) {
  const TempDir dir;
  GgufBuilder file;
  file.tensors = {tensor("k", {256}, kIq2Xs, 0), tensor("new", {7}, 77, 0), tensor("ok", {1}, kF32, 96)};
  file.data = std::string(100, 'x');
  const GgufFile gguf(dir.write("m.gguf", file.build()));
  ASSERT_EQ(gguf.list().size(), 3u);
  EXPECT_EQ(gguf.list()[0].type, "IQ2_XS");
  EXPECT_EQ(gguf.list()[0].bytes, 74u);
  EXPECT_EQ(gguf.list()[1].type, "type 77");
  EXPECT_NE(gguf.find("ok"), nullptr);
  EXPECT_TRUE(contains(error_of([&] { gguf.find("k"); }),
                       "tensor 'k' cannot be used: its type IQ2_XS is not supported (supported are F32 F16 Q4_0 "));
  EXPECT_TRUE(contains(error_of([&] { gguf.find("new"); }), "tensor 'new' cannot be used: its ggml type 77 is not known"));
}

TEST(Gguf, reads_bytes_that_are_in_memory_as_it_reads_a_file) {
  GgufBuilder file;
  file.tensors = {tensor("a", {1}, kF32, 0)};
  file.data = "aaaa";
  const GgufFile gguf(MappedFile::from_bytes("memory", file.build()));
  EXPECT_EQ(gguf.describe(), "memory");
  EXPECT_EQ(static_cast<char>(gguf.find("a")->data[3]), 'a');
}

TEST(Gguf, a_file_without_tensors_may_end_after_its_metadata) {
  const TempDir dir;
  GgufBuilder file;
  file.metadata = {number("n", GgufType::u32, uint32_t{7})};
  file.alignment = 1;
  EXPECT_EQ(GgufFile(dir.write("vocab.gguf", file.build())).get_int("n"), 7);
}

struct BadFile {
  std::string bytes;
  std::string message;
};

void expect_refusals(const std::vector<BadFile>& cases) {
  const TempDir dir;
  for (const BadFile& bad : cases) {
    const std::string path = dir.write("bad.gguf", bad.bytes);
    const std::string error = error_of([&] { GgufFile gguf(path); });
    EXPECT_TRUE(contains(error, bad.message) && contains(error, path)) << "wanted " << bad.message << "\n  got " << error;
  }
}

std::string with_header(const std::string& magic, uint32_t version) {
  GgufBuilder file;
  file.magic = magic;
  file.version = version;
  return file.build();
}
std::string with_metadata(const std::vector<std::string>& metadata) {
  GgufBuilder file;
  file.metadata = metadata;
  return file.build();
}
std::string with_tensors(const std::vector<std::string>& tensors, size_t data_bytes) {
  GgufBuilder file;
  file.tensors = tensors;
  file.data = std::string(data_bytes, 'x');
  return file.build();
}
std::string with_counts(uint64_t num_tensors, uint64_t num_entries, const std::string& rest) {
  return "GGUF" + raw(uint32_t{3}) + raw(num_tensors) + raw(num_entries) + rest;
}

TEST(Gguf, refuses_what_is_not_a_gguf_file_of_a_known_version) {
  expect_refusals({
      {"", "it is empty"},
      {"GG", "byte 0: the magic number takes 4 bytes, but the file ends after 2 more"},
      {with_header("GGML", 3), "byte 0: this is not a GGUF file"},
      {with_header("FUGG", 3), "byte 0: this is not a GGUF file"},
      {with_header("GGUF", 0x03000000), "byte 4: the file is big-endian"},
      {with_header("GGUF", 0), "byte 4: GGUF version 0 is not supported, only 2 and 3 are"},
      {with_header("GGUF", 1), "byte 4: GGUF version 1 is not supported"},
      {with_header("GGUF", 4), "byte 4: GGUF version 4 is not supported"},
      {"GGUF" + raw(uint32_t{3}) + "1234", "byte 8: the number of tensors takes 8 bytes, but the file ends after 4 more"},
      {"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"},
  });
}

TEST(Gguf, refuses_counts_and_lengths_that_lie) {
  const uint64_t most = ~uint64_t{0};
  const std::string array = key("a", GgufType::array);
  expect_refusals({
      {with_counts(most, 0, std::string(100, '\0')), "byte 8: 18446744073709551615 tensors do not fit into the 100 bytes"},
      {with_counts(0, most, std::string(100, '\0')),
       "byte 16: 18446744073709551615 metadata entries do not fit into the 100 bytes"},
      {with_counts(0, 1, raw(most) + "abcdef"),
       "the key of metadata entry 0 must have 1 to 65535 bytes, found 18446744073709551615"},
      {with_counts(0, 1, raw(uint64_t{60000}) + "abcdef"),
       "the key of metadata entry 0 takes 60000 bytes, but the file ends after 6"},
      {with_counts(0, 1, key("s", GgufType::string) + raw(most)), "metadata 's' takes 18446744073709551615 bytes"},
      {with_counts(0, 1, array + raw(uint32_t{8}) + raw(most)), "metadata 'a' is an array of 18446744073709551615 string"},
      {with_counts(0, 1, array + raw(uint32_t{10}) + raw(uint64_t{1} << 61) + "12345678"),
       "metadata 'a' is an array of 2305843009213693952 u64, which do not fit into the 8 bytes"},
      {with_counts(0, 1, array + raw(uint32_t{8}) + raw(uint64_t{1}) + raw(uint64_t{9}) + "abc"),
       "metadata 'a' takes 9 bytes, but the file ends after 3"},
      {with_counts(0, 1, number("n", GgufType::u32, uint16_t{1})), "metadata 'n' takes 4 bytes, but the file ends after 2"},
  });
}

TEST(Gguf, refuses_malformed_metadata) {
  const auto alignment = [](uint32_t value) { return with_metadata({number("general.alignment", GgufType::u32, value)}); };
  const std::string wanted = "'general.alignment' must be a u32, a power of two and >= 8, found ";
  expect_refusals({
      {alignment(0), wanted + "u32 0"},
      {alignment(3), wanted + "u32 3"},
      {alignment(4), wanted + "u32 4"},
      {alignment(13), wanted + "u32 13"},
      {alignment(24), wanted + "u32 24"},
      {with_metadata({number("general.alignment", GgufType::u64, uint64_t{32})}), wanted + "u64 32"},
      {with_metadata({key("general.alignment", GgufType::string) + text("32")}), wanted + "the string \"32\""},
      {with_metadata({number("n", GgufType::u8, uint8_t{1}), number("n", GgufType::u8, uint8_t{2})}),
       "the metadata key 'n' appears twice"},
      {with_metadata({text("n") + raw(uint32_t{13}) + raw(uint64_t{0})}),
       "metadata 'n' has the unknown value type 13, known are 0 to 12"},
      {with_metadata({key("n", GgufType::array) + raw(uint32_t{9}) + raw(uint64_t{0})}), "metadata 'n' is an array of arrays"},
      {with_metadata({key("n", GgufType::array) + raw(uint32_t{99}) + raw(uint64_t{0})}), "the unknown value type 99"},
      {with_metadata({number("n", GgufType::boolean, uint8_t{2})}), "metadata 'n' is a bool and must be 0 or 1, found 2"},
      {with_metadata({number("", GgufType::u8, uint8_t{2})}),
       "the key of metadata entry 0 must have 1 to 65535 bytes, found 0"},
      {with_metadata({number("a\xff", GgufType::u8, uint8_t{2})}), "byte 33: the key of metadata entry 0 is not UTF-8"},
  });
}

TEST(Gguf, refuses_malformed_tensors) {
  const uint64_t huge = 0x7fffffffffffffc0u;
  const uint64_t large = uint64_t{1} << 40;
  expect_refusals({
      {with_tensors({tensor("w", {}, kF32, 0)}, 64), "tensor 'w' has 0 dimensions, allowed are 1 to 4"},
      {with_tensors({tensor("w", {1, 1, 1, 1, 1, 1, 1, 1, 1}, kF32, 0)}, 64),
       "tensor 'w' has 9 dimensions, allowed are 1 to 4"},
      {with_tensors({tensor("w", {4, 0}, kF32, 0)}, 64), "tensor 'w': dimension 1 must be from 1 to 2^62, found 0"},
      {with_tensors({tensor("w", {~uint64_t{0}}, kF32, 0)}, 64),
       "dimension 0 must be from 1 to 2^62, found 18446744073709551615"},
      {with_tensors({tensor("a", {huge}, 24, 0), tensor("b", {huge}, 24, 0x80)}, 64),
       "tensor 'a': dimension 0 must be from 1 to 2^62"},
      {with_tensors({tensor("w", {large, large}, kF32, 0)}, 64), "has more elements than 63 bits can count"},
      {with_tensors({tensor("w", {large, 1 << 22}, kF32, 0)}, 64), "has more bytes than 63 bits can count"},
      {with_tensors({tensor("a", {huge / 2}, 24, 0), tensor("b", {huge / 2}, 24, huge / 2 + 32)}, 64),
       "tensor 'a': 4611686018427387872 bytes at offset 0 lie beyond the 64 bytes of data"},
      {with_tensors({tensor("w", {16}, kF32, 32)}, 64), "tensor 'w': 64 bytes at offset 32 lie beyond the 64 bytes of data"},
      {with_tensors({tensor("w", {1}, kF32, ~uint64_t{31})}, 64),
       "tensor 'w': 4 bytes at offset 18446744073709551584 lie beyond"},
      {with_tensors({tensor("w", {1}, kF32, 4)}, 64), "tensor 'w': offset 4 is not a multiple of the alignment 32"},
      {with_tensors({tensor("w", {33, 2}, kQ8_0, 0)}, 68),
       "tensor 'w': rows of 33 values are not a multiple of Q8_0's block of 32"},
      {with_tensors({tensor("w", {128}, kQ6K, 0)}, 210),
       "tensor 'w': rows of 128 values are not a multiple of Q6_K's block of 256"},
      {with_tensors({tensor("w", {1}, kF32, 0), tensor("w", {1}, kF32, 32)}, 64), "two tensors are named 'w'"},
      {with_tensors({tensor("a", {9}, kF32, 0), tensor("b", {1}, kF32, 32)}, 64),
       "tensor 'b' at offset 32 overlaps tensor 'a' at offset 0 of 36 bytes"},
      {with_tensors({tensor(std::string(64, 'n'), {1}, kF32, 0)}, 64),
       "the name of tensor 0 must have 1 to 63 bytes, found 64"},
      {with_tensors({tensor("", {1}, kF32, 0)}, 64), "the name of tensor 0 must have 1 to 63 bytes, found 0"},
      {with_tensors({tensor("\xc0\x80", {1}, kF32, 0)}, 64), "the name of tensor 0 is not UTF-8"},
  });
}

/// A file with something of everything, for damage.
std::string rich_file() {
  GgufBuilder file;
  file.metadata = {key("s", GgufType::string) + text("value"), number("n", GgufType::u32, uint32_t{7}),
                   key("a", GgufType::array) + raw(uint32_t{8}) + raw(uint64_t{2}) + text("x") + text("yz"),
                   number("general.alignment", GgufType::u32, uint32_t{32})};
  file.tensors = {tensor("w", {32, 2}, kQ4_1, 0), tensor("b", {3}, kF32, 64)};
  file.data = std::string(76, 'x');
  return file.build();
}

/// Reads the file and touches all that it offers; true when it opened.
bool read_all(const std::string& bytes) {
  return error_of([&] {
           const GgufFile gguf(MappedFile::from_bytes("memory", bytes));
           size_t sum = 0;
           for (const GgufEntry& entry : gguf.metadata()) {
             sum += entry.value.describe().size();
             const auto* array = std::get_if<GgufArray>(&entry.value.held());
             if (!array || array->type() != GgufType::string) continue;
             for (size_t i = 0; i < array->size(); ++i) sum += array->string_at(i).size();
           }
           for (const TensorListing& line : gguf.list()) {
             if (line.type != "F32" && line.type != "Q4_1") continue;
             const StoredTensor* tensor = gguf.find(line.name);
             for (size_t i = 0; i < tensor->bytes; ++i) sum += static_cast<size_t>(tensor->data[i]);
           }
           EXPECT_GT(sum, 0u);
         }) == "nothing was thrown";
}

TEST(Gguf, any_truncation_is_refused) {
  const std::string whole = rich_file();
  ASSERT_TRUE(read_all(whole));
  for (size_t size = 0; size < whole.size(); ++size) {
    EXPECT_FALSE(read_all(whole.substr(0, size))) << size;
  }
}

TEST(Gguf, one_changed_byte_gives_an_error_or_a_readable_file) {
  const std::string whole = rich_file();
  int refused = 0;
  for (size_t i = 0; i < whole.size() - 76; ++i) {
    for (int bit : {0, 7}) {
      std::string changed = whole;
      changed[i] = static_cast<char>(changed[i] ^ (1 << bit));
      refused += !read_all(changed);
    }
  }
  EXPECT_GT(refused, 100);
}

}  // namespace
}  // namespace pagoda
