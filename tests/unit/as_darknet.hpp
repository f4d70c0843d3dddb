// Pictures as darknet's own reader of JPEG gives them.
#pragma once

#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <vector>

#include <ATen/ATen.h>
#include <jpeglib.h>

namespace toys {

/// A JPEG whose chroma has half of the rows, (1, 3, height, width) in [0, 1], as darknet's own reader has it: planes
/// from libjpeg, but rows of chroma are interpolated with the rounding, and colours computed with the constants, of
/// that reader. libjpeg's differ by up to 3 of 255, which is more than two programs' networks do.
inline at::Tensor read_as_darknet(const std::string& file) {
  jpeg_decompress_struct jpeg{};
  jpeg_error_mgr errors{};
  jpeg.err = jpeg_std_error(&errors);
  jpeg_create_decompress(&jpeg);
  jpeg_mem_src(&jpeg, reinterpret_cast<const unsigned char*>(file.data()), file.size());
  if (jpeg_read_header(&jpeg, TRUE) != JPEG_HEADER_OK) throw std::runtime_error("no JPEG");
  jpeg.raw_data_out = TRUE;
  jpeg.out_color_space = JCS_YCbCr;
  jpeg_start_decompress(&jpeg);
  if (jpeg.num_components != 3 || jpeg.max_v_samp_factor != 2 || jpeg.max_h_samp_factor != 1)
    throw std::runtime_error("another sampling of chroma");
  at::Tensor planes[3];
  for (int c = 0; c < 3; ++c) {
    const jpeg_component_info& info = jpeg.comp_info[c];
    planes[c] = at::zeros({(info.height_in_blocks + 2) * 8, info.width_in_blocks * 8}, at::kByte);
  }
  while (jpeg.output_scanline < jpeg.output_height) {
    std::vector<JSAMPROW> rows[3];
    JSAMPARRAY arrays[3];
    for (int c = 0; c < 3; ++c) {
      const int factor = jpeg.comp_info[c].v_samp_factor;
      const std::int64_t first = jpeg.output_scanline / 2 * static_cast<std::int64_t>(factor);
      for (std::int64_t r = 0; r < factor * 8; ++r)
        rows[c].push_back(planes[c][first + r].mutable_data_ptr<std::uint8_t>());
      arrays[c] = rows[c].data();
    }
    jpeg_read_raw_data(&jpeg, arrays, 16);
  }
  const std::int64_t height = jpeg.output_height, width = jpeg.output_width,
                     half = jpeg.comp_info[1].downsampled_height;
  jpeg_destroy_decompress(&jpeg);
  const auto plane = [&](int c) { return planes[c].narrow(1, 0, width).to(at::kInt); };
  // Each row is three parts of the nearest row of chroma, and one of the next.
  const auto chroma = [&](int c) {
    const at::Tensor row = at::arange(height), near = row.div(2, "floor");
    const at::Tensor far = (near + (row % 2) * 2 - 1).clamp(0, half - 1), p = plane(c);
    return (p.index_select(0, near) * 3 + p.index_select(0, far) + 2).div(4, "floor") - 128;
  };
  const auto part = [](double x) { return static_cast<std::int64_t>(x * 4096.0 + 0.5) * 256; };
  const at::Tensor y = plane(0).narrow(0, 0, height).to(at::kLong) * (1 << 20) + (1 << 19), blue = chroma(1),
                   red = chroma(2);
  const at::Tensor green = (blue * -part(0.34414)).div(1 << 16, "floor") * (1 << 16);
  return at::stack({y + red * part(1.402), y - red * part(0.71414) + green, y + blue * part(1.772)})
             .div(1 << 20, "floor")
             .clamp(0, 255)
             .to(at::kFloat)
             .unsqueeze(0) /
         255.0;
}

}  // namespace toys
