/// \file
/// What the tools that run networks on folders of pictures share.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>

#include <transferlib/core/environment.hpp>
#include <transferlib/engine/engine.hpp>

#include "../threads.hpp"
#include "arguments.hpp"

namespace tools {

/// "auto", "fp32" or "bf16" as a precision.
inline tl::Precision precision_of(std::string_view given) {
  return given == "fp32" ? tl::Precision::fp32 : given == "bf16" ? tl::Precision::bf16 : tl::Precision::automatic;
}

/// As many threads as were asked for, else one a core; and memory as a program that trains wants it.
inline void settle_threads(int wanted) {
  examples::settle_threads(wanted);
  tl::keep_freed_memory();
}

/// What a folder of data is, by what lies in it.
enum class DataKind { cifar10, cifar100, pictures };
inline DataKind data_kind(const std::filesystem::path& data) {
  const auto has = [&](const char* name) {
    std::error_code ignored;
    return std::filesystem::exists(data / name, ignored);
  };
  if (has("cifar-10-batches-bin") || has("data_batch_1.bin")) return DataKind::cifar10;
  return has("cifar-100-binary") ? DataKind::cifar100 : DataKind::pictures;
}

}  // namespace tools
