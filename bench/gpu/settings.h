// What a benchmark was asked for on its command line. Used by kernels_bench.cc and engine_bench.cc.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/check.h"

namespace pagoda::bench {

struct Settings {
  bool smoke = false;                        ///< tiny sizes, one repeat: tries out the program, measures nothing
  std::string only;                          ///< families whose name contains this; empty = all
  std::string out;                           ///< where the JSON goes; empty = only the table is printed
  std::string commit = "unknown";            ///< of the sources
  std::vector<std::string> library_folders;  ///< where cuBLASLt may lie
  std::string cache_folder;                  ///< keeps what the tuning of products found
};

/// "--smoke", "--only=word", "--out=file", "--commit=hash", "--libraries=folder:folder", "--cache=folder". Throws
/// InvalidArgument.
inline Settings read_settings(int argc, char** argv) {
  Settings settings;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    const size_t equals = argument.find('=');
    const std::string_view name = argument.substr(0, equals);
    const std::string value(equals == std::string_view::npos ? "" : argument.substr(equals + 1));
    if (name == "--smoke") {
      settings.smoke = true;
    } else if (name == "--only") {
      settings.only = value;
    } else if (name == "--out") {
      settings.out = value;
    } else if (name == "--commit") {
      settings.commit = value;
    } else if (name == "--cache") {
      settings.cache_folder = value;
    } else if (name == "--libraries") {
      for (size_t begin = 0; begin < value.size();) {
        const size_t end = std::min(value.find(':', begin), value.size());
        if (end > begin) settings.library_folders.push_back(value.substr(begin, end - begin));
        begin = end + 1;
      }
    } else {
      throw InvalidArgument(
          str("unknown argument ", argument, "; known are --smoke, --only=, --out=, --commit=, --libraries= and --cache="));
    }
  }
  return settings;
}

}  // namespace pagoda::bench
