# Compiler choice and flags of everything in the tree. The baseline is the compiler's default machine (x86-64 or whatever the host is);
# only the per-ISA kernel files get more (PagodaFolder.cmake), and they run after a cpuid check.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Release, RelWithDebInfo or Debug" FORCE)
endif()

if((CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 11)
   OR (CMAKE_CXX_COMPILER_ID STREQUAL "Clang" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 14))
  message(FATAL_ERROR "Pagoda needs g++ 11 or clang++ 14 or newer, found ${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}; "
                      "choose another with -DCMAKE_CXX_COMPILER=...")
endif()

find_program(PAGODA_CCACHE ccache)
if(PAGODA_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER "${PAGODA_CCACHE}")
endif()

# No contraction: an FMA is written where it is meant, so that a result is the same on every ISA's build of the same source.
add_compile_options(-ffp-contract=off -fno-math-errno -Wall -Wextra -Wconversion -Wno-sign-conversion)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  add_compile_options(-Wno-restrict)  # g++ 12 warns of `"text" + std::string` in its own library (GCC bug 105651)
endif()
if(PAGODA_WERROR)
  add_compile_options(-Werror)
endif()

if(PAGODA_SANITIZE)
  string(REPLACE "," ";" pagoda_sanitizers "${PAGODA_SANITIZE}")
  foreach(sanitizer IN LISTS pagoda_sanitizers)
    if(NOT sanitizer MATCHES "^(address|undefined|thread)$")
      message(FATAL_ERROR "PAGODA_SANITIZE must be a comma-separated list of address, undefined and thread, got '${PAGODA_SANITIZE}'")
    endif()
  endforeach()
  if("address" IN_LIST pagoda_sanitizers AND "thread" IN_LIST pagoda_sanitizers)
    message(FATAL_ERROR "PAGODA_SANITIZE cannot hold both address and thread, got '${PAGODA_SANITIZE}'")
  endif()
  add_compile_options(-fsanitize=${PAGODA_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer -O1 -g1)
  add_link_options(-fsanitize=${PAGODA_SANITIZE})
  if("address" IN_LIST pagoda_sanitizers AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # Calls in place of inline checks: the products' templates compile in half the time.
    set(PAGODA_SANITIZED_TEMPLATES --param=asan-instrumentation-with-call-threshold=0)
  endif()
endif()
