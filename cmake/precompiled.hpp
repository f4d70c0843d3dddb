/// \file
/// The third-party headers that transferlib's own programs share precompiled. None of our own: those change.
#pragma once

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include <ATen/ATen.h>
#include <torch/nn/module.h>
#include <torch/types.h>
