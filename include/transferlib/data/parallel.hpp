/// \file
/// Where core/parallel.hpp used to lie.
#pragma once

#include <transferlib/core/parallel.hpp>
