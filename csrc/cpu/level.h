// Which instruction set's kernels run: the best the processor has, or STN_KERNELS_CPU_LEVEL if it has that.
#pragma once
#include "kernels.h"

namespace stn {
const Kernels& kernels();
}
