/// \file
/// Picture files: JPEG by libjpeg-turbo, PNG by libpng. Bytes in, checked pixels out; free of LibTorch.
#pragma once

#include <algorithm>
#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <new>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <jpeglib.h>
// jpeglib.h comes first: the error codes stand on its types.
#include <jerror.h>
#include <png.h>

#include <transferlib/core/error.hpp>
#include <transferlib/core/files.hpp>
#include <transferlib/core/layers.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/detect/placement.hpp>

namespace transferlib {

/// A picture in memory: rows from top to bottom, pixels from left to right, channels interleaved (grey, or R, G, B).
struct Picture {
  Index width = 0, height = 0;
  Index channels = 0;                ///< 1 (grey) or 3
  std::vector<std::uint8_t> pixels;  ///< height * width * channels
};

/// What is refused before memory is taken for it.
struct PictureOptions {
  /// The most pixels that a picture may have; Pillow's limit (a picture of 13377 x 13377).
  Index max_pixels = 178956970;
};

namespace detail {

/// What some bytes are by their first few, for the sentence that refuses them; empty where nobody knows.
TRANSFERLIB_API std::string_view picture_format(std::span<const std::byte> bytes);

TRANSFERLIB_API void check_picture_size(std::string_view name, std::uint64_t width, std::uint64_t height,
                                        const PictureOptions& options);

/// The orientation (1 … 8) that an Exif block ("Exif\0\0", then TIFF) tells in its first directory; 1 where it tells
/// none, or is broken: then the picture is shown as it is stored, as every viewer does. Source: CIPA DC-008 (Exif 2.3).
TRANSFERLIB_API int exif_orientation(std::span<const std::byte> block);

/// The picture as it is to be seen: mirrored or turned as Exif's `orientation` (1 … 8) says.
TRANSFERLIB_API Picture upright(Picture picture, int orientation);

/// One JPEG being decoded. libjpeg reports by `longjmp`, which must cross no C++ object: each step is a plain function
/// that owns nothing, and what is owned lies here.
class JpegDecoder {
 public:
  explicit JpegDecoder(std::span<const std::byte> bytes);
  JpegDecoder(const JpegDecoder&) = delete;
  JpegDecoder& operator=(const JpegDecoder&) = delete;
  ~JpegDecoder() {
    // Frees only; it reports nothing. On a struct that was never made it does nothing.
    jpeg_destroy_decompress(&info_);
  }

  /// Reads the header, and refuses what it tells to be no picture that can be decoded. Once, before `decode`.
  void begin(std::string_view name, const PictureOptions& options);

  Picture decode(std::string_view name);

  /// The size of the picture as it is to be seen.
  PixelSize size() const {
    const auto width = static_cast<Index>(info_.image_width), height = static_cast<Index>(info_.image_height);
    return orientation() >= 5 ? PixelSize{height, width} : PixelSize{width, height};
  }

 private:
  static constexpr int most_scans = 200;

  /// What the first Exif block tells.
  int orientation() const;

  static JpegDecoder& self(j_common_ptr info) { return *static_cast<JpegDecoder*>(info->client_data); }

  [[noreturn]] void fail() {
    errors_.format_message(reinterpret_cast<j_common_ptr>(&info_), message_);
    std::longjmp(back_, 1);
  }

  /// libjpeg goes on with grey where data are missing or wrong; here that is an error. What leaves the pixels whole is
  /// let pass, as every reader does.
  void warn();

  void run(std::string_view name, void (*step)(JpegDecoder&)) {
    if (!attempt(step)) throw FormatError(text(name, ": the JPEG file is damaged or cut: ", message_));
  }
  bool attempt(void (*step)(JpegDecoder&)) {
    if (setjmp(back_) != 0) return false;
    step(*this);
    return true;
  }

  /// Adobe's CMYK is stored inverted, which Pillow takes for granted too; then as its `convert("RGB")`.
  static void cmyk_to_rgb(const std::uint8_t* in, std::size_t n, std::uint8_t* out);

  std::span<const std::byte> bytes_;
  jpeg_decompress_struct info_;
  jpeg_error_mgr errors_;
  jpeg_progress_mgr progress_{};
  std::jmp_buf back_;
  char message_[JMSG_LENGTH_MAX] = "";
  std::vector<std::uint8_t> row_;
  std::uint8_t* next_ = nullptr;
  bool complete_ = false;
};

/// One PNG being decoded; see `JpegDecoder`.
class PngDecoder {
 public:
  explicit PngDecoder(std::span<const std::byte> bytes) : bytes_(bytes) {}
  PngDecoder(const PngDecoder&) = delete;
  PngDecoder& operator=(const PngDecoder&) = delete;
  ~PngDecoder() { png_destroy_read_struct(&png_, &info_, nullptr); }

  /// As `JpegDecoder::begin`.
  void begin(std::string_view name, const PictureOptions& options);

  PixelSize size() const {
    return {static_cast<Index>(png_get_image_width(png_, info_)),
            static_cast<Index>(png_get_image_height(png_, info_))};
  }

  Picture decode(std::string_view name);

 private:
  void run(std::string_view name, void (*step)(PngDecoder&)) {
    if (!attempt(step))
      throw FormatError(text(name, ": the PNG file is damaged or cut near byte ", at_, ": ", message_));
  }
  bool attempt(void (*step)(PngDecoder&)) {
    if (setjmp(back_) != 0) return false;
    step(*this);
    return true;
  }

  std::span<const std::byte> bytes_;
  std::size_t at_ = 0;
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
  std::jmp_buf back_;
  char message_[256] = "";
  std::vector<png_bytep> rows_;
};

/// Calls `use` with a decoder for the bytes' format, which has read the header.
template <class Use>
auto with_decoder(std::span<const std::byte> bytes, std::string_view name, const PictureOptions& options,
                  const Use& use) {
  if (bytes.empty()) throw FormatError(text(name, " is empty: it has no bytes; copy it again"));
  const std::string_view format = picture_format(bytes);
  const auto begun = [&](auto&& decoder) {
    decoder.begin(name, options);
    return use(decoder);
  };
  try {
    if (format == "JPEG") return begun(JpegDecoder(bytes));
    if (format == "PNG") return begun(PngDecoder(bytes));
  } catch (const std::bad_alloc&) {
    throw FormatError(text(name, ": memory did not suffice for the picture; set a lower `max_pixels`"));
  }
  throw FormatError(text(name, " is not a JPEG or PNG picture: ",
                         format.empty() ? std::string("its first bytes are those of no known format")
                                        : text("it is a file of the format ", format),
                         "; convert it to JPEG or PNG, or take it away"));
}

}  // namespace detail

/// Refuses what its header tells to be no picture that `decode_picture` takes, or too large a one; its pixels are not
/// looked at, so that a file mapped into memory is read at its beginning only. \throws FormatError
inline void check_picture_header(std::span<const std::byte> bytes, std::string_view name,
                                 const PictureOptions& options = {}) {
  detail::with_decoder(bytes, name, options, [](auto&) {});
}

/// The size of what `decode_picture` would give, by the header alone: Exif's orientation is obeyed. \throws FormatError
inline PixelSize picture_size(std::span<const std::byte> bytes, std::string_view name,
                              const PictureOptions& options = {}) {
  return detail::with_decoder(bytes, name, options, [](const auto& decoder) { return decoder.size(); });
}

/// Decodes a picture file's bytes: JPEG (baseline, progressive, arithmetic; grey, colour, CMYK) or PNG (every colour
/// type and depth, interlaced or not).
///
/// The pixels are those of Pillow's `ImageOps.exif_transpose(image).convert("RGB")`, but that grey stays one channel:
/// Exif's orientation in a JPEG is obeyed, alpha and transparent colours are dropped (not composed), of 16 bits the
/// high 8 are taken (of grey ones too, which Pillow clips at 255).
/// \param name whose bytes they are, for errors
/// \throws FormatError if it is no such picture, is cut or damaged, or has more pixels than `options` allow
inline Picture decode_picture(std::span<const std::byte> bytes, std::string_view name,
                              const PictureOptions& options = {}) {
  return detail::with_decoder(bytes, name, options, [&](auto& decoder) { return decoder.decode(name); });
}

/// Reads and decodes a picture file. \throws FileError, FormatError; see `decode_picture`
inline Picture read_picture(const std::filesystem::path& path, const PictureOptions& options = {}) {
  const std::string bytes = read_file(path);
  return decode_picture(std::as_bytes(std::span(bytes.data(), bytes.size())), path.string(), options);
}

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API std::string_view picture_format(std::span<const std::byte> bytes) {
  const std::string_view head(reinterpret_cast<const char*>(bytes.data()), std::min<std::size_t>(bytes.size(), 64));
  const auto begins = [&](std::string_view with) { return head.substr(0, with.size()) == with; };
  const std::string_view at4 = head.size() < 12 ? std::string_view() : head.substr(4, 8);
  if (begins("\xFF\xD8\xFF")) return "JPEG";
  if (begins("\x89PNG\r\n\x1A\n")) return "PNG";
  if (begins("GIF8")) return "GIF";
  if (begins("RIFF") && head.size() >= 12 && head.substr(8, 4) == "WEBP") return "WebP";
  if (begins("BM")) return "BMP";
  if (begins(std::string_view("II*\0", 4)) || begins(std::string_view("MM\0*", 4))) return "TIFF";
  if (at4.substr(0, 6) == "ftypav") return "AVIF";
  if (at4.substr(0, 6) == "ftyphe" || at4.substr(0, 6) == "ftypmi") return "HEIC";
  if (begins("\xFF\x0A") || begins(std::string_view("\0\0\0\x0CJXL ", 8))) return "JPEG XL";
  if (begins(std::string_view("\0\0\0\x0CjP  ", 8))) return "JPEG 2000";
  if (begins("%PDF")) return "PDF";
  if (begins("PK\x03\x04")) return "ZIP";
  if (head.size() >= 3 && head[0] == 'P' && head[1] >= '1' && head[1] <= '6' && (head[2] == '\n' || head[2] == ' '))
    return "PNM";
  const std::string_view word = head.substr(std::min(head.find_first_not_of(" \t\r\n\xEF\xBB\xBF"), head.size()));
  for (std::string_view html : {"<!DOCTYPE html", "<!doctype html", "<html", "<HTML"})
    if (word.substr(0, html.size()) == html) return "HTML";
  if (word.substr(0, 4) == "<svg" || word.substr(0, 5) == "<?xml") return "XML or SVG";
  return {};
}

TRANSFERLIB_API void check_picture_size(std::string_view name, std::uint64_t width, std::uint64_t height,
                                        const PictureOptions& options) {
  if (width == 0 || height == 0) throw FormatError(text(name, ": a picture of ", width, " x ", height, " pixels"));
  const auto most = static_cast<std::uint64_t>(std::max<Index>(options.max_pixels, 0));
  if (height > most / width)
    throw FormatError(text(name, ": the picture has ", width, " x ", height, " pixels, more than the limit of ", most,
                           "; raise `max_pixels` if it is meant"));
}

TRANSFERLIB_API int exif_orientation(std::span<const std::byte> block) {
  if (block.size() < 14 || std::memcmp(block.data(), "Exif\0\0", 6) != 0) return 1;
  const auto tiff = block.subspan(6);
  const bool big = std::memcmp(tiff.data(), "MM", 2) == 0;
  if (!big && std::memcmp(tiff.data(), "II", 2) != 0) return 1;
  const auto number = [&](std::size_t at, std::size_t bytes) {
    std::uint32_t value = 0;
    for (std::size_t i = 0; i < bytes; ++i)
      value |= static_cast<std::uint32_t>(tiff[at + i]) << (8 * (big ? bytes - 1 - i : i));
    return value;
  };
  if (number(2, 2) != 42) return 1;
  const std::size_t directory = number(4, 4);
  if (directory > tiff.size() - 2) return 1;
  const std::size_t entries = number(directory, 2);
  for (std::size_t i = 0; i < entries; ++i) {
    const std::size_t at = directory + 2 + 12 * i;
    if (tiff.size() < 12 || at > tiff.size() - 12) return 1;
    if (number(at, 2) != 0x0112) continue;
    const std::uint32_t type = number(at + 2, 2);
    const std::uint32_t value = type == 3 ? number(at + 8, 2) : type == 4 ? number(at + 8, 4) : 1;
    return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
  }
  return 1;
}

TRANSFERLIB_API Picture upright(Picture picture, int orientation) {
  if (orientation <= 1 || orientation > 8) return picture;
  const Index w = picture.width, h = picture.height, c = picture.channels;
  const bool swap = orientation >= 5;
  Picture out{swap ? h : w, swap ? w : h, c, std::vector<std::uint8_t>(picture.pixels.size())};
  std::uint8_t* to = out.pixels.data();
  for (Index y = 0; y < out.height; ++y)
    for (Index x = 0; x < out.width; ++x, to += c) {
      Index row = swap ? x : y, column = swap ? y : x;
      if (orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7)
        row = h - 1 - row;  // the stored picture is read from its last row up
      if (orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8)
        column = w - 1 - column;  // … from its last column back
      std::copy_n(picture.pixels.data() + (row * w + column) * c, c, to);
    }
  return out;
}

TRANSFERLIB_API JpegDecoder::JpegDecoder(std::span<const std::byte> bytes) : bytes_(bytes) {
  std::memset(&info_, 0, sizeof info_);
  info_.err = jpeg_std_error(&errors_);
  info_.client_data = this;
  errors_.error_exit = [](j_common_ptr info) { self(info).fail(); };
  errors_.emit_message = [](j_common_ptr info, int level) {
    if (level < 0) self(info).warn();
  };
  errors_.output_message = [](j_common_ptr) {};
}

TRANSFERLIB_API void JpegDecoder::begin(std::string_view name, const PictureOptions& options) {
  run(name, [](JpegDecoder& d) {
    jpeg_create_decompress(&d.info_);
    jpeg_save_markers(&d.info_, JPEG_APP0 + 1, 0xFFFF);
    jpeg_mem_src(&d.info_, reinterpret_cast<const unsigned char*>(d.bytes_.data()),
                 static_cast<unsigned long>(d.bytes_.size()));
    jpeg_read_header(&d.info_, TRUE);
  });
  const std::uint64_t width = info_.image_width, height = info_.image_height;
  check_picture_size(name, width, height, options);
  // Huffman codes spend at least a bit on 8 x 8 pixels (twice that with odd sampling factors): what has fewer is cut.
  if (!info_.arith_code && width * height / 1024 > bytes_.size())
    throw FormatError(text(name, ": the JPEG file is cut: its ", bytes_.size(), " bytes can't hold ", width, " x ",
                           height, " pixels; copy it again"));
  if (info_.num_components != 1 && info_.num_components != 3 && info_.num_components != 4)
    throw FormatError(text(name, ": the JPEG file has ", info_.num_components,
                           " components a pixel; grey (1), colour (3) and CMYK (4) can be read"));
}

TRANSFERLIB_API Picture JpegDecoder::decode(std::string_view name) {
  const auto width = static_cast<Index>(info_.image_width), height = static_cast<Index>(info_.image_height);
  const bool cmyk = info_.num_components == 4;
  info_.out_color_space = info_.num_components == 1 ? JCS_GRAYSCALE : cmyk ? JCS_CMYK : JCS_RGB;
  const int turned = orientation();  // libjpeg forgets it when it is done
  progress_.progress_monitor = [](j_common_ptr info) {
    // A file of thousands of scans costs hours and shows what one shows.
    if (self(info).info_.input_scan_number > most_scans) {
      std::snprintf(self(info).message_, sizeof message_, "it has more than %d scans", most_scans);
      std::longjmp(self(info).back_, 1);
    }
  };
  info_.progress = &progress_;
  run(name, [](JpegDecoder& d) { jpeg_start_decompress(&d.info_); });

  Picture out{width, height, cmyk ? 3 : info_.num_components, {}};
  out.pixels.resize(static_cast<std::size_t>(width * height) * static_cast<std::size_t>(out.channels));
  if (cmyk) row_.resize(static_cast<std::size_t>(width) * 4);
  next_ = out.pixels.data();
  run(name, [](JpegDecoder& d) {
    while (d.info_.output_scanline < d.info_.output_height) {
      const bool four = d.info_.out_color_space == JCS_CMYK;
      JSAMPROW row = four ? d.row_.data() : d.next_;
      jpeg_read_scanlines(&d.info_, &row, 1);
      if (four) cmyk_to_rgb(row, d.info_.output_width, d.next_);
      d.next_ += static_cast<std::size_t>(d.info_.output_width) * (d.info_.num_components == 1 ? 1 : 3);
    }
    d.complete_ = true;
    jpeg_finish_decompress(&d.info_);
  });
  return upright(std::move(out), turned);
}

TRANSFERLIB_API int JpegDecoder::orientation() const {
  for (auto* marker = info_.marker_list; marker != nullptr; marker = marker->next) {
    const auto block = std::as_bytes(std::span(marker->data, marker->data_length));
    if (block.size() >= 6 && std::memcmp(block.data(), "Exif\0\0", 6) == 0) return exif_orientation(block);
  }
  return 1;
}

TRANSFERLIB_API void JpegDecoder::warn() {
  switch (errors_.msg_code) {
    case JWRN_ADOBE_XFORM:
    case JWRN_JFIF_MAJOR:
    case JWRN_BOGUS_ICC:
      return;
    case JWRN_EXTRANEOUS_DATA:
      if (info_.output_scanline == 0 || complete_) return;
      break;
    default:
      break;
  }
  fail();
}

TRANSFERLIB_API void JpegDecoder::cmyk_to_rgb(const std::uint8_t* in, std::size_t n, std::uint8_t* out) {
  for (std::size_t i = 0; i < n; ++i, in += 4, out += 3) {
    const int white = in[3];  // 255 - K, and K is stored inverted
    for (int c = 0; c < 3; ++c) {
      const int product = (255 - in[c]) * white + 128;
      out[c] = static_cast<std::uint8_t>(white - (((product >> 8) + product) >> 8));
    }
  }
}

TRANSFERLIB_API void PngDecoder::begin(std::string_view name, const PictureOptions& options) {
  png_ = png_create_read_struct(
      PNG_LIBPNG_VER_STRING, this,
      [](png_structp png, png_const_charp message) {
        auto& d = *static_cast<PngDecoder*>(png_get_error_ptr(png));
        std::snprintf(d.message_, sizeof d.message_, "%s", message);
        std::longjmp(d.back_, 1);
      },
      [](png_structp, png_const_charp) {});
  if (png_ != nullptr) info_ = png_create_info_struct(png_);
  if (info_ == nullptr) throw FormatError(text(name, ": libpng refused to start: memory did not suffice"));
  run(name, [](PngDecoder& d) {
    png_set_read_fn(d.png_, &d, [](png_structp png, png_bytep to, png_size_t n) {
      auto& self = *static_cast<PngDecoder*>(png_get_io_ptr(png));
      if (n > self.bytes_.size() - self.at_) png_error(png, "the file ends too early");
      std::memcpy(to, self.bytes_.data() + self.at_, n);
      self.at_ += n;
    });
    // Nothing but the pixels is wanted: other chunks (profiles, texts) are checked and skipped.
    png_set_crc_action(d.png_, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
    png_set_keep_unknown_chunks(d.png_, PNG_HANDLE_CHUNK_NEVER, nullptr, -1);
    png_set_user_limits(d.png_, PNG_UINT_31_MAX, PNG_UINT_31_MAX);
    png_read_info(d.png_, d.info_);
  });
  const std::uint64_t width = png_get_image_width(png_, info_), height = png_get_image_height(png_, info_);
  check_picture_size(name, width, height, options);
  // Deflate packs at most 1032 bytes into one.
  if (height * png_get_rowbytes(png_, info_) / 1032 > bytes_.size())
    throw FormatError(text(name, ": the PNG file is cut: its ", bytes_.size(), " bytes can't hold ", width, " x ",
                           height, " pixels; copy it again"));
}

TRANSFERLIB_API Picture PngDecoder::decode(std::string_view name) {
  const auto width = static_cast<Index>(png_get_image_width(png_, info_));
  const auto height = static_cast<Index>(png_get_image_height(png_, info_));
  run(name, [](PngDecoder& d) {
    const int colour = png_get_color_type(d.png_, d.info_);
    if (colour == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(d.png_);
    if (colour == PNG_COLOR_TYPE_GRAY) png_set_expand_gray_1_2_4_to_8(d.png_);
    png_set_strip_16(d.png_);
    png_set_strip_alpha(d.png_);
    png_set_interlace_handling(d.png_);
    png_read_update_info(d.png_, d.info_);
  });
  Picture out{width, height, png_get_channels(png_, info_), {}};
  const std::size_t row = png_get_rowbytes(png_, info_);
  if ((out.channels != 1 && out.channels != 3) ||
      row != static_cast<std::size_t>(width) * static_cast<std::size_t>(out.channels))
    throw FormatError(text(name, ": the PNG file has ", out.channels, " channels of pixels where 1 or 3 are known"));
  out.pixels.resize(static_cast<std::size_t>(height) * row);
  rows_.resize(static_cast<std::size_t>(height));
  for (std::size_t y = 0; y < rows_.size(); ++y) rows_[y] = out.pixels.data() + y * row;
  run(name, [](PngDecoder& d) {
    png_read_image(d.png_, d.rows_.data());
    png_read_end(d.png_, nullptr);
  });
  return out;
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES
