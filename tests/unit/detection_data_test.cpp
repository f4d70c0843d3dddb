// Pictures with boxes: annotations and what is wrong with them, data sets as VOC's, YOLO's and COCO's, and
// augmentation, which is checked by painting the boxes.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <png.h>
#include <unistd.h>

// LibTorch's logging has a macro of this name, which ends the program where Catch2's counts a failure.
#undef CHECK
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <transferlib/data/box_transforms.hpp>
#include <transferlib/data/detection.hpp>
#include <transferlib/formats/coco.hpp>
#include <transferlib/formats/voc.hpp>
#include <transferlib/formats/xml.hpp>
#include <transferlib/formats/yolo_text.hpp>

#include "folder.hpp"

using namespace transferlib;
using Catch::Matchers::ContainsSubstring;

namespace {

/// A folder that is gone afterwards.
struct Folder : toys::Folder {
  void put(const std::string& name, std::string_view bytes) const {
    std::filesystem::create_directories((path / name).parent_path());
    // Not `write_file`, which waits for the disk: there are hundreds.
    std::ofstream(path / name, std::ios::binary) << bytes;
  }
};

template <class Thrown = Error, class Work>
std::string sentence_of(Work&& work) {
  try {
    work();
  } catch (const Thrown& e) {
    return e.what();
  }
  return "no error";
}

/// A PNG file, grey or in colour: a picture whose pixel (x, y) is x + 2 y.
std::string png(Index width, Index height, bool grey = false) {
  const Index channels = grey ? 1 : 3;
  std::vector<std::uint8_t> pixels;
  for (Index y = 0; y < height; ++y)
    for (Index x = 0; x < width; ++x)
      pixels.insert(pixels.end(), static_cast<std::size_t>(channels), static_cast<std::uint8_t>(x + 2 * y));
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(width);
  image.height = static_cast<png_uint_32>(height);
  image.format = grey ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB;
  png_alloc_size_t size = 1 << 16;
  std::string out(size, '\0');
  REQUIRE(png_image_write_to_memory(&image, out.data(), &size, 0, pixels.data(), 0, nullptr) != 0);
  out.resize(size);
  return out;
}

std::string object(const std::string& name, const std::array<double, 4>& b, bool difficult = false) {
  return transferlib::detail::text("<object><name>", name, "</name><difficult>", difficult ? 1 : 0, "</difficult>",
                                   "<bndbox><xmin>", b[0], "</xmin><ymin>", b[1], "</ymin><xmax>", b[2],
                                   "</xmax><ymax>", b[3], "</ymax></bndbox></object>\n");
}

std::string annotation(const std::string& objects, Index width = 40, Index height = 30, const std::string& file = {}) {
  return transferlib::detail::text("<annotation>\n<filename>", file, "</filename>\n<size><width>", width,
                                   "</width><height>", height, "</height></size>\n", objects, "</annotation>\n");
}

/// A VOC data set of `n` pictures of 40 x 30 pixels, a box of the class `cat` in each.
void put_voc(const Folder& folder, Index n) {
  for (Index i = 0; i < n; ++i) {
    const std::string stem = std::to_string(1000 + i);
    folder.put("JPEGImages/" + stem + ".png", png(40, 30));
    folder.put("Annotations/" + stem + ".xml", annotation(object("cat", {1, 2, 11, 22})));
  }
}

std::vector<double> row(const Tensor& target, Index i) {
  std::vector<double> out;
  for (Index k = 0; k < target.size(1); ++k) out.push_back(target[i][k].item<double>());
  return out;
}

std::vector<Index> first(Index n) {
  std::vector<Index> out;
  for (Index i = 0; i < n; ++i) out.push_back(i);
  return out;
}

std::vector<Index> integers(const Tensor& t) {
  const Tensor flat = t.contiguous();
  return {flat.const_data_ptr<Index>(), flat.const_data_ptr<Index>() + flat.numel()};
}

}  // namespace

static_assert(Dataset<BoxData>);
static_assert(std::same_as<BoxData::Target, Boxes>);
static_assert(TransformFor<BoxFlip, Boxes> && TransformFor<HsvJitter, Boxes> && TransformFor<BoxAffine, Boxes> &&
              TransformFor<BoxCrop, Boxes> && TransformFor<Mosaic<BoxData>, Boxes> &&
              TransformFor<BoxMixUp<BoxData>, Boxes>);
static_assert(!TransformFor<BoxFlip, ClassIndex> && !TransformFor<Flip, Boxes>);
static_assert(!std::is_constructible_v<Mosaic<BoxData>, BoxData&&>);

// ------------------------------------------------------------------------------------------------------- annotations

TEST_CASE("XML: elements, attributes, entities, comments, CDATA") {
  const XmlElement root = parse_xml(
      "\xEF\xBB\xBF<?xml version=\"1.0\" encoding='utf-8'?>\n<!-- a - b -->\n<!DOCTYPE a SYSTEM \"a.dtd\">\n<?p q?>"
      "<a x = '1 &lt; &quot;2&quot;' y=\"it's\">\n one &amp; &#x41;&#66;&#8364; <b/>two<![CDATA[<&]]]]><!-- - "
      "--><?r?>\r\n"
      "<b n='2'><c>&gt;&apos;</c></b >\r</a>\n<!-- end -->\n",
      "a.xml");
  CHECK(root.name == "a");
  CHECK(root.line == 4);
  REQUIRE(root.attributes.size() == 2);
  CHECK(root.attributes[0] == std::pair<std::string, std::string>{"x", "1 < \"2\""});
  CHECK(root.attributes[1].second == "it's");
  CHECK(root.text == "\n one & AB\xE2\x82\xAC two<&]]\n\n");
  REQUIRE(root.children.size() == 2);
  CHECK(root.children[1].line == 6);
  REQUIRE(root.children[1].find("c") != nullptr);
  CHECK(root.children[1].find("c")->text == ">'");
  CHECK(root.find("c") == nullptr);
  std::string deep;
  for (int i = 0; i < 64; ++i) deep = "<a>" + deep + "</a>";
  CHECK_NOTHROW(parse_xml(deep, "a.xml"));
}

TEST_CASE("an annotation of VOC is read whole") {
  const VocAnnotation a = parse_voc(
      "<annotation><folder>x</folder><filename> 1.jpg </filename><size><width>500</width><height>375</height>"
      "<depth>3</depth></size>\n<object><part><name>head</name><bndbox><xmin>1</xmin></bndbox></part><name>dog</name>"
      "<truncated>1</truncated><difficult/><bndbox><ymax>4.5</ymax><xmin>1</xmin><ymin>+2</ymin><xmax>3e2</xmax></"
      "bndbox>"
      "</object></annotation>",
      "a.xml");
  CHECK(a.file == "1.jpg");
  CHECK(a.width == 500);
  CHECK(a.height == 375);
  REQUIRE(a.objects.size() == 1);
  CHECK(a.objects[0].name == "dog");
  CHECK(a.objects[0].box == std::array<double, 4>{1, 2, 300, 4.5});
  CHECK(a.objects[0].truncated);
  CHECK_FALSE(a.objects[0].difficult);
  CHECK(a.objects[0].line == 2);
}

TEST_CASE("YOLO's texts and the files that tell where they lie") {
  const YoloBoxes boxes = parse_yolo_text("0 0.5 0.25 0.1 1\r\n\n 2.0\t1.0005 0 0 -0.0001 \n1 2 .5 .5 .5", "a.txt");
  REQUIRE(boxes.boxes.size() == 2);
  CHECK(boxes.boxes[0].box == std::array<double, 4>{0.5, 0.25, 0.1, 1});
  CHECK(boxes.boxes[1].label == 2);
  CHECK(boxes.boxes[1].box == std::array<double, 4>{1, 0, 0, 0});
  CHECK(boxes.boxes[1].line == 3);
  CHECK(boxes.skipped ==
        std::vector<std::string>{
            "a.txt:4: the x is 2, which is no part of the picture's side in [0, 1]; are these pixels?"});

  const YoloConfig c = parse_yolo_yaml(
      "# a comment\npath: ../coco8 # here\ntrain: images/train\nval: [images/val, 'more # val']\ntest:\n\nnames:\n"
      "  0: person\n  1: it's\n  2: \"a: \\\"b\\\"\"\ndownload: |\n  print('x\n    y: [\n",
      "data.yaml");
  CHECK(c.path == "../coco8");
  CHECK(c.sets == std::map<std::string, std::vector<std::string>>{{"train", {"images/train"}},
                                                                  {"val", {"images/val", "more # val"}}});
  CHECK(c.labels == Labels{"person", "it's", "a: \"b\""});
  CHECK(parse_yolo_yaml("nc: 3\nnames: ['RBC', 'W''BC',\n  \"x,]\"]\n\nroboflow:\n  url: https://a/b\n", "d").labels ==
        Labels{"RBC", "W'BC", "x,]"});
  CHECK(parse_yolo_yaml("names:\n- a\n- b c\n", "d").labels == Labels{"a", "b c"});
  CHECK(parse_yolo_yaml("names: {0: a, 1: b}", "d").labels == Labels{"a", "b"});

  const YoloConfig d = parse_darknet_data(
      "classes= 2\ntrain  = data/train.txt\n# x\nvalid=data/test.txt\nnames = data/obj.names\n", "o");
  CHECK(d.classes == 2);
  CHECK(d.names == "data/obj.names");
  CHECK(d.sets.at("val") == std::vector<std::string>{"data/test.txt"});
}

TEST_CASE("each bad annotation file has a sentence of its own, with file and line") {
  const auto voc = [](const std::string& inside) { return "<annotation>\n" + inside + "\n</annotation>"; };
  const auto box = [&](const std::string& members, const std::string& more = "<name>cat</name>") {
    return voc("<object>\n" + more + "\n<bndbox>" + members + "</bndbox></object>");
  };
  const std::string good = "<xmin>1</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax>";
  const auto coco = [](const std::string& images, const std::string& annotations) {
    return "{\"images\": [" + images + "],\n\"categories\": [{\"id\": 7, \"name\": \"cat\"}],\n\"annotations\": [\n" +
           annotations + "]}";
  };
  const std::string image = "{\"id\": 1, \"file_name\": \"a.png\"}";
  std::string deep;
  for (int i = 0; i < 70; ++i) deep += "<a>";
  struct {
    const char* file;
    std::string text;
    const char* sentence;  // what stands behind the file's name
  } const cases[]{
      {"a.xml", "", ":1: there is no element in it"},
      {"a.xml", "\n<!-- x -->\n", ":3: there is no element in it"},
      {"a.xml", "xmin = 1", ":1: there is text before the first element"},
      {"a.xml", std::string("\xFF\xFE<\0a\0", 6), ":1: the file is in UTF-16; save it as UTF-8"},
      {"a.xml", "<?xml version='1.0' encoding='GB2312'?>\n<a/>", ":1: the encoding is GB2312"},
      {"a.xml", "<?xml version='1.0' encoding?>\n<a/>", ":1: the declaration's encoding has no value"},
      {"a.xml", "<?xml version='1.0'\n<a/>", ":1: the declaration <?xml does not end"},
      {"a.xml", "\n<?xml version='1.0'?><a/>", ":2: <?xml can only stand at the very beginning"},
      {"a.xml", "<annotation>\n\x01</annotation>", ":2: a control character (1)"},
      {"a.xml", "<annotation>\n<folder>\xE9t\xE9</folder></annotation>", ":2: ill-formed UTF-8"},
      {"a.xml", "<!DOCTYPE a [\n<!ENTITY b \"c\">]><a/>", ":1: the document type has rules of its own"},
      {"a.xml", "\n<!DOCTYPE a", ":2: the document type <!DOCTYPE does not end"},
      {"a.xml", voc("<!-- a -- b -->"), ":2: a comment has two dashes in it"},
      {"a.xml", voc("<!-- a"), ":2: a comment does not end"},
      {"a.xml", voc("<![CDATA[ a"), ":2: <![CDATA[ does not end"},
      {"a.xml", voc("<?a b"), ":2: a processing instruction does not end"},
      {"a.xml", voc("a & b"), ":2: an & that begins no entity"},
      {"a.xml", voc("&nbsp;"), ":2: the entity &nbsp; is not known"},
      {"a.xml", voc("&#xD800;"), ":2: &#xD800; is no character"},
      {"a.xml", voc("]]>"), ":2: ]]> in a text"},
      {"a.xml", voc("< a/>"), ":2: a tag has no name"},
      {"a.xml", voc("<a b></a>"), ":2: the attribute b has no ="},
      {"a.xml", voc("<a b=1></a>"), ":2: the value of the attribute b is not in quotes"},
      {"a.xml", voc("<a b='1' b='2'/>"), ":2: <a> has the attribute b twice"},
      {"a.xml", voc("<a b='1'c='2'/>"), ":2: a blank is missing in the tag <a"},
      {"a.xml", voc("<a b='<'/>"), ":2: a < in the value of the attribute b"},
      {"a.xml", "<annotation>\n<a b='", ":2: the value of the attribute b does not end"},
      {"a.xml", "<annotation>\n<a ", ":2: the tag <a does not end"},
      {"a.xml", voc("<size></sizes>"), ":2: </sizes> where <size> of line 2 should be closed"},
      {"a.xml", "<annotation>\n<object></object>\n", ":3: <annotation> of line 1 is not closed"},
      {"a.xml", "<annotation></annotation x>", ":1: the tag </annotation does not end"},
      {"a.xml", "<annotation></annotation>\n<annotation/>", ":2: something follows behind the end of <annotation>"},
      {"a.xml", deep, ":1: elements lie more than 64 deep"},
      {"a.xml", "<html>\n<body/></html>", ":1: the outermost element is <html>"},
      {"a.xml", voc("<filename>a</filename>\n<filename>b</filename>"), ":3: a second <filename> in <annotation>"},
      {"a.xml", voc("<filename><a/></filename>"), ":2: <filename> should hold a text alone"},
      {"a.xml", voc("<size><width>big</width></size>"), ":2: <width> should be a number, not \"big\""},
      {"a.xml", voc("<size><height>-3</height></size>"), ":2: <height> should be a whole number of pixels, not -3"},
      {"a.xml", voc("<object/>"), ":2: <object> has no <name>"},
      {"a.xml", box(good, "<name> </name>"), ":3: the <name> of an object's class is empty"},
      {"a.xml", voc("<object><name>cat</name></object>"), ":2: <object> has no <bndbox>"},
      {"a.xml", box("<xmin>1</xmin><ymin>2</ymin><xmax>3</xmax>"), ":4: <bndbox> has no <ymax>"},
      {"a.xml", box("<xmin>nan</xmin>"), ":4: <xmin> should be a number, not \"nan\""},
      {"a.xml", box("<xmin>1,5</xmin>"), ":4: <xmin> should be a number, not \"1,5\""},
      {"a.xml", box(good, "<name>cat</name><difficult>2</difficult>"), ":3: <difficult> should be 0 or 1, not \"2\""},
      {"a.txt", "0 .5 .5 .5 .5\n0 .5 .5 .5\n", ":2: less than five numbers in the line \"0 .5 .5 .5\""},
      {"a.txt", "0 .5 .5 .5 .5 .9", ":1: more than five numbers in the line"},
      {"a.txt", "0 .1 .1 .2 .2 .3 .3", "(an outline? write boxes instead)"},
      {"a.txt", "cat .5 .5 .5 .5", ":1: the class should be a whole number from 0 on, not \"cat\""},
      {"a.txt", "-1 .5 .5 .5 .5", ":1: the class should be a whole number from 0 on, not \"-1\""},
      {"a.txt", "0 .5 x .5 .5", ":1: the y should be a number, not \"x\""},
      {"a.txt", "0 .5 .5 inf .5", ":1: the width should be a number, not \"inf\""},
      {"data.yaml", "train: a\nnc 3\n", ":2: \"nc 3\" should be a key and its value"},
      {"data.yaml", "names: [a, b\n\n", ":1: the list does not end: there is no ]"},
      {"data.yaml", "names: [a, , b]", ":1: a comma without a word before it"},
      {"data.yaml", "names: ['a' 'b']", ":1: the quoted text 'a' 'b' does not end"},
      {"data.yaml", "names: [a]\n  - b", ":1: something follows the end of the list"},
      {"data.yaml", "names:\n  1: a", ":2: \"1: a\" where 0: … should follow"},
      {"data.yaml", "names:\n- a\nnc: 2", ":1: there are 1 names, but nc is 2"},
      {"data.yaml", "nc: many", ":1: nc should be the number of classes, not \"many\""},
      {"data.yaml", "names:", ":1: names should be a list"},
      {"data.yaml", "nc: 1\nnc: 1", ":2: the key nc was there before"},
      {"data.yaml", "  nc: 1", ":1: \"nc: 1\" is indented, but below no key"},
      {"data.yaml", "names:\n\t- a", ":2: a tab where YAML takes blanks alone"},
      {"data.yaml", "path: \"a\\x\"", ":1: the escape \\x is not known here"},
      {"data.yaml", "path: &a b", ":1: \"&a b\" where a word is needed"},
      {"data.yaml", "names:\n- a\n  0: b", ":3: a list and a map at the same place"},
      {"data.yaml", "train: a\n  - b", ":2: a value on its own line and on the ones below"},
      {"obj.data", "classes 3", ":1: \"classes 3\" should be a key and its value: key = value"},
      {"obj.data", "\nclasses = x", ":2: classes should be a number, not \"x\""},
      {"a.json", coco(image, "{\"id\": 1,}"), ": not valid JSON at line 4"},
      {"a.json", coco(image, "{\"id\": 1, \"category_id\": 7}"), ": annotations[0], line 4: it has no \"image_id\""},
      {"a.json", coco("{\"file_name\": \"a\"}", ""), ": images[0], line 1: it has no \"id\""},
      {"a.json", coco(image, "{\"id\": 1, \"image_id\": 1, \"category_id\": 7, \"bbox\": [1, 2]}"),
       ": annotations[0], line 4: its bbox should be [x, y, width, height]"},
      {"a.json", coco(image, "\n{\"id\": 1, \"image_id\": 3, \"category_id\": 7, \"bbox\": [1, 2, 3, 4]}"),
       "annotations[0], line 5: there is no image with the id 3"},
  };
  std::set<std::string> sentences;
  for (const auto& one : cases) {
    CAPTURE(one.file, one.text);
    const std::string_view file = one.file;
    const std::string got = sentence_of<FormatError>([&] {
      if (file.ends_with(".xml")) parse_voc(one.text, file);
      if (file.ends_with(".txt")) parse_yolo_text(one.text, file);
      if (file.ends_with(".yaml")) parse_yolo_yaml(one.text, file);
      if (file.ends_with(".data")) parse_darknet_data(one.text, file);
      if (file.ends_with(".json")) parse_coco(one.text, file);
    });
    CHECK(got.substr(0, file.size()) == file);
    CHECK_THAT(got, ContainsSubstring(one.sentence));
    CHECK(sentences.insert(got).second);
  }
  CHECK(sentences.size() >= 70);
}

// ---------------------------------------------------------------------------------------------------------- data sets

TEST_CASE("a picture's size is read from its header as the decoder gives it") {
  const auto folder = std::filesystem::path(__FILE__).parent_path().parent_path() / "data" / "pictures";
  Index seen = 0, turned = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string bytes = read_file(entry.path());
    const auto all = std::as_bytes(std::span(bytes.data(), bytes.size()));
    Picture picture;
    if (sentence_of([&] { picture = decode_picture(all, "p"); }) != "no error") continue;
    CAPTURE(entry.path().string());
    CHECK(picture_size(all, "p") == PixelSize{picture.width, picture.height});
    ++seen;
    turned += entry.path().string().find("exif") != std::string::npos ||
              entry.path().string().find("orient") != std::string::npos;
  }
  CHECK(seen >= 10);
  CHECK(turned >= 4);
}

TEST_CASE("VOC: boxes, sets, classes, and what is wrong is counted") {
  const Folder folder;
  put_voc(folder, 120);
  folder.put("JPEGImages/1001.png", png(40, 30, true));
  folder.put("Annotations/1001.xml", annotation(object("dog", {0, 0, 40, 30}) + object("cat", {1, 2, 3, 4}, true) +
                                                object("cat", {0, 0, 40.5, 31})));
  folder.put("Annotations/1119.xml", annotation(object("ant", {2, 2, 4, 4})));
  folder.put("ImageSets/Main/train.txt", "1001\n1000 -1\r\n\n1002  1\n");
  folder.put("ImageSets/Main/val.txt", "1003\n1004\n");
  const BoxData data = VocData::open(folder.path, "train");
  CHECK(data.size() == 3);
  // Of all annotations, though no ant is in this set.
  CHECK(data.labels() == Labels{"ant", "cat", "dog"});
  CHECK(data.counts() == std::vector<Index>{0, 3, 1});
  CHECK(data.problems().empty());
  CHECK(data.path(0) == folder.path / "JPEGImages/1001.png");
  const std::vector<Index> ids{1, 0, 0};
  const Batch batch = data.batch(ids);
  REQUIRE(batch.pictures.size() == 3);
  for (const Tensor& block : batch.pictures) {
    CHECK(block.sizes() == at::IntArrayRef({1, 3, 30, 40}));
    CHECK(block[0][1][4][7].item<int>() == 15);
  }
  CHECK(integers(batch.offsets) == std::vector<Index>{0, 1, 3, 5});
  CHECK(integers(batch.sizes) == std::vector<Index>{30, 40, 30, 40, 30, 40});
  CHECK(batch.target.scalar_type() == at::kFloat);
  CHECK(row(batch.target, 0) == std::vector<double>{1, 1, 2, 10, 20});
  CHECK(row(batch.target, 1) == std::vector<double>{2, 0, 0, 40, 30});
  CHECK(row(batch.target, 2) == std::vector<double>{1, 0, 0, 40, 30});  // half a pixel beyond is rounding
  const Batch known = data.targets_of(ids);
  CHECK(known.pictures.empty());
  CHECK(known.target.equal(batch.target));
  CHECK(known.offsets.equal(batch.offsets));
  CHECK(known.sizes.equal(batch.sizes));
  const Batch ignored = data.ignored(ids);
  CHECK(integers(ignored.offsets) == std::vector<Index>{0, 0, 1, 2});
  CHECK(row(ignored.target, 0) == std::vector<double>{1, 1, 2, 2, 2});
  const auto truth = data.truth(ids);
  REQUIRE(truth.size() == 7);
  CHECK(truth[0].picture == 0);
  CHECK(truth[2].picture == 1);
  CHECK(truth[2].difficult);
  CHECK(truth[2].box == std::array<double, 4>{1, 2, 2, 2});
  CHECK(data.truth().size() == 5);
  CHECK_THAT(sentence_of([&] { data.batch(std::vector<Index>{3}); }), ContainsSubstring("picture 3 does not exist"));

  CHECK(VocData::open(folder.path).size() == 120);
  const auto [train, val] = VocData::split(folder.path);
  CHECK(train.fingerprint() == data.fingerprint());
  CHECK(val.size() == 2);
  CHECK(val.fingerprint() != data.fingerprint());
  CHECK(data.subset(std::vector<Index>{2, 0}).path(1) == data.path(0));
  CHECK(data.subset(2).size() == 2);
  CHECK_THAT(sentence_of([&] { data.subset(4); }), ContainsSubstring("subset of 4"));
  CHECK_THAT(sentence_of([&] { VocData::open(folder.path, "test"); }), ContainsSubstring("there are train, val"));
  CHECK_THAT(sentence_of([&] { VocData::open(folder.path / "x"); }), ContainsSubstring("is not a folder"));
  CHECK_THAT(sentence_of([&] { VocData::open(folder.path / "ImageSets"); }), ContainsSubstring("no data in"));
  // One pixel less to the left and above.
  CHECK(row(VocData::open(folder.path, "val", {.count_from_one = true}).targets(first(1)).target, 0) ==
        std::vector<double>{1, 0, 1, 11, 21});

  SECTION("some of the classes, in another order") {
    const auto all = VocData::open(folder.path);
    const auto some = all.with_labels({"bird", "cat"});
    CHECK(some.labels() == Labels{"bird", "cat"});
    CHECK(some.size() == all.size());
    CHECK(some.counts() == std::vector<Index>{0, all.counts()[1]});
    CHECK(some.truth().front().label == 1);
    CHECK(some.fingerprint() != all.fingerprint());
    CHECK(at::equal(some.batch(first(1)).pictures[0], all.batch(first(1)).pictures[0]));
    CHECK(all.with_labels({"dog"}).batch(first(1)).target.size(0) == 0);
    const auto part = all.subset(std::vector<Index>{1}).with_labels({"cat"});
    CHECK(part.size() == 1);
    CHECK(part.path(0) == all.path(1));
    CHECK_THAT(sentence_of<DataError>([&] { all.with_labels({"cat", "cat"}); }), ContainsSubstring("named twice"));
    CHECK_THAT(sentence_of<DataError>([&] { all.with_labels({}); }), ContainsSubstring("a class at least"));
  }
  SECTION("divided by chance") {
    std::filesystem::remove_all(folder.path / "ImageSets");
    const auto a = VocData::split(folder.path, {.val_fraction = 0.25, .seed = 3});
    CHECK(a.train.size() == 90);
    CHECK(a.test.size() == 30);
    CHECK(a.test.fingerprint() == VocData::split(folder.path, {.val_fraction = 0.25, .seed = 3}).test.fingerprint());
    CHECK(a.test.fingerprint() != VocData::split(folder.path, {.val_fraction = 0.25, .seed = 4}).test.fingerprint());
    std::set<std::filesystem::path> all;
    for (Index i = 0; i < 90; ++i) all.insert(a.train.path(i));
    for (Index i = 0; i < 30; ++i) all.insert(a.test.path(i));
    CHECK(all.size() == 120);
    CHECK_THAT(sentence_of<OptionError>([&] { VocData::split(folder.path, {.val_fraction = 1.0}); }),
               ContainsSubstring("val_fraction"));
  }
  SECTION("one bad box or picture in 120 is told, two are too many") {
    struct {
      const char* name;
      std::string file, bytes, sentence;
      Index pictures, left_out, cut;
    } const cases[]{
        {"no area", "Annotations/1000.xml", annotation(object("cat", {5, 5, 5, 9})),
         "Annotations/1000.xml:4: the box is 0 wide and 4 high; it is left out", 0, 1, 0},
        {"outside", "Annotations/1000.xml", annotation(object("cat", {41, 5, 45, 9})),
         "Annotations/1000.xml:4: the box with the corners 41, 5, 45, 9 lies outside the picture of 40 x 30 pixels", 0,
         1, 0},
        {"beyond", "Annotations/1000.xml", annotation(object("cat", {-9, 5, 5, 9})),
         "Annotations/1000.xml:4: the box with the corners -9, 5, 5, 9 reaches beyond the picture", 0, 0, 1},
        {"class", "Annotations/1000.xml", annotation(object("cow", {1, 5, 5, 9})),
         "Annotations/1000.xml:4: a box of the class \"cow\", which is none of ant, cat, dog", 0, 1, 0},
        {"size", "Annotations/1000.xml", annotation("", 30, 40),
         "Annotations/1000.xml: the picture should have 30 x 40 pixels, but JPEGImages/1000.png has 40 x 30", 1, 0, 0},
        {"format", "Annotations/1000.xml", "<annotation>\n", "Annotations/1000.xml:2: <annotation> of line 1", 1, 0, 0},
        {"missing", "Annotations/2000.xml", annotation("", 40, 30, "../1000.png"),
         "Annotations/2000.xml: its picture is missing", 1, 0, 0},
        {"twice", "Annotations/2000.xml", annotation("", 40, 30, "1000.png"),
         "Annotations/2000.xml: the picture JPEGImages/1000.png was there before", 1, 0, 0},
        {"damaged", "JPEGImages/1000.png", "no picture", "1000.png is not a JPEG or PNG picture", 1, 0, 0},
        {"cut", "JPEGImages/1000.png", png(40, 30).substr(0, 20), "1000.png", 1, 0, 0},
    };
    for (const auto& one : cases) {
      CAPTURE(one.name);
      folder.put("Annotations/1000.xml", annotation(object("cat", {1, 2, 11, 22})));
      folder.put("JPEGImages/1000.png", png(40, 30));
      std::filesystem::remove(folder.path / "Annotations/2000.xml");
      folder.put(one.file, one.bytes);
      const BoxDataOptions options{.labels = {"ant", "cat", "dog"}};
      const BoxData got = VocData::open(folder.path, {}, options);
      REQUIRE(got.problems().size() == 1);
      CHECK_THAT(got.problems()[0], ContainsSubstring(one.sentence));
      CHECK(got.bad_pictures() == one.pictures);
      CHECK(got.left_out_boxes() == one.left_out);
      CHECK(got.cut_boxes() == one.cut);
      const std::string said = sentence_of<DataError>(
          [&] { VocData::open(folder.path, {}, {.labels = options.labels, .most_bad = 0.001}); });
      CHECK_THAT(said, ContainsSubstring(one.pictures != 0 ? "1 of 12" : "1 of 122 boxes"));
      CHECK_THAT(said, ContainsSubstring(one.sentence));
    }
  }
  SECTION("names in sets") {
    folder.put("ImageSets/Main/odd.txt", "1000\n../JPEGImages/1000\n1000\n9999\n");
    const BoxData odd = VocData::open(folder.path, "odd", {.most_bad = 1.0});
    CHECK(odd.size() == 1);
    CHECK(odd.problems() ==
          std::vector<std::string>{"ImageSets/Main/odd.txt:2: there is no Annotations/../JPEGImages/1000.xml",
                                   "ImageSets/Main/odd.txt:3: 1000 was there before",
                                   "ImageSets/Main/odd.txt:4: there is no Annotations/9999.xml"});
    CHECK_THAT(sentence_of<DataError>([&] { VocData::open(folder.path, "odd"); }),
               ContainsSubstring("3 of 4 pictures of the set odd"));
  }
}

TEST_CASE("a picture that turns out to be damaged is stood in for, with its boxes") {
  const Folder folder;
  put_voc(folder, 100);
  // The header is whole; the pixels are not.
  std::string damaged = png(40, 30);
  damaged[damaged.size() - 30] = static_cast<char>(damaged[damaged.size() - 30] ^ 0x55);
  folder.put("JPEGImages/1003.png", damaged);
  folder.put("Annotations/1004.xml", annotation(object("dog", {5, 5, 10, 10})));
  const BoxData data = VocData::open(folder.path);
  CHECK(data.problems().empty());
  const std::vector<Index> ids{3, 2};
  const Batch batch = data.batch(ids);
  CHECK(row(batch.target, 0) == std::vector<double>{1, 5, 5, 5, 5});
  CHECK(data.targets(ids).target.equal(batch.target));
  CHECK(data.truth(ids)[0].label == 1);
  REQUIRE(data.problems().size() == 1);
  CHECK_THAT(data.problems()[0], ContainsSubstring("1003.png"));
  CHECK(data.bad_pictures() == 1);
  folder.put("JPEGImages/1005.png", damaged);
  const BoxData worse = VocData::open(folder.path);
  CHECK_THAT(sentence_of<DataError>([&] { worse.batch(first(10)); }), ContainsSubstring("2 of 100 pictures"));
}

TEST_CASE("pictures are given scaled down, with their boxes, and kept in memory where that is wanted") {
  const Folder folder;
  put_voc(folder, 3);
  const BoxData plain = VocData::open(folder.path), small = VocData::open(folder.path, {}, {.most_side = 20}),
                kept = VocData::open(folder.path, {}, {.cache_bytes = 2 * 40 * 30 * 3});
  const Batch batch = small.batch(first(3));
  CHECK(batch.pictures[0].sizes() == at::IntArrayRef({1, 3, 15, 20}));
  CHECK(integers(batch.sizes) == std::vector<Index>{15, 20, 15, 20, 15, 20});
  CHECK(row(batch.target, 1) == std::vector<double>{0, 0.5, 1, 5, 10});
  CHECK(batch.pictures[0].equal(resize(plain.batch(first(1)).pictures[0], 15, 20)));
  CHECK(small.fingerprint() != plain.fingerprint());
  CHECK(kept.fingerprint() == plain.fingerprint());
  for (int round = 0; round < 2; ++round) {
    Batch again = kept.batch(first(3));
    for (std::size_t i = 0; i < 3; ++i) {
      CHECK(again.pictures[i].equal(plain.batch(first(3)).pictures[i]));
      again.pictures[i].fill_(7);  // the batch's own
    }
  }
  for (const char* name : {"1000", "1001", "1002"})
    std::filesystem::remove(folder.path / "JPEGImages" / (std::string(name) + ".png"));
  CHECK_NOTHROW(kept.batch(first(2)));
  CHECK_THROWS_AS(kept.batch(first(3)), DataError);
  CHECK_THROWS_AS(VocData::open(folder.path, {}, {.most_side = -1}), OptionError);
  CHECK_THROWS_AS(VocData::open(folder.path, {}, {.most_bad = 2.0}), OptionError);
}

TEST_CASE("YOLO: folders, lists, names, and nothing outside of the folder") {
  const Folder folder;
  for (const char* name : {"train/a", "train/b", "train/sub/c", "val/d"})
    folder.put(std::string("images/") + name + ".png", png(40, 20));
  folder.put("labels/train/a.txt", "1 0.5 0.5 0.5 0.5\n0 .25 .5 .1 .2\n");
  folder.put("labels/train/sub/c.txt", "0 0.9 0.5 0.4 0.5\n");
  folder.put("labels/val/d.txt", "1 0.5 0.5 1 1\n");
  const std::string yaml =
      "path: ../datasets/x\ntrain: images/train\nval: ../images/val\ntest: ../test\nnames: [cat, dog]\n";
  folder.put("data.yaml", yaml);
  const BoxDataOptions lenient{.most_bad = 1.0};
  const BoxData train = YoloData::open(folder.path, "train", lenient);
  CHECK(train.size() == 3);
  CHECK(train.labels() == Labels{"cat", "dog"});
  const Batch batch = train.batch(first(3));
  CHECK(integers(batch.offsets) == std::vector<Index>{0, 2, 2, 3});  // b has no text: nothing is in it
  CHECK(row(batch.target, 0) == std::vector<double>{1, 10, 5, 20, 10});
  CHECK(row(batch.target, 2) == std::vector<double>{0, 28, 5, 12, 10});  // cut
  CHECK(train.problems().size() == 1);
  CHECK_THAT(train.problems()[0],
             ContainsSubstring("labels/train/sub/c.txt:1: the box with the corners 28, 5, 44, 15"));
  CHECK(train.cut_boxes() == 1);
  CHECK(YoloData::open(folder.path / "data.yaml", "val").size() == 1);
  CHECK(YoloData::split(folder.path, lenient).test.size() == 1);
  CHECK(YoloData::open(folder.path, {}, lenient).size() == 4);
  CHECK_THAT(sentence_of<DataError>([&] { YoloData::open(folder.path, "test"); }),
             ContainsSubstring("data.yaml: the set test should lie in \"test\", which is not there"));
  CHECK_THAT(sentence_of<DataError>([&] { YoloData::open(folder.path, "other"); }),
             ContainsSubstring("no set \"other\""));

  SECTION("what is wrong") {
    folder.put("labels/train/a.txt", "2 0.5 0.5 0.5 0.5\n0 40 .5 .1 .2\n0 .5 .5 0 .1\n");
    folder.put("labels/train/b.txt", "cat\n");
    folder.put("labels/train/e.txt", "");
    folder.put("images/train/f.bmp", "BM");
    folder.put("a.yaml", "not the one");
    folder.put("labels/train/classes.txt", "cat\ndog\n");
    const BoxData bad = YoloData::open(folder.path, "train", lenient);
    CHECK(bad.size() == 2);
    CHECK(bad.bad_pictures() == 3);
    CHECK(bad.left_out_boxes() == 3);
    std::string all;
    for (const std::string& sentence : bad.problems()) all += sentence + "\n";
    for (const char* wanted :
         {"labels/train/a.txt:1: a box of the class 2 where there are 2 classes, from 0 on",
          "labels/train/a.txt:2: the x is 40", "labels/train/a.txt:3: the box is 0 wide",
          "labels/train/b.txt:1: less than five numbers", "labels/train/e.txt: its picture is missing in images/train",
          "f.bmp is not a JPEG or PNG picture: it is a file of the format BMP"})
      CHECK_THAT(all, ContainsSubstring(wanted));
    CHECK_THAT(sentence_of<DataError>([&] { YoloData::open(folder.path, "train"); }),
               ContainsSubstring("3 of 5 pictures of the set train"));
    std::filesystem::remove_all(folder.path / "labels");
    CHECK_THAT(sentence_of<DataError>([&] { YoloData::open(folder.path, "train"); }),
               ContainsSubstring("labels/train/a.txt would be for images/train/a.png"));
    std::filesystem::remove(folder.path / "data.yaml");
    CHECK_THAT(sentence_of([&] { YoloData::open(folder.path, "train"); }),
               ContainsSubstring("a.yaml:1: \"not the one\""));
    std::filesystem::remove(folder.path / "a.yaml");
    CHECK_THAT(sentence_of<DataError>([&] { YoloData::open(folder.path, "train"); }),
               ContainsSubstring("give `labels`"));
  }
  SECTION("darknet's lists") {
    std::filesystem::remove(folder.path / "data.yaml");
    folder.put("obj/x.png", png(10, 10));
    folder.put("obj/x.txt", "0 .5 .5 .2 .2\n");
    const std::filesystem::path outside = folder.path.parent_path() / (folder.path.filename().string() + ".png");
    write_file(outside, png(10, 10));
    folder.put("train.txt", "data/obj/x.png\n/home/me/darknet/images/train/a.png\r\n../" + outside.filename().string() +
                                "\n" + outside.string() + "\nobj/none.png\n");
    folder.put("obj.names", "cat\ndog\n");
    folder.put("obj.data", "classes = 2\ntrain = data/train.txt\nvalid = data/train.txt\nnames = data/obj.names\n");
    const BoxData list = YoloData::open(folder.path / "obj.data", "train", lenient);
    std::filesystem::remove(outside);
    CHECK(list.size() == 2);
    CHECK(list.labels() == Labels{"cat", "dog"});
    CHECK(list.path(0) == folder.path / "obj/x.png");
    CHECK(row(list.targets(first(1)).target, 0) == std::vector<double>{0, 4, 4, 2, 2});
    CHECK(list.bad_pictures() == 3);
    CHECK_THAT(list.problems()[0], ContainsSubstring("train.txt:3: the picture"));
    CHECK_THAT(list.problems()[1], ContainsSubstring("is missing, or not inside of"));
    folder.put("obj.data", "classes = 3\nnames = obj.names\n");
    CHECK_THAT(sentence_of<DataError>([&] { YoloData::open(folder.path, {}); }),
               ContainsSubstring("there are 3 classes, but 2 names"));
  }
}

TEST_CASE("COCO: crowds are kept apart, ids go by order, and nothing lies outside of the folder") {
  const Folder folder;
  std::string images, annotations;
  for (Index i = 0; i < 110; ++i) {
    const std::string name = transferlib::detail::text(i, ".png");
    folder.put("train2017/" + name, png(40, 30));
    images += transferlib::detail::text(i == 0 ? "" : ",\n", "{\"id\": ", 500 - i, ", \"file_name\": \"", name,
                                        "\", \"width\": 40, \"height\": 30}");
    annotations += transferlib::detail::text(i == 0 ? "" : ",\n", "{\"id\": ", i, ", \"image_id\": ", 500 - i,
                                             ", \"category_id\": 9, \"bbox\": [1, 2, 10, 20], \"area\": 99}");
  }
  const std::string crowd =
      ",\n{\"id\": 300, \"image_id\": 500, \"category_id\": 4, \"bbox\": [0, 0, 40, 30], "
      "\"iscrowd\": 1, \"area\": 7}";
  const std::string categories = "[{\"id\": 9, \"name\": \"nine\"}, {\"id\": 4, \"name\": \"four\"}]";
  const auto put = [&](const std::string& more_images, const std::string& more) {
    folder.put("annotations/instances_train2017.json", "{\"images\": [" + images + more_images +
                                                           "],\n\"categories\": " + categories +
                                                           ",\n\"annotations\": [\n" + annotations + more + "]}");
  };
  put("", crowd);
  const BoxData data = CocoData::open(folder.path / "annotations/instances_train2017.json", folder.path / "train2017");
  CHECK(data.size() == 110);
  CHECK(data.labels() == Labels{"four", "nine"});
  CHECK(data.counts() == std::vector<Index>{0, 110});
  CHECK(row(data.targets(first(1)).target, 0) == std::vector<double>{1, 1, 2, 10, 20});
  CHECK(row(data.ignored(first(1)).target, 0) == std::vector<double>{0, 0, 0, 40, 30});
  const auto truth = data.truth(first(2));
  REQUIRE(truth.size() == 3);
  CHECK(truth[0].area == 99.0);
  CHECK_FALSE(truth[0].matchable);  // the id 0, as in pycocotools
  CHECK(truth[1].crowd);
  CHECK(truth[2].picture == 1);
  CHECK(truth[2].matchable);
  CHECK(CocoData::open_set(folder.path, "train").fingerprint() == data.fingerprint());
  CHECK(CocoData::split(folder.path, {.val_fraction = 0.1}).test.size() == 11);
  CHECK(data.truth().size() == 111);
  // A quarter of the sides is a sixteenth of the area.
  CHECK(CocoData::open_set(folder.path, "train", {.most_side = 10}).truth(first(1))[0].area == 99.0 * 8 / 30 / 4);
  CHECK_THAT(sentence_of<DataError>([&] { CocoData::open_set(folder.path, "val"); }),
             ContainsSubstring("no set \"val\""));

  put("", crowd + ",\n{\"id\": 301, \"image_id\": 77, \"category_id\": 4, \"bbox\": [0, 0, 1, 1]}");
  CHECK(CocoData::open_set(folder.path, "train").problems() ==
        std::vector<std::string>{
            "instances_train2017.json: annotations[111], line 224: there is no image with the id 77"});
  put("", crowd + ",\n{\"id\": 301, \"image_id\": 499, \"category_id\": 4, \"bbox\": [3, 3, 0, 1]}");
  CHECK(CocoData::open_set(folder.path, "train").problems() ==
        std::vector<std::string>{
            "instances_train2017.json:224: the annotation 301: the box is 0 wide and 1 high; it is left out"});
  folder.put("outside.png", png(40, 30));
  for (const char* name : {"../outside.png", "", "..", "/etc/passwd"}) {
    put(transferlib::detail::text(",\n{\"id\": 3, \"file_name\": \"", name, "\"}"), crowd);
    const BoxData bad = CocoData::open_set(folder.path, "train");
    CHECK(bad.size() == 110);
    CHECK(bad.bad_pictures() == 1);
    REQUIRE(bad.problems().size() == 1);
    CHECK_THAT(bad.problems()[0], ContainsSubstring("instances_train2017.json:111: the image 3 has the name"));
  }
  put(",\n{\"id\": 3, \"file_name\": \"none.png\"}", crowd);
  CHECK_THAT(CocoData::open_set(folder.path, "train").problems().at(0), ContainsSubstring("none.png"));
}

TEST_CASE("BCCD's pictures and boxes") {
  const char* extra = std::getenv("TRANSFERLIB_TEST_DATA_EXTRA");
  const std::filesystem::path folder = std::filesystem::path(extra == nullptr ? "" : extra) / "bccd" / "BCCD";
  if (extra == nullptr || !std::filesystem::exists(folder))
    SKIP("TRANSFERLIB_TEST_DATA_EXTRA names no folder that has bccd/BCCD");
  const BoxData all = VocData::open(folder);
  CHECK(all.size() == 364);
  CHECK(all.labels() == Labels{"Platelets", "RBC", "WBC"});
  // Two of the 4155 red cells have no area.
  CHECK(all.counts() == std::vector<Index>{361, 4155 - 2, 372});
  CHECK(all.bad_pictures() == 0);
  CHECK(all.left_out_boxes() == 2);
  CHECK(all.cut_boxes() == 0);
  CHECK(all.problems() ==
        std::vector<std::string>{"Annotations/BloodImage_00338.xml:158: the box is 0 wide and 0 high; it is left out",
                                 "Annotations/BloodImage_00343.xml:50: the box is 0 wide and 0 high; it is left out"});
  const auto [train, val] = VocData::split(folder);
  CHECK(train.size() == 205);
  CHECK(val.size() == 87);
  const BoxData test = VocData::open(folder, "test");
  CHECK(test.size() == 72);
  CHECK(VocData::open(folder, "trainval").size() == 292);
  const Batch batch = test.batch(std::vector<Index>{71, 0});
  CHECK(batch.pictures[1].sizes() == at::IntArrayRef({1, 3, 480, 640}));
}

// ------------------------------------------------------------------------------------------------------- augmentation

namespace {

/// Black pictures of several sizes, with a box painted into each of the three channels, whose number is its class.
struct Painted {
  using Target = Boxes;
  Index count = 12;
  bool central = false;  ///< the boxes lie in the middle

  Index size() const { return count; }
  Labels labels() const { return {"red", "green", "blue"}; }
  Batch batch(std::span<const Index> ids) const {
    std::vector<transferlib::detail::BoxPicture> pictures;
    for (const Index id : ids) {
      Random random(5, Purpose::test, static_cast<std::uint64_t>(id));
      const Index h = 60 + random.below(60), w = 60 + random.below(60);
      transferlib::detail::BoxPicture p{at::zeros({h, w, 3}, at::kByte), {}};
      for (Index c = 0; c < 3; ++c) {
        const Index from_x = central ? w / 3 : 0, from_y = central ? h / 3 : 0;
        const Index bw = 12 + random.below(central ? 8 : 30), bh = 12 + random.below(central ? 8 : 30);
        const Index x = from_x + random.below(central ? 4 : w - bw + 1);
        const Index y = from_y + random.below(central ? 4 : h - bh + 1);
        p.pixels.narrow(0, y, bh).narrow(1, x, bw).select(2, c).fill_(255);
        p.boxes.push_back({static_cast<float>(c),
                           {static_cast<double>(x), static_cast<double>(y), static_cast<double>(x + bw),
                            static_cast<double>(y + bh)}});
      }
      pictures.push_back(std::move(p));
    }
    Batch out;
    transferlib::detail::put_together(out, pictures);
    return out;
  }
};

std::vector<Draw> draws_of(std::span<const Index> ids, Index view, std::uint64_t seed = 1) {
  std::vector<Draw> out;
  for (const Index id : ids) out.push_back({seed, view, id});
  return out;
}

/// Each box is full of its colour up to `pixels` inside of its sides, and no such colour lies more than that outside of
/// all boxes. Returns the number of boxes.
Index check_painted(const Batch& batch, double pixels) {
  Index boxes = 0;
  const auto pictures = transferlib::detail::take_apart(batch);
  REQUIRE(batch.sizes.size(0) == static_cast<Index>(pictures.size()));
  for (std::size_t n = 0; n < pictures.size(); ++n) {
    const auto& p = pictures[n];
    CHECK(batch.sizes[static_cast<Index>(n)][0].item<Index>() == p.height());
    CHECK(batch.sizes[static_cast<Index>(n)][1].item<Index>() == p.width());
    Tensor near = at::zeros({p.height(), p.width(), 3}, at::kBool);
    const Tensor painted = p.pixels.gt(128);
    Index missing = 0;
    for (const auto& b : p.boxes) {
      ++boxes;
      const auto c = static_cast<Index>(b.label);
      const auto part = [&](const Tensor& t, double more) {
        const auto low = [&](double x) { return std::max<Index>(static_cast<Index>(std::ceil(x - more)), 0); };
        const auto high = [&](double x, Index most) {
          return std::min(static_cast<Index>(std::floor(x + more)), most);
        };
        const Index x = low(b.box[0]), y = low(b.box[1]);
        const Index w = high(b.box[2], p.width()) - x, h = high(b.box[3], p.height()) - y;
        return t.select(2, c)
            .narrow(0, std::min(y, p.height()), std::max<Index>(h, 0))
            .narrow(1, std::min(x, p.width()), std::max<Index>(w, 0));
      };
      missing += part(painted, -pixels).logical_not().sum().item<Index>();
      part(near, pixels).fill_(true);
    }
    CHECK(missing == 0);
    CHECK(painted.logical_and(near.logical_not()).sum().item<Index>() == 0);
  }
  return boxes;
}

template <class T>
Index check_follows(const T& transform, const Painted& data, double pixels) {
  Index boxes = 0;
  const auto ids = first(data.size());
  for (Index view = 0; view < 8; ++view) {
    CAPTURE(view, transform.description());
    Batch batch = data.batch(ids);
    transform(batch, draws_of(ids, view), Boxes{});
    boxes += check_painted(batch, pixels);
    // Alone it is as in company.
    const std::vector<Index> one{7};
    Batch alone = data.batch(one);
    transform(alone, draws_of(one, view), Boxes{});
    REQUIRE(alone.pictures.size() == 1);
    CHECK(alone.pictures[0].equal(batch.pictures[7]));
    const Index from = batch.offsets[7].template item<Index>(), to = batch.offsets[8].template item<Index>();
    CHECK(alone.target.equal(batch.target.narrow(0, from, to - from)));
  }
  return boxes;
}

}  // namespace

TEST_CASE("boxes follow their pictures: painted, moved, and looked for") {
  const Painted data;
  const KeepBoxes all{.visible = 0.0, .side = 0.0};
  CHECK(check_painted(data.batch(first(12)), 0.0) == 36);
  CHECK(check_follows(BoxFlip{true, false}, data, 0.0) == 8 * 36);
  CHECK(check_follows(BoxFlip{false, true}, data, 0.0) == 8 * 36);
  CHECK(check_follows(BoxFlip{true, true}, data, 0.0) == 8 * 36);
  CHECK(check_follows(BoxCrop{.jitter = 0.3, .fill = 0, .keep = all}, data, 0.0) > 200);
  // Resampled once, a side is half a pixel uncertain.
  CHECK(check_follows(BoxAffine{.fill = 0, .keep = all}, data, 0.55) > 200);
  CHECK(check_follows(BoxAffine{.size = 50, .fill = 0, .keep = all}, data, 0.55) > 150);
  CHECK(check_follows(BoxAffine{.size = 70, .stretch = true, .fill = 0, .keep = all}, data, 0.8) > 150);
  const Mosaic mosaic(data, {.size = 160, .fill = 0, .keep = all});
  CHECK(check_follows(mosaic, data, 0.55) > 8 * 12 * 9);
  CHECK(check_follows(compose(mosaic, BoxFlip{true, true}, BoxCrop{.keep = all}), data, 0.55) > 600);
  CHECK(check_follows(
            compose(Mosaic(data, {.size = 240, .keep = all}), BoxAffine{.scale = 0.3, .size = 120, .keep = all}), data,
            1.0) > 500);
  // A picture that is not drawn stays.
  Batch batch = data.batch(first(12));
  Mosaic(data, {.probability = 0.0})(batch, draws_of(first(12), 0), Boxes{});
  CHECK(batch.pictures[3].equal(data.batch(first(4)).pictures[3]));
}

TEST_CASE("turned, sheared and tilted boxes are those around their pixels") {
  const Painted data{.count = 12, .central = true};
  const BoxAffine affine{
      .degrees = 40.0, .translate = 0.05, .scale = 0.2, .shear = 10.0, .perspective = 0.2, .fill = 0};
  const auto ids = first(12);
  Index compared = 0;
  for (Index view = 0; view < 10; ++view) {
    Batch batch = data.batch(ids);
    affine(batch, draws_of(ids, view), Boxes{});
    for (const auto& p : transferlib::detail::take_apart(batch))
      for (const auto& b : p.boxes) {
        const auto w = static_cast<double>(p.width()), h = static_cast<double>(p.height());
        if (b.box[0] < 1 || b.box[1] < 1 || b.box[2] > w - 1 || b.box[3] > h - 1) continue;
        // The tip of a corner covers little of its pixel.
        const Tensor painted = p.pixels.select(2, static_cast<Index>(b.label)).gt(64);
        const Tensor columns = painted.any(0).nonzero(), rows = painted.any(1).nonzero();
        REQUIRE(columns.numel() > 0);
        const std::array<double, 4> got{columns.min().item<double>(), rows.min().item<double>(),
                                        columns.max().item<double>() + 1, rows.max().item<double>() + 1};
        for (std::size_t i = 0; i < 4; ++i) CHECK(std::abs(got[i] - b.box[i]) <= 1.0);
        ++compared;
      }
  }
  CHECK(compared > 300);
}

TEST_CASE("boxes of which too little is left are left out") {
  const Painted data;
  const auto ids = first(12);
  const auto count = [&](const KeepBoxes& keep) {
    Index boxes = 0;
    for (Index view = 0; view < 8; ++view) {
      Batch batch = data.batch(ids);
      BoxCrop{.jitter = 0.45, .keep = keep}(batch, draws_of(ids, view), Boxes{});
      for (const auto& p : transferlib::detail::take_apart(batch))
        for (const auto& b : p.boxes) {
          CHECK(b.box[2] - b.box[0] >= keep.side);
          CHECK(b.box[3] - b.box[1] >= keep.side);
          CHECK((b.box[0] >= 0.0 && b.box[1] >= 0.0));
        }
      boxes += batch.target.size(0);
    }
    return boxes;
  };
  const Index some = count({}), all = count({.visible = 0.0, .side = 0.0}), whole = count({.visible = 1.0});
  CHECK(all <= 8 * 36);
  CHECK(some < all);
  CHECK(whole < some);
  CHECK(whole > 8);
}

TEST_CASE("colours change by the formulas of hue, saturation and value") {
  Batch batch;
  transferlib::detail::BoxPicture p{at::randint(0, 256, {16, 16, 3}, at::kByte), {{2.0F, {1, 2, 3, 4}}}};
  p.pixels[0][0] = 77;
  const Tensor before = p.pixels.to(at::kDouble).reshape({-1, 3});
  transferlib::detail::put_together(batch, {p});
  const Batch original = batch;
  const HsvJitter jitter{.hue = 0.3, .saturation = 0.6, .value = 0.5};
  const std::vector<Draw> draws{{9, 4, 2}};
  jitter(batch, draws, Boxes{});
  CHECK(batch.target.equal(original.target));
  CHECK(original.pictures[0].permute({0, 2, 3, 1}).reshape({-1, 3}).to(at::kDouble).equal(before));
  Random random = transferlib::detail::augmentation(draws[0]);
  const double turn = random.uniform(-0.3, 0.3), s = random.uniform(0.4, 1.6), v = random.uniform(0.5, 1.5);
  const Tensor after = batch.pictures[0].permute({0, 2, 3, 1}).reshape({-1, 3});
  double worst = 0.0;
  for (Index i = 0; i < 256; ++i) {
    const double r = before[i][0].item<double>(), g = before[i][1].item<double>(), b = before[i][2].item<double>();
    const double most = std::max({r, g, b}), range = most - std::min({r, g, b});
    // Smith's hexcone, in degrees.
    double hue = range == 0.0 ? 0.0
                 : most == r  ? 60 * (g - b) / range
                 : most == g  ? 120 + 60 * (b - r) / range
                              : 240 + 60 * (r - g) / range;
    hue = std::fmod(hue + 360.0 * turn + 720.0, 360.0);
    const double sat = most == 0.0 ? 0.0 : std::min(range / most * s, 1.0), val = std::min(most * v, 255.0);
    const double c = val * sat, x = c * (1 - std::abs(std::fmod(hue / 60.0, 2.0) - 1)), m = val - c;
    const int sector = static_cast<int>(hue / 60.0) % 6;
    const std::array<std::array<double, 3>, 6> corners{
        {{c, x, 0}, {x, c, 0}, {0, c, x}, {0, x, c}, {x, 0, c}, {c, 0, x}}};
    for (Index k = 0; k < 3; ++k)
      worst = std::max(worst, std::abs(corners[static_cast<std::size_t>(sector)][static_cast<std::size_t>(k)] + m -
                                       after[i][k].item<double>()));
  }
  CHECK(worst <= 0.51);
  Batch same = original;
  HsvJitter{0.0, 0.0, 0.0}(same, draws, Boxes{});
  CHECK(same.pictures[0].equal(original.pictures[0]));
}

TEST_CASE("two pictures are laid over each other, with the boxes of both") {
  const Painted data;
  const std::vector<Index> one{4};
  const Batch before = data.batch(one);
  Batch batch = before;
  const BoxMixUp mix(data, {.probability = 1.0});
  mix(batch, draws_of(one, 3), Boxes{});
  CHECK(batch.target.size(0) == 6);
  CHECK(batch.pictures[0].sizes() == before.pictures[0].sizes());
  CHECK(batch.target.narrow(0, 0, 3).equal(before.target));
  // Where the second picture is black the first has its weight alone, which lies near a half.
  const Tensor pixels = batch.pictures[0].to(at::kDouble), own = before.pictures[0].gt(0);
  const double part = pixels.masked_select(own).min().item<double>() / 255.0;
  CHECK(part > 0.2);
  CHECK(part < 0.8);
  const Tensor rest = pixels.masked_select(own.logical_not());
  CHECK(std::abs(rest.max().item<double>() / 255.0 - (1.0 - part)) < 0.01);
  Batch untouched = before;
  BoxMixUp(data, {.probability = 0.0})(untouched, draws_of(one, 3), Boxes{});
  CHECK(untouched.pictures[0].equal(before.pictures[0]));
  // The other can be a mosaic.
  Batch both = before;
  BoxMixUp(data, BoxMixUpOptions{.probability = 1.0}, compose(Mosaic(data, {.size = 100}), BoxFlip{}))(
      both, draws_of(one, 3), Boxes{});
  CHECK(both.target.size(0) > 8);
  CHECK_FALSE(mix.description().empty());
}

TEST_CASE("options and batches that can't be meant are refused in a sentence") {
  const Painted data;
  const auto ids = first(2);
  const auto apply = [&](const auto& transform) {
    Batch batch = data.batch(ids);
    return sentence_of<OptionError>([&] { transform(batch, draws_of(ids, 0), Boxes{}); });
  };
  CHECK_THAT(apply(HsvJitter{.hue = 0.6}), ContainsSubstring("hue must lie in [0, 0.5]"));
  CHECK_THAT(apply(HsvJitter{.saturation = 2.0}), ContainsSubstring("saturation"));
  CHECK_THAT(apply(BoxAffine{.scale = 1.0}), ContainsSubstring("scale must lie in [0, 1)"));
  CHECK_THAT(apply(BoxAffine{.degrees = -1.0}), ContainsSubstring("must not be negative"));
  CHECK_THAT(apply(BoxAffine{.perspective = 0.5}), ContainsSubstring("perspective"));
  CHECK_THAT(apply(BoxAffine{.shear = 80.0}), ContainsSubstring("shear"));
  CHECK_THAT(apply(BoxAffine{.size = -1}), ContainsSubstring("size must be 0 or more"));
  CHECK_THAT(apply(BoxAffine{.stretch = true}), ContainsSubstring("give its size"));
  CHECK_THAT(apply(BoxAffine{.fill = 256}), ContainsSubstring("fill must lie in"));
  CHECK_THAT(apply(BoxCrop{.jitter = 0.5}), ContainsSubstring("jitter"));
  CHECK_THAT(apply(BoxCrop{.keep = {.visible = 2.0}}), ContainsSubstring("keep.visible"));
  CHECK_THAT(apply(BoxCrop{.keep = {.side = -2.0}}), ContainsSubstring("keep.side"));
  CHECK_THAT(sentence_of([&] { Mosaic(data, {.size = 1}); }), ContainsSubstring("2 pixels a side"));
  CHECK_THAT(sentence_of([&] { Mosaic(data, {.probability = -1.0}); }), ContainsSubstring("probability"));
  CHECK_THAT(sentence_of([&] { Mosaic(data, {.centre = {0.7, 0.2}}); }), ContainsSubstring("centre"));
  CHECK_THAT(sentence_of([&] { BoxMixUp(data, {.alpha = 0.0}); }), ContainsSubstring("alpha"));
  const Painted none{.count = 0};
  CHECK_THAT(sentence_of([&] { Mosaic mosaic(none); }), ContainsSubstring("needs pictures"));
  CHECK_THAT(sentence_of([&] { BoxMixUp mix(none); }), ContainsSubstring("needs some"));

  Batch batch = data.batch(ids);
  CHECK_THAT(sentence_of([&] { BoxFlip{}(batch, draws_of(first(1), 0), Boxes{}); }),
             ContainsSubstring("one draw a picture"));
  batch.pictures[0] = batch.pictures[0].to(at::kFloat);
  CHECK_THAT(sentence_of([&] { BoxFlip{}(batch, draws_of(ids, 0), Boxes{}); }), ContainsSubstring("uint8"));
  batch = data.batch(ids);
  batch.offsets[1] = 99;
  CHECK_THAT(sentence_of([&] { BoxFlip{}(batch, draws_of(ids, 0), Boxes{}); }),
             ContainsSubstring("offsets of the boxes"));
  batch = data.batch(ids);
  batch.target = at::Tensor();
  CHECK_THAT(sentence_of([&] { BoxCrop{}(batch, draws_of(ids, 0), Boxes{}); }), ContainsSubstring("(M, 5) float32"));
}
