/// \file
/// Everything that a classifier's answers to a data set tell, gathered in one pass, and the report of it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ATen.h>

#include <transferlib/core/concepts.hpp>
#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/formats/png_writer.hpp>
#include <transferlib/metrics/calibration.hpp>
#include <transferlib/metrics/classification.hpp>
#include <transferlib/report/html.hpp>
#include <transferlib/report/shown.hpp>

namespace transferlib {
namespace detail {

/// A picture (C, H, W) of a data set as PNG, its longer side at most `side` pixels; of other than three channels the
/// first is shown.
TRANSFERLIB_API std::string picture_png(const Tensor& picture, Index side);

}  // namespace detail

/// The mistakes as pictures. \param data what was evaluated, in its order; a name is shown where it has `path(id)`
/// \param side the longer side of what is shown, at most, in pixels
template <class D>
std::vector<ReportPicture> mistake_pictures(const std::vector<Mistake>& mistakes, const D& data, Index side = 160) {
  static_assert(Dataset<D>,
                "transferlib: mistake_pictures: not a Dataset: it needs Target, size(), batch(ids), labels()");
  const Labels labels = data.labels();
  const auto label = [&](Index i) { return labels.at(static_cast<std::size_t>(i)); };
  std::vector<ReportPicture> out;
  for (const Mistake& m : mistakes) {
    const Batch batch = data.batch(std::span(&m.index, 1));
    ReportPicture picture{.bytes = detail::picture_png(batch.pictures.at(0)[0], side),
                          .truth = label(m.truth),
                          .predicted = label(m.predicted),
                          .confidence = m.confidence};
    if constexpr (requires { data.path(m.index).filename().string(); })
      picture.name = data.path(m.index).filename().string();
    else
      picture.name = detail::text("no. ", m.index);
    out.push_back(std::move(picture));
  }
  return out;
}

/// A metric that keeps all that a report of a classifier tells: `Evaluation all; trainer.evaluate(data, all);`
class Evaluation {
 public:
  /// \param probabilities (N, classes); \param batch its `target` (N) int64. \throws DataError
  void update(const Tensor& probabilities, const Batch& batch) {
    confusion_.update(probabilities, batch);
    calibration_.update(probabilities, batch);
    mistakes_.update(probabilities, batch);
  }
  /// `accuracy`, and what `Calibration` tells.
  NamedValues values() const {
    NamedValues out = calibration_.values();
    out.insert(out.begin(), {"accuracy", confusion_.scores().accuracy});
    return out;
  }
  const ConfusionMatrix& confusion() const { return confusion_; }
  const Calibration& calibration() const { return calibration_; }
  const WorstMistakes& mistakes() const { return mistakes_; }

  /// The report, to which title, history and tables can be added. \param data what was evaluated; not augmented
  template <class D>
  Report report(const D& data) const {
    Report out;
    const auto scores = confusion_.scores();
    const auto bins = calibration_.bins();
    const auto percent = [](double part) { return detail::fixed(100.0 * part, 2) + " %"; };
    out.numbers = {{"accuracy", percent(scores.accuracy)},
                   {"mean F1", percent(scores.macro.f1)},
                   {"log loss", detail::fixed(calibration_.negative_log_likelihood(), 4)},
                   {"calibration error", percent(expected_calibration_error(bins))},
                   {"pictures", format_count(scores.seen)}};
    if (scores.seen > 0) {
      out.labels = data.labels();
      out.confusion = confusion_.counts();
      out.reliability = bins;
    }
    out.mistakes = mistake_pictures(mistakes_.mistakes(), data);
    return out;
  }

 private:
  ConfusionMatrix confusion_;
  Calibration calibration_;
  WorstMistakes mistakes_;
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API std::string picture_png(const Tensor& picture, Index side) {
  Tensor x = picture.detach().cpu();
  x = x.scalar_type() == at::kByte ? x.to(at::kFloat) : x.to(at::kFloat) * 255.0;
  if (x.size(0) != 3) x = x.narrow(0, 0, 1);
  const Index height = x.size(1), width = x.size(2), longer = std::max(height, width);
  if (longer > side) {
    const auto scaled = [&](Index n) { return std::max<Index>(n * side / longer, 1); };
    x = at::_upsample_bilinear2d_aa(x.unsqueeze(0), {scaled(height), scaled(width)}, false)[0];
  }
  const Tensor bytes = x.round().clamp(0.0, 255.0).to(at::kByte).permute({1, 2, 0}).contiguous();
  return encode_png({bytes.const_data_ptr<std::uint8_t>(), static_cast<std::size_t>(bytes.numel())}, bytes.size(1),
                    bytes.size(0), bytes.size(2));
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES
