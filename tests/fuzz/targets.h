// What is done with one hostile input of each kind. Called by the fuzzers (entry.cc) and, with every file of tests/corpus, by
// the ordinary tests. Only InvalidArgument may come out of the code under test; the targets catch it. Anything else is a bug:
// another exception, a crash, an access that a sanitizer objects to, a hang, or memory far beyond the input's size.
#pragma once

#include <cstddef>
#include <string_view>

#include "io/weight_source.h"

namespace pagoda {

/// A safetensors file: reads all that it offers, also as quantised matrices. True if the file is accepted.
bool fuzz_safetensors(std::string_view bytes);

/// A GGUF file: reads all that it offers, plans a decoder of it. True if the file is accepted.
bool fuzz_gguf(std::string_view bytes);

/// A JSON text: walks the tree, reads it as config.json. True if it is JSON.
bool fuzz_json(std::string_view bytes);

/// Finds every tensor, decodes the usable ones, reads the bytes of all. Counts what it read, so that no read is optimised away.
size_t read_tensors(const WeightSource& source);

}  // namespace pagoda
