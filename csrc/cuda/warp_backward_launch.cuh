// The backward of a call: which kernels compute which gradient.
#pragma once
#include "affine_footprint.cuh"
#include "fixed_sum.cuh"
#include "homography_footprint.cuh"
#include "sampler.h"
#include "warp_backward.cuh"
#include "warp_launch.cuh"

namespace stn {

// Everything the steps below share. input and grad_output are readable and of one layout.
struct Backward {
  const Call& call;
  const Device& device;
  Tensor input, grad_output, params;
  bool packed;
};

// Whether the input's gradient is gathered: the outputs that read a pixel can be found, and padding adds none.
template <class Transform, Padding kPadding>
constexpr bool kGathers = kPadding == Padding::zeros && requires { sizeof(Footprint<Transform>); };
inline bool is_gathered(const Call& call) {
  return (call.kind == Kind::affine || call.kind == Kind::homography) && call.padding == Padding::zeros &&
         call.is_plain();
}

// The gradient to the parameters, in their shape; with an active Scatter also the input's, into it.
template <class I, class Scatter>
Tensor scatter_and_params(const Backward& b, const Scatter& scatter, const Tensor& target, bool need_params) {
  using T = ScalarOf<I>;
  const Call& call = b.call;
  if constexpr (Scatter::kActive) {
    if (call.mode == Mode::linearized) {
      linearized_scatter<I>(call, b.device, b.grad_output, b.params, scatter, target);
      return b.params;
    }
  }
  if (!call.is_plain())
    return sampler_backward<I>(call, b.device, b.grad_output, b.input, b.params, scatter, target, need_params);
  Tensor grad_params = b.params;
  with_transform<T, 2, false>(call, b.params, [&](auto transform) {
    using Transform = decltype(transform);
    with_padding<Transform>(call.padding, [&](auto padding) {
      constexpr Padding kPadding = decltype(padding)::value;
      const auto run = [&](auto access) {
        using A = decltype(access);
        const int64_t images = call.images();
        Work work = work_of(call);
        share_channels<A>(work, images, work.out_width, work.out_height, call.channels_last,
                          Transform::kSumsGradient || !need_params);
        ParameterGradient<Transform> gradient(b.params, need_params, b.device.stream);
        launch_tiles<A>(work, images, work.out_width, work.out_height, [&](dim3 grid, const Work& now) {
          simt::launch(warp_backward_kernel<Transform, kPadding, A, I, Scatter>, grid, dim3(kThreads),
                       transform.shared_bytes(), b.device.stream, data<I>(b.grad_output), data<I>(b.input), scatter,
                       transform, gradient.out(grid, now), strides_of(b.grad_output, 2), strides_of(b.input, 2),
                       strides_of(target, 2), now, need_params);
        });
        grad_params = gradient.result();
      };
      // Fixed point is bound by its conversions, not by how it reads.
      if constexpr (Scatter::kActive && kGathers<Transform, kPadding>)
        (void)run;
      else if constexpr (std::is_same_v<Scatter, FixedScatter<T>>)
        run(Strided{});
      else
        with_access<I, false>(call.channels_last, b.packed, b.input.size(1), run);
    });
  });
  return grad_params;
}

template <class I>
Tensor gather_input(const Backward& b, const Tensor& grad_input) {
  with_access<I, true>(b.call.channels_last, b.packed, b.input.size(1), [&](auto access) {
    using A = decltype(access);
    constexpr int kGroup = A::kChannels ? A::kChannels : A::kPixel == 1 ? 4 : 1;
    Work work = work_of(b.call);
    const int64_t images = b.input.size(0);
    share_channels<A>(work, images, work.width, work.height, b.call.channels_last, true);
    with_transform<ScalarOf<I>, 2, false>(b.call, b.params, [&](auto transform) {
      using Transform = decltype(transform);
      if constexpr (kGathers<Transform, Padding::zeros>)
        launch_tiles<A>(work, images, work.width, work.height, [&](dim3 grid, const Work& now) {
          simt::launch(gather_kernel<A, kGroup, I, Transform>, grid, dim3(kThreads), 0, b.device.stream,
                       data<I>(b.grad_output), data<I>(grad_input), transform, strides_of(b.grad_output, 2),
                       strides_of(grad_input, 2), now);
        });
    });
  });
  return grad_input;
}

// Both gradients where the input's is scattered: run(scatter, target) returns that to the parameters.
template <class I, class Run>
std::tuple<Tensor, Tensor> scatter_input(const Backward& b, Needs needs, Run&& run) {
  using T = ScalarOf<I>;
  const int n = b.call.n();
  const bool channels_last = b.call.channels_last;
  const std::vector<int64_t> shape = shape_of(b.call.input);
  if (!needs.deterministic) {
    const Tensor sum = new_images(b.input, shape, channels_last, scalar_type<T>, n, true);
    const Tensor grad_params = run(AtomicScatter<T>{data<T>(sum)}, sum);
    return {std::is_same_v<I, T> ? sum : torch::stable::to(sum, scalar_type<I>), grad_params};
  }
  const Tensor sum = new_images(b.input, shape, channels_last, ScalarType::Long, n, true);
  const Tensor grad_input = new_images(b.input, shape, channels_last, scalar_type<I>, n);
  const Tensor grad_output = readable(b.grad_output, channels_last, n, true);
  // Every output adds its gradient to a pixel at most once, or once a sample; the weights of cubic taps that meet there
  // by padding sum to less than 1.4 an axis.
  int log2_terms = b.call.mode == Mode::bicubic ? 2 : 0;
  const bool linearized = b.call.mode == Mode::linearized;
  const int64_t added = grad_output.numel() / (shape[0] * shape[1]) * (linearized ? b.call.multi.samples : 1);
  for (int64_t terms = 1; terms < added; terms *= 2) ++log2_terms;
  FixedSum<I> fixed(b.device, sum, log2_terms);
  if (linearized)
    linearized_largest<I>(b.call, b.device, grad_output, fixed.next_bound());
  else
    fixed.template bound<I>(grad_output);
  const Tensor grad_params = run(fixed.scatter(), sum);
  fixed.store(grad_input);
  return {grad_input, grad_params};
}

template <class I>
std::tuple<Tensor, Tensor> warp_backward(const Call& call, const Tensor& grad_output, Needs needs) {
  using T = ScalarOf<I>;
  const int n = call.n();
  const Tensor nothing = torch::stable::new_empty(call.input, {0});
  Tensor grad_input = nothing, grad_params = torch::stable::new_empty(call.params, {0});
  const bool empty = grad_output.numel() == 0;
  if (needs.params && (empty || call.mode == Mode::nearest)) {  // nearest is a step function of the coordinates
    grad_params = torch::stable::new_zeros(call.params, call.params.sizes());
    needs.params = false;
  }
  const auto new_gradient = [&] {
    return new_images(call.input, shape_of(call.input), call.channels_last, scalar_type<I>, n, empty);
  };
  if (needs.input && empty) grad_input = new_gradient();
  if (empty || (!needs.input && !needs.params)) return {grad_input, grad_params};
  const Device device(call.input);
  Backward b{call,
             device,
             readable(call.input, call.channels_last, n),
             readable(grad_output, call.channels_last, n),
             readable_params<T>(call),
             false};
  b.packed = is_packed(b.input) && is_packed(b.grad_output);
  Tensor computed;
  if (needs.input && !is_gathered(call)) {
    std::tie(grad_input, computed) = scatter_input<I>(b, needs, [&](const auto& scatter, const Tensor& target) {
      return scatter_and_params<I>(b, scatter, target, needs.params);
    });
  } else {
    if (needs.input) grad_input = gather_input<I>(b, new_gradient());
    if (needs.params) computed = scatter_and_params<I>(b, NoScatter{}, b.input, true);
  }
  if (needs.params)
    grad_params = computed.scalar_type() == call.params.scalar_type()
                      ? computed
                      : torch::stable::to(computed, call.params.scalar_type());
  return {grad_input, grad_params};
}

}  // namespace stn
