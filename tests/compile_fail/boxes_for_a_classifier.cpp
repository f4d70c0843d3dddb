// expect: transferlib: fit: the data's Target is not the head's (class indices for a Classifier, boxes for a Detector)
#include <transferlib/transfer.hpp>
namespace tl = transferlib;

struct Found {
  using Target = tl::Boxes;
  tl::Index size() const { return 0; }
  tl::Batch batch(std::span<const tl::Index>) const { return {}; }
  tl::Labels labels() const { return {"a", "b"}; }
};

int main() {
  const Found data;
  tl::Classifier model{tl::Backbone<tl::EfficientNetLite0>::random(), tl::FreezePolicy<tl::FreezeAll>{},
                       tl::Head<tl::Linear>{}, data.labels()};
  tl::Trainer{model}.fit(data, data);
}
