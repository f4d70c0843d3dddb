/// \file
/// Video as `ffmpeg -f yuv4mpegpipe` gives it, frame by frame: 8 bits a sample, 4:2:0, 4:2:2, 4:4:4 or grey.
#pragma once

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/text.hpp>
#include <transferlib/data/pictures.hpp>

namespace tools {

/// Reads a stream. Colours are BT.601's, of 16 … 235 unless the stream says that it has the full range.
class Yuv4Mpeg {
 public:
  /// \throws transferlib::FormatError if the header is none
  explicit Yuv4Mpeg(std::FILE* file) : file_(file) {
    using transferlib::FormatError;
    using transferlib::detail::text;
    std::string header;
    if (!line(header)) throw FormatError("the video ends before it begins: there is nothing on standard input");
    if (!header.starts_with("YUV4MPEG2"))
      throw FormatError("the video does not begin with YUV4MPEG2; give it by ffmpeg … -f yuv4mpegpipe -");
    std::string chroma = "420";
    for (std::size_t at = header.find(' '); at != std::string::npos;) {
      const std::size_t next = header.find(' ', at + 1);
      const std::string_view word =
          std::string_view(header).substr(at + 1, next == std::string::npos ? next : next - at - 1);
      at = next;
      if (word.empty()) continue;
      if (word[0] == 'W' || word[0] == 'H') {
        auto& side = word[0] == 'W' ? width_ : height_;
        std::from_chars(word.data() + 1, word.data() + word.size(), side);
      } else if (word[0] == 'C') {
        chroma = word.substr(1);
      } else if (word == "XCOLORRANGE=FULL") {
        full_ = true;
      }
    }
    if (width_ < 1 || height_ < 1 || width_ > 32768 || height_ > 32768)
      throw FormatError(text("the video's frames can't be of ", width_, " x ", height_, " pixels"));
    const bool deep =
        chroma.find('p') != std::string::npos && chroma != "420jpeg" && chroma != "420mpeg2" && chroma != "420paldv";
    if (deep || !(chroma.starts_with("420") || chroma == "422" || chroma == "444" || chroma == "mono"))
      throw FormatError(text("the video's samples are ", chroma, "; give it by ffmpeg … -pix_fmt yuv420p"));
    across_ = chroma == "444" ? 1 : 2;
    down_ = chroma.starts_with("420") ? 2 : 1;
    grey_ = chroma == "mono";
  }

  /// The next frame, with three channels; false at the end. \throws transferlib::FormatError if a frame is cut
  bool next(transferlib::Picture& out) {
    using Index = transferlib::Index;
    std::string head;
    if (!line(head)) return false;
    if (!head.starts_with("FRAME")) throw transferlib::FormatError("a frame of the video does not begin with FRAME");
    const Index wide = (width_ + across_ - 1) / across_, tall = (height_ + down_ - 1) / down_;
    const std::size_t luma = static_cast<std::size_t>(width_ * height_);
    const std::size_t chroma = grey_ ? 0 : static_cast<std::size_t>(wide * tall);
    bytes_.resize(luma + 2 * chroma);
    if (std::fread(bytes_.data(), 1, bytes_.size(), file_) != bytes_.size())
      throw transferlib::FormatError("the last frame of the video is cut");
    out = {width_, height_, 3, {}};
    out.pixels.resize(3 * luma);
    std::uint8_t* to = out.pixels.data();
    const double scale = full_ ? 1.0 : 255.0 / 219.0, colour = full_ ? 1.0 : 255.0 / 224.0, dark = full_ ? 0.0 : 16.0;
    const auto byte = [](double v) { return static_cast<std::uint8_t>(std::clamp(v + 0.5, 0.0, 255.0)); };
    for (Index y = 0; y < height_; ++y)
      for (Index x = 0; x < width_; ++x, to += 3) {
        const double light = scale * (bytes_[static_cast<std::size_t>(y * width_ + x)] - dark);
        double blue = 0.0, red = 0.0;
        if (!grey_) {
          const std::size_t at = luma + static_cast<std::size_t>(y / down_ * wide + x / across_);
          blue = colour * (bytes_[at] - 128.0), red = colour * (bytes_[at + chroma] - 128.0);
        }
        to[0] = byte(light + 1.402 * red);
        to[1] = byte(light - 0.344136 * blue - 0.714136 * red);
        to[2] = byte(light + 1.772 * blue);
      }
    return true;
  }

 private:
  /// A line without its end; false at the end of the stream.
  bool line(std::string& out) {
    out.clear();
    for (int c = std::getc(file_); c != EOF; c = std::getc(file_)) {
      if (c == '\n') return true;
      if (out.size() >= 4096) throw transferlib::FormatError("a line of the video's headers has no end");
      out += static_cast<char>(c);
    }
    return false;
  }

  std::FILE* file_;
  transferlib::Index width_ = 0, height_ = 0, across_ = 2, down_ = 2;
  bool full_ = false, grey_ = false;
  std::vector<std::uint8_t> bytes_;
};

}  // namespace tools
