// expect: 'dropuot'
#include <transferlib/transfer.hpp>
namespace tl = transferlib;

tl::Head<tl::Linear> head() { return tl::Head<tl::Linear>{{.dropuot = 0.2}}; }
