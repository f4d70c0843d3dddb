// expect: 'epoch'
#include <transferlib/transfer.hpp>
namespace tl = transferlib;

const tl::TrainerOptions options{.epoch = 5};
