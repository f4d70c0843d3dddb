/// \file
/// A trained model for an application: pixels in, labels and confidences out. No header of LibTorch is reached from
/// here, so that a framework's macros (Qt's `slots`, `signals`, `emit`, `foreach`) and this file get along; link
/// `transferlib::predictor`.
///
/// \code
/// const auto predictor = transferlib::Predictor::open("mugs.safetensors");
/// const auto answer = predictor({.data = p, .width = w, .height = h, .stride = s, .format = Pixels::bgr8});
/// std::puts(answer.best[0].label.c_str());
/// \endcode
///
/// A detector answers with objects:
/// \code
/// for (const auto& o : answer.objects) draw(o.label, o.box.left, o.box.top, o.box.width, o.box.height);
/// \endcode
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/layers.hpp>

namespace transferlib {

/// How a pixel lies in memory: one byte a channel, in the order of the letters. Alpha is passed over, not composed.
enum class Pixels { rgb8, bgr8, rgba8, bgra8, grey8 };

/// A picture in the application's memory, which is only read, and only during the call.
struct PixelView {
  const void* data = nullptr;  ///< the first pixel of the top row
  Index width = 0;             ///< in pixels
  Index height = 0;            ///< in pixels
  /// Bytes from a row to the one below it; 0: the rows follow one another without gaps. Negative where the rows are
  /// stored from the bottom up: `data` is still the top row, which then lies last.
  Index stride = 0;
  Pixels format = Pixels::rgb8;
};

/// In which numbers a predictor computes.
enum class PredictorPrecision {
  automatic,  ///< bfloat16 (on a GPU float16) where the hardware computes with it natively, else float32
  fp32        ///< float32 throughout, which is slower there
};

/// A trained model, opened for use. A const predictor may be called from any number of threads at once; copies are
/// cheap, and share the model.
class Predictor {
 public:
  /// How a predictor works; all has a default.
  struct Options {
    Index best = 5;           ///< how many labels `Answer::best` has at most
    double threshold = 0.25;  ///< an object of `Answer::objects` is at least so sure, from 0 to 1
    PredictorPrecision precision = PredictorPrecision::automatic;
    /// Threads that one call may use. They are LibTorch's, and so the whole process's; 0 leaves them as they are.
    int threads = 0;
    std::string device = "cpu";  ///< "cpu", "cuda", "cuda:1"
  };

  /// A label and how sure the model is of it.
  struct Guess {
    std::string label;
    Index index = 0;  ///< in `labels()`
    /// In [0, 1]; for classes they add up to 1 over all labels. For a model of values: the value.
    float confidence = 0.0F;
  };

  /// Where an object is, in pixels of the picture that was given, whose left top corner is 0, 0. It may reach beyond
  /// the picture's borders.
  struct Box {
    float left = 0.0F, top = 0.0F, width = 0.0F, height = 0.0F;
  };

  /// What a detector has found.
  struct Object {
    std::string label;
    Index index = 0;          ///< in `labels()`
    float confidence = 0.0F;  ///< in [0, 1]
    Box box;
  };

  /// What the model says of one picture: `best` and `confidences`, or, where it is a detector, `objects`.
  struct Answer {
    std::vector<Guess> best;         ///< the best first; equal ones in the order of `labels()`
    std::vector<float> confidences;  ///< of every label, in the order of `labels()`
    std::vector<Object> objects;     ///< the surest first
  };

  /// What a model is.
  struct About {
    std::string path;      ///< the file that was opened
    std::string backbone;  ///< the network's name: "efficientnet_lite0"
    std::string head;      ///< "linear", "mlp:128", "yolo"
    /// "class_index": one label a picture; "multi_label": several; "values": numbers; "boxes": it is a detector
    std::string target;
    std::string weights;  ///< the file of the pretrained weights that the training began with; empty: random ones
    std::string licence;  ///< of those weights, an SPDX name; empty where unknown
    Index size = 0;       ///< the side of the network's input in pixels; pictures of any size are brought to it
    Index channels = 0;   ///< of the network's input
  };

  /// Opens a model that `save` wrote (a run's `model.safetensors`): a classifier, or a detector of one or of two
  /// stages. Nothing else is needed beside the file. \throws FileError, FormatError, WeightsError if it is no such
  /// model; OptionError; DeviceError
  static Predictor open(const std::filesystem::path& path, const Options& options);
  /// The same with the options' defaults.
  static Predictor open(const std::filesystem::path& path);

  /// What the model says of a picture in memory.
  /// \throws DataError if the view can't be a picture: no pixels, or a stride shorter than a row
  Answer operator()(const PixelView& picture) const;

  /// What the model says of a JPEG or PNG file; Exif's orientation is obeyed.
  /// \throws FileError; FormatError if it is no such picture, or is cut or damaged
  Answer operator()(const std::filesystem::path& picture) const;

  /// The names of the classes, by index.
  const Labels& labels() const;

  /// Network, licence, input.
  const About& about() const;

 private:
  struct Model;
  explicit Predictor(std::shared_ptr<const Model> model) : model_(std::move(model)) {}

  std::shared_ptr<const Model> model_;
};

}  // namespace transferlib
