// expect: transferlib: fit: not a Dataset: it needs Target, size(), batch(ids), labels()
#include <transferlib/transfer.hpp>
namespace tl = transferlib;

void train(tl::Classifier<tl::EfficientNetLite0, tl::Linear>& model, const tl::Split<tl::Cifar10>& both) {
  tl::Trainer{model}.fit(both, both);
}
