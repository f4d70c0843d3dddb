// An application's program, with a framework's macros: no header of LibTorch is within its reach.
#define slots
#define signals public
#define emit
#define foreach for

#include <cstdio>

#include <transferlib/predictor.hpp>

#if __has_include(<torch/types.h>)
#error "transferlib::predictor puts LibTorch's headers into the include path"
#endif

int main() {
  try {
    transferlib::Predictor::open("no-such-file.safetensors");
  } catch (const transferlib::Error& e) {
    std::printf("as expected: %s\n", e.what());
    return 0;
  }
  return 1;
}
