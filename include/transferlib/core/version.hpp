/// \file
/// The library's version, as macros because `#if` reads nothing else.
#pragma once

#define TRANSFERLIB_VERSION_MAJOR 0
#define TRANSFERLIB_VERSION_MINOR 1
#define TRANSFERLIB_VERSION_PATCH 0
#define TRANSFERLIB_VERSION "0.1.0"
