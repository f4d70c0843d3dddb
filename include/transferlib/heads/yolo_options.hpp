/// \file
/// What one anchor-based YOLO differs by from another: numbers and choices, and those of versions 2, 3, 4, 5 and 7.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/detect/anchors.hpp>
#include <transferlib/detect/boxes.hpp>
#include <transferlib/detect/selection.hpp>
#include <transferlib/heads/yolo_decode.hpp>

namespace transferlib {

/// Which predictions are to find an object.
enum class Matching {
  best,    ///< the anchor of the best shape, in the cell of the object's centre (v2 to v4)
  ratio,   ///< all anchors whose sides are near the object's, in the nearest cells (v5)
  simota,  ///< of those, what the network finds easiest (v7)
};

/// What classes are to each other.
enum class ClassRelation {
  logistic,  ///< independent: an object may be of several (v3 on)
  softmax,   ///< they exclude each other (v2)
};

/// What a prediction that finds an object should be sure of.
enum class Objectness {
  one,      ///< that it does (v3, v4)
  overlap,  ///< how far its box overlaps the object's (v2, v5, v7)
};

/// What losses are divided by.
enum class LossScale {
  pictures,  ///< the number of pictures (darknet)
  means,     ///< that of predictions; then as if the picture had 640 x 640 pixels, 80 classes and three maps (v5, v7)
};

/// An anchor-based YOLO. The defaults are those of YOLO v3 on COCO at 416 x 416.
struct YoloOptions {
  /// In pixels, of each map, the finest first. Where the pyramid has more maps they are those of the coarsest.
  LevelAnchors anchors{
      {{10, 13}, {16, 30}, {33, 23}}, {{30, 61}, {62, 45}, {59, 119}}, {{116, 90}, {156, 198}, {373, 326}}};
  BoxSizes sizes = BoxSizes::exponential;
  std::vector<double> grid_sensitivity{1.0};  ///< `scale_x_y`, at least 1: of each map, or one of all
  ClassRelation classes = ClassRelation::logistic;

  Matching matching = Matching::best;
  double anchor_threshold = 1.0;  ///< `best`: other anchors whose shapes overlap by more are matched too
  double ignore_threshold = 0.7;  ///< `best`: what overlaps an object by more need not be sure that it shows nothing
  double anchor_ratio = 4.0;      ///< `ratio`, `simota`: how many times an anchor's side a box's may be
  double cell_reach = 0.5;        ///< `ratio`, `simota`: how near a neighbouring cell must be, in cells
  Index ota_most = 10;            ///< `simota`: the overlaps whose sum tells how many predictions an object gets

  std::optional<Overlap> box_loss =
      std::nullopt;  ///< one less this overlap; none: the numbers of the box themselves (v2, v3)
  Objectness objectness = Objectness::one;
  LossScale scale = LossScale::pictures;
  double box_weight = 1.0, objectness_weight = 1.0, class_weight = 1.0;
  double object_weight = 1.0;         ///< of objectness where there is an object, beside where there is none
  std::vector<double> balance{1.0};   ///< of each map's objectness, the finest first, or one of all
  double label_smoothing = 0.0;       ///< in [0, 1): logistic classes are to be half of it away from 0 and 1
  double focal_gamma = 0.0;           ///< above 0: focal loss (Lin et al., 2017) of logistic classes and objectness
  bool auxiliary = false;             ///< a second head that only learns, matched by what the first predicts (v7)
  double auxiliary_weight = 0.25;     ///< of its losses
  double auxiliary_cell_reach = 1.0;  ///< in cells: five cells an object

  Selection selection{};   ///< which predictions are detections
  std::uint64_t seed = 0;  ///< what the start weights are drawn from
};

/// YOLO v2 (Redmon and Farhadi, "YOLO9000", CVPR 2017) on one map of stride 32: the anchors are darknet's for COCO,
/// which it gives in cells.
TRANSFERLIB_API YoloOptions yolo_v2();

/// YOLO v3 (Redmon and Farhadi, "YOLOv3: An incremental improvement", 2018).
inline YoloOptions yolo_v3() { return {}; }

/// YOLO v4 (Bochkovskiy, Wang and Liao, 2020): its anchors for 512 x 512, several anchors an object, centres that
/// reach the cells' borders, CIoU.
TRANSFERLIB_API YoloOptions yolo_v4();

/// YOLO v5 (Jocher et al., 2020, release 6): ratio-based matching to three cells, anchors for 640 x 640.
TRANSFERLIB_API YoloOptions yolo_v5();

/// YOLO v7 (Wang, Bochkovskiy and Liao, CVPR 2023): dynamic label assignment; set `.auxiliary = true` for its
/// auxiliary head.
TRANSFERLIB_API YoloOptions yolo_v7();

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API YoloOptions yolo_v2() {
  return {.anchors = {{{18.3273602, 21.6763191},
                       {59.9827194, 66.0009613},
                       {106.829758, 175.178879},
                       {252.250244, 112.888962},
                       {312.656647, 293.384949}}},
          .classes = ClassRelation::softmax,
          .ignore_threshold = 0.6,
          .objectness = Objectness::overlap,
          .object_weight = 5.0};
}

TRANSFERLIB_API YoloOptions yolo_v4() {
  return {.anchors = {{{12, 16}, {19, 36}, {40, 28}},
                      {{36, 75}, {76, 55}, {72, 146}},
                      {{142, 110}, {192, 243}, {459, 401}}},
          .grid_sensitivity = {1.2, 1.1, 1.05},
          .anchor_threshold = 0.213,
          .box_loss = Overlap::ciou,
          .box_weight = 0.07,
          .selection = {.suppression = Suppression::diou}};
}

TRANSFERLIB_API YoloOptions yolo_v5() {
  return {.sizes = BoxSizes::squared,
          .grid_sensitivity = {2.0},
          .matching = Matching::ratio,
          .box_loss = Overlap::ciou,
          .objectness = Objectness::overlap,
          .scale = LossScale::means,
          .box_weight = 0.05,
          .class_weight = 0.5,
          .balance = {4.0, 1.0, 0.4}};
}

TRANSFERLIB_API YoloOptions yolo_v7() {
  YoloOptions o = yolo_v5();
  o.anchors = yolo_v4().anchors;
  o.matching = Matching::simota;
  o.objectness_weight = 0.7;
  o.class_weight = 0.3;
  return o;
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES
