// The affine_grid operators between registration and kernels.
#pragma once
#include "tensors.h"

namespace stn {

Tensor affine_grid(const Tensor& theta, const std::vector<int64_t>& size, bool align_corners);
Tensor affine_grid_backward(const Tensor& grad_output, bool align_corners);

}  // namespace stn
