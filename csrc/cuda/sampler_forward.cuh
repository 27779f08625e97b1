// Forward of every sampler by its taps: a thread maps an output point once and weights its pixels, channel by channel.
#pragma once
#include "sampler.h"
#include "sampler_launch.cuh"
#include "taps.cuh"

namespace stn {

template <class Transform, Mode kMode, class I>
__global__ void __launch_bounds__(kThreads, resident_blocks<typename Transform::Scalar>(kSamplerForwardBlocks))
    sampler_forward_kernel(const I* __restrict__ input, I* __restrict__ output, Transform transform, Strides in,
                           Strides out, Work work) {
  using T = typename Transform::Scalar;
  constexpr int n = Transform::n;
  const Share share = share_of(work);
  const Points points = points_of<Strided, n>(work);
  if (points.x >= work.out_width) return;
  const auto image = transform.image(share.image);
  const int first = share.first_channel + points.lane, step = 1 << work.log2_lanes;
  const I* source = input + input_image(work, share.image) * in.image;
  I* target = output + share.image * out.image;
#pragma unroll 1
  for (int row = 0; row < work.rows; ++row) {
    if (points.y(row) >= work.out_rows) return;
    const Pixel<n> pixel = pixel_at<n>(work, points.x, points.y(row));
    const PointTaps<T, kMode, n> taps(work, image.source(pixel));
    const int64_t at = offset(out, pixel);
#pragma unroll 1
    for (int c = first; c < share.last_channel; c += step) {
      const PlanePixel<T, I> pixel_value{source + c * in.channel};
      target[c * out.channel + at] = I(taps.interpolate(in, pixel_value));
    }
  }
}

template <class I>
void sampler_forward(const Call& call, const Device& device, const Tensor& input, const Tensor& params,
                     const Tensor& output) {
  with_sampler<ScalarOf<I>>(call, params, [&](auto transform, auto mode) {
    using Transform = decltype(transform);
    constexpr Mode kMode = decltype(mode)::value;
    constexpr int n = Transform::n;
    launch_sampler<n>(call, true, [&](dim3 grid, const Work& work) {
      simt::launch(sampler_forward_kernel<Transform, kMode, I>, grid, dim3(kThreads), 0, device.stream, data<I>(input),
                   data<I>(output), transform, strides_of(input, n), strides_of(output, n), work);
    });
  });
}

}  // namespace stn
