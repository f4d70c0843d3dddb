// links: no torch
// COCO's JSON and average precision: pycocotools' numbers, VOC's, and the sentence for a file that is not good.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <transferlib/core/files.hpp>
#include <transferlib/formats/coco.hpp>
#include <transferlib/formats/json.hpp>
#include <transferlib/metrics/average_precision.hpp>

using namespace transferlib;
using Catch::Matchers::ContainsSubstring;

namespace {

std::filesystem::path source() {
  const char* path = std::getenv("TRANSFERLIB_SOURCE");
  return path == nullptr ? "." : path;
}

const Json& expected() {
  static const Json json = [] {
    const auto path = source() / "tests" / "data" / "parity" / "average_precision.json";
    return parse_json(read_file(path), path.string());
  }();
  return json;
}

struct Evaluated {
  std::vector<TruthBox> truth;
  std::vector<DetectedBox> detections;
  Index classes = 0;
};

Evaluated evaluated(const Json& one) {
  CocoTruth truth = parse_coco(one["truth"].dump(), "truth");
  const CocoDetections found = parse_coco_detections(one["detections"].dump(1), "detections", truth);
  REQUIRE(truth.skipped.empty());
  REQUIRE(found.skipped.empty());
  const auto difficult = one["difficult"].get<std::vector<std::int64_t>>();
  std::map<std::int64_t, Index> labels;
  for (const auto& c : truth.categories) labels.emplace(c.id, 0);
  Evaluated out;
  for (auto& [id, label] : labels) label = out.classes++;
  for (const auto& a : truth.annotations)
    out.truth.push_back({.picture = a.image,
                         .label = labels.at(a.category),
                         .box = a.box,
                         .area = a.area,
                         .crowd = a.crowd,
                         .difficult = std::find(difficult.begin(), difficult.end(), a.id) != difficult.end(),
                         .matchable = a.id != 0});
  for (const auto& d : found.detections)
    out.detections.push_back({.picture = d.image, .label = labels.at(d.category), .box = d.box, .score = d.score});
  return out;
}

void check_numbers(const CocoNumbers& got, const Json& wanted) {
  REQUIRE(wanted.size() == coco_numbers.size());
  for (std::size_t i = 0; i < coco_numbers.size(); ++i) {
    INFO(coco_numbers[i].first);
    CHECK(std::abs(got.*coco_numbers[i].second - wanted[i].get<double>()) <= 1e-12);
  }
}

void check_result(const CocoResult& got, const Json& wanted) {
  check_numbers(got.mean, wanted["numbers"]);
  REQUIRE(got.classes.size() == wanted["classes"].size());
  for (std::size_t i = 0; i < got.classes.size(); ++i) {
    INFO("class " << i);
    check_numbers(got.classes[i].numbers, wanted["classes"][i]);
  }
}

std::string message(const std::function<void()>& act) {
  try {
    act();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

/// A good file of `count` annotations, one a line, and one more as given; so many that it alone is below 1 %.
std::string ground_truth(const std::string& annotation, int count = 200, const std::string& image = "",
                         const std::string& category = "") {
  std::string out = "{\"images\": [{\"id\": 1, \"width\": 64, \"height\": 48, \"file_name\": \"a\\\"b.jpg\"}" + image +
                    "],\n\"categories\": [{\"id\": 7, \"name\": \"[cup, {\"}" + category + "],\n\"annotations\": [\n";
  for (int i = 1; i <= count; ++i)
    out += "{\"id\": " + std::to_string(i) +
           ", \"image_id\": 1, \"category_id\": 7, \"bbox\": [1, 2, 3, 4], \"iscrowd\": 0, \"area\": 9.5},\n";
  return out + annotation + "]}";
}

std::string detections(const std::string& last, int count = 200) {
  std::string out = "[\n";
  for (int i = 0; i < count; ++i)
    out += "{\"image_id\": 1, \"category_id\": 7, \"bbox\": [1, 2, 3, 4], \"score\": 0.5},\n";
  return out + last + "]";
}

const std::string good = "{\"id\": 900, \"image_id\": 1, \"category_id\": 7, \"bbox\": [0, 0, 1, 1]}";
const std::string good_detection = "{\"image_id\": 1, \"category_id\": 7, \"bbox\": [0, 0, 1, 1], \"score\": 1}";

}  // namespace

TEST_CASE("COCO's twelve numbers are pycocotools'") {
  REQUIRE(expected()["cases"].size() == 9);
  for (const Json& one : expected()["cases"].elements()) {
    INFO(one["name"].string());
    const Evaluated e = evaluated(one);
    const CocoResult got = coco_average_precision(e.truth, e.detections, e.classes);
    check_result(got, one);
    for (const CocoClass& c : got.classes) {
      REQUIRE(c.precision.size() == (c.numbers.ap50 < 0 ? 0 : 101));
      double sum = 0;
      for (const double p : c.precision) sum += p;
      if (!c.precision.empty()) CHECK(std::abs(sum / 101 - c.numbers.ap50) <= 1e-12);
      CHECK(std::is_sorted(c.precision.rbegin(), c.precision.rend()));
    }
  }
}

TEST_CASE("VOC's average precision, by area and by eleven points") {
  for (const Json& one : expected()["cases"].elements()) {
    INFO(one["name"].string());
    const Evaluated e = evaluated(one);
    for (const bool eleven : {false, true}) {
      const VocResult got = voc_average_precision(e.truth, e.detections, e.classes, {.eleven_points = eleven});
      const Json& wanted = one[eleven ? "voc_eleven" : "voc"];
      CHECK(std::abs(got.mean - wanted["mean"].get<double>()) <= 1e-12);
      const auto classes = wanted["classes"].get<std::vector<double>>();
      REQUIRE(got.classes.size() == classes.size());
      for (std::size_t i = 0; i < classes.size(); ++i) CHECK(std::abs(got.classes[i] - classes[i]) <= 1e-12);
    }
  }
}

TEST_CASE("VOC by hand: one found, one twice, one difficult, one missed") {
  const std::vector<TruthBox> truth{{.box = {0, 0, 10, 10}},
                                    {.box = {20, 0, 10, 10}, .difficult = true},
                                    {.box = {40, 0, 10, 10}},
                                    {.picture = 1, .box = {0, 0, 10, 10}}};
  const std::vector<DetectedBox> found{{.box = {0, 0, 10, 10}, .score = .9},
                                       {.box = {20, 0, 10, 10}, .score = .8},
                                       {.box = {0, 0, 10, 9}, .score = .7},
                                       {.picture = 1, .box = {0, 0, 10, 5}, .score = .6},
                                       {.picture = 1, .box = {0, 0, 4, 4}, .score = .5}};
  // Right, ignored, wrong, right (IoU .5 exactly), wrong; of three boxes to find.
  const VocResult got = voc_average_precision(truth, found, 1);
  CHECK(std::abs(got.mean - (1.0 / 3 + 2.0 / 3 / 3)) <= 1e-15);
  // The recalls 0 to .3 at precision 1, .4 to .6 at 2/3.
  CHECK(std::abs(voc_average_precision(truth, found, 1, {.eleven_points = true}).mean - (4 + 3 * 2.0 / 3) / 11) <=
        1e-15);
  CHECK(voc_average_precision(truth, found, 1, {.iou = .51}).mean < got.mean);
  CHECK(voc_average_precision(truth, {}, 2).classes == std::vector<double>{0, -1});
}

TEST_CASE("the detections that count are the caller's choice") {
  const std::vector<TruthBox> truth{{.box = {0, 0, 10, 10}}, {.box = {20, 0, 10, 10}}};
  const std::vector<DetectedBox> found{{.box = {0, 0, 10, 10}, .score = .9}, {.box = {20, 0, 10, 10}, .score = .8}};
  const auto with = [&](std::array<Index, 3> most) {
    return coco_average_precision(truth, found, 1, {.most_detections = most}).mean;
  };
  CHECK(std::abs(with({1, 10, 100}).ar1 - .5) <= 1e-15);
  CHECK(std::abs(with({2, 10, 100}).ar1 - 1) <= 1e-15);
  CHECK(std::abs(with({1, 1, 1}).ar100 - .5) <= 1e-15);
  CHECK_THAT(message([&] { with({0, 1, 2}); }), ContainsSubstring("most_detections must rise"));
  CHECK_THAT(message([&] { with({1, 3, 2}); }), ContainsSubstring("1, 3, 2"));
}

TEST_CASE("average precision refuses what is no box") {
  const std::vector<TruthBox> truth{{.label = 1, .box = {0, 0, 1, 1}}};
  const auto found = [](DetectedBox d) { return std::vector<DetectedBox>{{}, d}; };
  const auto coco = [&](const DetectedBox& d) { coco_average_precision(truth, found(d), 2); };
  const auto voc = [&](const DetectedBox& d) { voc_average_precision(truth, found(d), 2); };
  for (const auto& evaluate :
       {std::function<void(const DetectedBox&)>(coco), std::function<void(const DetectedBox&)>(voc)}) {
    CHECK(message([&] { evaluate({}); }) == "no error");
    CHECK_THAT(message([&] { evaluate({.label = 2}); }), ContainsSubstring("the detection 1 is of class 2"));
    CHECK_THAT(message([&] { evaluate({.label = -1}); }), ContainsSubstring("class -1"));
    CHECK_THAT(message([&] { evaluate({.box = {0, 0, -1, 1}}); }), ContainsSubstring("0, 0, -1, 1"));
    CHECK_THAT(message([&] { evaluate({.box = {NAN, 0, 1, 1}}); }), ContainsSubstring("must be finite"));
    CHECK_THAT(message([&] { evaluate({.score = NAN}); }), ContainsSubstring("score"));
  }
  CHECK_THAT(message([&] { coco_average_precision(truth, {}, 1); }), ContainsSubstring("the true box 0"));
  CHECK_THAT(message([&] { coco_average_precision({}, {}, -1); }), ContainsSubstring("-1"));
  CHECK_THAT(message([&] { voc_average_precision({}, {}, 0, {.iou = 0}); }), ContainsSubstring("(0, 1]"));
  CHECK(coco_average_precision({}, {}, 0).mean == CocoNumbers{});
  CHECK(voc_average_precision({}, {}, 0).mean == -1.0);
}

TEST_CASE("a COCO file is read whole") {
  const CocoTruth truth = parse_coco(ground_truth(good), "t.json");
  CHECK(truth.skipped.empty());
  REQUIRE(truth.images.size() == 1);
  CHECK(truth.images[0].file == "a\"b.jpg");
  CHECK(truth.images[0].width == 64);
  CHECK(truth.images[0].height == 48);
  CHECK(truth.categories.at(0).name == "[cup, {");
  REQUIRE(truth.annotations.size() == 201);
  CHECK(truth.annotations[4].id == 5);
  CHECK(truth.annotations[4].area == 9.5);
  CHECK(truth.annotations[200].area == 1.0);
  CHECK(truth.annotations[4].box == std::array<double, 4>{1, 2, 3, 4});
  CHECK_FALSE(truth.annotations[200].crowd);
  const CocoDetections found = parse_coco_detections(detections(good_detection), "d.json", truth);
  REQUIRE(found.detections.size() == 201);
  CHECK(found.detections[200].score == 1.0);
  CHECK(parse_coco_detections("[]", "d.json", truth).detections.empty());
}

TEST_CASE("single bad records are told with their place, and fatal above one in a hundred") {
  struct {
    std::string record, sentence;
  } const cases[]{
      {"{\"id\": 5, \"image_id\": 1, \"category_id\": 7, \"bbox\": [0, 0, 1, 1]}", "the id 5 was there before"},
      {"{\"id\": 900, \"image_id\": 2, \"category_id\": 7, \"bbox\": [0, 0, 1, 1]}", "no image with the id 2"},
      {"{\"id\": 900, \"image_id\": 1, \"category_id\": 8, \"bbox\": [0, 0, 1, 1]}", "no category with the id 8"},
      {"{\"id\": 900, \"image_id\": 1, \"category_id\": 7, \"bbox\": [0, 0, -1, 1]}", "-1 wide and 1 high"},
      {"{\"id\": 900, \"image_id\": 1, \"category_id\": 7, \"bbox\": [0, 0, 1, 1], \"area\": -2}", "its area is -2"},
  };
  for (const auto& one : cases) {
    const CocoTruth truth = parse_coco(ground_truth(one.record), "t.json");
    CHECK(truth.annotations.size() == 200);
    REQUIRE(truth.skipped.size() == 1);
    CHECK(truth.skipped[0] ==
          "annotations[200], line 204: " + truth.skipped[0].substr(std::string("annotations[200], line 204: ").size()));
    CHECK_THAT(truth.skipped[0], ContainsSubstring(one.sentence));
    const std::string sentence = message([&] { parse_coco(ground_truth(one.record, 20), "t.json"); });
    CHECK_THAT(sentence, ContainsSubstring("t.json: 1 of 21 records of annotations"));
    CHECK_THAT(sentence, ContainsSubstring(one.sentence));
  }
  CHECK_THAT(message([&] { parse_coco(ground_truth(good, 1, ", {\"id\": 1}"), "t.json"); }),
             ContainsSubstring("images[1], line 1: the id 1 was there before"));
  CHECK_THAT(message([&] { parse_coco(ground_truth(good, 1, ", {\"id\": 2, \"width\": -1}"), "t.json"); }),
             ContainsSubstring("-1 wide"));
  CHECK_THAT(message([&] { parse_coco(ground_truth(good, 1, "", ",\n{\"id\": 7, \"name\": \"x\"}"), "t.json"); }),
             ContainsSubstring("categories[1], line 3: the id 7 was there before"));

  const CocoTruth truth = parse_coco(ground_truth(good), "t.json");
  for (const auto& [record, sentence] : std::map<std::string, std::string>{
           {"{\"image_id\": 2, \"category_id\": 7, \"bbox\": [0, 0, 1, 1], \"score\": 1}", "no image with the id 2"},
           {"{\"image_id\": 1, \"category_id\": 8, \"bbox\": [0, 0, 1, 1], \"score\": 1}", "no category with the id 8"},
           {"{\"image_id\": 1, \"category_id\": 7, \"bbox\": [0, 0, 1, -1], \"score\": 1}", "1 wide and -1 high"}}) {
    const CocoDetections found = parse_coco_detections(detections(record), "d.json", truth);
    CHECK(found.detections.size() == 200);
    REQUIRE(found.skipped.size() == 1);
    CHECK_THAT(found.skipped[0], ContainsSubstring("detection [200], line 202: "));
    CHECK_THAT(found.skipped[0], ContainsSubstring(sentence));
    CHECK_THAT(message([&] { parse_coco_detections(detections(record, 98), "d.json", truth); }),
               ContainsSubstring("d.json: 1 of 99 records can't be used"));
    CHECK(message([&] { parse_coco_detections(detections(record, 99), "d.json", truth); }) == "no error");
  }
}

TEST_CASE("a file that is none of COCO's is refused with a sentence") {
  const auto annotation = [](const std::string& members) {
    return message([&] { parse_coco(ground_truth("{" + members + "}"), "t.json"); });
  };
  const auto whole = [](std::string_view text) { return message([&] { parse_coco(text, "t.json"); }); };
  CHECK_THAT(whole("{"), ContainsSubstring("t.json: not valid JSON at line 1"));
  CHECK_THAT(whole("[]"), ContainsSubstring("is an object with \"images\""));
  CHECK_THAT(whole("{}"), ContainsSubstring("there is no \"images\""));
  CHECK_THAT(whole("{\"images\": [], \"categories\": []}"), ContainsSubstring("there is no \"annotations\""));
  CHECK_THAT(whole("{\"images\": 1, \"categories\": [], \"annotations\": []}"),
             ContainsSubstring("images should be an array"));
  CHECK_THAT(whole("{\"images\": [\n1], \"categories\": [], \"annotations\": []}"),
             ContainsSubstring("images[0], line 2: it should be an object"));
  CHECK_THAT(whole("{\"images\": [{}], \"categories\": [], \"annotations\": []}"),
             ContainsSubstring("it has no \"id\""));
  CHECK_THAT(whole("{\"images\": [{\"id\": 1, \"file_name\": 2}], \"categories\": [], \"annotations\": []}"),
             ContainsSubstring("its file_name should be a string, not 2"));
  CHECK_THAT(whole("{\"images\": [], \"categories\": [{\"id\": 1}], \"annotations\": []}"),
             ContainsSubstring("categories[0], line 1: it has no \"name\""));
  CHECK_THAT(annotation("\"id\": \"5\""), ContainsSubstring("its id should be a whole number, not \"5\""));
  CHECK_THAT(annotation("\"id\": 1.5"), ContainsSubstring("line 204: its id should be a whole number, not 1.5"));
  CHECK_THAT(annotation("\"id\": 1e30"), ContainsSubstring("its id should be a whole number"));
  CHECK_THAT(annotation("\"id\": 18446744073709551615"), ContainsSubstring("its id should be a whole number"));
  const std::string ids = "\"id\": 900, \"image_id\": 1, \"category_id\": 7, ";
  CHECK_THAT(annotation(ids + "\"bbox\": [1, 2, 3]"), ContainsSubstring("its bbox should be [x, y, width, height]"));
  CHECK_THAT(annotation(ids + "\"bbox\": [1, 2, 3, null]"), ContainsSubstring("its bbox should be"));
  CHECK_THAT(annotation(ids + "\"bbox\": [1, 2, 3, 1e300]"), ContainsSubstring("beyond 1e12"));
  CHECK_THAT(annotation(ids + "\"bbox\": [1, 2, 3, 4], \"iscrowd\": 2"), ContainsSubstring("should be 0 or 1, not 2"));
  CHECK_THAT(annotation(ids + "\"bbox\": [1, 2, 3, 4], \"area\": \"x\""),
             ContainsSubstring("its area should be a number"));
  const auto found = [](std::string_view text) {
    return message([&] { parse_coco_detections(text, "d.json", parse_coco(ground_truth(good), "t.json")); });
  };
  CHECK_THAT(found("{}"), ContainsSubstring("d.json: the file should be an array of detections"));
  CHECK_THAT(found("[[]]"), ContainsSubstring("detection [0], line 1: it should be an object"));
  CHECK_THAT(found("[{\"image_id\": 1, \"category_id\": 7, \"bbox\": [0, 0, 1, 1]}]"),
             ContainsSubstring("it has no \"score\""));
}

TEST_CASE("BCCD's boxes, jittered by a formula") {
  const auto folder = source() / ".." / "shared" / "data" / "bccd" / "BCCD";
  if (!std::filesystem::exists(folder)) SKIP("BCCD lies nowhere near: " << folder.string());
  const std::vector<std::string> labels{"RBC", "WBC", "Platelets"};
  std::vector<TruthBox> truth;
  std::vector<DetectedBox> found;
  const std::string names = read_file(folder / "ImageSets" / "Main" / "test.txt");
  Index picture = 0;
  for (std::size_t at = 0; at < names.size(); ++picture) {
    const std::size_t end = std::min(names.find('\n', at), names.size());
    const std::string xml = read_file(folder / "Annotations" / (names.substr(at, end - at) + ".xml"));
    at = end + 1;
    const auto member = [&](std::string_view name, std::size_t from) {
      const std::size_t begin = xml.find("<" + std::string(name) + ">", from) + name.size() + 2;
      return xml.substr(begin, xml.find('<', begin) - begin);
    };
    for (std::size_t o = xml.find("<object>"); o != std::string::npos; o = xml.find("<object>", o + 1)) {
      std::array<double, 4> box{};
      for (std::size_t i = 0; i < 4; ++i)
        box[i] = std::stod(member(std::array<std::string_view, 4>{"xmin", "ymin", "xmax", "ymax"}[i], o));
      box = {box[0], box[1], box[2] - box[0], box[3] - box[1]};
      const auto label = std::find(labels.begin(), labels.end(), member("name", o)) - labels.begin();
      const auto number = static_cast<Index>(truth.size());
      truth.push_back({.picture = picture, .label = label, .box = box, .crowd = number % 37 == 0});
      for (Index k = 0; k < number % 3; ++k) {
        std::array<double, 5> draw{};
        for (Index i = 0; i < 5; ++i)
          draw[static_cast<std::size_t>(i)] = static_cast<double>((number * 7919 + k * 104729 + i * 1299709) % 1000);
        found.push_back({.picture = picture,
                         .label = label,
                         .box = {box[0] + (draw[0] - 500) / 4000 * box[2], box[1] + (draw[1] - 500) / 4000 * box[3],
                                 box[2] * (1 + (draw[2] - 500) / 4000), box[3] * (1 + (draw[3] - 500) / 4000)},
                         .score = draw[4] / 1000});
      }
    }
  }
  REQUIRE(truth.size() > 800);
  check_result(coco_average_precision(truth, found, 3), expected()["bccd"]);
}
