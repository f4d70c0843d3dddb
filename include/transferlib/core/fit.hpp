/// \file
/// How a picture is brought to a network's input. Free of LibTorch.
#pragma once

#include <string_view>

namespace transferlib {

/// How a picture is brought to a network's input.
enum class Fit {
  crop,       ///< scaled by its shorter side, and the middle cut out, as classifiers have it
  stretch,    ///< to the whole of it, each side by its own factor
  letterbox,  ///< scaled as a whole, in the middle of it, on grey (114 of 255), as ultralytics' YOLOv5 does
  darknet,    ///< the same on grey .5, as darknet's `letterbox_image` does: its sides are rounded down
};

/// "crop", "stretch", "letterbox" or "darknet".
constexpr std::string_view to_string(Fit fit) {
  constexpr std::string_view names[] = {"crop", "stretch", "letterbox", "darknet"};
  return names[static_cast<int>(fit)];
}

}  // namespace transferlib
