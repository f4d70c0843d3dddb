/// \file
/// YOLO's first version (Redmon, Divvala, Girshick and Farhadi, "You only look once", CVPR 2016): the picture is a
/// grid, each cell tells two boxes and one set of classes, all of it by one linear layer and squared errors.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/detect/assign.hpp>
#include <transferlib/detect/boxes.hpp>
#include <transferlib/detect/selection.hpp>
#include <transferlib/heads/yolo_decode.hpp>
#include <transferlib/metrics/detection.hpp>
#include <transferlib/nn/modules.hpp>

namespace transferlib {

/// What v1's head gives.
struct YoloGrid {
  /// (N, side² (classes + 5 boxes)) in darknet's order: the classes of each cell, row by row; how sure each cell's
  /// boxes are; each box's centre within the cell and the roots of its width and height as parts of the picture.
  Tensor values;
  double width = 0.0, height = 0.0;  ///< of the network's input, in pixels
};

/// v1's head on the last map. Parameters `hidden.weight`, `hidden.bias` where there is a hidden layer, `output.weight`,
/// `output.bias`.
class YoloV1 : public Module {
 public:
  using Input = Pyramid;
  using Output = YoloGrid;
  using Target = Boxes;
  using Prediction = std::vector<Detections>;
  using Metric = BoxAveragePrecision;
  struct Options {
    Index side = 7;    ///< cells along a side; a map of another size is averaged to it
    Index boxes = 2;   ///< of a cell
    Index hidden = 0;  ///< units of a hidden layer with leaky ReLU, 4096 in the paper; 0: none
    bool connected =
        true;  ///< one layer over the whole map; else the same one in each cell, a hundredth of the weights
    Index places =
        0;  ///< `connected`: the map's side that the layer sees, one of other sizes is averaged to it; 0: `side`
    bool softmax = false;  ///< classes exclude each other
    bool roots = true;     ///< width and height are told by their square roots
    double dropout = 0.5;  ///< probability, in training, before the last layer
    double box_weight = 5.0, object_weight = 1.0, empty_weight = 0.5, class_weight = 1.0;
    Selection selection{};
    std::uint64_t seed = 0;
  };

  YoloV1(const FeatureSpec& features, const Options& options);

  Output forward(const Activations& pyramid, const Pass& pass);

  /// Squared errors, summed and divided by the number of pictures: "box", "objectness", "class". A cell has one object,
  /// the first; of its boxes the one that overlaps it most is responsible, or, where none does, the nearest.
  LossTerms loss(const Output& output, const Batch& batch);

  Prediction predict(const Output& output);

  /// The options; thresholds may be changed between predictions.
  Options& options() { return options_; }

 private:
  struct Parts {
    Tensor classes, sure, boxes;  // (N, cells, classes), (N, cells, boxes), (N, cells, boxes, 4)
  };
  /// The side of the map that the first layer sees.
  Index seen() const { return options_.connected && options_.places > 0 ? options_.places : options_.side; }
  Parts parts(const Tensor& values) const;
  /// Centre and size as parts of the picture.
  Tensor in_picture(const Tensor& boxes, const Tensor& cell) const {
    const Tensor size = boxes.narrow(-1, 2, 2);
    return at::cat({(boxes.narrow(-1, 0, 2) + cell) / options_.side, options_.roots ? size.square() : size}, -1);
  }
  static Tensor picture_size(const Output& y) {
    return at::tensor({y.width, y.height, y.width, y.height}, at::kDouble).to(detail::exact(y.values).options());
  }
  std::shared_ptr<nn::Linear> layer(const char* name, Index in, Index out, std::uint64_t number) {
    auto made = register_module(name, std::make_shared<nn::Linear>(in, out));
    detail::kaiming_uniform(made->weight, options_.seed, number);
    detail::uniform_bias(made->bias, in, options_.seed, number + 1);
    return made;
  }

  Options options_;
  Index classes_ = 0;
  double stride_ = 1.0;
  std::shared_ptr<nn::Linear> hidden_, output_;
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API YoloV1::YoloV1(const FeatureSpec& features, const Options& options)
    : Module("YoloV1"), options_(options), classes_(features.classes) {
  const Options& o = options;
  if (features.channels.empty() || features.strides.empty() || features.classes < 1 || o.side < 1 || o.boxes < 1 ||
      o.hidden < 0 || o.places < 0)
    throw OptionError("a YOLO v1 head needs a map, a class, a cell and a box at least");
  detail::check_selection(o.selection);
  stride_ = static_cast<double>(features.strides.back());
  const Index cell = classes_ + 5 * o.boxes, cells = o.connected ? o.side * o.side : 1;
  const Index in = features.channels.back() * (o.connected ? seen() * seen() : 1);
  if (o.hidden > 0) hidden_ = layer("hidden", in, o.hidden, 1);
  output_ = layer("output", o.hidden > 0 ? o.hidden : in, cell * cells, 3);
}

TRANSFERLIB_API YoloV1::Output YoloV1::forward(const Activations& pyramid, const Pass& pass) {
  const Tensor map = pyramid.back().to(output_->weight.scalar_type());
  const Index n = map.size(0);
  Tensor x = at::adaptive_avg_pool2d(map, {seen(), seen()});
  x = options_.connected ? x.flatten(1) : x.permute({0, 2, 3, 1});
  if (hidden_ != nullptr) x = activate(hidden_->forward(x), Activation::leaky_relu);
  x = output_->forward(detail::dropout(x, options_.dropout, pass, 1 << 20));
  if (!options_.connected) {
    const Index b = options_.boxes;
    const auto part = [&](Index first, Index count) { return x.narrow(3, first, count).reshape({n, -1}); };
    x = at::cat({part(0, classes_), part(classes_, b), part(classes_ + b, 4 * b)}, 1);
  }
  return {x, static_cast<double>(map.size(3)) * stride_, static_cast<double>(map.size(2)) * stride_};
}

TRANSFERLIB_API LossTerms YoloV1::loss(const Output& output, const Batch& batch) {
  const Options& o = options_;
  const Parts v = parts(output.values);
  const Objects objects = objects_of(batch, classes_, v.boxes);
  const Index n = v.classes.size(0), cells = o.side * o.side;
  if (objects.pictures != n)
    throw DataError(detail::text("the target is of ", objects.pictures, " pictures, the output of ", n));
  const Tensor scale = picture_size(output);
  const Tensor place = objects.boxes / scale;  // parts of the picture
  const Tensor cell = (place.narrow(1, 0, 2) * o.side).floor().clamp(0, o.side - 1);
  const Tensor key = objects.picture * cells + (cell.select(1, 1) * o.side + cell.select(1, 0)).to(at::kLong);
  const Tensor first = at::full({n * cells}, objects.size(), key.options())
                           .scatter_reduce_(0, key, at::arange(objects.size(), key.options()), "amin");
  const Tensor taken = first.lt(objects.size()).nonzero().select(1, 0), object = first.index_select(0, taken);

  const Tensor truth = place.index_select(0, object).unsqueeze(1), at_cell = cell.index_select(0, object);
  const Tensor found = v.boxes.flatten(0, 1).index_select(0, taken);  // (K, boxes, 4)
  Tensor responsible, overlap;
  {
    const torch::NoGradGuard guard;
    const Tensor box = in_picture(found, at_cell.unsqueeze(1));
    const Tensor iou = paired_overlaps(detail::to_corners(box), detail::to_corners(truth).expand_as(box));
    const Tensor near = -(box - truth).square().sum(-1);
    responsible = at::where(iou.amax(1, true).gt(0.0), iou, near).argmax(1, true);
    overlap = iou.gather(1, responsible).squeeze(1);
  }
  const Tensor mine = found.gather(1, responsible.unsqueeze(2).expand({-1, 1, 4})).squeeze(1);
  const Tensor box = truth.squeeze(1);
  const Tensor wanted = at::cat(
      {box.narrow(1, 0, 2) * o.side - at_cell, options_.roots ? box.narrow(1, 2, 2).sqrt() : box.narrow(1, 2, 2)}, 1);
  const Tensor sure = v.sure.flatten(), which = taken * o.boxes + responsible.squeeze(1);
  const Tensor empty = at::ones_like(sure).index_fill_(0, which, 0.0);
  const Tensor classes = at::zeros({taken.size(0), classes_}, sure.options())
                             .scatter_(1, objects.label.index_select(0, object).unsqueeze(1), 1.0);
  const double pictures = static_cast<double>(std::max<Index>(n, 1));
  const auto term = [&](const Tensor& sum, double weight) { return sum * (weight / pictures); };
  return {{{"box", term((mine - wanted).square().sum(), o.box_weight)},
           {"objectness", term((sure.square() * empty).sum(), o.empty_weight) +
                              term((sure.index_select(0, which) - overlap).square().sum(), o.object_weight)},
           {"class", term((v.classes.flatten(0, 1).index_select(0, taken) - classes).square().sum(), o.class_weight)}}};
}

TRANSFERLIB_API YoloV1::Prediction YoloV1::predict(const Output& output) {
  const torch::NoGradGuard guard;
  const Parts v = parts(output.values);
  const Tensor grid = detail::cell_grid(options_.side, options_.side, v.boxes.options()).view({-1, 1, 2});
  const Tensor boxes = detail::to_corners(in_picture(v.boxes, grid) * picture_size(output)).flatten(1, 2);
  const Tensor scores = (v.sure.unsqueeze(3) * v.classes.unsqueeze(2)).clamp(0.0, 1.0).flatten(1, 2);
  Prediction out;
  for (Index n = 0; n < boxes.size(0); ++n) out.push_back(select_detections(boxes[n], scores[n], options_.selection));
  return out;
}

TRANSFERLIB_API YoloV1::Parts YoloV1::parts(const Tensor& values) const {
  const Index n = values.size(0), cells = options_.side * options_.side, b = options_.boxes;
  const Tensor flat = detail::exact(values).flatten(1);
  const Tensor classes = flat.narrow(1, 0, cells * classes_).view({n, cells, classes_});
  return {options_.softmax ? classes.softmax(2) : classes,
          flat.narrow(1, cells * classes_, cells * b).view({n, cells, b}),
          flat.narrow(1, cells * (classes_ + b), cells * b * 4).view({n, cells, b, 4})};
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES
