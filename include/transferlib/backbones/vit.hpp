/// \file
/// Vision transformer (Dosovitskiy et al., "An image is worth 16x16 words", ICLR 2021), as torchvision has it and as
/// timm has it, and DINOv2 (Oquab et al., 2023), with registers too (Darcet et al., 2023), as timm has it. Files of
/// timm, of torchvision before 0.13 and of DINOv2's own authors load too. Most of
/// timm's B/16, B/32 and L/16 were trained on pictures of mean and deviation 0.5, which their tensors don't tell: set
/// `core.preprocessing` of a backbone with such a file.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <transferlib/core/error.hpp>
#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/nn/plan.hpp>

namespace transferlib {

/// A variant's numbers, and whose names it has.
struct VisionTransformerSpec {
  bool timm = false;       ///< names and layer table are timm's; otherwise torchvision's
  Index patch = 16;        ///< side of a patch in pixels
  Index width = 768;       ///< numbers a token
  Index depth = 12;        ///< blocks
  Index heads = 12;        ///< of the attention
  Index size = 224;        ///< the trained size
  Index registers = 0;     ///< tokens beside the class token; with them the position embedding is the patches' alone
  bool scaled = false;     ///< whether each branch ends in a layer's scale, as DINOv2's do
  bool classifier = true;  ///< whether the original has one
};

/// The family: one constructor.
///
/// The map is the patches' tokens after the last norm, (N, width, side, side); the pooled features are the class token
/// after it. All maps have one stride, the patch: the pyramid is the tokens after each quarter of the blocks, through
/// the last norm, as DINOv2 gives its intermediate layers, and the last of them is the map.
///
/// The layer table has rows of kind `parameter` for the class token, registers and position embedding. torchvision's
/// attention, no leaf of its module tree, has a row for its own matrix, before that of `out_proj`. Rows that only other
/// options of the originals would use, dropout of 0 and the like, are there for the numbers and are not run.
///
/// The position embedding is for the size that the network is built for; one for another size is resampled when it is
/// read, and square pictures of other sizes run too, by resampling it at each call: bicubic, for torchvision's networks
/// as its `interpolate_embeddings` does it, for timm's as its `resample_abs_pos_embed`.
class VisionTransformer : public Plan {
 public:
  using Gives = Pyramid;

  /// \throws OptionError for a size that is no multiple of the patch, and for an output stride that isn't the patch
  VisionTransformer(const VisionTransformerSpec& spec, const NetworkOptions& options);

  TRANSFERLIB_API std::vector<Renaming> renamings() const override;

  /// DINOv2's authors keep a token for masked patches, which only their training uses, call the registers otherwise,
  /// and embed the class token's position, which is constant, apart.
  TRANSFERLIB_API void convert(std::vector<std::pair<std::string, Tensor>>& state) const override;

  std::optional<Tensor> adapt(std::string_view name, const Tensor& theirs, at::IntArrayRef ours) const override {
    if (name != names().position) return Plan::adapt(name, theirs, ours);
    if (theirs.dim() != 3 || ours.size() != 3 || theirs.size(0) != 1 || theirs.size(2) != ours[2]) return std::nullopt;
    return resampled(theirs, ours[1], spec_);
  }

 private:
  static constexpr double epsilon = 1e-6;

  /// How an original calls its parts; those of a block behind the block's own name. Of several names with spaces
  /// between, each has a row.
  struct Names {
    const char *token, *position, *patches, *idle_before_blocks;
    const char* block;
    const char *norm1, *attention, *prefix, *idle_in_attention, *projection, *idle_after_attention, *scale1, *idle1;
    const char *norm2, *linear1, *activation, *idle_in_mlp, *linear2, *idle_after_mlp, *scale2, *idle2;
    const char *norm, *idle_before_head, *head;
  };
  static constexpr Names torchvision_names{.token = "class_token",
                                           .position = "encoder.pos_embedding",
                                           .patches = "conv_proj",
                                           .idle_before_blocks = "encoder.dropout",
                                           .block = "encoder.layers.encoder_layer_",
                                           .norm1 = ".ln_1",
                                           .attention = ".self_attention",
                                           .prefix = "in_proj_",
                                           .idle_in_attention = "",
                                           .projection = ".self_attention.out_proj",
                                           .idle_after_attention = ".dropout",
                                           .scale1 = "",
                                           .idle1 = "",
                                           .norm2 = ".ln_2",
                                           .linear1 = ".mlp.0",
                                           .activation = ".mlp.1",
                                           .idle_in_mlp = ".mlp.2",
                                           .linear2 = ".mlp.3",
                                           .idle_after_mlp = ".mlp.4",
                                           .scale2 = "",
                                           .idle2 = "",
                                           .norm = "encoder.ln",
                                           .idle_before_head = "",
                                           .head = "heads.head"};
  static constexpr Names timm_names{.token = "cls_token",
                                    .position = "pos_embed",
                                    .patches = "patch_embed.proj",
                                    .idle_before_blocks = "patch_embed.norm pos_drop patch_drop norm_pre",
                                    .block = "blocks.",
                                    .norm1 = ".norm1",
                                    .attention = ".attn.qkv",
                                    .prefix = "",
                                    .idle_in_attention = ".attn.q_norm .attn.k_norm .attn.attn_drop .attn.norm",
                                    .projection = ".attn.proj",
                                    .idle_after_attention = ".attn.proj_drop",
                                    .scale1 = ".ls1",
                                    .idle1 = ".drop_path1",
                                    .norm2 = ".norm2",
                                    .linear1 = ".mlp.fc1",
                                    .activation = ".mlp.act",
                                    .idle_in_mlp = ".mlp.drop1 .mlp.norm",
                                    .linear2 = ".mlp.fc2",
                                    .idle_after_mlp = ".mlp.drop2",
                                    .scale2 = ".ls2",
                                    .idle2 = ".drop_path2",
                                    .norm = "norm",
                                    .idle_before_head = "fc_norm head_drop",
                                    .head = "head"};

  const Names& names() const { return spec_.timm ? timm_names : torchvision_names; }

  /// The names of all tensors of a network without registers, in torchvision's order.
  std::vector<std::string> tensors(const Names& n) const;

  /// Rows of what does nothing in this network.
  void idle(const std::string& name, std::string_view parts);

  /// Learnt tokens that come before the others.
  Index tokens(const std::string& name, Index count) {
    return declare_parameter(name, Kind::parameter, {1, count, spec_.width},
                             [](const Tensor& p, std::span<const Tensor> x) {
                               return at::cat({p.expand({x[0].size(0), -1, -1}).to(x[0].scalar_type()), x[0]}, 1);
                             });
  }

  Index positions(const std::string& name, Index side) {
    return declare_parameter(name, Kind::parameter, {1, side * side + embedded(spec_), spec_.width},
                             [spec = spec_](const Tensor& p, std::span<const Tensor> x) {
                               return x[0] + resampled(p, x[0].size(1), spec)->to(x[0].scalar_type());
                             });
  }

  Index block(Index x, const std::string& name);

  Index scaled(Index x, const std::string& block, const char* name, const char* idle_parts);

  /// Self-attention of (N, tokens, 3 width), the queries, keys and values, to (N, tokens, width).
  static Tensor attend(const Tensor& x, Index heads) {
    const auto parts = x.unflatten(2, {3, heads, -1}).permute({2, 0, 3, 1, 4}).unbind(0);
    return at::scaled_dot_product_attention(parts[0], parts[1], parts[2]).transpose(1, 2).flatten(2);
  }

  /// How many tokens beside the patches' have an embedding.
  static Index embedded(const VisionTransformerSpec& spec) { return spec.registers > 0 ? 0 : 1; }

  static Index root(Index square) { return static_cast<Index>(std::lround(std::sqrt(static_cast<double>(square)))); }

  /// The position embedding (1, tokens', width) for another number of tokens; nothing if one of them is no square.
  static std::optional<Tensor> resampled(const Tensor& p, Index count, const VisionTransformerSpec& spec);

  VisionTransformerSpec spec_;
};

/// ViT-B/16: 86.6 million parameters, 224 pixels.
struct VitB16 : VisionTransformer {
  static constexpr Card card{.name = "vit_b_16",
                             .file = "vit_b_16-c867db91.pth",
                             .source = "torchvision's ViT_B_16_Weights.IMAGENET1K_V1",
                             .sha256 = "c867db91",
                             .licence = "BSD-3-Clause",
                             .preprocessing = {.crop_fraction = 224.0 / 256.0},
                             .minimum_size = 16,
                             .url = "https://download.pytorch.org/models/vit_b_16-c867db91.pth",
                             .top1 = 81.072};
  explicit VitB16(const NetworkOptions& o = {}) : VisionTransformer({}, o) {}
};

/// ViT-B/32: 88.2 million parameters, 224 pixels.
struct VitB32 : VisionTransformer {
  static constexpr Card card{.name = "vit_b_32",
                             .file = "vit_b_32-d86f8d99.pth",
                             .source = "torchvision's ViT_B_32_Weights.IMAGENET1K_V1",
                             .sha256 = "d86f8d99",
                             .licence = "BSD-3-Clause",
                             .preprocessing = {.crop_fraction = 224.0 / 256.0},
                             .minimum_size = 32,
                             .url = "https://download.pytorch.org/models/vit_b_32-d86f8d99.pth",
                             .top1 = 75.912};
  explicit VitB32(const NetworkOptions& o = {}) : VisionTransformer({.patch = 32}, o) {}
};

/// ViT-L/16: 304.3 million parameters, 224 pixels.
struct VitL16 : VisionTransformer {
  static constexpr Card card{.name = "vit_l_16",
                             .file = "vit_l_16-852ce7e3.pth",
                             .source = "torchvision's ViT_L_16_Weights.IMAGENET1K_V1",
                             .sha256 = "852ce7e3",
                             .licence = "BSD-3-Clause",
                             .preprocessing = {.crop_fraction = 224.0 / 242.0},
                             .minimum_size = 16,
                             .url = "https://download.pytorch.org/models/vit_l_16-852ce7e3.pth",
                             .top1 = 79.662};
  explicit VitL16(const NetworkOptions& o = {}) : VisionTransformer({.width = 1024, .depth = 24, .heads = 16}, o) {}
};

/// ViT-S/16, timm's: 22.1 million parameters, 224 pixels.
struct VitS16 : VisionTransformer {
  static constexpr Card card{
      .name = "vit_s_16",
      .file = "vit_small_patch16_224.augreg_in21k_ft_in1k.safetensors",
      .source = "timm's vit_small_patch16_224.augreg_in21k_ft_in1k",
      .licence = "Apache-2.0",
      .preprocessing = {224, {0.5, 0.5, 0.5}, {0.5, 0.5, 0.5}, Interpolation::bicubic, 0.9},
      .minimum_size = 16,
      .url = "https://huggingface.co/timm/vit_small_patch16_224.augreg_in21k_ft_in1k/resolve/main/model.safetensors",
      .aliases = "vit_small_patch16_224 vit_small_patch16_224.augreg_in21k_ft_in1k",
      .top1 = 81.38};
  explicit VitS16(const NetworkOptions& o = {}) : VisionTransformer({.timm = true, .width = 384, .heads = 6}, o) {}
};

namespace detail {

/// DINOv2 at 518 pixels: patches of 14, scaled branches, no classifier.
constexpr VisionTransformerSpec dinov2(Index width, Index registers) {
  return {.timm = true,
          .patch = 14,
          .width = width,
          .heads = width / 64,
          .size = 518,
          .registers = registers,
          .scaled = true,
          .classifier = false};
}

constexpr Card dinov2_card(const char* name, const char* file, const char* url, const char* aliases, double linear) {
  return {.name = name,
          .file = file,
          .source = "DINOv2's authors",
          .licence = "Apache-2.0",
          .preprocessing = {.size = 518, .interpolation = Interpolation::bicubic},
          .minimum_size = 14,
          .url = url,
          .aliases = aliases,
          .top1 = linear};
}

}  // namespace detail

/// DINOv2's ViT-S/14: 22.1 million parameters, 518 pixels. Its accuracy, and its sisters', is that of a linear
/// classifier of frozen features.
struct DinoV2S14 : VisionTransformer {
  static constexpr Card card =
      detail::dinov2_card("dinov2_vits14", "dinov2_vits14_pretrain.pth",
                          "https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/dinov2_vits14_pretrain.pth",
                          "vit_small_patch14_dinov2 vit_small_patch14_dinov2.lvd142m", 81.1);
  explicit DinoV2S14(const NetworkOptions& o = {}) : VisionTransformer(detail::dinov2(384, 0), o) {}
};

/// DINOv2's ViT-S/14 with four registers: 22.1 million parameters, 518 pixels.
struct DinoV2S14Registers : VisionTransformer {
  static constexpr Card card =
      detail::dinov2_card("dinov2_vits14_reg", "dinov2_vits14_reg4_pretrain.pth",
                          "https://dl.fbaipublicfiles.com/dinov2/dinov2_vits14/dinov2_vits14_reg4_pretrain.pth",
                          "vit_small_patch14_reg4_dinov2 vit_small_patch14_reg4_dinov2.lvd142m", 80.9);
  explicit DinoV2S14Registers(const NetworkOptions& o = {}) : VisionTransformer(detail::dinov2(384, 4), o) {}
};

/// DINOv2's ViT-B/14: 86.6 million parameters, 518 pixels.
struct DinoV2B14 : VisionTransformer {
  static constexpr Card card =
      detail::dinov2_card("dinov2_vitb14", "dinov2_vitb14_pretrain.pth",
                          "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitb14/dinov2_vitb14_pretrain.pth",
                          "vit_base_patch14_dinov2 vit_base_patch14_dinov2.lvd142m", 84.5);
  explicit DinoV2B14(const NetworkOptions& o = {}) : VisionTransformer(detail::dinov2(768, 0), o) {}
};

/// DINOv2's ViT-B/14 with four registers: 86.6 million parameters, 518 pixels.
struct DinoV2B14Registers : VisionTransformer {
  static constexpr Card card =
      detail::dinov2_card("dinov2_vitb14_reg", "dinov2_vitb14_reg4_pretrain.pth",
                          "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitb14/dinov2_vitb14_reg4_pretrain.pth",
                          "vit_base_patch14_reg4_dinov2 vit_base_patch14_reg4_dinov2.lvd142m", 84.6);
  explicit DinoV2B14Registers(const NetworkOptions& o = {}) : VisionTransformer(detail::dinov2(768, 4), o) {}
};

}  // namespace transferlib

#if TRANSFERLIB_DEFINES

namespace transferlib {

TRANSFERLIB_API VisionTransformer::VisionTransformer(const VisionTransformerSpec& spec, const NetworkOptions& options)
    : Plan("VisionTransformer"), spec_(spec) {
  const Index size = options.size != 0 ? options.size : spec.size, side = size / spec.patch;
  if (size < spec.patch || size % spec.patch != 0)
    throw OptionError(detail::text("a vision transformer of patches of ", spec.patch,
                                   " pixels takes pictures of a multiple of that, not of ", size,
                                   " pixels; set {.size = ", (side + 1) * spec.patch, "}"));
  if (options.output_stride != 32 && options.output_stride != spec.patch)
    throw OptionError(detail::text("a vision transformer of patches of ", spec.patch,
                                   " pixels has that output stride, not ", options.output_stride));
  const Names& n = names();
  // Declared in the original's order: timm's own parameters come before those of its modules.
  const Index token = tokens(n.token, 1);
  const Index registers = spec.registers > 0 ? tokens("reg_token", spec.registers) : 0;
  const Index early = spec.timm ? positions(n.position, side) : 0;
  Index x = call(
      declare_convolution(
          n.patches,
          {.in = options.in_channels, .out = spec.width, .kernel = spec.patch, .stride = spec.patch, .bias = true}),
      {0});
  const Index position = spec.timm ? early : positions(n.position, side);
  idle("", n.idle_before_blocks);
  x = function(Kind::reshape, {x}, [](auto maps, const Pass&) {
    if (maps[0].size(2) != maps[0].size(3))
      throw OptionError(detail::text("a vision transformer takes square pictures, not such of ", maps[0].size(2), " x ",
                                     maps[0].size(3), " patches"));
    return maps[0].flatten(2).transpose(1, 2);
  });
  if (spec.registers > 0)
    x = call(token, {call(registers, {call(position, {x})})});
  else
    x = call(position, {call(token, {x})});
  std::vector<Index> quarters;
  for (Index i = 0; i < spec.depth; ++i) {
    if (i % (spec.depth / 4) == 0) next_stage(detail::text(n.block, i));
    x = block(x, detail::text(n.block, i));
    if ((i + 1) % (spec.depth / 4) == 0) quarters.push_back(x);
  }
  // The norm of the other maps comes after the last block, so that training it needs no block again.
  const Index norm = declare_layer_norm(n.norm, spec.width, epsilon);
  next_stage("classifier");
  for (Index quarter : quarters) {
    x = call(norm, {quarter});
    add_to_pyramid(function(Kind::reshape, {x}, [prefix = 1 + spec.registers](auto t, const Pass&) {
      const Index places = t[0].size(1) - prefix, s = root(places);
      return t[0].narrow(1, prefix, places).transpose(1, 2).unflatten(2, {s, s});
    }));
  }
  set_map(graph().size() - 1);
  x = function(Kind::pool, {x}, [](auto t, const Pass&) { return t[0].select(1, 0).to(at::kFloat).contiguous(); });
  set_pooled(x);
  idle("", n.idle_before_head);
  if (spec.classifier)
    set_logits(call(declare_linear(n.head, spec.width, 1000), {x}));
  else
    idle("", n.head);
}

TRANSFERLIB_API std::vector<Renaming> VisionTransformer::renamings() const {
  if (spec_.timm) return {};
  Names old = torchvision_names;
  old.linear1 = ".mlp.linear_1";
  old.linear2 = ".mlp.linear_2";
  const auto own = tensors(names());
  const auto renaming = [&](const char* original, const Names& theirs) {
    Renaming out{original, {}};
    const auto others = tensors(theirs);
    for (std::size_t i = 0; i < own.size(); ++i) out.names.emplace_back(own[i], others[i]);
    return out;
  };
  return {renaming("timm", timm_names), renaming("torchvision before 0.13", old)};
}

TRANSFERLIB_API void VisionTransformer::convert(std::vector<std::pair<std::string, Tensor>>& state) const {
  if (!spec_.scaled) return;
  const auto find = [&](std::string_view name) {
    return std::find_if(state.begin(), state.end(), [&](const auto& item) { return item.first == name; });
  };
  if (const auto mask = find("mask_token"); mask != state.end()) state.erase(mask);
  const auto registers = find("register_tokens"), token = find("cls_token"), position = find("pos_embed");
  if (registers == state.end() || token == state.end() || position == state.end()) return;
  if (position->second.dim() != 3 || position->second.size(1) < 2) return;
  registers->first = "reg_token";
  token->second = token->second + position->second.narrow(1, 0, 1);
  position->second = position->second.narrow(1, 1, position->second.size(1) - 1);
}

TRANSFERLIB_API std::vector<std::string> VisionTransformer::tensors(const Names& n) const {
  std::vector<std::string> out{n.token, n.position};
  const auto both = [&](const std::string& name, const char* prefix = "") {
    for (const char* which : {"weight", "bias"}) out.push_back(name + "." + prefix + which);
  };
  both(n.patches);
  for (Index i = 0; i < spec_.depth; ++i) {
    const std::string name = detail::text(n.block, i);
    both(name + n.norm1);
    both(name + n.attention, n.prefix);
    for (const char* part : {n.projection, n.norm2, n.linear1, n.linear2}) both(name + part);
  }
  both(n.norm);
  both(n.head);
  return out;
}

TRANSFERLIB_API void VisionTransformer::idle(const std::string& name, std::string_view parts) {
  while (!parts.empty()) {
    const auto end = std::min(parts.find(' '), parts.size());
    declare_nothing(name + std::string(parts.substr(0, end)), Kind::dropout);
    parts.remove_prefix(std::min(end + 1, parts.size()));
  }
}

TRANSFERLIB_API Index VisionTransformer::block(Index x, const std::string& name) {
  const Names& n = names();
  const Index width = spec_.width;
  Index y = call(declare_layer_norm(name + n.norm1, width, epsilon), {x});
  const auto matrix = std::make_shared<nn::Linear>(width, 3 * width, true, n.prefix);
  y = call(declare(name + n.attention, spec_.timm ? Kind::linear : Kind::attention, matrix,
                   [m = matrix.get()](auto t, const Pass&) { return m->forward(t[0]); }),
           {y});
  idle(name, n.idle_in_attention);
  y = function(Kind::attention, {y}, [heads = spec_.heads](auto t, const Pass&) { return attend(t[0], heads); });
  y = call(declare_linear(name + n.projection, width, width), {y});
  idle(name, n.idle_after_attention);
  x = add(scaled(y, name, n.scale1, n.idle1), x);
  y = call(declare_layer_norm(name + n.norm2, width, epsilon), {x});
  y = call(declare_linear(name + n.linear1, width, 4 * width), {y});
  y = call(declare_activation(name + n.activation, Activation::gelu), {y});
  idle(name, n.idle_in_mlp);
  y = call(declare_linear(name + n.linear2, 4 * width, width), {y});
  idle(name, n.idle_after_mlp);
  return add(scaled(y, name, n.scale2, n.idle2), x);
}

TRANSFERLIB_API Index VisionTransformer::scaled(Index x, const std::string& block, const char* name,
                                                const char* idle_parts) {
  if (spec_.scaled) {
    const auto scale = std::make_shared<nn::Parameter>(at::full({spec_.width}, 1e-5), "gamma");
    x = call(declare(block + name, Kind::parameter, scale,
                     [m = scale.get()](auto t, const Pass&) { return t[0] * m->value.to(t[0].scalar_type()); }),
             {x});
  } else {
    idle(block, name);
  }
  idle(block, idle_parts);
  return x;
}

TRANSFERLIB_API std::optional<Tensor> VisionTransformer::resampled(const Tensor& p, Index count,
                                                                   const VisionTransformerSpec& spec) {
  if (p.size(1) == count) return p;
  const Index first = embedded(spec), from = p.size(1) - first, to = count - first;
  const Index old_side = root(std::max<Index>(from, 0)), side = root(std::max<Index>(to, 0));
  if (old_side < 1 || side < 1 || old_side * old_side != from || side * side != to) return std::nullopt;
  Tensor map = p.narrow(1, first, from).to(at::kFloat).unflatten(1, {old_side, old_side}).permute({0, 3, 1, 2});
  map = spec.timm ? at::_upsample_bicubic2d_aa(map, {side, side}, false)
                  : at::upsample_bicubic2d(map, {side, side}, true);
  return at::cat({p.narrow(1, 0, first).to(at::kFloat), map.flatten(2).transpose(1, 2)}, 1);
}

}  // namespace transferlib

#endif  // TRANSFERLIB_DEFINES
