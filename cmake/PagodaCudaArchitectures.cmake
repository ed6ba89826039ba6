# Which GPUs the CUDA kernels are compiled for.
set(PAGODA_CUDA_ARCHITECTURES AUTO CACHE STRING
    "GPU architectures as in CMAKE_CUDA_ARCHITECTURES; AUTO (this machine's GPUs, else 8.x and 9.0) or RELEASE (all)")
# What every GPU newer than all others in the list compiles for itself. From 90 on: code for older ones cannot start early.
set(PAGODA_CUDA_NEWER "90-virtual")

# pagoda_found_architectures(<variable>): those of this machine's GPUs that nvcc knows, from 8.0 on.
function(pagoda_found_architectures variable)
  set(found "")
  if(PAGODA_NVIDIA_SMI)
    execute_process(COMMAND "${PAGODA_NVIDIA_SMI}" --query-gpu=compute_cap --format=csv,noheader OUTPUT_VARIABLE capabilities
                    ERROR_QUIET)
    execute_process(COMMAND "${PAGODA_NVCC}" --list-gpu-code OUTPUT_VARIABLE known ERROR_QUIET)
    string(REGEX MATCHALL "[0-9]+\\.[0-9]" capabilities "${capabilities}")
    foreach(capability IN LISTS capabilities)
      string(REPLACE "." "" number "${capability}")
      if(number EQUAL 90)
        list(APPEND found "90a-real")
      elseif(number GREATER_EQUAL 80 AND known MATCHES "sm_${number}[^0-9]")
        list(APPEND found "${number}-real")
      endif()
    endforeach()
    list(REMOVE_DUPLICATES found)
  endif()
  set(${variable} "${found}" PARENT_SCOPE)
endfunction()

# pagoda_cuda_architectures(<variable>): the list that PAGODA_CUDA_ARCHITECTURES stands for.
function(pagoda_cuda_architectures variable)
  if(PAGODA_CUDA_ARCHITECTURES STREQUAL "AUTO")
    pagoda_found_architectures(list)
    if(NOT list)
      set(list "80-real;90a-real")
    endif()
    list(APPEND list "${PAGODA_CUDA_NEWER}")
  elseif(PAGODA_CUDA_ARCHITECTURES STREQUAL "RELEASE")
    set(list "80-real;89-real;90a-real;100-real;120-real;${PAGODA_CUDA_NEWER}")
  else()
    set(list "${PAGODA_CUDA_ARCHITECTURES}")
  endif()
  set(${variable} "${list}" PARENT_SCOPE)
endfunction()
