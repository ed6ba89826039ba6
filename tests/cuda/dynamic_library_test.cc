// Libraries are found in the folders handed in, among the loaded ones and in the system's places; what is wrong is told.
#include "cuda/dynamic_library.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "core/check.h"
#include "cuda/cublaslt.h"

namespace pagoda::cuda {
namespace {

/// A new folder, removed at the end.
class DynamicLibraryTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "libraries_" + testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string folder_;
};

TEST_F(DynamicLibraryTest, the_first_name_that_exists_is_opened) {
  const char* const names[] = {"libno_such_library.so.1", "libm.so.6"};
  std::string failures;
  const auto library = DynamicLibrary::open(names, {}, failures);
  ASSERT_TRUE(library.has_value());
  EXPECT_EQ(library->path(), "libm.so.6");
  EXPECT_EQ(failures, "");
  EXPECT_NE(library->find("cos"), nullptr);
  EXPECT_EQ(library->find("no_such_function"), nullptr);
}

TEST_F(DynamicLibraryTest, what_is_nowhere_is_not_found) {
  const char* const names[] = {"libno_such_library.so.1"};
  std::string failures;
  EXPECT_FALSE(DynamicLibrary::open(names, {{folder_, "/no/such/folder", ""}}, failures).has_value());
  EXPECT_EQ(failures, "");
}

TEST_F(DynamicLibraryTest, files_that_are_no_library_are_told_and_passed_over) {
  const char* const names[] = {"libno_such_library.so.1", "libm.so.6"};
  std::ofstream(folder_ + "/libno_such_library.so.1") << "text";
  std::string failures;
  const auto library = DynamicLibrary::open(names, {{folder_}}, failures);
  ASSERT_TRUE(library.has_value());
  EXPECT_EQ(library->path(), "libm.so.6");
  EXPECT_NE(failures.find(folder_ + "/libno_such_library.so.1"), std::string::npos) << failures;
}

TEST_F(DynamicLibraryTest, relative_folders_are_not_looked_in) {
  const char* const names[] = {"libno_such_library.so.1"};
  const std::filesystem::path before = std::filesystem::current_path();
  std::ofstream(folder_ + "/libno_such_library.so.1") << "text";
  std::filesystem::current_path(folder_);
  std::string failures;
  EXPECT_FALSE(DynamicLibrary::open(names, {{".", ""}}, failures).has_value());
  std::filesystem::current_path(before);
  EXPECT_EQ(failures, "");
}

TEST_F(DynamicLibraryTest, version_13_of_cublaslt_is_preferred_and_must_have_all_functions) {
  const char* const names[] = {"libm.so.6"};
  std::string failures;
  ASSERT_TRUE(DynamicLibrary::open(names, {}, failures).has_value());
  std::ofstream(folder_ + "/libcublasLt.so.12") << "text";
  std::filesystem::path libm;
  for (const char* place : {"/lib/x86_64-linux-gnu/libm.so.6", "/lib64/libm.so.6", "/usr/lib/libm.so.6"}) {
    if (std::filesystem::exists(place)) libm = place;
  }
  ASSERT_FALSE(libm.empty());
  std::filesystem::copy_file(libm, folder_ + "/libcublasLt.so.13");
  try {
    open_cublaslt({{folder_}});
    FAIL() << "bound";
  } catch (const DeviceError& error) {
    EXPECT_EQ(std::string(error.what()), folder_ +
                                             "/libcublasLt.so.13 lacks the function cublasLtCreate; install another one "
                                             "with `pip install nvidia-cublas` or the CUDA toolkit");
  }
}

TEST_F(DynamicLibraryTest, why_a_file_could_not_be_opened_is_part_of_the_sentence) {
  EXPECT_EQ(cublaslt_absence("/a/libcublasLt.so.13: file too short"),
            "cuBLASLt (libcublasLt.so.13 or libcublasLt.so.12), which multiplies matrices on the GPU, could not be opened "
            "(/a/libcublasLt.so.13: file too short); install it with `pip install nvidia-cublas` or the CUDA toolkit");
}

}  // namespace
}  // namespace pagoda::cuda
