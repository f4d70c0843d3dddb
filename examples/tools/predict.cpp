// links: predictor
/// \file
/// Says what pictures show, by a model that was trained before: `predict MODEL PICTURE… [--json FILE]`.
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include <transferlib/core/files.hpp>
#include <transferlib/predictor.hpp>
#include <transferlib/report/shown.hpp>

#include "arguments.hpp"

namespace tl = transferlib;
using tools::text;

namespace {

/// A JSON string. Bytes that are no UTF-8 (a file's name can have them) become U+FFFD.
std::string json(std::string_view s) {
  std::string out = "\"";
  for (std::size_t at = 0; at < s.size();) {
    const tl::detail::Character c = tl::detail::character_at(s, at);
    if (c.bytes == "\"" || c.bytes == "\\")
      out += text("\\", c.bytes);
    else if (c.point < 0x20) {
      static const char digits[] = "0123456789abcdef";
      out += text("\\u00", digits[c.point >> 4], digits[c.point & 15]);
    } else {
      out += c.point == 0xFFFD ? std::string_view("\xEF\xBF\xBD") : c.bytes;
    }
    at += c.bytes.size();
  }
  return out + "\"";
}

}  // namespace

int main(int argc, char** argv) {
  std::string json_file;
  tl::Index best = 5;
  int threads = 0;
  std::string precision = "auto", device = "cpu";
  tools::Arguments arguments("MODEL PICTURE… [options]",
                             "Says what each picture (JPEG, PNG) shows: the best labels and the model's confidence in "
                             "them. MODEL is a\nrun's model.safetensors; nothing else is needed.");
  arguments.option("--best", "N", "labels a picture (5)", best)
      .option("--json", "FILE", "writes the answers to a file too, with the errors", json_file)
      .option("--precision", "auto|fp32", "auto: bf16 where the processor computes with it (auto)", precision)
      .option("--threads", "N", "that LibTorch uses (its own choice)", threads)
      .option("--device", "cpu|cuda", "(cpu)", device)
      .footer(
          "A picture that can't be read is told in one line; the others are still answered, and the exit code is 1.");
  return tools::run(argc, argv, arguments, [&](const std::vector<std::string>& given) {
    if (given.empty()) throw tools::Usage("a model and pictures are wanted: predict MODEL PICTURE…");
    if (given.size() == 1) throw tools::Usage("pictures are wanted after the model: predict MODEL PICTURE…");
    if (best < 1) throw tools::Usage(text("--best must be at least 1, not ", best));
    if (threads < 0 || threads > 1024) throw tools::Usage(text("--threads must be from 1 to 1024, not ", threads));
    tools::check_word("--precision", precision, {"auto", "fp32"});
    tools::check_word("--device", device, {"cpu", "cuda"});

    tl::Predictor::Options options{.best = best, .threads = threads, .device = device};
    if (precision == "fp32") options.precision = tl::PredictorPrecision::fp32;
    const auto predictor = tl::Predictor::open(given[0], options);
    const auto& about = predictor.about();
    std::string answers;
    int code = 0;
    for (std::size_t i = 1; i < given.size(); ++i) {
      std::string entry = text(answers.empty() ? "" : ",", "\n    {\"picture\": ", json(given[i]));
      try {
        const auto answer = predictor(std::filesystem::path(given[i]));
        std::string line = given[i] + ":";
        entry += ", \"best\": [";
        for (std::size_t k = 0; k < answer.best.size(); ++k) {
          const auto& guess = answer.best[k];
          line += text(k == 0 ? "  " : ", ", guess.label, " ", tl::detail::fixed(guess.confidence, 4));
          entry += text(k == 0 ? "" : ", ", "{\"label\": ", json(guess.label), ", \"index\": ", guess.index,
                        ", \"confidence\": ", guess.confidence, "}");
        }
        entry += "]";
        if (about.target == "boxes") {
          entry += ", \"objects\": [";
          for (std::size_t k = 0; k < answer.objects.size(); ++k) {
            const auto& o = answer.objects[k];
            const std::string box =
                text("[", tl::detail::fixed(o.box.left, 1), ", ", tl::detail::fixed(o.box.top, 1), ", ",
                     tl::detail::fixed(o.box.width, 1), ", ", tl::detail::fixed(o.box.height, 1), "]");
            if (k < static_cast<std::size_t>(best))
              line += text(k == 0 ? "  " : ", ", o.label, " ", tl::detail::fixed(o.confidence, 4), " at ", box);
            entry += text(k == 0 ? "" : ", ", "{\"label\": ", json(o.label), ", \"index\": ", o.index,
                          ", \"confidence\": ", o.confidence, ", \"box\": ", box, "}");
          }
          if (answer.objects.empty()) line += "  nothing";
          entry += "]";
        }
        std::printf("%s\n", tools::one_line(line).c_str());
      } catch (const tl::Error& e) {
        std::fflush(stdout);
        std::fprintf(stderr, "%s\n", tools::one_line(text(tools::name_of(argv), ": ", e.what())).c_str());
        entry += text(", \"error\": ", json(e.what()));
        code = 1;
      }
      answers += entry + "}";
    }
    if (!json_file.empty())
      tl::write_file(json_file,
                     text("{\n  \"model\": ", json(about.path), ",\n  \"backbone\": ", json(about.backbone),
                          ",\n  \"licence\": ", json(about.licence), ",\n  \"answers\": [", answers, "\n  ]\n}\n"));
    return code;
  });
}
