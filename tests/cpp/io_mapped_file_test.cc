// Mapping files, and the message of every way it fails.
#include <sys/stat.h>
#include <unistd.h>

#include <utility>

#include "io/mapped_file.h"
#include "io_test_files.h"

namespace pagoda {
namespace {

TEST(MappedFile, shows_the_bytes_of_the_file_and_keeps_them_when_moved) {
  const TempDir dir;
  MappedFile file(dir.write("a", "hello"));
  const std::byte* data = file.data();
  MappedFile other = std::move(file);
  EXPECT_EQ(other.text(), "hello");
  EXPECT_EQ(other.data(), data);
  MappedFile third(dir.write("b", "x"));
  third = std::move(other);
  EXPECT_EQ(third.text(), "hello");
  EXPECT_EQ(third.path(), dir.file("a"));
}

TEST(MappedFile, follows_a_symbolic_link) {
  const TempDir dir;
  dir.write("target", "x");
  std::filesystem::create_symlink("target", dir.file("link"));
  EXPECT_EQ(MappedFile(dir.file("link")).text(), "x");
}

TEST(MappedFile, names_the_path_and_the_cause_of_every_failure) {
  const TempDir dir;
  dir.write("plain", "x");
  std::filesystem::create_symlink("nowhere", dir.file("dangling"));
  std::filesystem::create_symlink("loop", dir.file("loop"));
  ASSERT_EQ(mkfifo(dir.file("pipe").c_str(), 0600), 0);
  dir.write("lfs", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n");
  dir.write("empty", "");
  const std::pair<std::string, std::string> cases[] = {
      {"absent", "No such file or directory"},
      {"plain/below", "Not a directory"},
      {"dangling", "it is a dangling symbolic link to nowhere"},
      {"loop", "Too many levels of symbolic links"},
      {".", "it is a directory, expected a file"},
      {"pipe", "it is not a regular file"},
      {"empty", "it is empty"},
      {"lfs", "is a Git-LFS pointer, not the file itself: run `git lfs pull`"},
  };
  for (const auto& [name, cause] : cases) {
    const std::string error = error_of([&] { MappedFile file(dir.file(name)); });
    EXPECT_TRUE(contains(error, cause) && contains(error, dir.file(name))) << name << " gave " << error;
  }
}

TEST(MappedFile, names_a_file_that_may_not_be_read) {
  const TempDir dir;
  dir.write("secret", "x");
  ASSERT_EQ(chmod(dir.file("secret").c_str(), 0), 0);
  // Nothing is unreadable for the superuser: it becomes another user for the moment.
  const uid_t user = geteuid();
  ASSERT_EQ(seteuid(user == 0 ? 65534 : user), 0);
  const std::string error = error_of([&] { MappedFile file(dir.file("secret")); });
  ASSERT_EQ(seteuid(user), 0);
  EXPECT_EQ(error, "cannot open " + dir.file("secret") + ": Permission denied");
}

TEST(MappedFile, can_be_made_of_bytes_in_memory) {
  MappedFile file = MappedFile::from_bytes("name", "hello");
  MappedFile other = std::move(file);
  EXPECT_EQ(other.text(), "hello");
  EXPECT_EQ(other.path(), "name");
  EXPECT_EQ(error_of([] { MappedFile::from_bytes("name", ""); }), "cannot read name: it is empty");
  EXPECT_TRUE(contains(error_of([] { MappedFile::from_bytes("name", "version https://git-lfs.github.com/spec/v1"); }),
                       "name is a Git-LFS pointer"));
}

}  // namespace
}  // namespace pagoda
