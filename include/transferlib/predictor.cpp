/// \file
/// The compiled part of `transferlib::predictor`: every network by name, behind a pointer.
#include <transferlib/predictor.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <numeric>
#include <utility>

#include <ATen/Parallel.h>

#include <transferlib/core/guard.hpp>
#include <transferlib/data/pictures.hpp>
#include <transferlib/detector_zoo.hpp>
#include <transferlib/model/save.hpp>
#include <transferlib/zoo.hpp>

namespace transferlib {
namespace {

/// Where red, green and blue are in a pixel, and its bytes.
struct Layout {
  std::array<Index, 3> channel;
  Index bytes;
};

Layout layout_of(Pixels format) {
  switch (format) {
    case Pixels::rgb8:
      return {{0, 1, 2}, 3};
    case Pixels::bgr8:
      return {{2, 1, 0}, 3};
    case Pixels::rgba8:
      return {{0, 1, 2}, 4};
    case Pixels::bgra8:
      return {{2, 1, 0}, 4};
    case Pixels::grey8:
      return {{0, 0, 0}, 1};
  }
  throw OptionError(detail::text("there is no pixel format ", static_cast<int>(format)));
}

/// The pixels as a batch of one (1, 1 or 3, H, W), copied: the application's memory is its own.
Batch batch_of(const PixelView& view) {
  constexpr Index most = Index{1} << 24;  // a side; the products below then fit
  if (view.data == nullptr) throw DataError("the picture's data is a null pointer");
  if (view.width < 1 || view.height < 1 || view.width > most || view.height > most)
    throw DataError(detail::text("a picture can't have ", view.width, " x ", view.height,
                                 " pixels; each side must lie between 1 and ", most));
  const Layout layout = layout_of(view.format);
  const Index row_bytes = view.width * layout.bytes, stride = view.stride == 0 ? row_bytes : view.stride;
  // Compared without negating the stride, which for the least number can't be done.
  if (stride < row_bytes && stride > -row_bytes)
    throw DataError(detail::text("the stride of ", view.stride, " bytes is shorter than a row, which has ", view.width,
                                 " pixels of ", layout.bytes, " bytes, ", row_bytes,
                                 " in all; the stride is counted in bytes"));
  const Index channels = layout.bytes == 1 ? 1 : 3;
  Tensor pixels = at::empty({1, view.height, view.width, channels}, at::kByte);
  auto* to = pixels.mutable_data_ptr<std::uint8_t>();
  const auto* from = static_cast<const std::uint8_t*>(view.data);
  const bool as_it_is = view.format == Pixels::rgb8 || view.format == Pixels::grey8;
  for (Index y = 0; y < view.height; ++y) {
    const std::uint8_t* p = from + y * stride;
    if (as_it_is) {
      std::memcpy(to, p, static_cast<std::size_t>(row_bytes));
      to += row_bytes;
      continue;
    }
    for (Index x = 0; x < view.width; ++x, p += layout.bytes, to += 3) {
      to[0] = p[layout.channel[0]];
      to[1] = p[layout.channel[1]];
      to[2] = p[layout.channel[2]];
    }
  }
  return {{pixels.permute({0, 3, 1, 2})}, {}, {}};
}

/// Nothing but `Error` passes here.
template <class Work>
decltype(auto) only_errors(std::string_view doing, Work&& work) {
  try {
    return detail::guarded(doing, std::forward<Work>(work));
  } catch (const Error&) {
    throw;
  } catch (const std::exception& e) {
    throw Error(detail::text(doing, ": ", e.what()));
  }
}

torch::Device device_of(const std::string& name) {
  try {
    const torch::Device device(name);
    if (device.is_cpu() || device.is_cuda()) return device;
  } catch (const c10::Error&) {
  }
  throw OptionError(detail::text("there is no device \"", name, "\"; it can be cpu, cuda or cuda:NUMBER"));
}

/// What a model says of a batch of one.
using Ask = std::function<Predictor::Answer(const Batch&)>;

/// The confidences of a picture as an answer, of which `most` labels are the best.
Predictor::Answer answer_of(const Tensor& y, const Labels& labels, std::size_t most, const std::string& path) {
  Predictor::Answer out;
  out.confidences.assign(y.const_data_ptr<float>(), y.const_data_ptr<float>() + y.numel());
  if (out.confidences.size() != labels.size())
    throw WeightsError(detail::text("the model in ", path, " gives ", out.confidences.size(),
                                    " numbers a picture and has ", labels.size(), " labels"));
  for (std::size_t i = 0; i < labels.size(); ++i)
    if (!std::isfinite(out.confidences[i]))
      throw WeightsError(detail::text("the model in ", path, " gives ", out.confidences[i], " for \"", labels[i],
                                      "\": its weights hold numbers that are none; train it again"));
  std::vector<std::size_t> order(labels.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto count = std::min(order.size(), most);
  const auto better = [&](std::size_t a, std::size_t b) {
    return out.confidences[a] != out.confidences[b] ? out.confidences[a] > out.confidences[b] : a < b;
  };
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(), better);
  for (std::size_t i = 0; i < count; ++i)
    out.best.push_back({labels[order[i]], static_cast<Index>(order[i]), out.confidences[order[i]]});
  return out;
}

/// What was found in a picture as an answer.
Predictor::Answer answer_of(const Detections& found, const Labels& labels) {
  const Tensor boxes = found.boxes.to(at::kCPU, at::kFloat).contiguous(),
               scores = found.scores.to(at::kCPU, at::kFloat).contiguous(),
               classes = found.labels.to(at::kCPU, at::kLong).contiguous();
  Predictor::Answer out;
  for (Index i = 0; i < found.size(); ++i) {
    const float* box = boxes.const_data_ptr<float>() + 4 * i;
    const Index index = classes.const_data_ptr<Index>()[i];
    out.objects.push_back({labels.at(static_cast<std::size_t>(index)),
                           index,
                           scores.const_data_ptr<float>()[i],
                           {box[0], box[1], box[2] - box[0], box[3] - box[1]}});
  }
  const auto surer = [](const auto& a, const auto& b) { return a.confidence > b.confidence; };
  std::stable_sort(out.objects.begin(), out.objects.end(), surer);
  return out;
}

/// All tensors of a detector; a window's are those of its classifier.
template <class M>
StateDict state_of(const M& model) {
  if constexpr (requires { model.classifier(); })
    return model.classifier().state();
  else
    return model.state();
}

/// How a model that was loaded is asked.
struct Asking {
  torch::Device device;
  Precision precision;
  const Predictor::Options& options;
  const std::string& path;

  template <class N, class H>
  Ask operator()(Classifier<N, H> model) const {
    model.to(device);
    return [model = std::make_shared<const Classifier<N, H>>(std::move(model)), how = precision,
            most = static_cast<std::size_t>(options.best), path = path](const Batch& batch) {
      return answer_of(model->predict(batch, how).to(at::kCPU, at::kFloat).contiguous(), model->labels(), most, path);
    };
  }

  /// Any detector.
  template <class M>
  Ask operator()(M model) const {
    // They would only be found in no picture.
    for (const auto& [name, tensor] : state_of(model))
      if (tensor.is_floating_point() && !tensor.isfinite().all().template item<bool>())
        throw WeightsError(detail::text("the tensor ", name, " of the model in ", path,
                                        " holds numbers that are none; train it again"));
    model.to(device);
    return [model = std::make_shared<const M>(std::move(model)), how = precision,
            threshold = options.threshold](const Batch& batch) {
      return answer_of(surer_than(model->predict(batch, how).at(0), threshold), model->labels());
    };
  }
};

}  // namespace

struct Predictor::Model {
  About about;
  Labels labels;
  Ask ask;

  Answer answer(const Batch& batch) const {
    // A new thread learns here how many threads the process's options allow it.
    at::get_num_threads();
    return ask(batch);
  }
};

Predictor Predictor::open(const std::filesystem::path& path, const Options& options) {
  return only_errors(detail::text("opening ", path), [&] {
    if (options.best < 1) throw OptionError(detail::text("at least 1 label must be asked for, not ", options.best));
    if (options.threads < 0 || options.threads > 1024)
      throw OptionError(detail::text("threads must be from 1 to 1024, or 0 to leave them, not ", options.threads));
    if (!(options.threshold >= 0.0 && options.threshold <= 1.0))
      throw OptionError(detail::text("the threshold must be from 0 to 1, not ", options.threshold));
    const torch::Device device = device_of(options.device);
    const Precision precision = options.precision == PredictorPrecision::fp32 ? Precision::fp32 : Precision::automatic;
    const auto saved = detail::SavedModel::read(path);
    if (saved.backbone == "custom" || saved.head == "custom")
      throw WeightsError(detail::text("the model in ", path, " has a ", saved.backbone == "custom" ? "network" : "head",
                                      " of its program's own, which a Predictor does not know; that program can "
                                      "load<Network, Head>(path)"));
    auto model = std::make_shared<Model>();
    model->about = {path.string(), saved.backbone, saved.head,         saved.target,
                    saved.source,  saved.licence,  saved.options.size, saved.options.in_channels};
    model->labels = saved.labels;
    const Asking asking{device, precision, options, model->about.path};
    const auto family = detail::family_of(saved);
    if (family == detail::DetectorFamily::sliding) {
      auto window = load_window(path);
      model->labels = window.labels();  // without the background, which the classifier has for a class
      model->about.target = detail::target_name<Boxes>();
      model->ask = asking(std::move(window));
    } else if (saved.target == detail::target_name<ClassIndex>())
      model->ask = asking(load_any<ClassIndex>(path));
    else if (saved.target == detail::target_name<MultiLabel>())
      model->ask = asking(load_any<MultiLabel>(path));
    else if (saved.target == detail::target_name<Values>())
      model->ask = asking(load_any<Values>(path));
    else if (saved.target == detail::target_name<Boxes>())
      model->ask =
          family == detail::DetectorFamily::two_stage ? asking(load_two_stage(path)) : asking(load_detector(path));
    else
      throw WeightsError(detail::text("the model in ", path, " predicts ", saved.target,
                                      ", which this version of transferlib does not know; use a newer one"));
    if (options.threads > 0) at::set_num_threads(options.threads);
    return Predictor(std::move(model));
  });
}

Predictor Predictor::open(const std::filesystem::path& path) { return open(path, Options{}); }

Predictor::Answer Predictor::operator()(const PixelView& picture) const {
  return only_errors("predicting", [&] { return model_->answer(batch_of(picture)); });
}

Predictor::Answer Predictor::operator()(const std::filesystem::path& path) const {
  return only_errors(detail::text("predicting ", path), [&] {
    const Picture picture = read_picture(path);
    return model_->answer(batch_of({.data = picture.pixels.data(),
                                    .width = picture.width,
                                    .height = picture.height,
                                    .format = picture.channels == 1 ? Pixels::grey8 : Pixels::rgb8}));
  });
}

const Labels& Predictor::labels() const { return model_->labels; }

const Predictor::About& Predictor::about() const { return model_->about; }

}  // namespace transferlib
