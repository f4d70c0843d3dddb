// expect: transferlib: FreezePolicy<Rule>: Rule must be copyable and callable as bool(const Layer&) const
#include <transferlib/transfer.hpp>
namespace tl = transferlib;

int main() {
  tl::Classifier model{tl::Backbone<tl::EfficientNetLite0>::random(),
                       tl::FreezePolicy{[](const std::string& name) { return name == "stem"; }},
                       tl::Head<tl::Linear>{},
                       {"a", "b"}};
}
