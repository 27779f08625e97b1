// Which instruction set's kernels run: the best the processor has, or STN_KERNELS_CPU_LEVEL if it has that; in float64
// the best up to it that has kernels for float64.
#pragma once
#include "kernels.h"

namespace stn {
const Kernels& kernels(bool float64 = false);
inline const Kernels& kernels(const Problem& p) { return kernels(p.is_float64()); }
}  // namespace stn
