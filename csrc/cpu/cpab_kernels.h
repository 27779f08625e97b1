// The CPAB kernels of one instruction set: cpab.cpp.
#pragma once
#include "cpab.h"

namespace stn::STN_LEVEL {

extern const CpabKernels cpab_kernels;

}  // namespace stn::STN_LEVEL
