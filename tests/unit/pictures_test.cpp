// links: no torch
// Picture files: pixels equal to Pillow's, orientation, and what becomes of damaged and foreign files.
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include <transferlib/data/pictures.hpp>

using namespace transferlib;
using Catch::Matchers::ContainsSubstring;

namespace {

const std::filesystem::path folder = std::filesystem::path(__FILE__).parent_path().parent_path() / "data" / "pictures";

Picture decode(std::string_view bytes, const PictureOptions& options = {}) {
  return decode_picture(std::as_bytes(std::span(bytes.data(), bytes.size())), "p", options);
}

std::string message_of(std::string_view bytes, const PictureOptions& options = {}) {
  try {
    decode(bytes, options);
  } catch (const FormatError& e) {
    return e.what();
  }
  return "no error";
}

/// Pillow's pixels: a binary PPM or PGM.
Picture expected(const std::filesystem::path& picture) {
  auto path = picture;
  path += ".ppm";
  const bool colour = std::filesystem::exists(path);
  if (!colour) (path = picture) += ".pgm";
  const std::string all = read_file(path);
  Picture out;
  out.channels = colour ? 3 : 1;
  std::size_t at = 3;
  out.width = std::atoll(all.c_str() + at);
  at = all.find(' ', at) + 1;
  out.height = std::atoll(all.c_str() + at);
  at = all.find("255\n", at) + 4;
  out.pixels.assign(all.begin() + static_cast<std::ptrdiff_t>(at), all.end());
  return out;
}

std::vector<std::filesystem::path> pictures(std::string_view extension) {
  std::vector<std::filesystem::path> out;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    if (entry.path().extension() == extension) out.push_back(entry.path());
  std::sort(out.begin(), out.end());
  return out;
}

std::string bytes_of(const char* name) { return read_file(folder / name); }

}  // namespace

TEST_CASE("pictures have Pillow's pixels") {
  // PNG exactly. Two versions of libjpeg-turbo may round otherwise by one, and colour conversion doubles that.
  for (const auto& [extension, count, tolerance] : {std::tuple{".png", 15, 0}, std::tuple{".jpg", 18, 2}}) {
    const auto files = pictures(extension);
    CHECK(files.size() >= static_cast<std::size_t>(count));
    for (const auto& path : files) {
      INFO(path);
      const Picture got = read_picture(path), want = expected(path);
      REQUIRE(got.width == want.width);
      REQUIRE(got.height == want.height);
      REQUIRE(got.channels == want.channels);
      REQUIRE(got.pixels.size() == want.pixels.size());
      int worst = 0;
      for (std::size_t i = 0; i < got.pixels.size(); ++i)
        worst = std::max(worst, std::abs(int{got.pixels[i]} - int{want.pixels[i]}));
      CHECK(worst <= tolerance);
    }
  }
}

TEST_CASE("Exif's eight orientations are eight different pictures") {
  std::set<std::vector<std::uint8_t>> seen;
  for (int o = 1; o <= 8; ++o) {
    const Picture p = read_picture(folder / detail::text("exif_", o, ".jpg"));
    CHECK((p.width == 12) == (o <= 4));
    seen.insert(p.pixels);
  }
  CHECK(seen.size() == 8);
  // A 2 x 1 picture turned clockwise: the left pixel comes to the top.
  CHECK(detail::upright({2, 1, 1, {1, 2}}, 6).pixels == std::vector<std::uint8_t>{1, 2});
  CHECK(detail::upright({2, 1, 1, {1, 2}}, 8).pixels == std::vector<std::uint8_t>{2, 1});
  CHECK(detail::upright({2, 1, 1, {1, 2}}, 9).pixels == std::vector<std::uint8_t>{1, 2});
}

TEST_CASE("a broken Exif block leaves the picture as it is stored") {
  const std::string good = bytes_of("exif_6.jpg");
  const std::size_t exif = good.find("Exif");
  REQUIRE(exif != std::string::npos);
  const std::string block = good.substr(exif, 40);
  const auto orientation = [](std::string b) {
    return detail::exif_orientation(std::as_bytes(std::span(b.data(), b.size())));
  };
  CHECK(orientation(block) == 6);
  for (std::size_t n = 0; n < block.size(); ++n) {
    const int got = orientation(block.substr(0, n));
    CHECK((got == 1 || got == 6));
    for (int bit = 0; bit < 8; ++bit) {
      std::string flipped = block;
      flipped[n] = static_cast<char>(flipped[n] ^ (1 << bit));
      const int value = orientation(flipped);
      CHECK((value >= 1 && value <= 8));
    }
  }
  std::string far_away = block;
  far_away.replace(10, 4, "\xF0\xFF\xFF\xFF");  // the directory's offset
  CHECK(orientation(far_away) == 1);
}

TEST_CASE("what is no JPEG or PNG is refused by its name") {
  const auto refused = [](std::string_view bytes, std::string_view format) {
    INFO(format);
    CHECK(message_of(bytes) == detail::text("p is not a JPEG or PNG picture: it is a file of the format ", format,
                                            "; convert it to JPEG or PNG, or take it away"));
  };
  refused("GIF89a\1\1", "GIF");
  refused(std::string_view("RIFF\1\1\1\1WEBPVP8 ", 16), "WebP");
  refused("BM123456", "BMP");
  refused(std::string_view("II*\0\1", 5), "TIFF");
  refused(std::string_view("\0\0\0\x1C"
                           "ftypavif",
                           12),
          "AVIF");
  refused(std::string_view("\0\0\0\x1C"
                           "ftypheic",
                           12),
          "HEIC");
  refused("\xFF\x0A\1\1", "JPEG XL");
  refused(std::string_view("\0\0\0\x0CjP  \r\n", 10), "JPEG 2000");
  refused("%PDF-1.4", "PDF");
  refused("PK\x03\x04zip", "ZIP");
  refused("P6\n1 1\n255\n123", "PNM");
  refused("\n <!DOCTYPE html><html>404</html>", "HTML");
  refused("<svg xmlns=''/>", "XML or SVG");
  CHECK(message_of("hello, I am a text") ==
        "p is not a JPEG or PNG picture: its first bytes are those of no known format; convert it to JPEG or PNG, or "
        "take it away");
  CHECK(message_of("") == "p is empty: it has no bytes; copy it again");
  CHECK_THROWS_AS(read_picture(folder / "absent.png"), FileError);
}

TEST_CASE("a picture cut anywhere is an error or the same picture") {
  for (const char* name : {"rgb_420.jpg", "rgb_progressive.jpg", "cmyk.jpg", "exif_6.jpg", "rgb_restart.jpg",
                           "rgb_interlaced.png", "palette.png", "grey_16bit.png"}) {
    INFO(name);
    const std::string all = bytes_of(name);
    const Picture whole = decode(all);
    std::size_t errors = 0;
    for (std::size_t n = 0; n < all.size(); ++n) {
      try {
        const Picture got = decode(all.substr(0, n));
        CHECK(got.pixels == whole.pixels);
      } catch (const FormatError&) {
        ++errors;
      }
    }
    CHECK(errors == all.size());
    CHECK(decode(all + "some bytes behind the end").pixels == whole.pixels);
  }
  CHECK_THAT(message_of(bytes_of("rgb_420.jpg").substr(0, 700)),
             ContainsSubstring("p: the JPEG file is damaged or cut: Premature end of JPEG file"));
  CHECK_THAT(message_of(bytes_of("palette.png").substr(0, 200)),
             ContainsSubstring("p: the PNG file is damaged or cut near byte ") &&
                 ContainsSubstring("the file ends too early"));
}

TEST_CASE("a picture with a flipped bit never crashes, and a PNG never lies") {
  for (const char* name :
       {"rgb_progressive.jpg", "exif_6.jpg", "rgb_restart.jpg", "rgb_interlaced.png", "palette_2bit.png"}) {
    INFO(name);
    const std::string all = bytes_of(name);
    const Picture whole = decode(all);
    const bool png = std::string_view(name).find(".png") != std::string_view::npos;
    for (std::size_t i = 0; i < all.size() * 8; ++i) {
      std::string flipped = all;
      flipped[i / 8] = static_cast<char>(flipped[i / 8] ^ (1 << (i % 8)));
      try {
        const Picture got = decode(flipped);
        // Its checksums tell; JPEG has none, so a changed pixel can't be known there.
        if (png) CHECK(got.pixels == whole.pixels);
        CHECK(got.pixels.size() == static_cast<std::size_t>(got.width * got.height * got.channels));
      } catch (const FormatError&) {
      }
    }
  }
}

TEST_CASE("a picture that claims to be huge is refused before memory is taken") {
  std::string jpeg = bytes_of("rgb_444.jpg");
  const std::size_t frame = jpeg.find("\xFF\xC0");
  REQUIRE(frame != std::string::npos);
  jpeg.replace(frame + 5, 4, "\xFF\xDC\xFF\xDC");  // 65500 x 65500
  CHECK(message_of(jpeg) ==
        "p: the picture has 65500 x 65500 pixels, more than the limit of 178956970; raise `max_pixels` if it is meant");
  CHECK_THAT(message_of(jpeg, {.max_pixels = Index{1} << 40}),
             ContainsSubstring("the JPEG file is cut: its ") &&
                 ContainsSubstring(" bytes can't hold 65500 x 65500 pixels; copy it again"));
  CHECK_THAT(message_of(bytes_of("rgb.png"), {.max_pixels = 246}), ContainsSubstring("has 19 x 13 pixels, more than"));
  CHECK(message_of(bytes_of("rgb.png"), {.max_pixels = 247}) == "no error");
  // A PNG's header with a right checksum, and nothing behind it.
  const std::string png(
      "\x89PNG\r\n\x1A\n\0\0\0\rIHDR\0\0\x27\x10\0\0\x27\x10\x08\2\0\0\0\x35\x2C\xF5\x70"
      "\0\0\0\0IDAT\x35\xAF\x06\x1E",
      45);
  CHECK_THAT(message_of(png), ContainsSubstring("bytes can't hold 10000 x 10000 pixels"));
}
