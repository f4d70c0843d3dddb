// expect: deleted
#include <transferlib/transfer.hpp>
namespace tl = transferlib;

int main() {
  tl::Trainer trainer{tl::Classifier{tl::Backbone<tl::EfficientNetLite0>::random(),
                                     tl::FreezePolicy<tl::FreezeAll>{},
                                     tl::Head<tl::Linear>{},
                                     {"a", "b"}}};
}
