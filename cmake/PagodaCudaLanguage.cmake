# Switches on CUDA C++20 for the folder that includes this. nvcc was found before.
include(PagodaCudaArchitectures)
set(CMAKE_CUDA_COMPILER "${PAGODA_NVCC}")
pagoda_cuda_architectures(CMAKE_CUDA_ARCHITECTURES)
enable_language(CUDA)
# CMake before 3.26 does not know that nvcc has C++20.
foreach(kind STANDARD EXTENSION)
  if(NOT CMAKE_CUDA20_${kind}_COMPILE_OPTION)
    set(CMAKE_CUDA20_${kind}_COMPILE_OPTION "-std=c++20")
  endif()
endforeach()
set(CMAKE_CUDA_STANDARD 20)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
