// What a run leaves to be looked at: event files, calibration and class scores, reports with pictures.
#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include <catch2/catch_approx.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <transferlib/core/files.hpp>
#include <transferlib/data/tensors_data.hpp>
#include <transferlib/formats/json.hpp>
#include <transferlib/formats/png_writer.hpp>
#include <transferlib/metrics/calibration.hpp>
#include <transferlib/metrics/classification.hpp>
#include <transferlib/report/evaluation.hpp>
#include <transferlib/report/events.hpp>
#include <transferlib/report/html.hpp>
#include <transferlib/report/svg.hpp>

#include "folder.hpp"

#include "formula.hpp"

namespace tl = transferlib;
using Catch::Approx;
using Catch::Matchers::ContainsSubstring;
using tl::Index;
using tl::detail::text;

using toys::Folder;
using toys::sentence_of;

namespace {

std::vector<double> uniforms(const std::string& name, Index count) {
  std::vector<double> out;
  for (Index i = 0; i < count; ++i) out.push_back(tl::uniform(tl::fnv1a(name), static_cast<std::uint64_t>(i)));
  return out;
}

struct Answers {
  tl::Tensor p;
  tl::Batch batch;
};

/// As `answers` of tests/parity/make_calibration.py.
Answers answers(const std::string& name, Index n, Index classes, double right) {
  tl::Tensor p = at::tensor(uniforms(name + ".p", n * classes), at::kDouble).view({n, classes});
  p = p * p;
  p = p * p;
  p = p / p.cumsum(1).narrow(1, classes - 1, 1);
  const auto draws = uniforms(name + ".y", n), lucky = uniforms(name + ".right", n);
  const tl::Tensor best = p.argmax(1);
  std::vector<Index> y;
  for (Index i = 0; i < n; ++i) {
    const auto k = static_cast<std::size_t>(i);
    y.push_back(lucky[k] < right ? best[i].item<Index>()
                                 : static_cast<Index>(std::floor(draws[k] * static_cast<double>(classes))));
  }
  return {p, {{}, at::tensor(y, at::kLong), {}, {}}};
}

Answers answers_of(const std::vector<std::vector<double>>& rows, const std::vector<Index>& labels) {
  std::vector<double> flat;
  for (const auto& row : rows) flat.insert(flat.end(), row.begin(), row.end());
  return {at::tensor(flat, at::kDouble).view({static_cast<Index>(rows.size()), -1}),
          {{}, at::tensor(labels, at::kLong), {}, {}}};
}

double value_of(const tl::NamedValues& values, const std::string& name) {
  for (const auto& value : values)
    if (value.first == name) return value.second;
  FAIL("there is no value " << name);
  return 0.0;
}

std::size_t count_of(const std::string& in, const std::string& what) {
  std::size_t n = 0;
  for (std::size_t at = in.find(what); at != std::string::npos; at = in.find(what, at + 1)) ++n;
  return n;
}

tl::History history_of(int epochs) {
  tl::History out;
  for (int n = 1; n <= epochs; ++n)
    out.epochs.push_back({n,
                          {{"train_loss", 2.0 / n},
                           {"train_accuracy", 1.0 - 0.5 / n},
                           {"val_loss", 2.5 / n},
                           {"val_accuracy", 1.0 - 0.6 / n},
                           {"lr", 1e-3},
                           {"seconds", 20.0}}});
  return out;
}

/// Pixels as the reader in Python makes them.
std::vector<std::uint8_t> pixels(Index width, Index height, Index channels) {
  std::vector<std::uint8_t> out;
  for (Index i = 0; i < width * height * channels; ++i) out.push_back(static_cast<std::uint8_t>((i * i / 7 + i) & 255));
  return out;
}

tl::Report report_of_all() {
  tl::Report out;
  out.title = "Run <script>alert(1)</script> & \"more\"";
  out.subtitle = "a subtitle with \xFF bytes";
  out.numbers = {{"accuracy", "91.2 %"}, {"loss", "<0.3>"}};
  out.history = history_of(14);
  out.labels = {"cat & dog", "<b>bird</b>", "\"fish\""};
  out.confusion = {8, 1, 1, 0, 9, 1, 2, 3, 5};
  out.reliability = {{3, 0.2, 0.1}, {0, 0.0, 0.0}, {27, 0.9, 0.95}};
  for (const Index c : {1, 3, 4})
    out.mistakes.push_back({.bytes = tl::encode_png(pixels(37, 23, c), 37, 23, c),
                            .name = text("<img src=x onerror=alert(", c, ")>.png"),
                            .truth = out.labels[0],
                            .predicted = out.labels[2],
                            .confidence = 0.99});
  out.mistakes.push_back({.bytes = "\xFF\xD8\xFF\xE0 a JPEG's beginning", .truth = "a", .predicted = "b"});
  out.figures = {{"more", tl::bars_svg({{"one", 1.0}, {"two", 2.0}})}};
  out.tables = {{"Options", tl::report_rows(tl::parse_json(R"({"data": "<x>", "optimizer": {"lr": 1e-3}})", "test"))},
                {"Nothing", {}}};
  return out;
}

}  // namespace

TEST_CASE("CRC-32C is the one of RFC 3720") {
  CHECK(tl::detail::crc32c("123456789") == 0xE3069283U);
  CHECK(tl::detail::crc32c(std::string(32, '\0')) == 0x8A9136AAU);
  CHECK(tl::detail::crc32c(std::string(32, '\xFF')) == 0x62A8AB43U);
  CHECK(tl::detail::crc32c("") == 0U);
}

TEST_CASE("Event files of a folder are read in the order in which they were begun") {
  const Folder folder;
  // The clock was turned back since this one, of a year to come.
  tl::write_file(folder.path / "events.out.tfevents.9000000000.elsewhere.7.0", "");
  tl::write_file(folder.path / "events.out.tfevents.late", "");
  const tl::EventFile first(folder.path), second(folder.path, {.purge_step = 3});
  CHECK_THAT(first.path().filename().string(), ContainsSubstring("events.out.tfevents.9000000001."));
  CHECK_THAT(second.path().filename().string(), ContainsSubstring("events.out.tfevents.9000000002."));
  CHECK_THAT(sentence_of<tl::FileError>([&] { tl::EventFile{folder.path / "absent"}; }), ContainsSubstring("absent"));
}

TEST_CASE("A file that grows is whole after each piece, and as it was where a piece has no room") {
  const Folder folder;
  const auto path = folder.path / "log";
  tl::GrowingFile file(path);
  CHECK_THAT(sentence_of<tl::FileError>([&] { tl::GrowingFile{path}; }), ContainsSubstring("File exists"));
  file.append("first");
  CHECK(tl::read_file(path) == "first");
  // The write fails, or the sync behind it.
  for (const std::int64_t passes : {0, 1}) {
    tl::detail::file_faults.error = ENOSPC;
    tl::detail::file_faults.passes = passes;
    CHECK_THAT(sentence_of<tl::FileError>([&] { file.append("second"); }), ContainsSubstring("No space left"));
    CHECK(tl::detail::file_faults.met.exchange(false));
    tl::detail::file_faults.passes = -1;
    CHECK(tl::read_file(path) == "first");
  }
  file.append(", second");
  CHECK(tl::read_file(path) == "first, second");
}

TEST_CASE("Events that could not be written are written the next time, once") {
  const Folder folder;
  tl::EventFile events(folder.path);
  const auto begun = tl::read_file(events.path());
  const tl::History history = history_of(2);
  tl::detail::file_faults.error = ENOSPC;
  tl::detail::file_faults.passes = 0;
  CHECK_THROWS_AS(events.on_epoch_end(history.epochs[0]), tl::FileError);
  tl::detail::file_faults.passes = -1;
  CHECK(tl::read_file(events.path()) == begun);
  events.on_epoch_end(history.epochs[1]);
  const auto bytes = tl::read_file(events.path());
  CHECK(bytes.starts_with(begun));
  CHECK(count_of(bytes, "loss/train") == 2);
  CHECK(count_of(bytes, "accuracy/val") == 2);
  CHECK(count_of(bytes, "seconds") == 2);
}

TEST_CASE("Scores and calibration are scikit-learn's and torchmetrics'") {
  const tl::Json expected = tl::python("calibration.json");
  struct Case {
    const char* name;
    Index pictures, classes;
    double right;
  };
  for (const Case& c :
       {Case{"two", 90, 2, 0.7}, {"three", 60, 3, 0.5}, {"ten", 700, 10, 0.8}, {"chance", 300, 5, 0.0}}) {
    INFO(c.name);
    const tl::Json& want = expected[c.name];
    const Answers all = answers(c.name, c.pictures, c.classes, c.right);
    tl::Evaluation evaluation;
    for (Index from = 0; from < c.pictures; from += 64) {  // batch by batch
      const Index n = std::min<Index>(64, c.pictures - from);
      evaluation.update(all.p.narrow(0, from, n), {{}, all.batch.target.narrow(0, from, n), {}, {}});
    }
    const auto scores = evaluation.confusion().scores();
    CHECK(scores.seen == c.pictures);
    CHECK(scores.accuracy == Approx(want["accuracy"].get<double>()).epsilon(1e-12));
    for (std::size_t k = 0; k < scores.classes.size(); ++k) {
      const auto of = [&](std::size_t row) { return want["classes"][row][k].get<double>(); };
      CHECK(scores.classes[k].precision == Approx(of(0)).epsilon(1e-12));
      CHECK(scores.classes[k].recall == Approx(of(1)).epsilon(1e-12));
      CHECK(scores.classes[k].f1 == Approx(of(2)).epsilon(1e-12));
      CHECK(static_cast<double>(scores.classes[k].support) == of(3));
    }
    for (const auto& [name, mean] : {std::pair("macro", scores.macro), std::pair("weighted", scores.weighted)}) {
      CHECK(mean.precision == Approx(want[name][0].get<double>()).epsilon(1e-12));
      CHECK(mean.recall == Approx(want[name][1].get<double>()).epsilon(1e-12));
      CHECK(mean.f1 == Approx(want[name][2].get<double>()).epsilon(1e-12));
    }
    const auto values = evaluation.values();
    CHECK(value_of(values, "accuracy") == scores.accuracy);
    CHECK(value_of(values, "nll") == Approx(want["nll"].get<double>()).epsilon(1e-9));
    CHECK(value_of(values, "brier") == Approx(want["brier"].get<double>()).epsilon(1e-9));
    CHECK(value_of(values, "ece") == Approx(want["ece"].get<double>()).margin(2e-6));  // theirs is in float32
    CHECK(value_of(values, "mce") == Approx(want["mce"].get<double>()).margin(2e-6));
  }
}

TEST_CASE("Scores where there is nothing to divide by") {
  const auto none = tl::classification_scores({}, 0);
  CHECK((none.seen == 0 && none.accuracy == 0.0 && none.macro.f1 == 0.0));
  // Nothing is of the third class, and nothing is taken for it: it does not count in the mean.
  const auto scores = tl::classification_scores({1, 1, 0, 0, 2, 0, 0, 0, 0}, 3);
  CHECK(scores.classes[2].f1 == 0.0);
  CHECK(scores.macro.recall == Approx(0.75));
  CHECK_THAT(sentence_of<tl::OptionError>([] {
               tl::classification_scores({1, 2, 3}, 2);
             }),
             ContainsSubstring("has 4 counts, not 3"));
  CHECK_THAT(sentence_of<tl::OptionError>([] {
               tl::classification_scores({1, 2, -3, 4}, 2);
             }),
             ContainsSubstring("row 1, column 0 is -3"));
}

TEST_CASE("Calibration's intervals hold their upper end") {
  tl::Calibration calibration(4);
  const Answers a = answers_of({{0.5, 0.5}, {0.25, 0.75}, {0.76, 0.24}, {1.0, 0.0}, {0.0, 1.0}}, {0, 1, 1, 0, 0});
  calibration.update(a.p, a.batch);
  const auto bins = calibration.bins();
  REQUIRE(bins.size() == 4);
  CHECK((bins[0].count == 0 && bins[1].count == 1 && bins[2].count == 1 && bins[3].count == 3));
  CHECK((bins[1].accuracy == 1.0 && bins[1].confidence == 0.5 && bins[2].confidence == 0.75));
  CHECK(bins[3].accuracy == Approx(1.0 / 3.0));
  CHECK(bins[3].confidence == Approx(2.76 / 3.0));
  CHECK(tl::expected_calibration_error(bins) == Approx((0.5 + 0.25 + 1.76) / 5.0));
  CHECK(tl::maximum_calibration_error(bins) == Approx(1.76 / 3.0));
  CHECK(calibration.brier_score() == Approx((0.5 + 0.125 + 2 * 0.76 * 0.76 + 0.0 + 2.0) / 5.0));
  CHECK(std::isfinite(calibration.negative_log_likelihood()));  // the last answer gave the truth no chance
  for (const auto& value : tl::Calibration().values()) CHECK(value.second == 0.0);

  CHECK_THAT(sentence_of<tl::OptionError>([] { tl::Calibration(0); }), ContainsSubstring("not 0"));
  const auto refused = [&](const Answers& bad) {
    return sentence_of<tl::DataError>([&] { calibration.update(bad.p, bad.batch); });
  };
  CHECK_THAT(refused(answers_of({{0.5, 0.5}}, {2})), ContainsSubstring("label 2 is out of range"));
  CHECK_THAT(refused(answers_of({{0.5, std::nan("")}}, {0})), ContainsSubstring("a probability is nan"));
  CHECK_THAT(refused(answers_of({{0.5, -0.5}}, {0})), ContainsSubstring("a probability is -0.5"));
  CHECK_THAT(refused(answers_of({{0.5, 0.5}}, {0, 1})), ContainsSubstring("(N, classes)"));
}

TEST_CASE("The worst mistakes are the surest ones") {
  tl::WorstMistakes worst(2);
  Answers a = answers_of({{0.9, 0.1}, {0.8, 0.2}, {0.3, 0.7}}, {0, 1, 0});
  worst.update(a.p, a.batch);
  a = answers_of({{0.05, 0.95}, {0.8, 0.2}, {0.4, 0.6}}, {0, 1, 0});
  worst.update(a.p, a.batch);
  REQUIRE(worst.mistakes().size() == 2);
  CHECK((worst.mistakes()[0].index == 3 && worst.mistakes()[0].predicted == 1 && worst.mistakes()[0].truth == 0));
  CHECK(worst.mistakes()[0].truth_confidence == 0.05);
  CHECK(worst.mistakes()[1].index == 1);  // as sure as number 4, and seen before it
  CHECK(worst.values() == tl::NamedValues{{"mistakes", 5.0}});
  CHECK_THROWS_AS(tl::WorstMistakes(0), tl::OptionError);
}

TEST_CASE("An evaluation becomes a report with the pictures of its mistakes") {
  // Three pictures of two classes, 300 pixels wide, of which the second is taken for the first.
  tl::Tensor pictures = at::zeros({3, 3, 150, 300}, at::kByte);
  pictures[1].select(0, 0).fill_(200);
  const tl::TensorData<tl::ClassIndex> data(pictures, at::tensor(std::vector<Index>{0, 1, 1}, at::kLong),
                                            tl::Labels{"black", "red"});
  const Answers a = answers_of({{0.9, 0.1}, {0.8, 0.2}, {0.1, 0.9}}, {0, 1, 1});
  tl::Evaluation evaluation;
  evaluation.update(a.p, a.batch);
  const tl::Report report = evaluation.report(data);
  CHECK(report.numbers[0] == std::pair<std::string, std::string>("accuracy", "66.67 %"));
  CHECK(report.confusion == std::vector<Index>{1, 0, 1, 1});
  REQUIRE(report.mistakes.size() == 1);
  CHECK((report.mistakes[0].truth == "red" && report.mistakes[0].predicted == "black"));
  CHECK(report.mistakes[0].name == "no. 1");
  // Scaled to 160 x 80, all of one colour.
  std::vector<std::uint8_t> red;
  for (int i = 0; i < 160 * 80; ++i) red.insert(red.end(), {200, 0, 0});
  CHECK(report.mistakes[0].bytes == tl::encode_png(red, 160, 80, 3));
  CHECK_THAT(tl::report_html(report), ContainsSubstring("alt=\"no. 1: red, taken for black\""));
  CHECK(tl::Evaluation().report(data).confusion.empty());

  const auto grey = tl::detail::picture_png(at::full({2, 4, 4}, 0.5, at::kFloat), 160);
  CHECK(grey == tl::encode_png(std::vector<std::uint8_t>(16, 128), 4, 4, 1));
}

TEST_CASE("PNG of what no picture is") {
  const auto refused = [](Index n, Index width, Index height, Index channels) {
    return sentence_of<tl::OptionError>(
        [&] { tl::encode_png(std::vector<std::uint8_t>(static_cast<std::size_t>(n)), width, height, channels); });
  };
  CHECK_THAT(refused(11, 2, 2, 3), ContainsSubstring("has 12 bytes, not 11"));
  CHECK_THAT(refused(0, 0, 2, 3), ContainsSubstring("0 x 2 pixels"));
  CHECK_THAT(refused(8, 2, 2, 2), ContainsSubstring("2 channels can't be a PNG"));
  CHECK_THAT(refused(8, 1 << 20, 2, 1), ContainsSubstring("the sides go from 1 to 16384"));
}

TEST_CASE("Base64 is RFC 4648's") {
  for (const auto& [plain, coded] : std::initializer_list<std::pair<const char*, const char*>>{
           {"", ""}, {"f", "Zg=="}, {"fo", "Zm8="}, {"foo", "Zm9v"}, {"foob", "Zm9vYg=="}, {"\xFF\xFE", "//4="}})
    CHECK(tl::detail::base64(plain) == coded);
}

TEST_CASE("JSON as rows") {
  const auto rows = tl::report_rows(
      tl::parse_json(R"({"a": 1, "b": {"c": "x", "d": {"e": [1, "two", null]}}, "f": {}, "g": true})", "test"));
  CHECK(rows == tl::ReportRows{{"a", "1"}, {"b.c", "x"}, {"b.d.e", "1, two, null"}, {"g", "true"}});
}

TEST_CASE("A report refuses what it can't show") {
  tl::Report report;
  report.mistakes = {{.bytes = "GIF89a", .name = "a.gif"}};
  CHECK_THAT(sentence_of<tl::OptionError>([&] { tl::report_html(report); }),
             ContainsSubstring("\"a.gif\" of the report is neither PNG nor JPEG"));
  report = {};
  report.labels = {"a", "b"};
  report.confusion = {1, 2, 3};
  CHECK_THROWS_AS(tl::report_html(report), tl::OptionError);
  // Nothing at all is a page too.
  CHECK_THAT(tl::report_html({}), ContainsSubstring("<h1>Report</h1>"));
  CHECK(count_of(tl::report_html({}), "<section") == 0);
}

TEST_CASE("The curves of several runs") {
  const std::vector<tl::NamedHistory> runs{{"one", history_of(3)}, {"two", history_of(5)}};
  const std::string svg = tl::curves_svg(runs);
  CHECK(count_of(svg, "<svg ") == 3);  // val_loss and val_accuracy in a frame
  CHECK(count_of(svg, "</svg>") == 3);
  CHECK_THAT(svg, ContainsSubstring("val_loss") && ContainsSubstring("val_accuracy") && !ContainsSubstring("train_"));
  CHECK_THAT(svg, ContainsSubstring("two: 88.0 % at epoch 5"));
  CHECK(count_of(tl::curves_svg(runs, {.columns = {"lr"}}), "<svg ") == 2);
  CHECK_THAT(sentence_of<tl::OptionError>([&] { tl::curves_svg(runs, {.columns = {"val_lost"}}); }),
             ContainsSubstring("no run has a column \"val_lost\"; the columns are train_loss,"));
  CHECK_THAT(sentence_of<tl::OptionError>([] { tl::curves_svg({{"one", {}}}); }), ContainsSubstring("no curves"));
  const Folder folder;
  tl::plot_curves(runs, folder.path / "curves.svg");
  CHECK(tl::read_file(folder.path / "curves.svg") == svg);
}

TEST_CASE("A reliability diagram tells its numbers") {
  const std::vector<tl::ReliabilityBin> bins{{1, 0.25, 1.0}, {3, 0.75, 0.5}};
  const std::string svg = tl::reliability_svg(bins, {.title = "a < b"});
  CHECK_THAT(svg, ContainsSubstring("expected calibration error 37.5 %, maximum 75.0 %"));
  CHECK_THAT(svg, ContainsSubstring("\n0.5,1,3,0.75,0.5\n") && ContainsSubstring("a &lt; b"));
  CHECK(count_of(svg, "<rect") == 7);  // the background, and three a bin
  CHECK_THAT(tl::reliability_svg({}), ContainsSubstring("no pictures"));
  const Folder folder;
  tl::plot_reliability(bins, folder.path / "r.svg");
  CHECK_THAT(tl::read_file(folder.path / "r.svg"), ContainsSubstring("Reliability"));
}

// Writes what tests/unit/report_files_test.py reads, into a folder that the environment names.
TEST_CASE("Files for a reader", "[.][report_files]") {
  const char* given = std::getenv("TRANSFERLIB_REPORT_FILES");
  REQUIRE(given != nullptr);
  const std::filesystem::path folder(given);
  tl::make_folders(folder / "events");
  {
    tl::EventFile events(folder / "events");
    for (const tl::Epoch& epoch : history_of(5).epochs) events.on_epoch_end(epoch);
    events.scalar("odd \xFF\n", -2, std::numeric_limits<double>::infinity());
    std::vector<double> values;
    for (int i = 0; i < 1000; ++i) values.push_back(std::sin(0.7 * i) * i);
    values.push_back(std::nan(""));
    events.histogram("weights", 5, values);
    events.histogram("constant", 5, std::vector<double>(7, 2.5));
    events.histogram("nothing", 5, {});
    events.text("notes", 1, "# heading\n\n| a | b |\n");
    events.image("picture", Index{1} << 40, tl::encode_png(pixels(37, 23, 3), 37, 23, 3), 37, 23);
    events.flush();
    events.scalar("never written", 1, 1.0);
  }
  {
    tl::EventFile events(folder / "events", {.purge_step = 4});
    events.on_epoch_end({4, {{"train_loss", 10.0}}});
    events.on_epoch_end({5, {{"train_loss", 11.0}}});
  }
  for (const Index c : {1, 3, 4})
    tl::write_file(folder / text(c, ".png"), tl::encode_png(pixels(37, 23, c), 37, 23, c));
  tl::write_report(report_of_all(), folder / "report.html");
}
