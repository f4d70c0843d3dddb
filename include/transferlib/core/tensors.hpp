/// \file
/// The data that flows between the library's parts, as tensors: batches, activations, preprocessing, feature shapes.
#pragma once

#include <array>
#include <concepts>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <torch/nn/module.h>

#include <transferlib/core/fit.hpp>
#include <transferlib/core/layers.hpp>

namespace transferlib {

/// LibTorch's tensor.
using Tensor = torch::Tensor;
/// LibTorch's module, the base of every network and head.
using Module = torch::nn::Module;

/// What crosses a boundary of a network: one tensor; inside a residual block the skip too; or a pyramid of maps.
using Activations = std::vector<Tensor>;

/// \name What a data set's `target` tensor means; a head learns one of them. Tags, checked at compile time.
/// \{
struct ClassIndex {};  ///< (N) int64, the index of the picture's one class
struct MultiLabel {};  ///< (N, classes) float32, 1 for each class that the picture shows
struct Values {};      ///< (N, D) float32, numbers to predict (regression)
struct Boxes {};       ///< (M, 5) float32: class, x, y, width, height in pixels; `offsets` tells whose they are
/// \}

/// \name What a head takes from a backbone.
/// \{
struct Pooled {};   ///< (N, C): the last map, averaged over its places
struct Map {};      ///< (N, C, h, w): the last map
struct Pyramid {};  ///< a list of (N, C_i, h_i, w_i), finest first
/// \}

/// Some pictures and what is known of them. `pictures` holds blocks (n, C, H, W) of pictures of one size, uint8 in
/// 0 … 255 or float32 in [0, 1], in order: one block where all sizes are equal, up to one a picture where they are not.
struct Batch {
  std::vector<Tensor> pictures;
  Tensor target{};   ///< its meaning is the data set's `Target`
  Tensor offsets{};  ///< for `Boxes`: (N + 1) int64, picture i owns the rows offsets[i] … offsets[i + 1] - 1
  Tensor sizes{};    ///< for `Boxes`: (N, 2) int64, height and width of each picture as its data set gives it

  /// The number of pictures.
  Index size() const {
    Index n = 0;
    for (const Tensor& block : pictures) n += block.size(0);
    return n;
  }
};

/// What one picture's augmentation is drawn from. `view` is which of its views is wanted: the view's number itself for
/// a finite set of views (flips), a counter to draw from otherwise.
struct Draw {
  std::uint64_t seed = 0;
  Index view = 0;
  Index index = 0;  ///< the picture's index in its data set
};

/// How pictures are scaled to a network's size: antialiased, as torchvision's and PIL's `resize` (`nearest` is not), or
/// as darknet does it (`corners`): bilinear between the four nearest pixels, the pictures' corners being one point.
enum class Interpolation { bilinear, bicubic, nearest, corners };

/// How a picture becomes what the network was trained on: scale so that the shorter side is `size / crop_fraction`, cut
/// the middle `size` x `size` (or `fit` it otherwise, as detectors do), bring to [0, 1], subtract `mean`, divide by
/// `deviation`, channel by channel in the order R, G, B.
struct Preprocessing {
  Index size = 224;
  std::array<double, 3> mean{0.485, 0.456, 0.406};
  std::array<double, 3> deviation{0.229, 0.224, 0.225};
  Interpolation interpolation = Interpolation::bilinear;
  double crop_fraction = 1.0;  ///< means something to `Fit::crop` only
  Fit fit = Fit::crop;

  friend bool operator==(const Preprocessing&, const Preprocessing&) = default;
};

/// A published network's identity: its name in the zoo, the published file of its weights, their source and licence,
/// and the preprocessing that it was trained with.
struct Card {
  const char* name = "";
  const char* file = "";     ///< the published file's name; what `pretrained()` looks for
  const char* source = "";   ///< where it is published
  const char* sha256 = "";   ///< of that file, or its first digits; empty: not checked
  const char* licence = "";  ///< of the weights, an SPDX name
  Preprocessing preprocessing{};
  Index minimum_size = 32;   ///< the smallest side of a picture that leaves the last map a place
  const char* url = "";      ///< of the published file
  const char* aliases = "";  ///< other names of the same network, as timm's, with spaces between
  double top1 = 0.0;         ///< accuracy on ImageNet in percent, as published with the file; 0: unknown
};

/// From where in a network its pooled features come, each map averaged over its places, and all side by side. Early
/// layers see what the last ones have thrown away for the sake of their own classes.
enum class Depths {
  last,    ///< the last map alone, or what the original's classifier takes
  stages,  ///< the maps of the pyramid too
  blocks   ///< the sums of residual blocks too
};

/// What a network can be built with other than as published.
struct NetworkOptions {
  Index size = 0;                ///< the side of its input in pixels; 0: the card's
  Index in_channels = 3;         ///< channels of its input
  Index output_stride = 32;      ///< input pixels a place of the last map
  Depths depths = Depths::last;  ///< where its pooled features come from
  bool deviations = false;       ///< beside each map's mean its standard deviation; nothing where `depths` is `last`
};

/// What a head is built from: the backbone's measured feature shapes and the number of classes.
struct FeatureSpec {
  std::vector<Index> channels;  ///< of each map of the pyramid, finest first
  std::vector<Index> strides;   ///< input pixels a place, of each map
  Index width = 0;              ///< channels of the pooled features
  Index classes = 0;            ///< classes (or values) to predict
};

/// One pass through a network: whether it is training, and what its random numbers (dropout) are drawn from.
struct Pass {
  bool training = false;
  std::uint64_t seed = 0;
  Index number = 0;  ///< counts the passes of a run
};

/// The loss, term by term: the sum is minimised, each name is a column of the metrics.
struct LossTerms {
  std::vector<std::pair<std::string, Tensor>> terms;

  /// The sum of all terms, a scalar.
  Tensor total() const {
    Tensor sum = terms.at(0).second;
    for (std::size_t i = 1; i < terms.size(); ++i) sum = sum + terms[i].second;
    return sum;
  }
};

/// Named numbers, as metrics report them.
using NamedValues = std::vector<std::pair<std::string, double>>;

/// A user's own network, part by part: a name, the module, and how it is called. The parts run one after the other.
struct Stage {
  /// `forward` of the module must take a tensor and return one.
  template <class M>
  requires requires(M& m, Tensor x) {
    { m.forward(x) } -> std::convertible_to<Tensor>;
  }
  Stage(std::string stage_name, std::shared_ptr<M> part)
      : name(std::move(stage_name)), module(part), run([p = part.get()](const Tensor& x) { return p->forward(x); }) {}

  /// A `torch::nn::ModuleHolder`, as `torch::nn::Sequential` and `torch::nn::Conv2d` are.
  template <class Holder>
  requires requires(const Holder& h) { h.ptr(); }
  Stage(std::string stage_name, const Holder& holder) : Stage(std::move(stage_name), holder.ptr()) {}

  std::string name;
  std::shared_ptr<Module> module;
  std::function<Tensor(const Tensor&)> run;
};

/// What a user's own network returns from `stages()`.
using Stages = std::vector<Stage>;

namespace detail {

/// Float32 at least, where autocast has computed in less.
inline Tensor exact(const Tensor& x) { return x.to(at::promote_types(x.scalar_type(), at::kFloat)); }

}  // namespace detail
}  // namespace transferlib
