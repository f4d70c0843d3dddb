// expect: transferlib: Classifier: this head learns boxes; use Detector
#include <transferlib/transfer.hpp>
namespace tl = transferlib;

struct Finder : tl::Module {
  struct Options {
    double least = 0.25;
  };
  using Input = tl::Pyramid;
  using Output = tl::Tensor;
  using Target = tl::Boxes;
  using Prediction = tl::Tensor;
  using Metric = tl::Accuracy;
  Finder(const tl::FeatureSpec&, const Options&) {}
  tl::Tensor forward(const tl::Activations& a, const tl::Pass&) { return a.at(0); }
  tl::LossTerms loss(const tl::Tensor& y, const tl::Batch&) { return {{{"loss", y.sum()}}}; }
  tl::Tensor predict(const tl::Tensor& y) { return y; }
};

int main() {
  tl::Classifier model{
      tl::Backbone<tl::EfficientNetLite0>::random(), tl::FreezePolicy<tl::FreezeAll>{}, tl::Head<Finder>{}, {"a", "b"}};
}
