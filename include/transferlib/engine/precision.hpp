/// \file
/// In which numbers a network computes, and in which its values are kept. Without LibTorch.
#pragma once

#include <string_view>

#include <transferlib/core/separate.hpp>

namespace transferlib {

/// In which numbers a network computes. `automatic`: bf16 where the processor (fp16 where the GPU) computes with it
/// natively, fp32 elsewhere.
enum class Precision { automatic, fp32, bf16, fp16 };

/// The precision's name: "fp32" …
TRANSFERLIB_API std::string_view to_string(Precision p);

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API std::string_view to_string(Precision p) {
  switch (p) {
    case Precision::automatic:
      return "auto";
    case Precision::fp32:
      return "fp32";
    case Precision::bf16:
      return "bf16";
    case Precision::fp16:
      return "fp16";
  }
  return "auto";
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES
