// Backward of every sampler by its taps: the gradient to the transform's parameters, and to the input by scattering.
#pragma once
#include "sampler.h"
#include "sampler_launch.cuh"
#include "taps.cuh"

namespace stn {

// grad_params: as Transform::Gradient says; null for none.
template <class Transform, Mode kMode, class I>
__global__ void __launch_bounds__(
    kThreads, resident_blocks<typename Transform::Scalar>(kSamplerBackwardBlocks<kMode, Transform::n>))
    sampler_backward_kernel(const I* __restrict__ grad_output, const I* __restrict__ input,
                            AnyScatter<typename Transform::Scalar> scatter, Transform transform,
                            typename Transform::Scalar* __restrict__ grad_params, Strides out, Strides in,
                            Strides grad_in, Work work) {
  using T = typename Transform::Scalar;
  constexpr int n = Transform::n;
  const bool with_params = kMode != Mode::nearest && grad_params;
  const Share share = share_of(work);
  const Points points = points_of<Strided, n>(work);
  const auto image = transform.image(share.image);
  const auto add = scatter.adder();
  typename Transform::Gradient gradient(transform);
  const int64_t b = input_image(work, share.image);
  const int first = share.first_channel + points.lane, step = 1 << work.log2_lanes;
#pragma unroll 1
  for (int row = 0; row < work.rows; ++row) {
    const bool valid = points.x < work.out_width && points.y(row) < work.out_rows;
    const Pixel<n> pixel = pixel_at<n>(work, points.x, points.y(row));
    Source<T, n> grad = {};
    if (valid) {
      const PointTaps<T, kMode, n> taps(work, image.source(pixel));
      const int64_t at = share.image * out.image + offset(out, pixel);
#pragma unroll 1
      for (int c = first; c < share.last_channel; c += step) {
        const T value = T(grad_output[at + c * out.channel]);
        if (scatter.active) taps.spread(grad_in, b * grad_in.image + c * grad_in.channel, value, add);
        if (with_params) taps.pull(in, value, PlanePixel<T, I>{input + b * in.image + c * in.channel}, grad);
      }
    }
    if (with_params) gradient.add(transform, work, share.image, pixel, valid, points.lane, grad, grad_params);
  }
  if (with_params) gradient.finish(transform, work, share, grad_params);
}

template <class I>
Tensor sampler_backward(const Call& call, const Device& device, const Tensor& grad_output, const Tensor& input,
                        const Tensor& params, const AnyScatter<ScalarOf<I>>& scatter, const Tensor& target,
                        bool need_params) {
  Tensor result = params;
  with_sampler<ScalarOf<I>>(call, params, [&](auto transform, auto mode) {
    using Transform = decltype(transform);
    constexpr Mode kMode = decltype(mode)::value;
    constexpr int n = Transform::n;
    ParameterGradient<Transform> gradient(params, need_params, device.stream);
    launch_sampler<n>(call, Transform::kSumsGradient || !need_params, [&](dim3 grid, const Work& work) {
      simt::launch(sampler_backward_kernel<Transform, kMode, I>, grid, dim3(kThreads), transform.shared_bytes(),
                   device.stream, data<I>(grad_output), data<I>(input), scatter, transform, gradient.out(grid, work),
                   strides_of(grad_output, n), strides_of(input, n), strides_of(target, n), work);
    });
    result = gradient.result();
  });
  return result;
}

}  // namespace stn
