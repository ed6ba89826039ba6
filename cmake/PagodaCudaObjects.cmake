# nvcc for folders besides cuda/: the device tests and the device benchmark. Included where cuda/ was added before.
include(PagodaCudaLanguage)

# pagoda_cuda_objects(<name> <sources> <architectures>): an object library, compiled with the options of the kernels.
function(pagoda_cuda_objects name sources architectures)
  add_library(${name} OBJECT ${sources})
  # The options of the C++ compiler (PagodaFlags.cmake) are not nvcc's.
  set_target_properties(${name} PROPERTIES COMPILE_OPTIONS "" CUDA_ARCHITECTURES "${architectures}" CUDA_RUNTIME_LIBRARY Static
                        CUDA_VISIBILITY_PRESET hidden POSITION_INDEPENDENT_CODE ON)
  target_compile_options(${name} PRIVATE -fmad=false --expt-relaxed-constexpr -Xcompiler=-Wall,-Wextra)
  target_include_directories(${name} PRIVATE "${PROJECT_SOURCE_DIR}" "${PROJECT_SOURCE_DIR}/cpp")
endfunction()
