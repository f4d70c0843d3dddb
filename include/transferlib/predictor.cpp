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

using Predict = std::function<Tensor(const Batch&)>;

template <class Target>
Predict predict_with(const std::filesystem::path& path, const torch::Device& device, Precision precision) {
  auto model = std::make_shared<AnyClassifier<Target>>(load_any<Target>(path));
  model->to(device);
  return [model, precision](const Batch& batch) {
    return std::as_const(*model).predict(batch, precision).to(at::kCPU, at::kFloat).contiguous();
  };
}

}  // namespace

struct Predictor::Model {
  About about;
  Labels labels;
  Index best = 5;
  Predict predict;

  Answer answer(const Batch& batch) const {
    // A new thread learns here how many threads the process's options allow it.
    at::get_num_threads();
    const Tensor y = predict(batch);
    Answer out;
    out.confidences.assign(y.const_data_ptr<float>(), y.const_data_ptr<float>() + y.numel());
    if (out.confidences.size() != labels.size())
      throw WeightsError(detail::text("the model in ", about.path, " gives ", out.confidences.size(),
                                      " numbers a picture and has ", labels.size(), " labels"));
    for (std::size_t i = 0; i < labels.size(); ++i)
      if (!std::isfinite(out.confidences[i]))
        throw WeightsError(detail::text("the model in ", about.path, " gives ", out.confidences[i], " for \"",
                                        labels[i], "\": its weights hold numbers that are none; train it again"));
    std::vector<std::size_t> order(labels.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    const auto count = std::min(order.size(), static_cast<std::size_t>(best));
    const auto better = [&](std::size_t a, std::size_t b) {
      return out.confidences[a] != out.confidences[b] ? out.confidences[a] > out.confidences[b] : a < b;
    };
    std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(), better);
    for (std::size_t i = 0; i < count; ++i)
      out.best.push_back({labels[order[i]], static_cast<Index>(order[i]), out.confidences[order[i]]});
    return out;
  }
};

Predictor Predictor::open(const std::filesystem::path& path, const Options& options) {
  return only_errors(detail::text("opening ", path), [&] {
    if (options.best < 1) throw OptionError(detail::text("at least 1 label must be asked for, not ", options.best));
    if (options.threads < 0 || options.threads > 1024)
      throw OptionError(detail::text("threads must be from 1 to 1024, or 0 to leave them, not ", options.threads));
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
    model->best = options.best;
    if (saved.target == detail::target_name<ClassIndex>())
      model->predict = predict_with<ClassIndex>(path, device, precision);
    else if (saved.target == detail::target_name<MultiLabel>())
      model->predict = predict_with<MultiLabel>(path, device, precision);
    else if (saved.target == detail::target_name<Values>())
      model->predict = predict_with<Values>(path, device, precision);
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
