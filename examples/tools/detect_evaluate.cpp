/// \file
/// Measures a detector: `detect_evaluate --model FILE --data DIR`. Prints COCO's numbers, and those of each class.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include <transferlib/core/files.hpp>
#include <transferlib/detector_zoo.hpp>
#include <transferlib/formats/json.hpp>
#include <transferlib/metrics/detection.hpp>
#include <transferlib/report/detection.hpp>
#include <transferlib/report/html.hpp>
#include <transferlib/report/progress.hpp>
#include <transferlib/train/source.hpp>

#include "arguments.hpp"
#include "detectors.hpp"
#include "shared.hpp"

namespace tl = transferlib;
using tools::text;

int main(int argc, char** argv) {
  std::string model_file, data_folder, format = "voc", set, json_file, html_file, precision = "fp32";
  tl::Index batch = 16;
  int threads = 0;
  tools::Arguments arguments("--model FILE --data DIR [options]",
                             "Measures a detector on pictures with boxes: COCO's twelve numbers, and those of each "
                             "class.");
  arguments.option("--model", "FILE", "a detector that detect_train wrote", model_file)
      .option("--data", "DIR", "pictures and boxes", data_folder)
      .option("--format", "F", "voc, yolo or coco (voc)", format)
      .option("--set", "SET", "of the data: val, test … (all; of coco, val)", set)
      .option("--json", "FILE", "writes the numbers to a file too", json_file)
      .option("--html", "FILE", "writes a report with curves of precision and recall and the confusion", html_file)
      .option("--batch", "N", "pictures at a time (16)", batch)
      .option("--precision", "P", "fp32, bf16, or auto: bf16 where the processor has it (fp32)", precision)
      .option("--threads", "N", "(one a core)", threads);
  return tools::run(argc, argv, arguments, [&](const std::vector<std::string>& given) {
    if (!given.empty()) throw tools::Usage(text("\"", given[0], "\" is no option"));
    if (model_file.empty() || data_folder.empty()) throw tools::Usage("--model FILE and --data DIR are wanted");
    if (batch < 1) throw tools::Usage(text("--batch must be at least 1, not ", batch));
    if (threads < 0 || threads > 1024) throw tools::Usage(text("--threads must be from 1 to 1024, not ", threads));
    tools::check_word("--format", format, {"voc", "yolo", "coco"});
    tools::check_word("--precision", precision, {"auto", "fp32", "bf16"});
    tools::settle_threads(threads);
    return tl::with_detector(model_file, [&](const auto& model) {
      const tl::BoxData data =
          tools::open_boxes_for(model.labels(), data_folder, format, set.empty() && format == "coco" ? "val" : set);
      tools::warn_of(data);
      // What is neither to be found nor to be missed is among the truth.
      const std::vector<tl::TruthBox> truth = tools::truth_of(data, model.labels());
      tl::BoxAveragePrecision metric;
      tl::Progress bar(stdout, {.label = "pictures", .total = data.size(), .unit = "img"});
      for (tl::Index from = 0; from < data.size(); from += batch) {
        const auto ids = tl::detail::numbers(from, std::min(from + batch, data.size()));
        const tl::Batch pictures = data.batch(ids);
        metric.update(model.predict(pictures, tools::precision_of(precision)), pictures);
        bar.update(from + static_cast<tl::Index>(ids.size()));
      }
      bar.finish();
      const auto classes = static_cast<tl::Index>(model.labels().size());
      const auto result = tl::coco_average_precision(truth, metric.found(), classes);
      tl::Json out = tl::Json::object();
      for (const auto& [name, member] : tl::coco_numbers) {
        std::printf("%-10s %.4f\n", std::string(name).c_str(), result.mean.*member);
        out[name] = result.mean.*member;
      }
      tl::Json by_class = tl::Json::object();
      std::vector<tl::Index> counts(model.labels().size());
      for (const tl::TruthBox& box : truth)
        counts[static_cast<std::size_t>(box.label)] += box.crowd || box.difficult ? 0 : 1;
      for (tl::Index c = 0; c < classes; ++c) {
        const auto i = static_cast<std::size_t>(c);
        const tl::CocoNumbers& n = result.classes[i].numbers;
        std::printf("%-16s ap %.4f  ap50 %.4f  ar100 %.4f  (%lld boxes)\n", tools::one_line(model.labels()[i]).c_str(),
                    n.ap, n.ap50, n.ar100, static_cast<long long>(counts[i]));
        by_class[model.labels()[i]] =
            tl::Json{{"ap", n.ap}, {"ap50", n.ap50}, {"ar100", n.ar100}, {"boxes", counts[i]}};
      }
      out["classes"] = by_class;
      if (!json_file.empty()) tl::write_file(json_file, out.dump(2) + "\n");
      if (!html_file.empty()) {
        tl::Report report = tl::detection_report(truth, metric.found(), model.labels());
        report.title = text("Detector ", std::filesystem::path(model_file).filename().string());
        report.subtitle = text(model_file, " on ", data_folder, set.empty() ? "" : text(", ", set), ", ",
                               tl::format_count(data.size()), " pictures");
        tl::write_report(report, html_file);
      }
      return 0;
    });
  });
}
