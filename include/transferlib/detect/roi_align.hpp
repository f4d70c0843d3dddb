/// \file
/// A feature map's values inside boxes, as maps of one size: RoIAlign (He et al., "Mask R-CNN", ICCV 2017) and RoIPool
/// (Girshick, "Fast R-CNN", ICCV 2015), as torchvision.ops 0.29.1 computes them on the CPU; and RoIAlign from the level
/// of a pyramid that suits each box (Lin et al., "Feature pyramid networks", CVPR 2017).
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <transferlib/core/error.hpp>
#include <transferlib/core/parallel.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>

namespace transferlib {

/// How boxes are pooled.
struct RoiOptions {
  Index height = 7, width = 7;  ///< places of the result, its bins
  double scale = 1.0;           ///< a map's places a pixel of the boxes: 1 / stride
  Index sampling = 2;           ///< RoIAlign: points a bin and side; 0: as many as the bin has places, rounded up
  /// RoIAlign: whether a place's value stands for its middle (Detectron2); without it boxes lie half a place too far
  /// right and down, and have at least a place.
  bool aligned = false;
};

namespace detail {

TRANSFERLIB_API void check_rois(const Tensor& map, const Tensor& rois, const RoiOptions& o);

/// The map's places as rows, (N · H · W, C): no copy where memory is channels last.
inline Tensor places_of(const Tensor& map) { return map.permute({0, 2, 3, 1}).reshape({-1, map.size(1)}); }

/// The boxes (K) of one axis on the map: where they begin and how long they are.
struct RoiAxis {
  Tensor start, length;

  static RoiAxis of(const Tensor& rois, Index first, Index last, const RoiOptions& o) {
    const double offset = o.aligned ? 0.5 : 0.0;
    const Tensor start = rois.select(1, first) * o.scale - offset;
    const Tensor length = rois.select(1, last) * o.scale - offset - start;
    return {start, o.aligned ? length : length.clamp_min(1.0)};
  }
};

/// RoIAlign by LibTorch's operators, on any device and with autograd: each bin is a weighted sum of rows, four for each
/// of its points, which is what `embedding_bag` computes.
TRANSFERLIB_API Tensor roi_align_by_operators(const Tensor& map, const Tensor& boxes, const RoiOptions& o);

/// A point on one axis of a map: the two places beside it, and their weights; none outside.
template <class T>
struct RoiPoint {
  Index low = 0, high = 0;
  T weight_low = 0, weight_high = 0;
};

/// The points of a box on one axis, bin by bin.
template <class T>
Index roi_points(T first, T last, const RoiOptions& o, Index parts, Index side, std::vector<RoiPoint<T>>& out) {
  const T offset = o.aligned ? T(0.5) : T(0), scale = static_cast<T>(o.scale);
  const T start = first * scale - offset;
  T length = last * scale - offset - start;
  if (!o.aligned) length = std::max(length, T(1));
  const T size = length / static_cast<T>(parts);
  const Index grid = o.sampling > 0 ? o.sampling : std::max<Index>(static_cast<Index>(std::ceil(size)), 0);
  out.clear();
  for (Index part = 0; part < parts; ++part)
    for (Index i = 0; i < grid; ++i) {
      T at = start + static_cast<T>(part) * size + (static_cast<T>(i) + T(0.5)) * size / static_cast<T>(grid);
      RoiPoint<T> p;
      if (at >= T(-1) && at <= static_cast<T>(side)) {
        at = std::max(at, T(0));
        p.low = std::min(static_cast<Index>(at), side - 1);
        p.high = std::min(p.low + 1, side - 1);
        if (p.low < side - 1) p.weight_high = at - static_cast<T>(p.low);
        p.weight_low = T(1) - p.weight_high;
      }
      out.push_back(p);
    }
  return grid;
}

/// Calls `use(bin, place, weight)` for every place that a bin of the box looks at.
template <class T, class Use>
void for_each_roi_weight(const T* roi, const RoiOptions& o, Index height, Index width, std::vector<RoiPoint<T>>& ys,
                         std::vector<RoiPoint<T>>& xs, const Use& use) {
  const Index rows = roi_points(roi[2], roi[4], o, o.height, height, ys);
  const Index columns = roi_points(roi[1], roi[3], o, o.width, width, xs);
  if (rows * columns == 0) return;
  const T part = T(1) / static_cast<T>(rows * columns);
  for (Index p = 0; p < o.height; ++p)
    for (Index i = 0; i < rows; ++i) {
      const RoiPoint<T>& y = ys[static_cast<std::size_t>(p * rows + i)];
      for (const auto& [row, weight] : {std::pair(y.low, y.weight_low), std::pair(y.high, y.weight_high)}) {
        if (weight == T(0)) continue;
        for (Index q = 0; q < o.width; ++q)
          for (Index j = 0; j < columns; ++j) {
            const RoiPoint<T>& x = xs[static_cast<std::size_t>(q * columns + j)];
            if (x.weight_low != T(0)) use(p * o.width + q, row * width + x.low, weight * x.weight_low * part);
            if (x.weight_high != T(0)) use(p * o.width + q, row * width + x.high, weight * x.weight_high * part);
          }
      }
    }
}

/// to += weight · from, n numbers that don't overlap; vectors are written out, for a compiler that makes none of loops
/// at -O2.
template <class T>
inline void add_scaled(T* __restrict to, const T* __restrict from, T weight, Index n) {
  using Vector [[gnu::vector_size(32)]] = T;
  constexpr Index wide = static_cast<Index>(sizeof(Vector) / sizeof(T));
  Index i = 0;
  for (; i + wide <= n; i += wide) {
    Vector a, b;
    std::memcpy(&a, to + i, sizeof a);
    std::memcpy(&b, from + i, sizeof b);
    a += weight * b;
    std::memcpy(to + i, &a, sizeof a);
  }
  for (; i < n; ++i) to[i] += weight * from[i];
}

/// `map` lies channels last.
template <class T>
Tensor roi_align_forward(const Tensor& map, const Tensor& rois, const RoiOptions& o) {
  const Index channels = map.size(1), height = map.size(2), width = map.size(3), bins = o.height * o.width;
  const Index count = rois.size(0), piece = 8;
  Tensor out = at::empty({count, channels, o.height, o.width}, rois.options());
  const T* const from = map.const_data_ptr<T>();
  const T* const boxes = rois.const_data_ptr<T>();
  T* const to = out.mutable_data_ptr<T>();
  for_each_in_parallel((count + piece - 1) / piece, [&](Index task) {
    std::vector<RoiPoint<T>> ys, xs;
    std::vector<T> sums(static_cast<std::size_t>(bins * channels));
    for (Index k = task * piece; k < std::min(count, (task + 1) * piece); ++k) {
      const T* const roi = boxes + 5 * k;
      const T* const picture = from + static_cast<Index>(roi[0]) * height * width * channels;
      std::fill(sums.begin(), sums.end(), T(0));
      for_each_roi_weight(roi, o, height, width, ys, xs, [&](Index bin, Index place, T weight) {
        add_scaled(sums.data() + bin * channels, picture + place * channels, weight, channels);
      });
      T* at = to + k * bins * channels;
      for (Index c = 0; c < channels; ++c)
        for (Index bin = 0; bin < bins; ++bin) *at++ = sums[static_cast<std::size_t>(bin * channels + c)];
    }
  });
  return out;
}

/// The gradient of the map, channels last. Tasks are channels of a picture, so that no two write to one number, and the
/// order of the sums is that of the boxes whatever the number of threads.
template <class T>
Tensor roi_align_backward(const Tensor& gradient, const Tensor& rois, at::IntArrayRef shape, const RoiOptions& o) {
  const Index channels = shape[1], height = shape[2], width = shape[3], bins = o.height * o.width;
  const Index count = rois.size(0), piece = 64, pieces = (channels + piece - 1) / piece;
  Tensor out = at::empty(shape, rois.options().memory_format(at::MemoryFormat::ChannelsLast)).zero_();
  const T* const from = gradient.const_data_ptr<T>();
  const T* const boxes = rois.const_data_ptr<T>();
  T* const to = out.mutable_data_ptr<T>();
  for_each_in_parallel(shape[0] * pieces, [&](Index task) {
    const Index number = task / pieces, first = task % pieces * piece, n = std::min(piece, channels - first);
    std::vector<RoiPoint<T>> ys, xs;
    std::vector<T> part(static_cast<std::size_t>(bins * n));
    T* const picture = to + number * height * width * channels + first;
    for (Index k = 0; k < count; ++k) {
      const T* const roi = boxes + 5 * k;
      if (static_cast<Index>(roi[0]) != number) continue;
      const T* at = from + (k * channels + first) * bins;
      for (Index c = 0; c < n; ++c)
        for (Index bin = 0; bin < bins; ++bin) part[static_cast<std::size_t>(bin * n + c)] = *at++;
      for_each_roi_weight(roi, o, height, width, ys, xs, [&](Index bin, Index place, T weight) {
        add_scaled(picture + place * channels, part.data() + bin * n, weight, n);
      });
    }
  });
  return out;
}

/// RoIAlign on the CPU by loops of our own.
struct RoiAlignLoops : torch::autograd::Function<RoiAlignLoops> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& map, const Tensor& rois,
                        const RoiOptions& o);
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients);
};

}  // namespace detail

/// RoIAlign: the mean of a bin's points, each between the four places around it; points further than a place outside
/// the map count as 0. With gradient to the map, and none to the boxes.
/// \param map (N, C, H, W), float32 or double; other types are computed in float32
/// \param rois (K, 5): the picture's number in the batch, x1, y1, x2, y2 in pixels
/// \returns (K, C, height, width) \throws DataError, OptionError
inline Tensor roi_align(const Tensor& map, const Tensor& rois, const RoiOptions& options = {}) {
  detail::check_rois(map, rois, options);
  const Tensor x = detail::exact(map);
  if (!x.is_cpu()) return detail::roi_align_by_operators(x, rois, options);
  return detail::RoiAlignLoops::apply(x, rois.detach().to(x.scalar_type()).contiguous(), options);
}

/// RoIPool: the largest value of a bin's places, 0 in a bin without any. Corners are rounded to places, and a bin's to
/// whole places outwards. With gradient to the map, and none to the boxes. Arguments and result as `roi_align`'s;
/// `sampling` and `aligned` are not read.
TRANSFERLIB_API Tensor roi_pool(const Tensor& map, const Tensor& rois, const RoiOptions& o = {});

/// Which of a pyramid's maps each box is pooled from: the one of the stride 2^k with k = floor(4 + log2(sqrt(area) /
/// 224)), so that a box of ImageNet's size takes the stride 16 (Lin et al., equation 1).
/// \param boxes (K, 4) \param strides of the maps, finest first \returns (K) int64, indices of maps
TRANSFERLIB_API Tensor levels_of(const Tensor& boxes, std::span<const Index> strides);

/// How boxes are pooled: by RoIAlign or by RoIPool.
enum class RoiPooling { align, pool };

/// Each box pooled from the map that suits it, see `levels_of`; torchvision's `MultiScaleRoIAlign`, whose scales are
/// the strides here.
/// \param maps (N, C, h, w) each, finest first \param strides theirs \param options `scale` is not read
/// \param boxes of each of the N pictures, (K_i, 4) \returns (sum of K_i, C, height, width), in the order of the boxes
TRANSFERLIB_API Tensor pool_boxes(const Activations& maps, std::span<const Index> strides,
                                  std::span<const Tensor> boxes, RoiOptions options,
                                  RoiPooling pooling = RoiPooling::align);

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API void check_rois(const Tensor& map, const Tensor& rois, const RoiOptions& o) {
  if (map.dim() != 4) throw DataError(text("boxes are pooled from maps (N, C, H, W), not from ", map.dim(), " sides"));
  if (rois.dim() != 2 || rois.size(1) != 5)
    throw DataError("boxes to pool should be of the shape (K, 5): the picture's number, x1, y1, x2, y2");
  if (map.size(2) < 1 || map.size(3) < 1) throw DataError("boxes can't be pooled from a map that has no places");
  if (o.height < 1 || o.width < 1 || o.sampling < 0 || !(o.scale > 0.0))
    throw OptionError(text("boxes can't be pooled to ", o.height, " x ", o.width, " places by ", o.sampling,
                           " points at the scale ", o.scale));
  if (rois.size(0) != 0) {
    const auto numbers = rois.detach().select(1, 0);
    const auto least = numbers.min().item<double>(), most = numbers.max().item<double>();
    if (!(least >= 0.0) || !(most < static_cast<double>(map.size(0))) || !rois.isfinite().all().item<bool>())
      throw DataError(text("a box to pool is of picture ", least < 0.0 ? least : most, " of a batch of ", map.size(0),
                           ", or has numbers that are not finite"));
  }
}

TRANSFERLIB_API Tensor roi_align_by_operators(const Tensor& map, const Tensor& boxes, const RoiOptions& o) {
  const Tensor rois = boxes.detach().to(map.options());
  const Index height = map.size(2), width = map.size(3), bins = o.height * o.width, count = rois.size(0);
  const auto y = RoiAxis::of(rois, 2, 4, o), x = RoiAxis::of(rois, 1, 3, o);
  const auto whole = rois.options().dtype(at::kLong);
  // Points a bin: of the boxes (K), then the bins in a row, then the points in a row.
  const auto points = [&](const RoiAxis& axis, Index parts) {
    if (o.sampling > 0) return at::full({count}, o.sampling, whole);
    return (axis.length / static_cast<double>(parts)).ceil().clamp_min(0).to(at::kLong);
  };
  const Tensor grid_y = points(y, o.height), grid_x = points(x, o.width);
  const Tensor in_bin = (grid_y * grid_x).repeat_interleave(bins), start = in_bin.cumsum(0) - in_bin;
  const Tensor bag = at::arange(count * bins, whole).repeat_interleave(in_bin);
  const Tensor number = at::arange(bag.size(0), whole) - start.index_select(0, bag);
  const Tensor box = bag.floor_divide(bins), bin = bag.remainder(bins), columns = grid_x.index_select(0, box);
  struct Corner {
    Tensor low, high, weight_low, weight_high;
  };
  const auto corner = [&](const RoiAxis& axis, const Tensor& grid, const Tensor& part, Index parts, const Tensor& which,
                          Index side) {
    const Tensor size = (axis.length / static_cast<double>(parts)).index_select(0, box);
    Tensor at = axis.start.index_select(0, box) + part * size +
                (which + 0.5).to(size.scalar_type()) * size / grid.index_select(0, box);
    const Tensor inside = at.ge(-1.0).logical_and(at.le(static_cast<double>(side))).to(at.scalar_type());
    at = at.clamp_min(0.0);
    Corner out;
    out.low = at.to(at::kLong).clamp_max(side - 1);
    out.high = (out.low + 1).clamp_max(side - 1);
    out.weight_high = (at - out.low) * out.low.lt(side - 1) * inside;
    out.weight_low = inside - out.weight_high;
    return out;
  };
  const Corner v = corner(y, grid_y, bin.floor_divide(o.width), o.height, number.floor_divide(columns), height);
  const Corner h = corner(x, grid_x, bin.remainder(o.width), o.width, number.remainder(columns), width);
  const Tensor row = rois.select(1, 0).to(at::kLong).index_select(0, box) * height;
  const auto place = [&](const Tensor& a, const Tensor& b) { return (row + a) * width + b; };
  const Tensor places =
      at::stack({place(v.low, h.low), place(v.low, h.high), place(v.high, h.low), place(v.high, h.high)}, 1);
  const Tensor weights = at::stack({v.weight_low * h.weight_low, v.weight_low * h.weight_high,
                                    v.weight_high * h.weight_low, v.weight_high * h.weight_high},
                                   1) /
                         in_bin.index_select(0, bag).unsqueeze(1);
  const Tensor sums = std::get<0>(at::embedding_bag(places_of(map), places.flatten(), 4 * start, false, 0, false,
                                                    weights.to(map.scalar_type()).flatten()));
  return sums.view({count, o.height, o.width, map.size(1)}).permute({0, 3, 1, 2}).contiguous();
}

TRANSFERLIB_API Tensor RoiAlignLoops::forward(torch::autograd::AutogradContext* context, const Tensor& map,
                                              const Tensor& rois, const RoiOptions& o) {
  context->save_for_backward({rois});
  context->saved_data["shape"] = map.sizes().vec();
  context->saved_data["numbers"] = std::vector<Index>{o.height, o.width, o.sampling, o.aligned ? 1 : 0};
  context->saved_data["scale"] = o.scale;
  const Tensor x = map.contiguous(at::MemoryFormat::ChannelsLast);
  return map.scalar_type() == at::kDouble ? roi_align_forward<double>(x, rois, o)
                                          : roi_align_forward<float>(x, rois, o);
}

TRANSFERLIB_API torch::autograd::variable_list RoiAlignLoops::backward(
    torch::autograd::AutogradContext* context, const torch::autograd::variable_list& gradients) {
  const Tensor rois = context->get_saved_variables().at(0), gradient = gradients.at(0).contiguous();
  const auto numbers = context->saved_data["numbers"].toIntVector(), shape = context->saved_data["shape"].toIntVector();
  const RoiOptions o{.height = numbers[0],
                     .width = numbers[1],
                     .scale = context->saved_data["scale"].toDouble(),
                     .sampling = numbers[2],
                     .aligned = numbers[3] != 0};
  return {gradient.scalar_type() == at::kDouble ? roi_align_backward<double>(gradient, rois, shape, o)
                                                : roi_align_backward<float>(gradient, rois, shape, o),
          Tensor(), Tensor()};
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API Tensor roi_pool(const Tensor& map, const Tensor& rois, const RoiOptions& o) {
  detail::check_rois(map, rois, o);
  const Tensor x = detail::exact(map), boxes = rois.detach().to(x.options());
  const Index height = map.size(2), width = map.size(3), bins = o.height * o.width, count = rois.size(0);
  const auto whole = boxes.options().dtype(at::kLong);
  // Where the bins begin and end on one axis: (K, parts). Halves are rounded away from zero, as C's `round` does.
  const auto edges = [&](Index first, Index last, Index parts, Index side) {
    const auto rounded = [&](Index column) {
      const Tensor at = boxes.select(1, column) * o.scale;
      return (at.abs() + 0.5).floor() * at.sign();
    };
    const Tensor start = rounded(first), size = ((rounded(last) - start + 1).clamp_min(1) / parts).unsqueeze(1);
    const Tensor part = at::arange(parts, boxes.options());
    const auto place = [&](const Tensor& at) {
      return (at + start.unsqueeze(1)).clamp(0, static_cast<double>(side)).to(at::kLong);
    };
    return std::pair(place((part * size).floor()), place(((part + 1) * size).ceil()));
  };
  const auto [top, bottom] = edges(2, 4, o.height, height);
  const auto [left, right] = edges(1, 3, o.width, width);
  const auto each = [&](const Tensor& rows, const Tensor& columns) {
    const std::vector<Index> shape{count, o.height, o.width};
    return std::pair(rows.unsqueeze(2).expand(shape).flatten(), columns.unsqueeze(1).expand(shape).flatten());
  };
  const auto [rows, columns] = each((bottom - top).clamp_min(0), (right - left).clamp_min(0));
  const auto [first_row, first_column] = each(top, left);
  const Tensor in_bin = rows * columns, start = in_bin.cumsum(0) - in_bin;
  const Tensor bag = at::arange(count * bins, whole).repeat_interleave(in_bin);
  const Tensor number = at::arange(bag.size(0), whole) - start.index_select(0, bag);
  const Tensor wide = columns.index_select(0, bag);
  const Tensor picture = boxes.select(1, 0).to(at::kLong).repeat_interleave(bins).index_select(0, bag);
  const Tensor place = (picture * height + first_row.index_select(0, bag) + number.floor_divide(wide)) * width +
                       first_column.index_select(0, bag) + number.remainder(wide);
  const Tensor largest = std::get<0>(at::embedding_bag(detail::places_of(x), place, start, false, 2));
  return largest.view({count, o.height, o.width, map.size(1)}).permute({0, 3, 1, 2}).contiguous();
}

TRANSFERLIB_API Tensor levels_of(const Tensor& boxes, std::span<const Index> strides) {
  if (strides.empty()) throw OptionError("boxes are pooled from at least one map");
  std::vector<Index> powers;
  for (const Index stride : strides)
    powers.push_back(static_cast<Index>(std::nearbyint(std::log2(static_cast<double>(stride)))));
  const Index low = powers.front(), high = std::max(low, powers.back());
  const Tensor side = ((boxes.select(1, 2) - boxes.select(1, 0)) * (boxes.select(1, 3) - boxes.select(1, 1))).sqrt();
  const Tensor wanted = (4.0 + (side / 224.0).log2() + 1e-6)
                            .floor()
                            .clamp(static_cast<double>(low), static_cast<double>(high))
                            .to(at::kLong);
  // The first map of that stride or a larger one.
  std::vector<Index> map(static_cast<std::size_t>(high - low + 1));
  for (Index power = low; power <= high; ++power)
    map[static_cast<std::size_t>(power - low)] =
        std::find_if(powers.begin(), powers.end(), [&](Index p) { return p >= power; }) - powers.begin();
  return at::tensor(map, at::TensorOptions(at::kLong)).to(boxes.device()).index_select(0, wanted - low);
}

TRANSFERLIB_API Tensor pool_boxes(const Activations& maps, std::span<const Index> strides,
                                  std::span<const Tensor> boxes, RoiOptions options, RoiPooling pooling) {
  if (maps.empty() || maps.size() != strides.size())
    throw OptionError(detail::text("there are ", maps.size(), " maps with ", strides.size(), " strides"));
  if (static_cast<Index>(boxes.size()) != maps[0].size(0))
    throw DataError(detail::text("there are boxes of ", boxes.size(), " pictures and maps of ", maps[0].size(0)));
  std::vector<Tensor> parts;
  for (std::size_t i = 0; i < boxes.size(); ++i)
    parts.push_back(at::constant_pad_nd(boxes[i].detach(), {1, 0}, static_cast<double>(i)));
  const Tensor rois = at::cat(parts);
  const auto pooled = [&](std::size_t level, const Tensor& some) {
    options.scale = 1.0 / static_cast<double>(strides[level]);
    return pooling == RoiPooling::align ? roi_align(maps[level], some, options) : roi_pool(maps[level], some, options);
  };
  if (maps.size() == 1) return pooled(0, rois);
  const Tensor levels = levels_of(rois.narrow(1, 1, 4), strides);
  std::vector<Tensor> values, order;
  for (std::size_t level = 0; level < maps.size(); ++level) {
    const Tensor here = levels.eq(static_cast<Index>(level)).nonzero().flatten();
    if (here.size(0) == 0) continue;
    values.push_back(pooled(level, rois.index_select(0, here)));
    order.push_back(here);
  }
  if (values.empty()) return pooled(0, rois);
  return at::cat(values).index_select(0, at::cat(order).argsort());
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES
