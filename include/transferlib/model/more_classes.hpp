/// \file
/// A detector that learns more classes and keeps those that it knows: its head grows, and the pictures of the new
/// classes, in which nobody marked the old ones, are taught with what the old detector finds there. The setting is that
/// of Shmelkov, Schmid and Alahari, "Incremental learning of object detectors without catastrophic forgetting" (ICCV
/// 2017); of the old network's answers those that it is sure of are taken as truth (Lee, "Pseudo-label", 2013).
///
/// \code
/// const auto old = load_detector("cells.safetensors");
/// const auto taught = remember(old, pictures);              // boxes of "Platelets", and what `old` finds
/// auto model = add_classes(old, {"Platelets"});
/// Trainer{model, {.epochs = 10}}.fit(taught, validation);
/// \endcode
#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/data/replaced_boxes.hpp>
#include <transferlib/detect/boxes.hpp>
#include <transferlib/detect/detections.hpp>
#include <transferlib/model/detector.hpp>

namespace transferlib {

/// What of an old detector's answers is taken for truth.
struct RememberOptions {
  double threshold = 0.4;  ///< it is surer than this, in [0, 1]
  double overlap = 0.5;    ///< and no marked box of any class overlaps it by more, in [0, 1]
  Precision precision = Precision::fp32;
};

/// The labels of a model, and behind them those that are new. \throws OptionError if one is not
TRANSFERLIB_API Labels with_more(Labels labels, const Labels& more);

/// The data, of whose classes some are new to the detector, with what the detector finds of those that it knows as
/// their truth, beside the boxes that are marked. Its labels are the detector's and behind them the new ones: those of
/// `add_classes`. It looks at all pictures once, without augmentation.
/// \param data must outlive what is returned \throws OptionError where no class is new, or an option is out of range
template <class M, class D>
ReplacedBoxes<D> remember(const M& old, const D& data, const RememberOptions& options = {}) {
  for (const double x : {options.threshold, options.overlap})
    if (!(x >= 0.0 && x <= 1.0))
      throw OptionError(detail::text("a threshold of what is remembered must be in [0, 1], not ", x));
  const Labels have = data.labels();
  Labels fresh;
  for (const std::string& label : have)
    if (std::find(old.labels().begin(), old.labels().end(), label) == old.labels().end()) fresh.push_back(label);
  const Labels labels = with_more(old.labels(), fresh);
  std::vector<Tensor> boxes;
  detail::for_all_batches(data, [&](const Batch& batch) {
    const auto found = old.predict(batch, options.precision);
    const std::vector<Tensor> marked = detail::boxes_by_picture(batch);
    for (std::size_t i = 0; i < marked.size(); ++i) {
      const Detections sure = surer_than(found.at(i), options.threshold);
      std::vector<Tensor> all{detail::relabelled(marked[i], have, labels)};
      if (sure.size() > 0) {
        const auto row = static_cast<Index>(i);
        const double height = batch.sizes[row][0].template item<double>(),
                     width = batch.sizes[row][1].template item<double>();
        Tensor corners = sure.boxes.to(at::kCPU, at::kFloat).clone();
        for (const Index side : {0, 1, 2, 3}) corners.select(1, side).clamp_(0.0, side % 2 == 0 ? width : height);
        Tensor keep =
            corners.select(1, 2).gt(corners.select(1, 0)).logical_and(corners.select(1, 3).gt(corners.select(1, 1)));
        if (marked[i].size(0) > 0) {
          const Tensor theirs = convert_boxes(marked[i].narrow(1, 1, 4), BoxForm::xywh, BoxForm::xyxy);
          keep = keep.logical_and(box_overlaps(corners, theirs).amax(1).le(options.overlap));
        }
        all.push_back(at::cat({sure.labels.to(at::kCPU, at::kFloat).unsqueeze(1),
                               convert_boxes(corners, BoxForm::xyxy, BoxForm::xywh)},
                              1)
                          .index({keep}));
      }
      boxes.push_back(at::cat(all));
    }
  });
  return {data, labels, std::move(boxes)};
}

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API Labels with_more(Labels labels, const Labels& more) {
  if (more.empty()) throw OptionError("no class was given that the detector is to learn");
  for (const std::string& label : more) {
    if (std::find(labels.begin(), labels.end(), label) != labels.end())
      throw OptionError(detail::text("the class ", detail::in_quotes(label),
                                     " can't be added: it is there already; the classes are ",
                                     detail::first_few(labels)));
    labels.push_back(label);
  }
  return labels;
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES
