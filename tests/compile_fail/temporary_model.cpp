// expect: transferlib: Trainer: the model is a temporary, which is gone before it can be trained; give it a name
#include <transferlib/transfer.hpp>
namespace tl = transferlib;

int main() {
  tl::Trainer trainer{tl::Classifier{tl::Backbone<tl::EfficientNetLite0>::random(),
                                     tl::FreezePolicy<tl::FreezeAll>{},
                                     tl::Head<tl::Linear>{},
                                     {"a", "b"}}};
}
