/// \file
/// Finds objects in pictures, or in a video that comes through a pipe: `detect --model FILE PICTURE…`.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <transferlib/core/files.hpp>
#include <transferlib/data/pictures.hpp>
#include <transferlib/detector_zoo.hpp>
#include <transferlib/formats/json.hpp>
#include <transferlib/formats/png_writer.hpp>

#include "arguments.hpp"
#include "detectors.hpp"
#include "draw.hpp"
#include "shared.hpp"
#include "yuv4mpeg.hpp"

namespace tl = transferlib;
using tools::text;

namespace {

struct Told {
  std::string model, cfg, weights, names, json, draw, precision = "fp32";
  double threshold = 0.25;
  int threads = 0;
  tl::Index size = 0;
  bool about = false;
};

/// A detector without its type.
struct Finder {
  std::function<std::vector<tl::Detections>(const tl::Batch&)> find;
  tl::Labels labels;
  std::string about;
};

template <class M>
Finder finder(M model, tl::Precision precision) {
  const auto& core = model.backbone_core();
  const auto or_unknown = [](const std::string& s) { return s.empty() ? std::string("unknown") : s; };
  Finder out{{},
             model.labels(),
             text("backbone: ", core.name.empty() ? std::string("a .cfg of darknet") : core.name,
                  "\nweights: ", or_unknown(core.source), "\nlicence of the weights: ", or_unknown(core.licence),
                  "\nclasses: ", tl::detail::first_few(model.labels(), 100), "\nsize: ", core.size(), " pixels, ",
                  to_string(core.preprocessing.fit))};
  const auto shared = std::make_shared<M>(std::move(model));
  out.find = [shared, precision](const tl::Batch& batch) { return shared->predict(batch, precision); };
  return out;
}

Finder open(const Told& told) {
  const tl::Precision precision = tools::precision_of(told.precision);
  if (!told.model.empty())
    return tl::with_detector(told.model, [&](auto model) { return finder(std::move(model), precision); });
  return finder(tl::any_darknet_detector(told.cfg, told.weights, tl::read_names(told.names), {.size = told.size}),
                precision);
}

tl::Batch batch_of(const tl::Picture& picture) {
  at::Tensor x = at::empty({1, picture.height, picture.width, picture.channels}, at::kByte);
  std::memcpy(x.mutable_data_ptr(), picture.pixels.data(), picture.pixels.size());
  return {{x.permute({0, 3, 1, 2})}};
}

/// One object, as it is written.
struct Found {
  tl::Index label = 0;
  double confidence = 0.0;
  double box[4] = {};  // left, top, right, bottom
};

std::vector<Found> found_in(const Finder& finder, const tl::Picture& picture, double threshold) {
  const tl::Detections d = tl::surer_than(finder.find(batch_of(picture)).at(0), threshold);
  std::vector<Found> out;
  for (tl::Index i = 0; i < d.size(); ++i) {
    Found f{d.labels[i].item<tl::Index>(), d.scores[i].item<double>(), {}};
    for (tl::Index c = 0; c < 4; ++c) f.box[c] = d.boxes[i][c].item<double>();
    out.push_back(f);
  }
  return out;
}

double rounded(double x, double places) { return std::round(x * places) / places; }

tl::Json json_of(const Found& f, const tl::Labels& labels) {
  const auto pixel = [](double x) { return rounded(x, 1e3); };
  return {{"class", f.label},
          {"label", labels[static_cast<std::size_t>(f.label)]},
          {"confidence", rounded(f.confidence, 1e6)},
          {"box", std::vector<double>{pixel(f.box[0]), pixel(f.box[1]), pixel(f.box[2] - f.box[0]),
                                      pixel(f.box[3] - f.box[1])}}};
}

/// The picture with what was found, as a PNG.
std::string drawn(const tl::Picture& picture, const std::vector<Found>& found, const tl::Labels& labels) {
  tools::Canvas canvas{picture.width, picture.height, {}};
  if (picture.channels == 3)
    canvas.pixels = picture.pixels;
  else
    for (const std::uint8_t grey : picture.pixels) canvas.pixels.insert(canvas.pixels.end(), 3, grey);
  // The surest on top.
  for (std::size_t i = found.size(); i-- > 0;)
    canvas.named_box(found[i].box[0], found[i].box[1], found[i].box[2], found[i].box[3],
                     text(labels[static_cast<std::size_t>(found[i].label)], " ",
                          static_cast<int>(std::lround(found[i].confidence * 100.0)), "%"),
                     found[i].label);
  return tl::encode_png(canvas.pixels, canvas.width, canvas.height, 3);
}

/// Frames from standard input, a JSON line for each on standard output.
int video(const Finder& finder, const Told& told) {
  tools::Yuv4Mpeg stream(stdin);
  tl::Index frames = 0;
  tl::Picture picture;
  const auto start = std::chrono::steady_clock::now();
  while (stream.next(picture)) {
    const auto found = found_in(finder, picture, told.threshold);
    tl::Json objects = tl::Json::array();
    for (const Found& f : found) objects.push_back(json_of(f, finder.labels));
    std::printf("%s\n", tl::Json{{"frame", frames}, {"objects", std::move(objects)}}.dump().c_str());
    std::fflush(stdout);
    if (!told.draw.empty()) {
      char name[32];
      std::snprintf(name, sizeof name, "frame_%06lld.png", static_cast<long long>(frames));
      tl::write_file(std::filesystem::path(told.draw) / name, drawn(picture, found, finder.labels));
    }
    ++frames;
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::fprintf(stderr, "%lld frames, %.1f frames/s\n", static_cast<long long>(frames),
               static_cast<double>(frames) / std::max(seconds, 1e-9));
  return 0;
}

int pictures(const Finder& finder, const Told& told, const std::vector<std::string>& given, const char* program) {
  tl::Json all = tl::Json::array();
  int code = 0;
  for (const std::string& name : given) try {
      const tl::Picture picture = tl::read_picture(name);
      const auto found = found_in(finder, picture, told.threshold);
      std::printf("%s: %zu object%s\n", tools::one_line(name).c_str(), found.size(), found.size() == 1 ? "" : "s");
      for (const Found& f : found) {
        std::printf("  %-16s %.4f  x %.1f, y %.1f, %.1f x %.1f\n",
                    tools::one_line(finder.labels[static_cast<std::size_t>(f.label)]).c_str(), f.confidence, f.box[0],
                    f.box[1], f.box[2] - f.box[0], f.box[3] - f.box[1]);
        tl::Json row = json_of(f, finder.labels);
        row.members().insert(row.members().begin(), {"image", name});
        all.push_back(std::move(row));
      }
      if (!told.draw.empty())
        tl::write_file(std::filesystem::path(told.draw) / (std::filesystem::path(name).stem().string() + ".png"),
                       drawn(picture, found, finder.labels));
    } catch (const tl::Error& e) {
      std::fflush(stdout);
      std::fprintf(stderr, "%s\n", tools::one_line(text(program, ": ", e.what())).c_str());
      code = 1;
    }
  if (!told.json.empty()) tl::write_file(told.json, all.dump(2) + "\n");
  return code;
}

}  // namespace

int main(int argc, char** argv) {
  Told told;
  tools::Arguments arguments(
      "(--model FILE | --cfg C --weights W --names F) PICTURE… [options]",
      "Finds objects in pictures (JPEG, PNG). \"-\" stands for a video on standard input, as\n"
      "  ffmpeg -i film.mp4 -f yuv4mpegpipe -pix_fmt yuv420p - | detect --model FILE -\n"
      "gives it: a line of JSON a frame on standard output, and how many frames a second at the end.");
  arguments.option("--model", "FILE", "a detector that detect_train wrote", told.model)
      .option("--cfg", "FILE", "darknet's description of a network", told.cfg)
      .option("--weights", "FILE", "its weights", told.weights)
      .option("--names", "FILE", "the names of its classes, one a line", told.names)
      .option("--size", "N", "side of the network's input in pixels, with --cfg (the .cfg's)", told.size)
      .option("--threshold", "T", "what is told is at least so sure, from 0 to 1 (0.25)", told.threshold)
      .option("--json", "FILE", "writes all objects: image, class, label, confidence, box [x, y, width, height]",
              told.json)
      .option("--draw", "DIR", "paints what was found into PNG files there", told.draw)
      .option("--precision", "P", "fp32, bf16, or auto: bf16 where the processor has it (fp32)", told.precision)
      .option("--threads", "N", "(one a core)", told.threads)
      .flag("--about", "tells what the model is, and the licence of its weights", told.about)
      .footer(
          "A picture that can't be read is told in one line; the others are still looked at, and the exit code is 1.");
  return tools::run(argc, argv, arguments, [&](const std::vector<std::string>& given) {
    const bool darknet = !told.cfg.empty() || !told.weights.empty() || !told.names.empty();
    if (told.model.empty() == !darknet) throw tools::Usage("either --model FILE, or --cfg, --weights and --names");
    if (darknet && (told.cfg.empty() || told.weights.empty() || told.names.empty()))
      throw tools::Usage("--cfg, --weights and --names are wanted together");
    if (told.size != 0 && (!darknet || told.size < 1)) throw tools::Usage("--size is at least 1, and goes with --cfg");
    if (given.empty() && !told.about) throw tools::Usage("pictures are wanted, or - for a video");
    if (!(told.threshold >= 0.0 && told.threshold <= 1.0))
      throw tools::Usage(text("--threshold must be from 0 to 1, not ", told.threshold));
    if (told.threads < 0 || told.threads > 1024)
      throw tools::Usage(text("--threads must be from 1 to 1024, not ", told.threads));
    tools::check_word("--precision", told.precision, {"auto", "fp32", "bf16"});
    const bool is_video = std::find(given.begin(), given.end(), "-") != given.end();
    if (is_video && given.size() > 1) throw tools::Usage("- stands alone");
    if (is_video && !told.json.empty()) throw tools::Usage("with - the JSON goes to standard output; leave --json out");
    tools::settle_threads(told.threads);
    const Finder finder = open(told);
    if (told.about) std::printf("%s\n", finder.about.c_str());
    if (!told.draw.empty()) tl::make_folders(told.draw);
    if (given.empty()) return 0;
    return is_video ? video(finder, told) : pictures(finder, told, given, tools::name_of(argv).c_str());
  });
}
