# Fuzzers with libFuzzer, which comes with clang: all code is compiled with coverage and under the address and
# undefined-behaviour sanitizers. tools/fuzz.sh configures, builds and runs them.
option(PAGODA_FUZZ "Build the fuzzers of tests/fuzz (needs clang++)" OFF)

if(PAGODA_FUZZ)
  if(NOT CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    message(FATAL_ERROR "PAGODA_FUZZ needs clang++, found ${CMAKE_CXX_COMPILER_ID}: give -DCMAKE_CXX_COMPILER=clang++")
  endif()
  add_compile_options(-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -O1 -g1)
  add_link_options(-fsanitize=address,undefined)
endif()

# pagoda_fuzzers(): one executable per target of tests/fuzz/targets.h, named after it.
function(pagoda_fuzzers)
  set(folder "${PROJECT_SOURCE_DIR}/tests/fuzz")
  foreach(target fuzz_safetensors fuzz_gguf fuzz_json)
    add_executable(${target} "${folder}/entry.cc" "${folder}/${target}.cc" "${folder}/read_tensors.cc")
    target_compile_definitions(${target} PRIVATE PAGODA_FUZZ_TARGET=${target})
    target_link_libraries(${target} PRIVATE pagoda_model)
    target_link_options(${target} PRIVATE -fsanitize=fuzzer)
  endforeach()
endfunction()
