// The backward of a call: which kernels compute which gradient.
#pragma once
#include "gather.cuh"
#include "warp_backward.cuh"
#include "warp_launch.cuh"

namespace stn {

// Everything the steps below share. input and grad_output are readable and of one layout.
struct Backward {
  const Call& call;
  const Device& device;
  Tensor input, grad_output, params;
  bool channels_last, packed;
};

inline int64_t linear_blocks(int64_t count) { return std::min(ceil_div(count, int64_t(kThreads)), 4 * kEnoughBlocks); }

// The gradient to the parameters, in their shape and in T; with an active Scatter also the input's, into it.
template <class I, class T, class Scatter>
Tensor scatter_and_params(const Backward& b, const Scatter& scatter, const Tensor& target, bool need_params) {
  Tensor grad_params = b.params;
  with_transform<T>(b.call, b.params, [&](auto transform) {
    using Transform = decltype(transform);
    with_padding(b.call.padding, [&](auto padding) {
      constexpr Padding kPadding = decltype(padding)::value;
      const auto run = [&](auto access) {
        using A = decltype(access);
        const int64_t images = b.call.images();
        Work work = work_of(b.call);
        share_channels<A>(work, images, work.out_width, work.out_height, b.channels_last,
                          Transform::kSumsGradient || !need_params);
        Tensor result, partial;
        if (need_params) {
          result = torch::stable::new_empty(b.params, b.params.sizes());
          partial = result;
        }
        int64_t blocks = 0;
        launch_tiles<A>(work, images, work.out_width, work.out_height, [&](dim3 grid, const Work& now) {
          blocks = blocks_of_image(grid, now);
          if (need_params && Transform::kSumsGradient && now.first == 0)
            partial = torch::stable::new_empty(b.params, {images * blocks * kSums});
          simt::launch(warp_backward_kernel<Transform, kPadding, A, I, Scatter>, grid, dim3(kThreads), 0,
                       b.device.stream, data<I>(b.grad_output), data<I>(b.input), scatter, transform,
                       need_params ? data<T>(partial) : nullptr, strides_of(b.grad_output), strides_of(b.input),
                       strides_of(target), now, need_params);
        });
        if (!need_params) return;
        if constexpr (Transform::kSumsGradient)
          simt::launch(sum_partials_kernel<T>, dim3(unsigned(images)), dim3(32), 0, b.device.stream, data<T>(partial),
                       data<T>(result), blocks, transform.x.scale, transform.y.scale);
        grad_params = result;
      };
      // Under zeros padding the affine transforms' input gradient is gathered. Fixed point is bound by its conversions,
      // not by how it reads.
      if constexpr (Scatter::kActive && Transform::kSumsGradient && kPadding == Padding::zeros)
        (void)run;
      else if constexpr (std::is_same_v<Scatter, FixedScatter<T>>)
        run(Strided{});
      else
        with_access<I, T, false>(b.channels_last, b.packed, b.input.size(1), run);
    });
  });
  return grad_params;
}

template <class I, class T>
Tensor gather_input(const Backward& b, const Tensor& grad_input) {
  with_access<I, T, true>(b.channels_last, b.packed, b.input.size(1), [&](auto access) {
    using A = decltype(access);
    constexpr int kGroup = A::kChannels ? A::kChannels : A::kPixel == 1 ? 4 : 1;
    Work work = work_of(b.call);
    const AffineTransform<T> transform = affine_transform<T>(b.call, b.params);
    const int64_t images = b.input.size(0);
    share_channels<A>(work, images, work.width, work.height, b.channels_last, true);
    launch_tiles<A>(work, images, work.width, work.height, [&](dim3 grid, const Work& now) {
      simt::launch(affine_gather_kernel<A, kGroup, I, T>, grid, dim3(kThreads), 0, b.device.stream,
                   data<I>(b.grad_output), data<I>(grad_input), transform, strides_of(b.grad_output),
                   strides_of(grad_input), now);
    });
  });
  return grad_input;
}

// Both gradients where the input's is scattered.
template <class I, class T>
std::tuple<Tensor, Tensor> scatter_input(const Backward& b, Needs needs) {
  const std::vector<int64_t> shape = shape_of(b.call.input);
  if (!needs.deterministic) {
    const Tensor sum = new_images(b.input, shape, b.channels_last, scalar_type<T>, true);
    const Tensor grad_params = scatter_and_params<I, T>(b, AtomicScatter<T>{data<T>(sum)}, sum, needs.params);
    return {std::is_same_v<I, T> ? sum : torch::stable::to(sum, scalar_type<I>), grad_params};
  }
  const Tensor sum = new_images(b.input, shape, b.channels_last, ScalarType::Long, true);
  const Tensor largest = torch::stable::new_zeros(b.input, {1}, ScalarType::Long);
  const Tensor grad_input = new_images(b.input, shape, b.channels_last, scalar_type<I>);
  const Tensor grad_output = readable(b.grad_output, b.channels_last, true);
  int log2_terms = 0;  // every output adds to a pixel at most once
  while ((int64_t(1) << log2_terms) < b.call.samples() * b.call.size[0] * b.call.size[1]) ++log2_terms;
  const auto launch = [&](auto kernel, int64_t count, auto... args) {
    simt::launch(kernel, dim3(unsigned(linear_blocks(count))), dim3(kThreads), 0, b.device.stream, args..., count);
  };
  launch(largest_magnitude_kernel<I>, grad_output.numel(), data<I>(grad_output), data<FixedPoint>(largest));
  const FixedScatter<T> scatter{data<FixedPoint>(sum), data<FixedPoint>(largest), log2_terms};
  const Tensor grad_params = scatter_and_params<I, T>(b, scatter, sum, needs.params);
  launch(from_fixed_point_kernel<I>, sum.numel(), data<FixedPoint>(sum), data<FixedPoint>(largest), data<I>(grad_input),
         log2_terms);
  return {grad_input, grad_params};
}

template <class I>
std::tuple<Tensor, Tensor> warp_backward(const Call& call, const Tensor& grad_output, Needs needs) {
  const Tensor nothing = torch::stable::new_empty(call.input, {0});
  const Tensor no_params = torch::stable::new_empty(call.params, {0});
  const bool channels_last = is_channels_last(call.input);
  const std::vector<int64_t> shape = shape_of(call.input);
  if (grad_output.numel() == 0 || (!needs.input && !needs.params)) {
    return {needs.input ? new_images(call.input, shape, channels_last, scalar_type<I>, true) : nothing,
            needs.params ? torch::stable::new_zeros(call.params, call.params.sizes()) : no_params};
  }
  const Device device(call.input);
  Tensor grad_input = nothing, grad_params = no_params;
  with_scalar<I>(call, [&](auto scalar) {
    using T = decltype(scalar);
    Backward b{call,
               device,
               readable(call.input, channels_last),
               readable(grad_output, channels_last),
               coordinates(call.params, scalar_type<T>),
               channels_last,
               false};
    b.packed = is_packed(b.input) && is_packed(b.grad_output);
    const bool gathered = call.kind == Kind::affine && call.padding == Padding::zeros;
    if (needs.input && !gathered) {
      std::tie(grad_input, grad_params) = scatter_input<I, T>(b, needs);
    } else {
      if (needs.input) grad_input = gather_input<I, T>(b, new_images(call.input, shape, channels_last, scalar_type<I>));
      if (needs.params) grad_params = scatter_and_params<I, T>(b, NoScatter{}, b.input, true);
    }
  });
  if (!needs.params) return {grad_input, no_params};
  return {grad_input, grad_params.scalar_type() == call.params.scalar_type()
                          ? grad_params
                          : torch::stable::to(grad_params, call.params.scalar_type())};
}

}  // namespace stn
