// The kernels of every sampler but bilinear in two dimensions, by image type: sampler_forward_*.cu,
// sampler_backward_*.cu.
#pragma once
#include "scatter.cuh"
#include "warp.h"

namespace stn {

// input and params as `readable` and `readable_params` give them.
template <class I>
void sampler_forward(const Call& call, const Device& device, const Tensor& input, const Tensor& params,
                     const Tensor& output);

// The gradient to the parameters if it is wanted, and the input's into the scatter, stored as `target`.
template <class I>
Tensor sampler_backward(const Call& call, const Device& device, const Tensor& grad_output, const Tensor& input,
                        const Tensor& params, const AnyScatter<ScalarOf<I>>& scatter, const Tensor& target,
                        bool need_params);

// Linearized multi-sampling: linearized_*.cu. The forward also writes call.slopes, if defined.
template <class I>
void linearized_forward(const Call& call, const Device& device, const Tensor& input, const Tensor& params,
                        const Tensor& output);
// The gradient of normalized coordinates (B[, S], *out, n), from the slopes that a forward gave.
template <class I>
Tensor linearized_grad_grid(const Call& call, const Tensor& grad_output, const Tensor& slopes);
// The input's gradient through all samples, into the scatter, stored as `target`.
template <class I>
void linearized_scatter(const Call& call, const Device& device, const Tensor& grad_output, const Tensor& params,
                        const AnyScatter<ScalarOf<I>>& scatter, const Tensor& target);
// Raises `largest` to the largest of the terms that it scatters.
template <class I>
void linearized_largest(const Call& call, const Device& device, const Tensor& grad_output, FixedPoint* largest);

}  // namespace stn
