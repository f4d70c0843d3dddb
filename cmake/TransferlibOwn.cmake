# How transferlib's own programs are compiled: strictly, and with one precompiled header between them.
add_library(transferlib_own INTERFACE)
target_compile_options(transferlib_own INTERFACE -Wall -Wextra -Wpedantic -Wconversion -Werror)
if(TRANSFERLIB_PCH)
  # The predictor is position-independent, so all are: a precompiled header serves one kind only.
  target_compile_options(transferlib_own INTERFACE -fPIC)
endif()
if(TRANSFERLIB_PCH AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # The header is good for a program only if every flag and macro is the same: a program that can't use it doesn't build.
  target_compile_options(transferlib_own INTERFACE -Winvalid-pch)
endif()

if(TRANSFERLIB_PCH)
  add_library(transferlib_pch OBJECT "${PROJECT_SOURCE_DIR}/cmake/precompiled.cpp")
  target_link_libraries(transferlib_pch PRIVATE transferlib_compiled transferlib_own)
  target_precompile_headers(transferlib_pch PRIVATE "${PROJECT_SOURCE_DIR}/cmake/precompiled.hpp")
  set_target_properties(transferlib_pch PROPERTIES CXX_EXTENSIONS OFF)
endif()

# Compiled as strictly as the programs that link it, and for speed, as benchmarks are among them.
target_link_libraries(transferlib_compiled PRIVATE "$<BUILD_INTERFACE:transferlib_own>")
if(TRANSFERLIB_TESTS)
  target_compile_options(transferlib_compiled PRIVATE -O2)
endif()

# One of our own programs: transferlib_program(<name> SOURCES … [LINKS …] [NO_PCH])
function(transferlib_program name)
  cmake_parse_arguments(arg "NO_PCH" "" "SOURCES;LINKS" ${ARGN})
  add_executable(${name} ${arg_SOURCES})
  target_link_libraries(${name} PRIVATE ${arg_LINKS} transferlib_own)
  set_target_properties(${name} PROPERTIES CXX_EXTENSIONS OFF)
  if(TRANSFERLIB_PCH AND NOT arg_NO_PCH)
    target_precompile_headers(${name} REUSE_FROM transferlib_pch)
  endif()
endfunction()
