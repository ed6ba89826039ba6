# One library per folder, and the flags of the per-ISA kernel files, which only exist for x86-64.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  set(PAGODA_X86_64 ON)
else()
  set(PAGODA_X86_64 OFF)
endif()

# pagoda_unite(<target>): compiles its sources eight at a time, as half of the work is to read what all of them include. Left to
# themselves are those with flags of their own, those that take long, the model families, which name their parts alike, and
# no_cuda.cc, which a linker must be able to leave out.
function(pagoda_unite target)
  if(PAGODA_UNITY)
    get_target_property(alone ${target} SOURCES)
    list(FILTER alone INCLUDE REGEX "_portable\\.cc$|/model/arch/|/no_cuda\\.cc$")
    set_source_files_properties(${alone} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
    set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 8)
  endif()
endfunction()

# pagoda_folder(<name> <folders> <linked targets...>): the library pagoda_<name> of all *.cc in <folders>.
# A folder of headers only becomes an INTERFACE library, so that its users need not know.
function(pagoda_folder name folders)
  list(TRANSFORM folders APPEND "/*.cc" OUTPUT_VARIABLE patterns)
  file(GLOB sources CONFIGURE_DEPENDS ${patterns})
  if(NOT PAGODA_X86_64)
    list(FILTER sources EXCLUDE REGEX "_(avx2|avx2_vnni|avx512|amx)\\.cc$")
  endif()
  if(sources)
    add_library(pagoda_${name} STATIC ${sources})
    pagoda_unite(pagoda_${name})
    set(scope PUBLIC)
  else()
    add_library(pagoda_${name} INTERFACE)
    set(scope INTERFACE)
  endif()
  target_include_directories(pagoda_${name} ${scope} "${PROJECT_SOURCE_DIR}/cpp")
  target_link_libraries(pagoda_${name} ${scope} ${ARGN})
endfunction()

set(PAGODA_AVX512_FLAGS -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni -mavx512bf16 -mavx2 -mfma -mf16c -mbmi2)

# pagoda_add_isa_flags(<folder>): x86-64 kernel files are named after the instruction set they are compiled for.
# Such a file must hold no code that a baseline file could share (tools/check_isa_objects.py), or the linker may pick its copy
# for machines that cannot run it.
function(pagoda_add_isa_flags folder)
  if(NOT PAGODA_X86_64)
    return()
  endif()
  file(GLOB avx2_sources CONFIGURE_DEPENDS ${folder}/*_avx2.cc)
  file(GLOB avx2_vnni_sources CONFIGURE_DEPENDS ${folder}/*_avx2_vnni.cc)
  # AMX's own instructions are written in assembler, which asks for no flag.
  file(GLOB avx512_sources CONFIGURE_DEPENDS ${folder}/*_avx512.cc ${folder}/*_amx.cc)
  set(avx2_flags -mavx2 -mfma -mf16c -mbmi2)
  set(avx2_vnni_flags ${avx2_flags} -mavxvnni)
  set_source_files_properties(${avx2_sources} PROPERTIES COMPILE_OPTIONS "${avx2_flags}")
  set_source_files_properties(${avx2_vnni_sources} PROPERTIES COMPILE_OPTIONS "${avx2_vnni_flags}")
  set_source_files_properties(${avx512_sources} PROPERTIES COMPILE_OPTIONS "${PAGODA_AVX512_FLAGS}")
  file(GLOB products CONFIGURE_DEPENDS ${folder}/linear_*.cc)
  set_property(SOURCE ${products} APPEND PROPERTY COMPILE_OPTIONS ${PAGODA_SANITIZED_TEMPLATES})
  if(PAGODA_SANITIZE AND EXISTS /proc/cpuinfo)
    # Checks in kernels that this machine never runs would take a sixth of the compiler's time.
    file(STRINGS /proc/cpuinfo cpu_flags LIMIT_COUNT 1 REGEX "^flags")
    if(NOT cpu_flags MATCHES "avx512_bf16")
      set_property(SOURCE ${avx512_sources} APPEND PROPERTY COMPILE_OPTIONS -fno-sanitize=all)
    endif()
    if(NOT cpu_flags MATCHES "avx_vnni")
      set_property(SOURCE ${avx2_vnni_sources} APPEND PROPERTY COMPILE_OPTIONS -fno-sanitize=all)
    endif()
  endif()
endfunction()
