// expect: transferlib: fit: the data's Target is not the head's
#include <transferlib/transfer.hpp>
namespace tl = transferlib;

void train(const tl::TensorData<tl::MultiLabel>& data) {
  tl::Classifier model{tl::Backbone<tl::EfficientNetLite0>::random(), tl::FreezePolicy<tl::FreezeAll>{},
                       tl::Head<tl::Linear>{}, data.labels()};
  tl::Trainer{model}.fit(data, data);
}
