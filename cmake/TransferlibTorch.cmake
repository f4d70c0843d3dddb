# Finds LibTorch and makes the imported target transferlib::torch. Sets TRANSFERLIB_TORCH_ROOT and
# TRANSFERLIB_TORCH_VERSION. Installed with the package, whose config file includes it again.
#
# Looked at, in this order: the folder TRANSFERLIB_TORCH, Torch_DIR, and what find_package looks through (CMAKE_PREFIX_PATH
# and the system). Everything older than 2.6 is passed over, Debian's libtorch-dev 1.13 among it.
#
# TorchConfig.cmake itself is run only for static builds and on systems that aren't Linux. It fails for a CUDA build on a
# machine without the CUDA toolkit, though host code needs none, and its targets end with the folder that called it,
# which is not the user's folder when transferlib is added by FetchContent.
if(TARGET transferlib::torch)
  return()
endif()

set(TRANSFERLIB_TORCH "" CACHE PATH "Folder of LibTorch: an unpacked libtorch zip, or torch/ of a Python wheel")
set(_transferlib_torch_least 2.6)

function(_transferlib_torch_refuse sentence)
  message(FATAL_ERROR "transferlib: ${sentence} Give LibTorch ${_transferlib_torch_least} or newer: "
    "-DTRANSFERLIB_TORCH=<folder of an unpacked libtorch zip>, or after `pip install torch`: "
    "-DCMAKE_PREFIX_PATH=\"$(python3 -c 'import torch; print(torch.utils.cmake_prefix_path)')\"")
endfunction()

# Sets <root> to the folder that holds include/, lib/ and share/ of the LibTorch to use, and <version>.
function(_transferlib_torch_locate root version)
  set(configs "")
  if(TRANSFERLIB_TORCH)
    foreach(below "" /torch /libtorch)
      if(EXISTS "${TRANSFERLIB_TORCH}${below}/share/cmake/Torch/TorchConfig.cmake")
        list(APPEND configs "${TRANSFERLIB_TORCH}${below}/share/cmake/Torch/TorchConfig.cmake")
      endif()
    endforeach()
    if(NOT configs)
      _transferlib_torch_refuse("TRANSFERLIB_TORCH is ${TRANSFERLIB_TORCH}, which has no share/cmake/Torch/TorchConfig.cmake.")
    endif()
  else()
    if(Torch_DIR AND EXISTS "${Torch_DIR}/TorchConfig.cmake")
      list(APPEND configs "${Torch_DIR}/TorchConfig.cmake")
    endif()
    # A version that can't be met makes CMake list what it would have looked at, and run none of it.
    set(kept "${Torch_DIR}")
    unset(Torch_DIR CACHE)
    find_package(Torch 999999 CONFIG QUIET)
    unset(Torch_DIR CACHE)
    if(kept)
      set(Torch_DIR "${kept}" CACHE PATH "Folder of TorchConfig.cmake")
    endif()
    list(APPEND configs ${Torch_CONSIDERED_CONFIGS})
  endif()
  set(passed_over "")
  foreach(config IN LISTS configs)
    get_filename_component(folder "${config}" DIRECTORY)
    set(PACKAGE_VERSION "")
    include("${folder}/TorchConfigVersion.cmake" OPTIONAL)
    if(PACKAGE_VERSION VERSION_GREATER_EQUAL _transferlib_torch_least)
      get_filename_component(found "${folder}/../../.." ABSOLUTE)
      set(${root} "${found}" PARENT_SCOPE)
      set(${version} "${PACKAGE_VERSION}" PARENT_SCOPE)
      set(_transferlib_torch_config "${folder}" PARENT_SCOPE)
      return()
    endif()
    string(APPEND passed_over " LibTorch ${PACKAGE_VERSION} in ${folder} is too old.")
  endforeach()
  if(passed_over)
    _transferlib_torch_refuse("no LibTorch that suits was found.${passed_over}")
  endif()
  _transferlib_torch_refuse("LibTorch was not found.")
endfunction()

# One shared library of LibTorch as a target, if it is there.
function(_transferlib_torch_library name)
  foreach(folder lib lib64 "lib/${CMAKE_LIBRARY_ARCHITECTURE}")
    set(file "${TRANSFERLIB_TORCH_ROOT}/${folder}/lib${name}.so")
    if(EXISTS "${file}" AND NOT TARGET transferlib::${name})
      add_library(transferlib::${name} SHARED IMPORTED GLOBAL)
      set_target_properties(transferlib::${name} PROPERTIES IMPORTED_LOCATION "${file}" IMPORTED_SONAME "lib${name}.so")
    endif()
  endforeach()
endfunction()

_transferlib_torch_locate(TRANSFERLIB_TORCH_ROOT TRANSFERLIB_TORCH_VERSION)
if(CMAKE_SYSTEM_NAME STREQUAL "Linux" AND EXISTS "${TRANSFERLIB_TORCH_ROOT}/include/torch/csrc/api/include")
  foreach(_transferlib_name torch_cpu c10 torch_cuda c10_cuda)
    _transferlib_torch_library(${_transferlib_name})
  endforeach()
endif()

add_library(transferlib::torch INTERFACE IMPORTED GLOBAL)
if(TARGET transferlib::torch_cpu AND TARGET transferlib::c10)
  target_include_directories(transferlib::torch SYSTEM INTERFACE
    "${TRANSFERLIB_TORCH_ROOT}/include" "${TRANSFERLIB_TORCH_ROOT}/include/torch/csrc/api/include")
  target_link_libraries(transferlib::torch INTERFACE transferlib::torch_cpu transferlib::c10)
  if(TARGET transferlib::torch_cuda)
    # No program names a symbol of torch_cuda, which registers its kernels when it is loaded: it must not be dropped.
    target_link_libraries(transferlib::torch INTERFACE transferlib::c10_cuda transferlib::torch_cuda
      "-Wl,--push-state,--no-as-needed,$<TARGET_FILE:transferlib::torch_cuda>,--pop-state")
  endif()
  # The ABI of std::string that LibTorch was built with.
  file(STRINGS "${_transferlib_torch_config}/TorchConfig.cmake" _transferlib_flags REGEX "TORCH_CXX_FLAGS.*_GLIBCXX_USE_CXX11_ABI")
  if(_transferlib_flags MATCHES "_GLIBCXX_USE_CXX11_ABI=([01])")
    target_compile_definitions(transferlib::torch INTERFACE _GLIBCXX_USE_CXX11_ABI=${CMAKE_MATCH_1})
  endif()
else()
  find_package(Torch REQUIRED CONFIG PATHS "${_transferlib_torch_config}" NO_DEFAULT_PATH)
  foreach(_transferlib_name torch torch_library torch_cpu torch_cpu_library torch_cuda torch_cuda_library c10 c10_cuda)
    if(TARGET ${_transferlib_name})
      set_property(TARGET ${_transferlib_name} PROPERTY IMPORTED_GLOBAL TRUE)
    endif()
  endforeach()
  target_link_libraries(transferlib::torch INTERFACE ${TORCH_LIBRARIES})
endif()
unset(_transferlib_name)
unset(_transferlib_flags)
if(NOT transferlib_FIND_QUIETLY)
  message(STATUS "transferlib: LibTorch ${TRANSFERLIB_TORCH_VERSION} in ${TRANSFERLIB_TORCH_ROOT}")
endif()
