// Forward of every transform: a thread maps an output point once and interpolates its channels.
#pragma once
#include "common/bilinear.h"
#include "common/coords.h"
#include "sampler.h"
#include "warp_launch.cuh"

namespace stn {

// kInterior: all four pixels exist, so that nothing is predicated.
template <bool kInterior, class A, class T, class I>
__device__ __forceinline__ void interpolate_channels(const I* __restrict__ source, I* __restrict__ target,
                                                     const Taps<T>& t, const Strides& in, int64_t out_channel,
                                                     int channels, int step) {
  [[maybe_unused]] constexpr int kUnroll = A::kChannels ? A::kChannels : A::kVector > 1 ? 1 : 4;
  const Four<T> weight = weights(t);
  const int count = A::kChannels ? A::kChannels : channels;
#pragma unroll(kUnroll)
  for (int c = 0; c < count; c += step) {
    T upper_left[A::kVector], upper_right[A::kVector], lower_left[A::kVector], lower_right[A::kVector];
    load(source, kInterior || (t.upper && t.left), upper_left);
    load(source + in.pixel, kInterior || (t.upper && t.right), upper_right);
    load(source + in.row, kInterior || (t.lower && t.left), lower_left);
    load(source + in.row + in.pixel, kInterior || (t.lower && t.right), lower_right);
    T value[A::kVector];
#pragma unroll
    for (int i = 0; i < A::kVector; ++i)
      value[i] = weight.upper_left * upper_left[i] + weight.upper_right * upper_right[i] +
                 weight.lower_left * lower_left[i] + weight.lower_right * lower_right[i];
    store(target, value);
    source += step * in.channel;
    target += step * out_channel;
  }
}

template <class Transform, Padding kPadding, class A, class I>
__global__ void __launch_bounds__(kThreads, resident_blocks<typename Transform::Scalar>(kPadding == kAnyPadding
                                                                                            ? 3
                                                                                            : Tile<A>::kForwardBlocks))
    warp_forward_kernel(const I* __restrict__ input, I* __restrict__ output, Transform transform, Strides input_strides,
                        Strides output_strides, Work work) {
  using T = typename Transform::Scalar;
  const Strides in = known<A>(input_strides), out = known<A>(output_strides);
  const Share share = share_of(work);
  const Points points = points_of<A>(work);
  if (points.x >= work.out_width) return;
  const auto image = transform.image(share.image);
  const int channel = share.first_channel + points.lane * A::kVector, step = A::kVector << log2_lanes<A>(work);
  const I* source = input + input_image(work, share.image) * in.image + channel * in.channel;
  I* target = output + share.image * out.image + channel * out.channel;
  const int channels = share.last_channel - channel;
  const auto taps_at = [&](int v) {
    const Source<T> s = image.source({points.x, v});
    const T x = pad_by<kPadding>(work, s.at[0], work.width).x;
    const T y = pad_by<kPadding>(work, s.at[1], work.height).x;
    return taps_around(x, y, work.width, work.height);
  };
  const auto write = [&](auto interior, const Taps<T>& t, int v) {
    interpolate_channels<decltype(interior)::value, A>(source + offset(in, t.x, t.y), target + offset(out, points.x, v),
                                                       t, in, out.channel, channels, step);
  };
  constexpr int kTogether = Tile<A>::kTogether;
#pragma unroll 1
  for (int row = 0; row < work.rows; row += kTogether) {
    if (kTogether == 2 && row + 1 < work.rows) {
      const int v = points.y(row), below = points.y(row + 1);
      const Taps<T> t = taps_at(v), t_below = taps_at(below);
      if (below < work.out_height && t.interior() && t_below.interior()) {
        write(std::true_type{}, t, v);
        write(std::true_type{}, t_below, below);
        continue;
      }
    }
    for (int k = 0; k < kTogether && row + k < work.rows; ++k) {
      const int v = points.y(row + k);
      if (v >= work.out_height) return;
      const Taps<T> t = taps_at(v);
      if (t.interior())
        write(std::true_type{}, t, v);
      else
        write(std::false_type{}, t, v);
    }
  }
}

template <class I>
Tensor warp_forward(const Call& call) {
  using T = ScalarOf<I>;
  const int n = call.n();
  const Tensor output = new_images(call.input, call.output_shape(), call.channels_last, scalar_type<I>, n);
  if (output.numel() == 0) return output;
  const Tensor input = readable(call.input, call.channels_last, n);
  const Device device(input);
  const Tensor params = readable_params<T>(call);
  if (!call.is_plain()) {
    const auto run = call.mode == Mode::linearized ? linearized_forward<I> : sampler_forward<I>;
    run(call, device, input, params, output);
    return output;
  }
  with_transform<T, 2, false>(call, params, [&](auto transform) {
    using Transform = decltype(transform);
    with_padding<Transform>(call.padding, [&](auto padding) {
      constexpr Padding kPadding = decltype(padding)::value;
      with_access<I, true>(call.channels_last, is_packed(input), input.size(1), [&](auto access) {
        using A = decltype(access);
        Work work = work_of(call);
        share_channels<A>(work, call.images(), work.out_width, work.out_height, call.channels_last, true);
        launch_tiles<A>(work, call.images(), work.out_width, work.out_height, [&](dim3 grid, const Work& now) {
          simt::launch(warp_forward_kernel<Transform, kPadding, A, I>, grid, dim3(kThreads), 0, device.stream,
                       data<I>(input), data<I>(output), transform, strides_of(input, n), strides_of(output, n), now);
        });
      });
    });
  });
  return output;
}

}  // namespace stn
