// links: no torch
// JSON, gzip, IDX and CIFAR: what is read, and the sentence for what is not.
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <zlib.h>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <transferlib/formats/cifar.hpp>
#include <transferlib/formats/gzip.hpp>
#include <transferlib/formats/idx.hpp>
#include <transferlib/formats/json.hpp>

using namespace transferlib;
using namespace std::string_literals;
using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::StartsWith;

namespace {

std::span<const std::byte> as_bytes(std::string_view s) { return std::as_bytes(std::span(s.data(), s.size())); }
std::string text_of(std::span<const std::byte> b) { return {reinterpret_cast<const char*>(b.data()), b.size()}; }

std::string message(const std::function<void()>& act) {
  try {
    act();
  } catch (const FormatError& e) {
    return e.what();
  }
  return "no error";
}

std::string gzip(const std::string& bytes) {
  z_stream stream{};
  REQUIRE(::deflateInit2(&stream, 9, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY) == Z_OK);
  std::string out(::deflateBound(&stream, bytes.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  REQUIRE(::deflate(&stream, Z_FINISH) == Z_STREAM_END);
  out.resize(stream.total_out);
  ::deflateEnd(&stream);
  return out;
}

std::string json_message(std::string_view text) {
  return message([&] { parse_json(text, "f"); });
}

}  // namespace

TEST_CASE("JSON keeps its order and its numbers") {
  const Json j = parse_json(R"( {"z": [1, -2, 2.5, true, null, "é\u00e9"], "a": {}, "m": 18446744073709551615} )", "f");
  std::string keys;
  for (const auto& item : j.members()) keys += item.name;
  CHECK(keys == "zam");
  CHECK(j["z"][1].get<std::int64_t>() == -2);
  CHECK(j["z"][2].get<double>() == 2.5);
  CHECK(j["z"][5].get<std::string>() == "éé");
  CHECK(j["m"].get<std::uint64_t>() == UINT64_MAX);
  CHECK(parse_json("3", "f").get<int>() == 3);
  CHECK(parse_json("[1e-999, -0, 18446744073709551616, 1.5e3]", "f").dump() ==
        "[0.0,-0.0,18446744073709551616.0,1500.0]");
  CHECK(parse_json(R"("\ud83d\ude00 \n\u0001")", "f").dump() == R"("😀 \n\u0001")");
  CHECK(Json("a\xff").dump() == "\"a\xEF\xBF\xBD\"");
  CHECK(Json{{"a", 1}, {"b", std::vector<double>{1, 2.5}}, {"c", {{"d", nullptr}}}}.dump(1) ==
        "{\n \"a\": 1,\n \"b\": [\n  1.0,\n  2.5\n ],\n \"c\": {\n  \"d\": null\n }\n}");
  CHECK(parse_json(std::string(64, '[') + std::string(64, ']'), "f").is_array());
}

TEST_CASE("JSON that is not what is asked for is told") {
  const Json j = parse_json(R"({"a": [1, 2.5, -1], "b": "x", "c": 300})", "f");
  CHECK(message([&] { j["d"]; }) == "the JSON object has no \"d\"");
  CHECK(message([&] { j["a"][3]; }) == "the JSON array has 3 elements, so there is no number 3");
  CHECK(message([&] { j["a"][1].get<int>(); }) ==
        "the JSON value 2.5 should be a whole number from -2147483648 to 2147483647");
  CHECK(message([&] { j["a"][2].get<std::uint64_t>(); }) ==
        "the JSON value -1 should be a whole number from 0 to 18446744073709551615");
  CHECK(message([&] { j["c"].get<std::int8_t>(); }) == "the JSON value 300 should be a whole number from -128 to 127");
  CHECK(message([&] { j["b"].get<double>(); }) == "the JSON value \"x\" should be a number");
  CHECK(message([&] { j["b"]["y"]; }) == "the JSON value \"x\" should be an object");
  CHECK(message([&] { j["a"].get<std::array<double, 2>>(); }) ==
        "the JSON value [1,2.5,-1] should be an array of 2 values");
}

TEST_CASE("JSON that is none is refused, with line and column") {
  const std::string end = "; correct the file or make it again";
  CHECK(json_message("{\"a\": 1,\n \"b\": 2,\n \"a\": 3}") ==
        "f: not valid JSON at line 3, column 4: the key \"a\" stands twice in one object" + end);
  CHECK(json_message(std::string(65, '[')) ==
        "f: not valid JSON at line 1, column 65: values are nested deeper than 64" + end);
  CHECK(message([] { parse_json("[{}]", "f", 1); }) ==
        "f: not valid JSON at line 1, column 2: values are nested deeper than 1" + end);
  CHECK_THAT(json_message(""), StartsWith("f: not valid JSON at line 1, column 1: the text ends in the middle"));
  CHECK_THAT(json_message("{\n  \"a\": tru\n}"), StartsWith("f: not valid JSON at line 2, column 11: expected true"));
  CHECK_THAT(json_message("[1,\n\n]"), StartsWith("f: not valid JSON at line 3, column 1: expected a value"));
  CHECK_THAT(json_message("{\"a\":1} x"),
             StartsWith("f: not valid JSON at line 1, column 9: the text should end here"));
  CHECK_THAT(json_message("\"\xff\""), ContainsSubstring("ill-formed UTF-8"));
  CHECK_THAT(json_message("[1e999]"), ContainsSubstring("number overflow"));
  CHECK_THAT(json_message("\"\\udc00\""), ContainsSubstring("second half of a surrogate pair"));
  CHECK_THAT(json_message("\"\\ud800x\""), ContainsSubstring("first half of a surrogate pair"));
  for (const char* text :
       {"{",           "[",   "[1,]",    "{\"a\":1,}", "-",   "1.",  "1e",      ".5", "+1",     "\"\\x\"",
        "\"\\u12g4\"", "nul", "{\"a\"}", "{1:2}",      "'a'", "NaN", "// c\n1", "01", "\"\n\"", "[1 2]"})
    CHECK_THAT(json_message(text), StartsWith("f: not valid JSON at line "));
  CHECK_THAT(json_message("1\0"s), StartsWith("f: not valid JSON at line 1, column 2: "));
}

TEST_CASE("gzip, of one member and of several") {
  std::string large;
  for (int i = 0; i < 100'000; ++i) large += std::to_string(i * 7919 % 1000);
  for (const std::string& s : {""s, "a"s, std::string(4096, 'x'), large})
    CHECK(text_of(gunzip(as_bytes(gzip(s)), "f", 1 << 20)) == s);
  CHECK(text_of(gunzip(as_bytes(gzip("ab") + gzip("") + gzip("cd")), "f", 100)) == "abcd");
  CHECK(is_gzip(as_bytes(gzip("a"))));
  CHECK(!is_gzip(as_bytes("\x1f")));
}

TEST_CASE("gzip that is cut, damaged or too much is refused") {
  const auto of = [](const std::string& bytes) { return message([&] { gunzip(as_bytes(bytes), "f", 1000); }); };
  const std::string good = gzip("hello, hello, hello");
  for (std::size_t n = 0; n < good.size(); ++n)
    CHECK(of(good.substr(0, n)) ==
          "f: the gzip data end at byte " + std::to_string(n) + " in the middle; the file is cut, copy it again");
  CHECK(of(good + "xy") == "f: 2 bytes from byte " + std::to_string(good.size()) +
                               " on follow the end of the gzip data; the file is damaged, copy it again");
  std::string wrong = good;
  wrong[good.size() - 8] ^= 1;
  CHECK_THAT(of(wrong), ContainsSubstring("are damaged (incorrect data check); copy the file again"));
  CHECK_THAT(of("hello"), StartsWith("f: the gzip data at byte ") && ContainsSubstring("(incorrect header check)"));
  CHECK(of(gzip(std::string(1001, 'x'))) == "f: unpacks to more than 1000 bytes, which is not expected here");
  CHECK(of(gzip(std::string(1000, 'x'))) == "no error");
  for (std::size_t bit = 0; bit < 8 * good.size(); ++bit) {
    std::string bytes = good;
    bytes[bit / 8] = static_cast<char>(bytes[bit / 8] ^ (1 << (bit % 8)));
    std::string got = "hello, hello, hello";
    message([&] { got = text_of(gunzip(as_bytes(bytes), "f", 1000)); });
    CHECK(got == "hello, hello, hello");
  }
}

TEST_CASE("IDX of every type, packed or not") {
  const std::string bytes = "\0\0\x08\2\0\0\0\2\0\0\0\3abcdef"s;
  for (const std::string& file : {bytes, gzip(bytes)}) {
    const IdxArray a = parse_idx(as_bytes(file), "f");
    CHECK(a.dtype == DType::u8);
    CHECK(a.shape == std::vector<std::int64_t>{2, 3});
    CHECK(text_of(a.bytes) == "abcdef");
  }
  const auto numbers = [](const std::string& file, DType dtype, auto first) {
    const IdxArray a = parse_idx(as_bytes(file), "f");
    CHECK(a.dtype == dtype);
    std::memcpy(&first, a.bytes.data(), sizeof first);
    return first;
  };
  CHECK(numbers("\0\0\x09\1\0\0\0\1\xff"s, DType::i8, std::int8_t{}) == -1);
  CHECK(numbers("\0\0\x0B\1\0\0\0\1\xff\xfe"s, DType::i16, std::int16_t{}) == -2);
  CHECK(numbers("\0\0\x0C\1\0\0\0\1\0\1\0\0"s, DType::i32, std::int32_t{}) == 65536);
  CHECK(numbers("\0\0\x0D\1\0\0\0\1\x3f\x80\0\0"s, DType::f32, float{}) == 1.0F);
  CHECK(numbers("\0\0\x0E\1\0\0\0\1\x3f\xe0\0\0\0\0\0\0"s, DType::f64, double{}) == 0.5);
  CHECK(parse_idx(as_bytes("\0\0\x08\2\0\0\0\0\0\0\0\5"s), "f").bytes.empty());
  std::string large = "\0\0\x08\1\0\1\0\0"s;
  for (int i = 0; i < 65536; ++i) large += static_cast<char>(i * i);
  CHECK(text_of(parse_idx(as_bytes(gzip(large)), "f").bytes) == large.substr(8));
}

TEST_CASE("IDX that is none, cut or too long is refused") {
  const auto of = [](const std::string& bytes) { return message([&] { parse_idx(as_bytes(bytes), "f"); }); };
  const std::string none =
      ", and an IDX file with 0 0, a type (8 for pictures and labels) and 1 to 8 dimensions; "
      "download it again from the data set's page";
  CHECK(of("<htm") == "f: begins with the bytes 60 104 116 109" + none);
  CHECK(of("") == "f: begins with the bytes 0 0 0 0" + none);
  CHECK(of("\0\0\x08\0"s) == "f: begins with the bytes 0 0 8 0" + none);
  CHECK(of("\0\0\x08\x09"s) == "f: begins with the bytes 0 0 8 9" + none);
  CHECK(of("\0\0\x0A\1"s) == "f: begins with the bytes 0 0 10 1" + none);
  CHECK(of(gzip("\0\0\x0A\1"s)) == "f (unpacked): begins with the bytes 0 0 10 1" + none);
  CHECK(of("\0\0\x08\2\0\0\0\2\0"s) == "f: ends at byte 9 in its header of 12 bytes; the file is cut, copy it again");
  CHECK(of("\0\0\x08\1\0\0\0\4abc"s) ==
        "f: its header promises 4 bytes of numbers, and 3 are there; the file is cut, copy it again");
  CHECK(of("\0\0\x08\1\0\0\0\4"s) ==
        "f: its header promises 4 bytes of numbers, and 0 are there; the file is cut, copy it again");
  CHECK(of(gzip("\0\0\x08\1\xff\xff\xff\xff"s + std::string(5000, 'x'))) ==
        "f (unpacked): its header promises 4294967295 bytes of numbers, and 5000 are there; the file is cut, copy it "
        "again");
  CHECK(of("\0\0\x08\1\0\0\0\2abc"s) ==
        "f: goes on at byte 10, behind the 2 bytes of numbers that its header promises; the file is damaged, copy it "
        "again");
  CHECK(of("\0\0\x08\3\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"s) ==
        "f: its header promises more than 2^63 bytes; the file is damaged");
  const std::string packed = gzip("\0\0\x08\1\0\0\0\4abcd"s);
  for (std::size_t n = 0; n < packed.size(); ++n) CHECK(of(packed.substr(0, n)) != "no error");
}

TEST_CASE("CIFAR's records") {
  const auto record = [](const std::string& labels, char pixel) {
    std::string out = labels + std::string(3072, pixel);
    out[labels.size() + 1] = 'g';
    return out;
  };
  const std::string ten = record("\3", 'a') + record("\x09", 'b');
  const auto a = CifarRecords::parse(as_bytes(ten), "f", CifarKind::cifar10);
  CHECK(a.size() == 2);
  CHECK(a.label(0) == 3);
  CHECK(a.label(1) == 9);
  CHECK(a.coarse_label(1) == 9);
  CHECK(a.picture(1).size() == 3072);
  CHECK(text_of(a.picture(1)).substr(0, 3) == "bgb");
  const std::string hundred = record("\x13\x63", 'a') + record("\0\0"s, 'b');
  const auto b = CifarRecords::parse(as_bytes(hundred), "f", CifarKind::cifar100);
  CHECK(b.size() == 2);
  CHECK(b.label(0) == 99);
  CHECK(b.coarse_label(0) == 19);
  CHECK(text_of(b.picture(1)).substr(0, 3) == "bgb");

  const auto of = [](const std::string& bytes, CifarKind kind) {
    return message([&] { CifarRecords::parse(as_bytes(bytes), "f", kind); });
  };
  CHECK(of("", CifarKind::cifar10) ==
        "f has 0 bytes, which is no whole number of records of 3073 bytes (a complete file "
        "has 30730000); unpack the archive again");
  CHECK(of(ten.substr(1), CifarKind::cifar10) ==
        "f has 6145 bytes, which is no whole number of records of 3073 bytes (a "
        "complete file has 30730000); unpack the archive again");
  CHECK(of(ten, CifarKind::cifar100) ==
        "f has 6146 bytes, which is no whole number of records of 3074 bytes (a complete "
        "file has 153700000 or a fifth of that); unpack the archive again");
  CHECK(
      of(ten + record("\x0a", 'c'), CifarKind::cifar10) ==
      "f: byte 6146: record 2 has the label 10, which is out of range: there are 10 classes, so labels go from 0 to 9; "
      "unpack the archive again, and check that it is CIFAR-10");
  CHECK_THAT(of(record("\x14\1", 'c'), CifarKind::cifar100),
             StartsWith("f: byte 0: record 0 has the label 20, which is out of range: there are 20 classes"));
  CHECK_THAT(of(record("\1\x64", 'c'), CifarKind::cifar100),
             StartsWith("f: byte 1: record 0 has the label 100, which is out of range: there are 100 classes"));
}
