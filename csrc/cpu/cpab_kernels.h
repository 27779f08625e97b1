// The CPAB kernels of one instruction set (cpab.cpp), and what they do with points (cpab_sample.cpp).
#pragma once
#include "cpab.h"

namespace stn::STN_LEVEL {

extern const CpabKernels cpab_kernels;
void cpab_read(const void* context, const CpabRun&);
void cpab_transpose(const void* context, const CpabRun&);
void cpab_pull(const void* context, const CpabRun&);

}  // namespace stn::STN_LEVEL
