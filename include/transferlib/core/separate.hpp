/// \file
/// Header-only, or compiled once. By default each function is defined in its header, and there is nothing to build.
/// With `TRANSFERLIB_SEPARATE`, which CMake's target `transferlib::compiled` sets, the headers only declare the long
/// ones: they are compiled once, into a library (`compiled.cpp`), and a program that uses them compiles in less than
/// half the time.
#pragma once

/// \cond
#if !defined(TRANSFERLIB_SEPARATE)
#define TRANSFERLIB_DEFINES 1
#define TRANSFERLIB_API inline
#elif defined(TRANSFERLIB_IMPLEMENTATION)
// Inline here too, so that the library is optimised as the headers are.
#define TRANSFERLIB_DEFINES 1
#define TRANSFERLIB_API inline __attribute__((used))
#else
#define TRANSFERLIB_DEFINES 0
#define TRANSFERLIB_API
#endif
/// \endcond
