// Forward of every transform: a thread maps an output point once and interpolates its channels.
#pragma once
#include "common/bilinear.h"
#include "common/coords.h"
#include "warp_launch.cuh"

namespace stn {

// kInterior: all four pixels exist, so that nothing is predicated.
template <bool kInterior, class A, class T, class I>
__device__ __forceinline__ void interpolate_channels(const I* __restrict__ source, I* __restrict__ target,
                                                     const Taps<T>& t, const Strides& in, const Strides& out,
                                                     int channels, int step) {
  const int64_t pixel = A::kPixel ? A::kPixel : in.pixel;
  const Four<T> weight = weights(t);
  const int count = A::kChannels ? A::kChannels : channels;
#pragma unroll(A::kChannels ? A::kChannels : 4 / A::kVector > 1 ? 4 / A::kVector : 1)
  for (int c = 0; c < count; c += step) {
    T a[A::kVector], b[A::kVector], d[A::kVector], e[A::kVector], value[A::kVector];
    load(source, kInterior || (t.upper && t.left), a);
    load(source + pixel, kInterior || (t.upper && t.right), b);
    load(source + in.row, kInterior || (t.lower && t.left), d);
    load(source + in.row + pixel, kInterior || (t.lower && t.right), e);
#pragma unroll
    for (int i = 0; i < A::kVector; ++i)
      value[i] =
          weight.upper_left * a[i] + weight.upper_right * b[i] + weight.lower_left * d[i] + weight.lower_right * e[i];
    store(target, value);
    source += step * in.channel;
    target += step * out.channel;
  }
}

template <class Transform, Padding kPadding, class A, class I>
__global__ void __launch_bounds__(kThreads)
    warp_forward_kernel(const I* __restrict__ input, I* __restrict__ output, Transform transform, Strides in,
                        Strides out, Work work) {
  using T = typename Transform::Scalar;
  const Share share = share_of(work);
  const Points points(work);
  if (points.x >= work.out_width) return;
  const auto image = transform.image(share.image);
  const int channel = share.first_channel + points.lane * A::kVector, step = A::kVector << work.log2_lanes;
  const int64_t pixel = A::kPixel ? A::kPixel : in.pixel, out_pixel = A::kPixel ? A::kPixel : out.pixel;
  const I* source = input + input_image(work, share.image) * in.image + channel * in.channel;
  I* target = output + share.image * out.image + channel * out.channel + points.x * out_pixel;
  const int channels = share.last_channel - channel;
#pragma unroll 1
  for (int row = 0; row < work.rows; ++row) {
    const int v = points.y(row);
    if (v >= work.out_height) return;
    const Source<T> s = image.source(points.x, v);
    const Taps<T> t = taps_around(pad<kPadding>(s.x, work.width, work.align_corners).x,
                                  pad<kPadding>(s.y, work.height, work.align_corners).x, work.width, work.height);
    const I* corner = source + t.y * in.row + t.x * pixel;
    if (t.interior())
      interpolate_channels<true, A>(corner, target + v * out.row, t, in, out, channels, step);
    else
      interpolate_channels<false, A>(corner, target + v * out.row, t, in, out, channels, step);
  }
}

template <class I>
Tensor warp_forward(const Call& call) {
  const bool channels_last = is_channels_last(call.input);
  const Tensor output = new_images(call.input, call.output_shape(), channels_last, scalar_type<I>);
  if (output.numel() == 0) return output;
  const Tensor input = readable(call.input, channels_last);
  const Device device(input);
  with_scalar<I>(call, [&](auto scalar) {
    using T = decltype(scalar);
    const Tensor params = coordinates(call.params, scalar_type<T>);
    with_transform<T>(call, params, [&](auto transform) {
      using Transform = decltype(transform);
      with_padding(call.padding, [&](auto padding) {
        constexpr Padding kPadding = decltype(padding)::value;
        with_access<I, T, true>(channels_last, is_packed(input), input.size(1), [&](auto access) {
          using A = decltype(access);
          Work work = work_of(call);
          share_channels<A>(work, call.images(), work.out_width, work.out_height, channels_last, true);
          launch_tiles(work, call.images(), work.out_width, work.out_height, [&](dim3 grid, const Work& now) {
            simt::launch(warp_forward_kernel<Transform, kPadding, A, I>, grid, dim3(kThreads), 0, device.stream,
                         data<I>(input), data<I>(output), transform, strides_of(input), strides_of(output), now);
          });
        });
      });
    });
  });
  return output;
}

}  // namespace stn
