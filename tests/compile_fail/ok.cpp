// The user's program, and each of the lines beside this one as it should be: this one compiles.
#include <torch/nn/modules/container/sequential.h>

#include <transferlib/transfer.hpp>
namespace tl = transferlib;

struct Mine : tl::Module {
  torch::nn::Sequential body = register_module("body", torch::nn::Sequential());
  tl::Stages stages() { return {{"body", body}}; }
};
struct Log {
  void on_epoch_end(const tl::Epoch&) {}
};

int main() {
  auto [train, test] = tl::Cifar10::open("data");
  tl::Classifier model{tl::Backbone<tl::EfficientNetLite0>::pretrained(), tl::FreezePolicy<tl::FreezeAll>{},
                       tl::Head<tl::Linear>{}, train.labels()};
  tl::Trainer trainer{model, {.epochs = 5, .optimizer = tl::Adam{.lr = 1e-3}}};
  tl::History history = trainer.fit(tl::augment(train, tl::Flip{}), test, Log{});
  tl::plot_accuracy(history, "accuracy.svg");
  tl::save(model, "cifar10.safetensors");
  tl::Classifier mine{tl::Backbone<Mine>::pretrained("mine.pth"),
                      tl::FreezePolicy{[](const tl::Layer& l) { return l.kind == tl::Kind::norm; }},
                      tl::Head<tl::Mlp>{{.width = 64}},
                      {"cat", "dog"}};
  tl::Trainer{mine}.fit(train, test);
}
