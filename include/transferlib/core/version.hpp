/// \file
/// The library's version, as macros because `#if` reads nothing else. Before 1.0 a new minor version may change what
/// programs see.
#pragma once

/// The version's first number.
#define TRANSFERLIB_VERSION_MAJOR 0
/// The version's second number.
#define TRANSFERLIB_VERSION_MINOR 1
/// The version's third number.
#define TRANSFERLIB_VERSION_PATCH 0
/// The version as a text.
#define TRANSFERLIB_VERSION "0.1.0"
