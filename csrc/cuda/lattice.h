// The operators that give a transform's coordinates alone, between registration and kernels.
#pragma once
#include "warp.h"

namespace stn {

// Of a call without an input: normalized coordinates (B[, S], *out, n), float64 if the parameters are, else float32.
Tensor lattice(const Call& call);
// The gradient to the parameters, in the type of grad_output.
Tensor lattice_backward(const Call& call, const Tensor& grad_output);

}  // namespace stn
