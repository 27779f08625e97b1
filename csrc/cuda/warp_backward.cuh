// Backward of every transform: the gradient to its parameters, and to the input by scattering.
#pragma once
#include "common/bilinear.h"
#include "common/coords.h"
#include "scatter.cuh"
#include "transform.cuh"

namespace stn {

template <class T, int N>
__device__ __forceinline__ T dot(const T (&a)[N], const T (&b)[N], T sum) {
#pragma unroll
  for (int i = 0; i < N; ++i) sum += a[i] * b[i];
  return sum;
}

// Blocks that fit a multiprocessor at once; transforms that are bound by arithmetic keep more registers.
template <class A, Padding kPadding, class Scatter>
constexpr int kBackwardBlocks =
    (Scatter::kActive ? Tile<A>::kScatterBlocks : Tile<A>::kParamsBlocks) - (kPadding == kAnyPadding ? 1 : 0);

// grad_params: as Transform::Gradient says; not touched unless need_params, which is implied where nothing is
// scattered.
template <class Transform, Padding kPadding, class A, class I, class Scatter>
__global__ void __launch_bounds__(kThreads,
                                  resident_blocks<typename Transform::Scalar>(kBackwardBlocks<A, kPadding, Scatter>))
    warp_backward_kernel(const I* __restrict__ grad_output, const I* __restrict__ input, Scatter scatter,
                         Transform transform, typename Transform::Scalar* __restrict__ grad_params,
                         Strides output_strides, Strides input_strides, Strides gradient_strides, Work work,
                         bool need_params) {
  using T = typename Transform::Scalar;
  const Strides out = known<A>(output_strides), in = known<A>(input_strides), grad_in = known<A>(gradient_strides);
  const bool with_params = !Scatter::kActive || need_params;
  const Share share = share_of(work);
  const Points points = points_of<A>(work);
  const auto image = transform.image(share.image);
  const auto add = scatter.adder();
  typename Transform::Gradient gradient(transform);
  const int64_t b = input_image(work, share.image);
  const int channel = share.first_channel + points.lane * A::kVector, step = A::kVector << log2_lanes<A>(work);
#pragma unroll 1
  for (int row = 0; row < work.rows; ++row) {
    const int u = points.x, v = points.y(row);
    const bool valid = u < work.out_width && v < work.out_height;
    Source<T> grad = {0, 0};
    if (valid) {
      const Source<T> s = image.source({u, v});
      const Padded<T> x = pad_by<kPadding>(work, s.at[0], work.width);
      const Padded<T> y = pad_by<kPadding>(work, s.at[1], work.height);
      const Taps<T> t = taps_around(x.x, y.x, work.width, work.height);
      const Four<T> weight = weights(t);
      const bool upper_left = t.upper && t.left, upper_right = t.upper && t.right;
      const bool lower_left = t.lower && t.left, lower_right = t.lower && t.right;
      const I* g = grad_output + share.image * out.image + channel * out.channel + offset(out, u, v);
      const I* p = input + b * in.image + channel * in.channel + offset(in, t.x, t.y);
      int64_t q = b * grad_in.image + channel * grad_in.channel + offset(grad_in, t.x, t.y);
      Four<T> product = {0, 0, 0, 0};
#pragma unroll(A::kVector > 1 ? 1 : 2)
      for (int c = channel; c < share.last_channel; c += step) {
        T value[A::kVector], pixel_value[A::kVector];
        load(g, true, value);
        if (with_params) {
          load(p, upper_left, pixel_value);
          product.upper_left = dot(value, pixel_value, product.upper_left);
          load(p + in.pixel, upper_right, pixel_value);
          product.upper_right = dot(value, pixel_value, product.upper_right);
          load(p + in.row, lower_left, pixel_value);
          product.lower_left = dot(value, pixel_value, product.lower_left);
          load(p + in.row + in.pixel, lower_right, pixel_value);
          product.lower_right = dot(value, pixel_value, product.lower_right);
        }
        if constexpr (Scatter::kActive) {
          if (upper_left) add(q, weight.upper_left, value);
          if (upper_right) add(q + grad_in.pixel, weight.upper_right, value);
          if (lower_left) add(q + grad_in.row, weight.lower_left, value);
          if (lower_right) add(q + grad_in.row + grad_in.pixel, weight.lower_right, value);
        }
        g += step * out.channel;
        p += step * in.channel;
        q += step * grad_in.channel;
      }
      grad = {x.slope * slope_x(t, product), y.slope * slope_y(t, product)};
    }
    if (with_params) gradient.add(transform, work, share.image, {u, v}, valid, points.lane, grad, grad_params);
  }
  if (with_params) gradient.finish(transform, work, share, grad_params);
}

}  // namespace stn
