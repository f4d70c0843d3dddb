// A user's program: the umbrella, a network, its layer table.
#include <cstdio>

#include <transferlib/transfer.hpp>

int main() {
  const auto backbone = transferlib::Backbone<transferlib::EfficientNetLite0>::random({.size = 64});
  const std::size_t layers = backbone.layers().rows.size();
  std::printf("transferlib %s: %zu layers\n", TRANSFERLIB_VERSION, layers);
  return layers == 0;
}
