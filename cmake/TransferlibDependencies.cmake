# What transferlib needs besides LibTorch: the system's packages where they are found, else fetched, each with its hash.
# Installed with the package, whose config file includes it again. Every target made here is global.
include(FetchContent)

# Looks for a package; its targets become visible everywhere.
macro(_transferlib_find package target)
  if(NOT TARGET ${target})
    find_package(${package} ${ARGN} QUIET)
    if(TARGET ${target})
      get_target_property(_transferlib_aliased ${target} ALIASED_TARGET)
      get_target_property(_transferlib_imported ${target} IMPORTED)
      if(_transferlib_imported AND NOT _transferlib_aliased)
        set_property(TARGET ${target} PROPERTY IMPORTED_GLOBAL TRUE)
      endif()
    endif()
  endif()
endmacro()

# Fetches an archive and only unpacks it: what is taken from it is made into targets here.
macro(_transferlib_fetch name url hash)
  message(STATUS "transferlib: fetching ${name}, which was not found on this machine")
  FetchContent_Declare(${name} URL "${url}" URL_HASH "SHA256=${hash}" SOURCE_SUBDIR no-such-folder)
  FetchContent_MakeAvailable(${name})
endmacro()

_transferlib_find(Threads Threads::Threads REQUIRED)

_transferlib_find(Eigen3 Eigen3::Eigen 3.3...<6 CONFIG)
if(NOT TARGET Eigen3::Eigen)
  _transferlib_find(Eigen3 Eigen3::Eigen 3.3 CONFIG)
endif()
if(NOT TARGET Eigen3::Eigen)
  _transferlib_fetch(transferlib_eigen "https://gitlab.com/libeigen/eigen/-/archive/3.4.0/eigen-3.4.0.tar.gz"
    8586084f71f9bde545ee7fa6d00288b264a2b7ac3607b974e54d13e7162c1c72)
  add_library(Eigen3::Eigen INTERFACE IMPORTED GLOBAL)
  target_include_directories(Eigen3::Eigen SYSTEM INTERFACE "${transferlib_eigen_SOURCE_DIR}")
endif()

_transferlib_find(ZLIB ZLIB::ZLIB)
if(NOT TARGET ZLIB::ZLIB)
  _transferlib_fetch(transferlib_zlib "https://github.com/madler/zlib/releases/download/v1.3.1/zlib-1.3.1.tar.gz"
    9a93b2b7dfdac77ceba5a558a580e74667dd6fede4585b91eefb60f03b72df23)
  enable_language(C)
  file(GLOB _transferlib_sources "${transferlib_zlib_SOURCE_DIR}/*.c")
  add_library(transferlib_zlib STATIC EXCLUDE_FROM_ALL ${_transferlib_sources})
  add_library(ZLIB::ZLIB ALIAS transferlib_zlib)
  target_include_directories(transferlib_zlib SYSTEM PUBLIC "${transferlib_zlib_SOURCE_DIR}")
  target_compile_definitions(transferlib_zlib PRIVATE HAVE_UNISTD_H HAVE_STDARG_H)
  set_target_properties(transferlib_zlib PROPERTIES POSITION_INDEPENDENT_CODE ON)
endif()

# libjpeg-turbo and libpng, for transferlib::pictures only.
if(NOT TRANSFERLIB_PICTURES STREQUAL "OFF")
  _transferlib_find(JPEG JPEG::JPEG)
  _transferlib_find(PNG PNG::PNG)
endif()

# libhdf5, for Keras's files. CMake's own FindHDF5 wants the language C and runs a compiler; builds for MPI are passed over.
if(NOT TRANSFERLIB_HDF5 STREQUAL "OFF" AND NOT TARGET transferlib::hdf5)
  find_path(TRANSFERLIB_HDF5_INCLUDE hdf5.h PATH_SUFFIXES hdf5/serial)
  find_library(TRANSFERLIB_HDF5_LIBRARY NAMES hdf5_serial hdf5 PATH_SUFFIXES hdf5/serial)
  mark_as_advanced(TRANSFERLIB_HDF5_INCLUDE TRANSFERLIB_HDF5_LIBRARY)
  set(_transferlib_parallel "")
  if(EXISTS "${TRANSFERLIB_HDF5_INCLUDE}/H5pubconf.h")
    file(STRINGS "${TRANSFERLIB_HDF5_INCLUDE}/H5pubconf.h" _transferlib_parallel REGEX "define H5_HAVE_PARALLEL 1")
  endif()
  if(TRANSFERLIB_HDF5_INCLUDE AND TRANSFERLIB_HDF5_LIBRARY AND NOT _transferlib_parallel)
    add_library(transferlib::hdf5 UNKNOWN IMPORTED GLOBAL)
    set_target_properties(transferlib::hdf5 PROPERTIES IMPORTED_LOCATION "${TRANSFERLIB_HDF5_LIBRARY}"
      INTERFACE_INCLUDE_DIRECTORIES "${TRANSFERLIB_HDF5_INCLUDE}" INTERFACE_COMPILE_DEFINITIONS TRANSFERLIB_HDF5)
  endif()
endif()
