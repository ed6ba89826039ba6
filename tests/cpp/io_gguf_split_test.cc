// Models in several GGUF files: the first brings the others along, and every way in which they do not fit is named.
#include <vector>

#include "io/gguf.h"
#include "io_gguf_builder.h"

namespace pagoda {
namespace {

constexpr uint32_t kF32 = 0;

std::vector<std::string> split_keys(uint16_t no, uint16_t count, int32_t num_tensors) {
  return {number("split.no", GgufType::u16, no), number("split.count", GgufType::u16, count),
          number("split.tensors.count", GgufType::i32, num_tensors)};
}

/// A part with one tensor of one value, `letter` four times.
std::string part(const std::vector<std::string>& metadata, char letter) {
  GgufBuilder file;
  file.metadata = metadata;
  file.tensors = {tensor(std::string(1, letter), {1}, kF32, 0)};
  file.data = std::string(4, letter);
  return file.build();
}

class SplitGguf : public testing::Test {
 protected:
  std::string write(int no, const std::string& bytes) { return dir_.write(str("m-0000", no, "-of-00003.gguf"), bytes); }
  std::string first() const { return dir_.file("m-00001-of-00003.gguf"); }
  void write_all() {
    auto metadata = split_keys(0, 3, 3);
    metadata.push_back(key("name", GgufType::string) + text("whole"));
    write(1, part(metadata, 'a'));
    write(2, part(split_keys(1, 3, 3), 'b'));
    write(3, part(split_keys(2, 3, 3), 'c'));
  }
  std::string error(const std::string& path) {
    return error_of([&] { GgufFile file(path); });
  }
  void expect_error(const std::string& message) {
    const std::string error_text = error(first());
    EXPECT_TRUE(contains(error_text, message)) << "wanted " << message << "\n  got " << error_text;
  }
  TempDir dir_;
};

TEST_F(SplitGguf, is_one_model_with_the_metadata_of_its_first_file) {
  write_all();
  const GgufFile file(first());
  EXPECT_EQ(file.names(), (std::vector<std::string>{"a", "b", "c"}));
  EXPECT_EQ(static_cast<char>(file.find("c")->data[3]), 'c');
  EXPECT_EQ(file.total_bytes(), 12u);
  EXPECT_EQ(file.get_string("name"), "whole");
  EXPECT_EQ(file.get_int("split.no"), 0);
}

TEST_F(SplitGguf, a_first_part_may_hold_metadata_only) {
  write_all();
  GgufBuilder file;
  file.metadata = split_keys(0, 3, 2);
  write(1, file.build());
  write(2, part(split_keys(1, 3, 2), 'b'));
  write(3, part(split_keys(2, 3, 2), 'c'));
  EXPECT_EQ(GgufFile(first()).names(), (std::vector<std::string>{"b", "c"}));
}

TEST_F(SplitGguf, a_count_of_no_or_one_part_is_a_whole_model) {
  for (const uint16_t count : {uint16_t{0}, uint16_t{1}}) {
    const std::string path = dir_.write("merged.gguf", part(split_keys(0, count, 1), 'a'));
    EXPECT_NE(GgufFile(path).find("a"), nullptr);
  }
}

TEST_F(SplitGguf, another_part_than_the_first_names_the_first) {
  write_all();
  const std::string second = error(dir_.file("m-00002-of-00003.gguf"));
  EXPECT_TRUE(contains(second, "m-00002-of-00003.gguf: part 2 of a model of 3 parts; name the first one, " + first()))
      << second;
}

TEST_F(SplitGguf, a_part_under_another_name_cannot_find_its_neighbours) {
  const std::string path = dir_.write("m.gguf", part(split_keys(0, 3, 3), 'a'));
  EXPECT_TRUE(contains(error(path), "part 1 of a model of 3 parts; its name must end in -00001-of-00003.gguf")) << error(path);
  const auto in_memory = [] { GgufFile file(MappedFile::from_bytes("memory", part(split_keys(0, 3, 3), 'a'))); };
  EXPECT_TRUE(contains(error_of(in_memory), "memory: part 1 of a model of 3 parts; its name must end in"));
}

TEST_F(SplitGguf, absent_parts_are_all_named) {
  write_all();
  std::filesystem::remove(dir_.file("m-00003-of-00003.gguf"));
  expect_error("m-00001-of-00003.gguf: 1 of the model's 3 parts do not exist: '" + dir_.file("m-00003-of-00003.gguf") + "'");
}

TEST_F(SplitGguf, parts_of_other_models_are_refused) {
  const std::string wrong = "m-00002-of-00003.gguf: is no part of the model of " + first() +
                            ": expected split.no 1, split.count 3 and split.tensors.count 3, found ";
  write_all();
  write(2, part(split_keys(2, 3, 3), 'b'));
  expect_error(wrong + "2, 3 and 3");
  write(2, part(split_keys(1, 4, 3), 'b'));
  expect_error(wrong + "1, 4 and 3");
  write(2, part(split_keys(1, 3, 9), 'b'));
  expect_error(wrong + "1, 3 and 9");
  write(2, part({}, 'b'));
  expect_error(wrong + "0, 0 and 0");
  write(2, "GGUF");
  expect_error("m-00002-of-00003.gguf: byte 4: the version takes 4 bytes");
}

TEST_F(SplitGguf, the_number_of_tensors_must_be_right) {
  write_all();
  for (int no : {1, 2, 3}) {
    write(no, part(split_keys(static_cast<uint16_t>(no - 1), 3, 4), static_cast<char>('a' + no)));
  }
  expect_error("metadata 'split.tensors.count' says 4 tensors, the 3 parts hold 3");
}

TEST_F(SplitGguf, a_tensor_in_two_parts_is_refused_with_both) {
  write_all();
  write(3, part(split_keys(2, 3, 3), 'b'));
  expect_error("m-00002-of-00003.gguf: two tensors are named 'b', the other one is in " + dir_.file("m-00003-of-00003.gguf"));
}

TEST_F(SplitGguf, malformed_split_metadata_is_refused) {
  const auto with = [&](const std::vector<std::string>& metadata) { write(1, part(metadata, 'a')); };
  with({number("split.count", GgufType::i32, int32_t{-3})});
  expect_error("metadata 'split.count' must be in [0, 99999], found -3");
  with({number("split.count", GgufType::u32, uint32_t{100000})});
  expect_error("metadata 'split.count' must be in [0, 99999], found 100000");
  with({key("split.count", GgufType::string) + text("3")});
  expect_error("metadata 'split.count': expected an integer, found the string \"3\"");
  with({number("split.count", GgufType::u16, uint16_t{3})});
  expect_error("metadata 'split.no' is missing in a part of a split model");
  with(split_keys(3, 3, 3));
  expect_error("metadata 'split.no' must be in [0, 3) as 'split.count' says, found 3");
  with({number("split.count", GgufType::u16, uint16_t{3}), number("split.no", GgufType::u16, uint16_t{0})});
  expect_error("metadata 'split.tensors.count' is missing in a part of a split model");
}

}  // namespace
}  // namespace pagoda
