/// \file
/// A convolution that trains as three branches and infers as one (Ding et al., "RepVGG", CVPR 2021), as YOLO v7 plans
/// it.
#pragma once

#include <memory>

#include <transferlib/core/separate.hpp>
#include <transferlib/core/tensors.hpp>
#include <transferlib/nn/modules.hpp>
#include <transferlib/nn/yolo_blocks.hpp>

namespace transferlib::nn {

/// A 3 x 3 and a 1 x 1 convolution with batch norm each and, where `in` is `out`, a batch norm of the map itself; their
/// sum, activated. `merge` makes them one 3 x 3 convolution with bias. Parameters `rbr_dense.0.weight`,
/// `rbr_dense.1.weight` …, `rbr_1x1.0.weight` …, `rbr_identity.weight` …; merged, `rbr_reparam.weight` and `.bias`.
class RepConv : public Block {
 public:
  RepConv(Index in, Index out, Activation activation = Activation::silu)
      : Block("RepConv"), in_(in), out_(out), activation_(activation) {
    dense_ = child<Branch>("rbr_dense", in, out, 3);
    point_ = child<Branch>("rbr_1x1", in, out, 1);
    if (in == out) identity_ = child<BatchNorm2d>("rbr_identity", in, 1e-3, 0.03);
  }

  Tensor forward(const Tensor& x, bool training) override {
    if (merged_ != nullptr) return activate(merged_->forward(x), activation_);
    Tensor y = dense_->forward(x, training) + point_->forward(x, training);
    if (identity_ != nullptr) y = y + identity_->forward(x, training);
    return activate(y, activation_);
  }

  /// Makes the branches one convolution that gives the same in evaluation. It can still be trained, as what it is now.
  void merge();
  bool is_merged() const { return merged_ != nullptr; }

 private:
  struct Branch : Module {
    Branch(Index in, Index out, Index kernel) : Module("Branch") {
      conv = register_module(
          "0", std::make_shared<Conv2d>(Conv2dOptions{.in = in, .out = out, .kernel = kernel, .padding = kernel / 2}));
      norm = register_module("1", std::make_shared<BatchNorm2d>(out, 1e-3, 0.03));
    }
    Tensor forward(const Tensor& x, bool training) { return norm->forward(conv->forward(x), training); }

    std::shared_ptr<Conv2d> conv;
    std::shared_ptr<BatchNorm2d> norm;
  };

  Index in_, out_;
  Activation activation_;
  std::shared_ptr<Branch> dense_, point_;
  std::shared_ptr<BatchNorm2d> identity_;
  std::shared_ptr<Conv2d> merged_;
};

/// Merges every `RepConv` inside of a module, for inference. \returns how many there were that had not been
inline Index merge_branches(Module& module) {
  Index count = 0;
  for (const auto& m : module.modules(false))
    if (auto* rep = dynamic_cast<RepConv*>(m.get()); rep != nullptr && !rep->is_merged()) rep->merge(), ++count;
  return count;
}

}  // namespace transferlib::nn

#if TRANSFERLIB_DEFINES

namespace transferlib::nn {

TRANSFERLIB_API void RepConv::merge() {
  if (merged_ != nullptr) return;
  const torch::NoGradGuard guard;
  Tensor weight, bias;
  const auto add = [&](const Tensor& kernel, const BatchNorm2d& norm) {
    const Tensor scale = norm.weight.to(at::kDouble) / (norm.running_var.to(at::kDouble) + norm.epsilon).sqrt();
    const Index pad = (3 - kernel.size(2)) / 2;
    const Tensor w = at::constant_pad_nd(kernel.to(at::kDouble) * scale.view({-1, 1, 1, 1}), {pad, pad, pad, pad});
    const Tensor b = norm.bias.to(at::kDouble) - norm.running_mean.to(at::kDouble) * scale;
    weight = weight.defined() ? weight + w : w;
    bias = bias.defined() ? bias + b : b;
  };
  add(dense_->conv->weight, *dense_->norm);
  add(point_->conv->weight, *point_->norm);
  if (identity_ != nullptr) add(at::eye(in_, dense_->conv->weight.options()).view({in_, in_, 1, 1}), *identity_);
  const Tensor& like = dense_->conv->weight;
  auto merged =
      std::make_shared<Conv2d>(Conv2dOptions{.in = in_, .out = out_, .kernel = 3, .padding = 1, .bias = true});
  merged->to(like.device(), like.scalar_type());
  merged->weight.copy_(weight);
  merged->bias.copy_(bias);
  unregister_module("rbr_dense");
  unregister_module("rbr_1x1");
  if (identity_ != nullptr) unregister_module("rbr_identity");
  dense_ = point_ = nullptr;
  identity_ = nullptr;
  merged_ = register_module("rbr_reparam", std::move(merged));
}

}  // namespace transferlib::nn

#endif  // TRANSFERLIB_DEFINES
