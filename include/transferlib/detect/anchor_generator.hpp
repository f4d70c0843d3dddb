/// \file
/// The anchors of a region proposal network: boxes of a few sizes and shapes at every place of every map (Ren et al.,
/// "Faster R-CNN", NeurIPS 2015), as torchvision 0.29.1 lays them.
#pragma once

#include <cmath>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ATen.h>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/detect/placement.hpp>

namespace transferlib {

/// Sizes and shapes of anchors, map by map.
class AnchorGenerator {
 public:
  /// \param sizes for each map, the square roots of the anchors' areas, in pixels
  /// \param ratios height / width, of all maps
  /// \throws OptionError
  AnchorGenerator(std::vector<std::vector<double>> sizes, std::vector<double> ratios);

  /// How many maps there are.
  Index maps() const { return static_cast<Index>(sizes_.size()); }
  /// How many anchors a place has.
  Index per_place() const { return static_cast<Index>(sizes_[0].size() * ratios_.size()); }

  /// The anchors around the corner (0, 0) on one map, (anchors, 4) float32, with whole coordinates.
  Tensor of_place(Index map) const;

  /// All anchors of one picture on a canvas, (A, 4) float32 on the device of the maps: map by map, row by row, place by
  /// place. On a canvas of a multiple of 32 pixels, as torchvision's all are, places are canvas / grid pixels apart,
  /// rounded down; on another one, where that is no stride of the network's, as many as the map's stride.
  /// \param maps (N, C, h, w) each \param strides of the maps; none: canvas / grid in any case
  /// \throws OptionError if there is another number of maps
  Tensor operator()(const Activations& maps, PixelSize canvas, std::span<const Index> strides = {}) const {
    if (static_cast<Index>(maps.size()) != this->maps())
      throw OptionError(detail::text("there are anchors for ", this->maps(), " maps and ", maps.size(),
                                     " maps; give a list of sizes for each map"));
    std::vector<Tensor> all;
    for (std::size_t i = 0; i < maps.size(); ++i) {
      const Index height = maps[i].size(2), width = maps[i].size(3);
      const auto shifts = [&](Index n, Index side) {
        const Index apart = strides.empty() || side % 32 == 0 ? side / n : strides[i];
        return at::arange(n, at::TensorOptions(at::kFloat)) * apart;
      };
      const Tensor y = shifts(height, canvas.height).view({-1, 1}).expand({height, width});
      const Tensor x = shifts(width, canvas.width).view({1, -1}).expand({height, width});
      const Tensor shift = at::stack({x, y, x, y}, 2).view({-1, 1, 4});
      all.push_back((shift + of_place(static_cast<Index>(i))).view({-1, 4}));
    }
    return at::cat(all).to(maps[0].device());
  }

 private:
  static void check(double number, const char* what) {
    if (!(number > 0.0 && number < 1e6))
      throw OptionError(detail::text("an anchor's ", what, " must be above 0, not ", number));
  }

  std::vector<std::vector<double>> sizes_;
  std::vector<double> ratios_;
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API AnchorGenerator::AnchorGenerator(std::vector<std::vector<double>> sizes, std::vector<double> ratios)
    : sizes_(std::move(sizes)), ratios_(std::move(ratios)) {
  if (sizes_.empty() || ratios_.empty()) throw OptionError("anchors need at least one size a map and one ratio");
  for (const auto& map : sizes_)
    if (map.empty() || map.size() != sizes_[0].size())
      throw OptionError(detail::text("anchors have ", map.size(), " sizes on one map and ", sizes_[0].size(),
                                     " on another; a head that all maps share needs the same number, at least 1"));
  for (const auto& map : sizes_)
    for (const double size : map) check(size, "size");
  for (const double ratio : ratios_) check(ratio, "ratio");
}

TRANSFERLIB_API Tensor AnchorGenerator::of_place(Index map) const {
  const auto& sizes = sizes_.at(static_cast<std::size_t>(map));
  Tensor out = at::empty({per_place(), 4}, at::TensorOptions(at::kFloat));
  float* to = out.mutable_data_ptr<float>();
  for (const double ratio : ratios_)
    for (const double size : sizes) {
      const float high = std::sqrt(static_cast<float>(ratio)), wide = 1.0F / high;
      const float w = wide * static_cast<float>(size), h = high * static_cast<float>(size);
      for (const float corner : {-w, -h, w, h}) *to++ = std::nearbyint(corner / 2.0F);
    }
  return out;
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES
