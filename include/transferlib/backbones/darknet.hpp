/// \file
/// darknet's networks: any `.cfg` is a `Plan`, and its `.weights` are read and written. The published backbones
/// DarkNet-19 (Redmon and Farhadi, "YOLO9000", CVPR 2017), DarkNet-53 (the same, "YOLOv3", 2018) and CSPDarkNet-53
/// (Wang et al., "CSPNet", CVPR workshops 2020) are a few numbers each.
///
/// darknet's layers have numbers, not names. A layer N is one row of the layer table or up to three: `N.conv`, `N.bn`
/// and `N.act` of a convolution; `N.connected` …; `N.shortcut` …; `N.maxpool`, `N.route`, `N.yolo`: the others, as the
/// `.cfg` calls them. So `FreezeUntil{"74"}` freezes what stands before darknet's layer 74. Tensors are `N.conv.weight`
/// and on.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/files.hpp>
#include <transferlib/core/guard.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/formats/darknet.hpp>
#include <transferlib/nn/plan.hpp>
#include <transferlib/weights/state_dict.hpp>

namespace transferlib {

namespace detail {

/// A convolution whose kernel is another one at each place: darknet's `[local]` layer, as YOLO v1 has it.
class DarknetLocal : public Module {
 public:
  DarknetLocal(const DarknetLayer& l, const DarknetShape& in, const DarknetShape& out)
      : Module("DarknetLocal"), size_(l.size), stride_(l.stride), padding_(l.padding) {
    weight = register_parameter("weight", zeros({out.height * out.width, out.channels, in.channels * size_ * size_}));
    bias = register_parameter("bias", zeros({out.channels, out.height, out.width}));
  }

  /// (N, in, H, W) to (N, out, H', W'), of the size that it was made for only.
  Tensor forward(const Tensor& x) const {
    const Tensor windows = at::im2col(x, {size_, size_}, {1, 1}, {padding_, padding_}, {stride_, stride_});
    const auto type = x.scalar_type();
    return at::einsum("lok,nkl->nol", {weight.to(type), windows}).reshape({x.size(0), bias.size(0), bias.size(1), -1}) +
           bias.to(type);
  }

  Tensor weight, bias;

 private:
  Index size_, stride_, padding_;
};

/// darknet's max-pooling: `padding` is of both sides together, the smaller half before, and counts as nothing.
TRANSFERLIB_API Tensor darknet_max_pool(const Tensor& x, Index size, Index stride, Index padding);

/// darknet's space to depth. `[reorg3d]` takes each s x s block's places to channels, the place being the slower index.
/// `[reorg]` is the one that YOLO v2's weights are made for: the same permutation, computed as if the map of (C, H, W)
/// had the shape (C / s², H s, W s), and the result read as (C s², H / s, W / s) again.
TRANSFERLIB_API Tensor darknet_reorg(const Tensor& x, Index s, bool odd);

/// A map that is as large as `like`, for `[shortcut]`: of a larger one every n-th place; where it has fewer channels,
/// zeros for those that lack.
TRANSFERLIB_API Tensor darknet_fitted(Tensor x, const Tensor& like);

/// What `[yolo]`, `[region]` and `[detection]` make of the values before them when they predict: probabilities, and
/// centres within a place.
TRANSFERLIB_API Tensor darknet_predicted(const Tensor& x, const DarknetLayer& l);

TRANSFERLIB_API Activation darknet_activation(const std::string& name);

/// How many layers compute features: those before the first that pools all, joins all or predicts, or that makes maps
/// larger again; a convolution directly before it that is neither normalised nor activated already predicts.
TRANSFERLIB_API Index darknet_features(const DarknetConfig& config);

}  // namespace detail

/// A network as its `.cfg` describes it, as far as that is cut (`cut_darknet`). Its pyramid ends before pooling,
/// predicting or upsampling layers; they run too, and `step_of` tells where any layer's value is.
class Darknet : public Plan {
 public:
  using Gives = Pyramid;

  /// \throws OptionError for an output stride that is not 32; FormatError where the size does not suit the layers
  explicit Darknet(DarknetConfig config, const NetworkOptions& options = {});

  /// The `.cfg`, checked: what detectors need (anchors, classes …) is in its layers.
  const DarknetConfig& config() const { return config_; }
  /// The step whose value is that of darknet's layer `layer`.
  Index step_of(Index layer) const { return steps_.at(Graph::at(layer)); }
  /// How many layers compute features: the last of them gives the last map.
  Index feature_layers() const { return features_; }

  /// What a `.weights` file may lack, or have more than the network.
  DarknetWeightsOptions weights;

  TRANSFERLIB_API std::optional<std::vector<std::pair<std::string, Tensor>>> read_nameless(
      const std::filesystem::path& path) const override;

 private:
  void end_features(Index x);

  Index layer(Index n, const DarknetLayer& l, Index x, const DarknetShape& in);

  Index run(const std::string& name, Kind kind, std::vector<Index> from, Run work) {
    return call(declare(name, kind, nullptr, std::move(work)), std::move(from));
  }

  /// The norm and the activation of a layer, where it has them.
  Index finished(Index n, const DarknetLayer& l, Index x) {
    if (l.batch_normalize) x = call(declare_norm(detail::text(n, ".bn"), l.filters), {x});
    const Activation activation = detail::darknet_activation(l.activation);
    if (activation == Activation::identity) return x;
    return call(declare_activation(detail::text(n, ".act"), activation), {x});
  }

  Index shortcut(Index n, const DarknetLayer& l, Index x);

  Index route(const std::string& name, const DarknetLayer& l);

  DarknetConfig config_;
  Index features_ = 0, last_softmax_ = 0;
  std::vector<DarknetShape> shapes_;  // by layer
  std::vector<Index> steps_;
};

/// Writes the network's tensors as a `.weights` file, atomically. What was read is written byte for byte the same,
/// where the header is that of the file that was read (`parse_darknet_header`). \throws FileError, WeightsError
TRANSFERLIB_API void write_darknet_weights(const std::filesystem::path& path, const Darknet& network,
                                           const DarknetHeader& header = {});

namespace detail {

/// Writes a `.cfg` of the layers that darknet's own backbones are made of.
class DarknetWriter {
 public:
  DarknetWriter() : cfg_("[net]\nwidth=256\nheight=256\nchannels=3\n") {}

  void convolution(Index filters, Index size, Index stride, const char* activation) {
    cfg_ += text("[convolutional]\nbatch_normalize=1\nfilters=", filters, "\nsize=", size, "\nstride=", stride,
                 "\npad=1\nactivation=", activation, "\n");
  }
  void half() { cfg_ += "[maxpool]\nsize=2\nstride=2\n"; }
  void shortcut() { cfg_ += "[shortcut]\nfrom=-3\nactivation=linear\n"; }
  void route(const std::string& layers) { cfg_ += text("[route]\nlayers=", layers, "\n"); }
  void pool() { cfg_ += "[avgpool]\n"; }
  void classifier() { cfg_ += "[convolutional]\nfilters=1000\nsize=1\nstride=1\npad=1\nactivation=linear\n"; }
  DarknetConfig done(std::string_view name) {
    cfg_ += "[softmax]\ngroups=1\n";
    return parse_darknet_cfg(cfg_, name);
  }

 private:
  std::string cfg_;
};

/// DarkNet-19: 3 x 3 convolutions with 1 x 1 ones between that halve the channels.
TRANSFERLIB_API DarknetConfig darknet19_cfg();

/// DarkNet-53: five stages of residual blocks. With `partial` each stage is cross-stage partial: half of the channels
/// go around its blocks.
TRANSFERLIB_API DarknetConfig darknet53_cfg(std::string_view name, bool partial, const char* activation);

inline constexpr Preprocessing darknet_preprocessing{
    256, {0.0, 0.0, 0.0}, {1.0, 1.0, 1.0}, Interpolation::bilinear, 1.0};

}  // namespace detail

/// DarkNet-19: 20.8 million parameters; the backbone of YOLO v2.
struct DarkNet19 : Darknet {
  static constexpr Card card{.name = "darknet19",
                             .file = "darknet19.weights",
                             .source = "pjreddie.com/darknet/imagenet",
                             .licence = "LicenseRef-public-domain",
                             .preprocessing = detail::darknet_preprocessing,
                             .url = "https://pjreddie.com/media/files/darknet19.weights",
                             .top1 = 72.9};
  explicit DarkNet19(const NetworkOptions& o = {}) : Darknet(detail::darknet19_cfg(), o) {}
};

/// DarkNet-53: 41.6 million parameters; the backbone of YOLO v3. `darknet53.conv.74`, which has no classifier, loads
/// too.
struct DarkNet53 : Darknet {
  static constexpr Card card{.name = "darknet53",
                             .file = "darknet53.weights",
                             .source = "pjreddie.com/darknet/imagenet",
                             .licence = "LicenseRef-public-domain",
                             .preprocessing = detail::darknet_preprocessing,
                             .url = "https://pjreddie.com/media/files/darknet53.weights",
                             .top1 = 77.2};
  explicit DarkNet53(const NetworkOptions& o = {})
      : Darknet(detail::darknet53_cfg("darknet53.cfg", false, "leaky"), o) {}
};

/// CSPDarkNet-53: 27.6 million parameters.
struct CspDarkNet53 : Darknet {
  static constexpr Card card{.name = "cspdarknet53",
                             .file = "csdarknet53.weights",
                             .source = "github.com/WongKinYiu/CrossStagePartialNetworks",
                             .preprocessing = detail::darknet_preprocessing,
                             .top1 = 77.2};
  explicit CspDarkNet53(const NetworkOptions& o = {})
      : Darknet(detail::darknet53_cfg("csdarknet53.cfg", true, "leaky"), o) {}
};

/// CSPDarkNet-53 with Mish for its activation: the backbone of YOLO v4.
struct CspDarkNet53Mish : Darknet {
  static constexpr Card card{.name = "cspdarknet53_mish",
                             .file = "csdarknet53-omega.weights",
                             .source = "github.com/WongKinYiu/CrossStagePartialNetworks",
                             .preprocessing = detail::darknet_preprocessing};
  explicit CspDarkNet53Mish(const NetworkOptions& o = {})
      : Darknet(detail::darknet53_cfg("csdarknet53-omega.cfg", true, "mish"), o) {}
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib::detail {

TRANSFERLIB_API Tensor darknet_max_pool(const Tensor& x, Index size, Index stride, Index padding) {
  const Index before = padding / 2;
  // What the last window reaches beyond the map, less than the rest of the padding where the stride leaves some over.
  const auto after = [&](Index side) {
    return std::max<Index>((side + padding - size) / stride * stride + size - before - side, 0);
  };
  const Index bottom = after(x.size(2)), right = after(x.size(3));
  const auto pool = [&](const Tensor& map, Index pad) {
    return at::max_pool2d(map, {size, size}, {stride, stride}, {pad, pad});
  };
  const auto places = [&](Index side, Index pad) { return (side + pad - size) / stride; };
  if (2 * before <= size && places(x.size(2), padding) == places(x.size(2), 2 * before) &&
      places(x.size(3), padding) == places(x.size(3), 2 * before))
    return pool(x, before);
  return pool(at::constant_pad_nd(x, {before, right, before, bottom}, -std::numeric_limits<double>::infinity()), 0);
}

TRANSFERLIB_API Tensor darknet_reorg(const Tensor& x, Index s, bool odd) {
  const Index n = x.size(0), c = x.size(1), h = x.size(2), w = x.size(3);
  const Index channels = odd ? c / (s * s) : c, rows = odd ? h : h / s, columns = odd ? w : w / s;
  return x.reshape({n, channels, rows, s, columns, s})
      .permute({0, 3, 5, 1, 2, 4})
      .reshape({n, c * s * s, h / s, w / s});
}

TRANSFERLIB_API Tensor darknet_fitted(Tensor x, const Tensor& like) {
  if (const Index every = x.size(2) / like.size(2); every > 1)
    x = x.slice(2, 0, std::nullopt, every).slice(3, 0, std::nullopt, every);
  const Index lack = like.size(1) - x.size(1);
  if (lack > 0) return at::constant_pad_nd(x, {0, 0, 0, 0, 0, lack});
  return lack < 0 ? x.narrow(1, 0, like.size(1)) : x;
}

TRANSFERLIB_API Tensor darknet_predicted(const Tensor& x, const DarknetLayer& l) {
  if (l.type == DarknetType::detection) {
    const Index places = l.side * l.side;
    if (!l.softmax) return x;
    const Tensor flat = x.flatten(1), classes = flat.narrow(1, 0, places * l.classes);
    return at::cat({classes.reshape({x.size(0), places, l.classes}).softmax(-1).flatten(1),
                    flat.narrow(1, places * l.classes, flat.size(1) - places * l.classes)},
                   1)
        .reshape(x.sizes());
  }
  const Index c = l.coordinates;
  const Tensor v = x.reshape({x.size(0), l.boxes, c + 1 + l.classes, x.size(2), x.size(3)});
  Tensor centre = v.narrow(2, 0, 2), objectness = v.narrow(2, c, 1), classes = v.narrow(2, c + 1, l.classes);
  if (l.type == DarknetType::region) {
    centre = centre.sigmoid();
    if (!l.background) objectness = objectness.sigmoid();
    if (l.softmax) classes = classes.softmax(2);
  } else {
    if (!l.new_coordinates) {
      centre = centre.sigmoid();
      objectness = objectness.sigmoid();
      classes = classes.sigmoid();
    }
    centre = centre * l.scale_x_y - 0.5 * (l.scale_x_y - 1.0);
  }
  return at::cat({centre, v.narrow(2, 2, c - 2), objectness, classes}, 2).reshape(x.sizes());
}

TRANSFERLIB_API Activation darknet_activation(const std::string& name) {
  if (name == "leaky") return Activation::leaky_relu;
  if (name == "relu") return Activation::relu;
  if (name == "relu6") return Activation::relu6;
  if (name == "mish") return Activation::mish;
  if (name == "swish") return Activation::silu;
  if (name == "logistic") return Activation::sigmoid;
  if (name == "tanh") return Activation::tanh;
  return Activation::identity;
}

TRANSFERLIB_API Index darknet_features(const DarknetConfig& config) {
  Index n = 0;
  for (bool more = true; more && n < config.used; n += more ? 1 : 0) {
    const DarknetType type = config.layers[static_cast<std::size_t>(n)].type;
    more = type != DarknetType::avgpool && type != DarknetType::connected && type != DarknetType::local &&
           type != DarknetType::softmax && type != DarknetType::upsample && type < DarknetType::yolo;
  }
  for (; n > 1; --n) {
    const DarknetLayer& l = config.layers[static_cast<std::size_t>(n - 1)];
    if (l.type != DarknetType::convolutional || l.batch_normalize || l.activation != "linear") break;
  }
  return n;
}

}  // namespace transferlib::detail

namespace transferlib {

TRANSFERLIB_API Darknet::Darknet(DarknetConfig config, const NetworkOptions& options)
    : Plan("Darknet"), config_(std::move(config)), features_(detail::darknet_features(config_)) {
  using detail::text;
  if (options.output_stride != 32)
    throw OptionError(text("darknet's networks have no dilation for an output stride of ", options.output_stride,
                           "; leave it at 32"));
  if (options.size == 0 && config_.input.height != config_.input.width)
    throw OptionError(text(config_.where, ": the network's pictures are ", config_.input.width, " x ",
                           config_.input.height, ", and pictures here are squares; set {.size = …}"));
  const Index side = options.size == 0 ? config_.input.width : options.size;
  const DarknetShape input{options.in_channels, side, side};
  const auto own = darknet_shapes(config_, config_.input);
  shapes_ = darknet_shapes(config_, input);
  Index least = config_.input.height, x = 0;
  for (Index n = 0; n < config_.used; ++n) {
    const DarknetLayer& l = config_.layers[Graph::at(n)];
    if (n == features_) end_features(x);
    // A stage ends where the map is smaller than ever for the first time.
    if (n > 0 && n < features_ && own[Graph::at(n)].height < least) {
      if (std::lround(static_cast<double>(config_.input.height) / static_cast<double>(least)) >= 4) add_to_pyramid(x);
      next_stage(text(n));
    }
    least = std::min(least, own[Graph::at(n)].height);
    if (l.type == DarknetType::softmax) last_softmax_ = x;
    x = layer(n, l, x, n == 0 ? input : shapes_[Graph::at(n - 1)]);
    steps_.push_back(x);
  }
  if (features_ == config_.used) end_features(x);
  if (last_softmax_ != 0)
    set_logits(function(Kind::reshape, {last_softmax_},
                        [](std::span<const Tensor> v, const Pass&) { return v[0].flatten(1); }));
  // The network cut from a longer one takes its file; a classifier's file may end before the classifier.
  weights.longer = config_.used < static_cast<Index>(config_.layers.size());
  if (last_softmax_ != 0) weights.least = features_;
}

TRANSFERLIB_API std::optional<std::vector<std::pair<std::string, Tensor>>> Darknet::read_nameless(
    const std::filesystem::path& path) const {
  const auto file = MappedFile::open(path);
  if (!is_darknet_weights(file->bytes())) return std::nullopt;
  StateDict out;
  for (const TensorView& view : parse_darknet_weights(file->bytes(), path.string(), config_, weights).tensors)
    out.emplace_back(view.name, detail::to_tensor(view, file));
  return out;
}

TRANSFERLIB_API void Darknet::end_features(Index x) {
  if (x == 0)
    throw OptionError(
        detail::text(config_.where, ": no layer comes before the network's first one that pools, joins or predicts"));
  end_stage(x, "head");
  set_map(x);
  set_pooled(function(Kind::pool, {x}, [](std::span<const Tensor> v, const Pass&) { return global_pool(v[0]); }));
}

TRANSFERLIB_API Index Darknet::layer(Index n, const DarknetLayer& l, Index x, const DarknetShape& in) {
  using detail::text;
  const std::string name = text(n, ".", to_string(l.type));
  switch (l.type) {
    case DarknetType::convolutional:
      x = call(declare_convolution(text(n, ".conv"), {.in = in.channels,
                                                      .out = l.filters,
                                                      .kernel = l.size,
                                                      .stride = l.stride,
                                                      .padding = l.padding * l.dilation,
                                                      .dilation = l.dilation,
                                                      .groups = l.groups,
                                                      .bias = !l.batch_normalize}),
               {x});
      return finished(n, l, x);
    case DarknetType::connected: {
      const auto module =
          std::make_shared<nn::Linear>(in.channels * in.height * in.width, l.filters, !l.batch_normalize);
      return finished(n, l,
                      call(declare(name, Kind::linear, module,
                                   [m = module.get()](std::span<const Tensor> v, const Pass&) {
                                     return m->forward(v[0].flatten(1)).unsqueeze(-1).unsqueeze(-1);
                                   }),
                           {x}));
    }
    case DarknetType::local: {
      const auto module = std::make_shared<detail::DarknetLocal>(l, in, shapes_[Graph::at(n)]);
      return finished(
          n, l,
          call(declare(name, Kind::linear, module,
                       [m = module.get()](std::span<const Tensor> v, const Pass&) { return m->forward(v[0]); }),
               {x}));
    }
    case DarknetType::maxpool:
      return run(name, Kind::pool, {x}, [size = l.size, stride = l.stride, padding = l.padding](auto v, const Pass&) {
        return detail::darknet_max_pool(v[0], size, stride, padding);
      });
    case DarknetType::avgpool:
      return call(declare_squeeze(name), {x});
    case DarknetType::shortcut:
      return shortcut(n, l, x);
    case DarknetType::route:
      return route(name, l);
    case DarknetType::upsample:
      return run(name, Kind::resample, {x}, [stride = l.stride, scale = l.scale](auto v, const Pass&) {
        const Tensor y = at::upsample_nearest2d(v[0], {v[0].size(2) * stride, v[0].size(3) * stride});
        return scale == 1.0 ? y : y * scale;
      });
    case DarknetType::reorg:
    case DarknetType::reorg3d:
      return run(name, Kind::reshape, {x},
                 [stride = l.stride, odd = l.type == DarknetType::reorg](auto v, const Pass&) {
                   return detail::darknet_reorg(v[0], stride, odd);
                 });
    case DarknetType::dropout:
      return call(declare_dropout(name, l.probability), {x});
    case DarknetType::softmax:
      return run(name, Kind::rescale, {x}, [groups = l.groups, scale = l.scale](auto v, const Pass&) {
        return at::softmax(v[0].reshape({v[0].size(0), groups, -1}) / scale, -1).reshape(v[0].sizes());
      });
    case DarknetType::yolo:
    case DarknetType::region:
    case DarknetType::detection:
      return run(name, Kind::rescale, {x}, [l](auto v, const Pass&) { return detail::darknet_predicted(v[0], l); });
    case DarknetType::batchnorm:
      return call(declare_norm(text(n, ".bn"), in.channels), {x});
    case DarknetType::crop:
    case DarknetType::cost:
      break;
  }
  return call(declare_nothing(name, Kind::rescale), {x});
}

TRANSFERLIB_API Index Darknet::shortcut(Index n, const DarknetLayer& l, Index x) {
  const Index row = declare_add(detail::text(n, ".shortcut"));
  for (const Index f : l.from) {
    Index other = step_of(f);
    if (shapes_[Graph::at(f)] != shapes_[Graph::at(n)])
      other = function(Kind::reshape, {other, x},
                       [](std::span<const Tensor> v, const Pass&) { return detail::darknet_fitted(v[0], v[1]); });
    x = call(row, {x, other});
  }
  return finished(n, l, x);
}

TRANSFERLIB_API Index Darknet::route(const std::string& name, const DarknetLayer& l) {
  std::vector<Index> from;
  for (const Index f : l.from) from.push_back(step_of(f));
  if (l.groups > 1)
    return run(name, Kind::concat, std::move(from), [groups = l.groups, id = l.group_id](auto v, const Pass&) {
      std::vector<Tensor> parts;
      for (const Tensor& t : v) parts.push_back(t.narrow(1, t.size(1) / groups * id, t.size(1) / groups));
      return at::cat(parts, 1);
    });
  if (from.size() > 1) return call(declare_concat(name), std::move(from));
  declare_nothing(name, Kind::concat);  // a row, and no step: the value is that of another layer
  return from[0];
}

TRANSFERLIB_API void write_darknet_weights(const std::filesystem::path& path, const Darknet& network,
                                           const DarknetHeader& header) {
  detail::guarded(detail::text("writing ", path), [&] {
    const auto views = detail::views_of(state_dict(network));
    write_darknet_weights(path, network.config(), views.views, header);
    return 0;
  });
}

}  // namespace transferlib

namespace transferlib::detail {

TRANSFERLIB_API DarknetConfig darknet19_cfg() {
  DarknetWriter w;
  w.convolution(32, 3, 1, "leaky");
  w.half();
  w.convolution(64, 3, 1, "leaky");
  struct Group {
    Index filters, convolutions;
  };
  for (const Group g : {Group{128, 3}, Group{256, 3}, Group{512, 5}, Group{1024, 5}}) {
    w.half();
    for (Index i = 0; i < g.convolutions; ++i)
      w.convolution(i % 2 == 0 ? g.filters : g.filters / 2, i % 2 == 0 ? 3 : 1, 1, "leaky");
  }
  w.classifier();
  w.pool();
  return w.done("darknet19.cfg");
}

TRANSFERLIB_API DarknetConfig darknet53_cfg(std::string_view name, bool partial, const char* activation) {
  DarknetWriter w;
  w.convolution(32, 3, 1, activation);
  struct Stage {
    Index filters, blocks;
  };
  for (const Stage s : {Stage{64, 1}, Stage{128, 2}, Stage{256, 8}, Stage{512, 8}, Stage{1024, 4}}) {
    w.convolution(s.filters, 3, 2, activation);
    // The first partial stage keeps all channels on both of its ways.
    const Index width = !partial || s.filters == 64 ? s.filters : s.filters / 2;
    if (partial) {
      w.convolution(width, 1, 1, activation);
      w.route("-2");
      w.convolution(width, 1, 1, activation);
    }
    for (Index b = 0; b < s.blocks; ++b) {
      w.convolution(partial && s.filters != 64 ? width : width / 2, 1, 1, activation);
      w.convolution(width, 3, 1, activation);
      w.shortcut();
    }
    if (partial) {
      w.convolution(width, 1, 1, activation);
      w.route(text("-1,-", 3 * s.blocks + 4));
      w.convolution(s.filters, 1, 1, activation);
    }
  }
  w.pool();
  w.classifier();
  return w.done(name);
}

}  // namespace transferlib::detail

#endif  // TRANSFERLIB_DEFINES
