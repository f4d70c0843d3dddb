// The same job in LibTorch alone: a frozen EfficientNet-Lite0, its features of CIFAR-10 computed once, a linear head
// trained on them by Adam for 5 epochs, loss and accuracy of both sets each epoch, a CSV file, the model saved.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <fstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <torch/torch.h>

namespace F = torch::nn::functional;

struct Block : torch::nn::Module {
  Block(int64_t in, int64_t out, int64_t kernel, int64_t stride, int64_t expand) : skips(stride == 1 && in == out) {
    const int64_t hidden = in * expand;
    const auto add = [&](const std::string& name, int64_t from, int64_t to, int64_t side, int64_t step,
                         int64_t groups) {
      convs.push_back(register_module(
          name + "_conv",
          torch::nn::Conv2d(
              torch::nn::Conv2dOptions(from, to, side).stride(step).padding(side / 2).groups(groups).bias(false))));
      norms.push_back(register_module(
          name + "_bn", torch::nn::BatchNorm2d(torch::nn::BatchNorm2dOptions(to).eps(1e-3).momentum(0.01))));
    };
    if (expand != 1) add("expand", in, hidden, 1, 1, 1);
    add("depthwise", hidden, hidden, kernel, stride, hidden);
    add("project", hidden, out, 1, 1, 1);
  }
  torch::Tensor forward(const torch::Tensor& x) {
    torch::Tensor y = x;
    for (size_t i = 0; i < convs.size(); ++i) {
      y = norms[i]->forward(convs[i]->forward(y));
      if (i + 1 < convs.size()) y = F::relu6(y, F::ReLU6FuncOptions().inplace(true));
    }
    return skips ? x + y : y;
  }
  bool skips;
  std::vector<torch::nn::Conv2d> convs;
  std::vector<torch::nn::BatchNorm2d> norms;
};

struct Lite0 : torch::nn::Module {
  Lite0() {
    const int64_t groups[7][5] = {{1, 3, 1, 1, 16},  {2, 3, 2, 6, 24},  {2, 5, 2, 6, 40}, {3, 3, 2, 6, 80},
                                  {3, 5, 1, 6, 112}, {4, 5, 2, 6, 192}, {1, 3, 1, 6, 320}};
    int64_t channels = 32;
    for (const auto& [repeats, kernel, stride, expand, out] : groups)
      for (int64_t r = 0; r < repeats; ++r) {
        blocks->push_back(Block(channels, out, kernel, r == 0 ? stride : 1, expand));
        channels = out;
      }
    register_module("blocks", blocks);
  }
  torch::Tensor forward(torch::Tensor x) {
    x = F::relu6(stem_norm->forward(stem->forward(x)));
    for (const auto& block : *blocks) x = block->as<Block>()->forward(x);
    return F::relu6(last_norm->forward(last->forward(x))).mean({2, 3});
  }
  torch::nn::Conv2d stem =
      register_module("stem", torch::nn::Conv2d(torch::nn::Conv2dOptions(3, 32, 3).stride(2).padding(1).bias(false)));
  torch::nn::BatchNorm2d stem_norm =
      register_module("stem_norm", torch::nn::BatchNorm2d(torch::nn::BatchNorm2dOptions(32).eps(1e-3)));
  torch::nn::ModuleList blocks;
  torch::nn::Conv2d last =
      register_module("last", torch::nn::Conv2d(torch::nn::Conv2dOptions(320, 1280, 1).bias(false)));
  torch::nn::BatchNorm2d last_norm =
      register_module("last_norm", torch::nn::BatchNorm2d(torch::nn::BatchNorm2dOptions(1280).eps(1e-3)));
};

std::pair<torch::Tensor, torch::Tensor> read_cifar(const std::vector<std::string>& names) {
  std::vector<torch::Tensor> pictures, labels;
  for (const auto& name : names) {
    std::ifstream file("data/cifar-10-batches-bin/" + name, std::ios::binary);
    torch::Tensor records = torch::empty({10000, 3073}, torch::kByte);
    if (!file.read(static_cast<char*>(records.data_ptr()), records.numel()))
      throw std::runtime_error(name + " is missing or cut");
    pictures.push_back(records.slice(1, 1).reshape({10000, 3, 32, 32}));
    labels.push_back(records.select(1, 0).to(torch::kLong));
  }
  return {torch::cat(pictures), torch::cat(labels)};
}

torch::Tensor features_of(Lite0& network, const torch::Tensor& pictures) {
  torch::NoGradGuard guard;
  std::vector<torch::Tensor> parts;
  for (const auto& piece : pictures.split(100)) {
    const auto options = F::InterpolateFuncOptions()
                             .size(std::vector<int64_t>{224, 224})
                             .mode(torch::kBilinear)
                             .align_corners(false)
                             .antialias(true);
    parts.push_back(network.forward((F::interpolate(piece.to(torch::kFloat), options) - 127.0) / 128.0));
  }
  return torch::cat(parts);
}

struct Score {
  double loss, accuracy;
};

Score run_epoch(torch::nn::Linear& head, const torch::Tensor& x, const torch::Tensor& y,
                torch::optim::Adam* optimizer) {
  const torch::Tensor order = optimizer ? torch::randperm(x.size(0)) : torch::arange(x.size(0));
  double loss = 0.0, right = 0.0;
  for (const auto& ids : order.split(100)) {
    torch::AutoGradMode mode(optimizer != nullptr);
    const torch::Tensor target = y.index_select(0, ids), logits = head->forward(x.index_select(0, ids));
    const torch::Tensor value = F::cross_entropy(logits, target);
    if (optimizer) {
      optimizer->zero_grad();
      value.backward();
      optimizer->step();
    }
    loss += value.item<double>() * static_cast<double>(ids.size(0));
    right += logits.argmax(1).eq(target).sum().item<double>();
  }
  const auto n = static_cast<double>(x.size(0));
  return {loss / n, right / n};
}

int main() try {
  auto network = std::make_shared<Lite0>();
  torch::load(network, "efficientnet_lite0.pt");
  network->eval();
  for (auto& p : network->parameters()) p.set_requires_grad(false);
  const auto [train, train_labels] =
      read_cifar({"data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"});
  const auto [test, test_labels] = read_cifar({"test_batch.bin"});
  const torch::Tensor train_features = features_of(*network, train), test_features = features_of(*network, test);
  torch::nn::Linear head(1280, 10);
  torch::optim::Adam optimizer(head->parameters(), torch::optim::AdamOptions(1e-3));
  std::ofstream csv("metrics.csv");
  csv << "epoch,train_loss,train_accuracy,val_loss,val_accuracy\n";
  for (int epoch = 1; epoch <= 5; ++epoch) {
    const Score t = run_epoch(head, train_features, train_labels, &optimizer);
    const Score v = run_epoch(head, test_features, test_labels, nullptr);
    std::printf("epoch %d: %.4f %.4f, %.4f %.4f\n", epoch, t.loss, t.accuracy, v.loss, v.accuracy);
    csv << epoch << ',' << t.loss << ',' << t.accuracy << ',' << v.loss << ',' << v.accuracy << '\n';
  }
  torch::save(head, "head.pt");
} catch (const std::exception& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return 1;
}
