// expect: transferlib: fit: a callback has none of the hooks on_fit_begin(model), on_progress(progress)
#include <transferlib/transfer.hpp>
namespace tl = transferlib;

struct Log {
  void on_epoch(const tl::Epoch&) {}
};

void train(tl::Classifier<tl::EfficientNetLite0, tl::Linear>& model, const tl::Cifar10& data) {
  tl::Trainer{model}.fit(data, data, Log{});
}
