// The second backward of sampling at a grid, bilinear and nearest: what the cotangents u of the input's gradient and q
// of the grid's give to the output's gradient, the input and the grid.
#pragma once
#include <optional>

#include "fixed_sum.cuh"
#include "sampler_launch.cuh"
#include "taps.cuh"

namespace stn {

// Null pointers: a cotangent that is not there, a gradient that is not wanted. other and input have the same strides.
template <class Transform, Mode kMode, class I>
__global__ void __launch_bounds__(
    kThreads, resident_blocks<typename Transform::Scalar>(kSamplerBackwardBlocks<kMode, Transform::n>))
    sampler_second_kernel(const I* __restrict__ grad_output, const I* __restrict__ input, const I* __restrict__ other,
                          const typename Transform::Scalar* __restrict__ directions, Transform transform,
                          I* __restrict__ of_output, AnyScatter<typename Transform::Scalar> of_input,
                          typename Transform::Scalar* __restrict__ of_grid, Strides out, Strides in, Work work) {
  using T = typename Transform::Scalar;
  constexpr int n = Transform::n, K = kTaps<kMode>;
  const Share share = share_of(work);
  const Points points = points_of<Strided, n>(work);
  const auto image = transform.image(share.image);
  const auto add = of_input.adder();
  typename Transform::Gradient gradient(transform);
  const int64_t b = input_image(work, share.image);
#pragma unroll 1
  for (int row = 0; row < work.rows; ++row) {
    const bool valid = points.x < work.out_width && points.y(row) < work.out_rows;
    const Pixel<n> pixel = pixel_at<n>(work, points.x, points.y(row));
    Source<T, n> grad = {};
    if (valid) {
      const PointTaps<T, kMode, n> taps(work, image.source(pixel));
      const AxisTaps<T, K>& x = taps.axis[0];
      T q[n] = {};
      if (directions) {
        load_all<Transform::kTogether>(directions + transform.index(share.image, pixel), q);
#pragma unroll
        for (int a = 0; a < n; ++a) q[a] *= transform.frame.source[a].scale;
      }
      const int64_t at = share.image * out.image + offset(out, pixel);
#pragma unroll 1
      for (int c = share.first_channel; c < share.last_channel; ++c) {
        const T g = T(grad_output[at + c * out.channel]), to_input[1] = {g};
        const int64_t plane = b * in.image + c * in.channel;
        T value = 0;
        taps.rows(in, [&](const TapRow<T>& r) {
          // Along q, of the row: the derivative of its weight.
          T turned = 0;
#pragma unroll
          for (int a = 1; a < n; ++a) turned += q[a] * r.slope[a - 1];
#pragma unroll
          for (int k = 0; k < K; ++k) {
            const int64_t tap = plane + r.offset + taps.offset(in, k);
            const bool inside = r.inside && x.inside[k];
            T u[1] = {}, p[1] = {};
            if (other) load(other + tap, inside, u);
            if (directions) load(input + tap, inside, p);
            const T along = q[0] * x.slope[k] * r.weight + x.weight[k] * turned;
            value += x.weight[k] * r.weight * u[0] + along * p[0];
            grad.at[0] += g * (x.slope[k] * (r.weight * u[0] + turned * p[0]));
#pragma unroll
            for (int a = 1; a < n; ++a) {
              T mixed = q[0] * x.slope[k] * r.slope[a - 1];
              if constexpr (n == 3) mixed += x.weight[k] * q[3 - a] * r.both;
              grad.at[a] += g * (x.weight[k] * r.slope[a - 1] * u[0] + mixed * p[0]);
            }
            if (of_input.active && inside) add(tap, along, to_input);
          }
        });
        if (of_output) of_output[at + c * out.channel] = I(value);
      }
    }
    if (of_grid) gradient.add(transform, work, share.image, pixel, valid, 0, grad, of_grid);
  }
}

template <class I>
std::tuple<Tensor, Tensor, Tensor> warp_second(const Call& call, const Tensor& grad_grad_input,
                                               const Tensor& grad_grad_grid, const Tensor& grad_output,
                                               const bool (&needs)[3], bool deterministic) {
  using T = ScalarOf<I>;
  const Device device(call.input);
  const Tensor none = torch::stable::new_empty(call.input, {0});
  const Tensor input = torch::stable::contiguous(call.input), grad = torch::stable::contiguous(grad_output);
  const Tensor other = torch::stable::contiguous(grad_grad_input), grid = coordinates(call.params, scalar_type<T>);
  const Tensor directions = coordinates(grad_grad_grid, scalar_type<T>);
  // Nearest takes no notice of a direction, and a step function has no gradient.
  const bool turns = directions.numel() > 0 && call.mode == Mode::bilinear, moves = call.mode == Mode::bilinear;
  const bool empty = grad.numel() == 0;
  const auto result = [&](bool needed, bool computed, const Tensor& like, ScalarType dtype, bool zeros) {
    if (!needed) return none;
    return !computed || zeros || empty ? torch::stable::new_zeros(like, like.sizes(), dtype)
                                       : torch::stable::new_empty(like, like.sizes(), dtype);
  };
  const Tensor of_output = result(needs[0], true, grad, scalar_type<I>, false);
  const bool fixed = deterministic && needs[1] && turns && !empty;
  Tensor of_input = result(needs[1], turns, input, fixed ? ScalarType::Long : scalar_type<T>, true);
  const Tensor of_grid = result(needs[2], moves, grid, scalar_type<T>, false);
  if (!empty && (needs[0] || (needs[1] && turns) || (needs[2] && moves))) {
    Call planar = call;
    planar.channels_last = false;
    AnyScatter<T> scatter = NoScatter{};
    if (needs[1] && turns && !fixed) scatter = AtomicScatter<T>{data<T>(of_input)};
    // A point adds to a pixel once by each of its taps that padding puts there, along each axis of its direction.
    int log2_terms = 2 * call.n();
    for (int64_t terms = 1; terms < grad.numel() / (input.size(0) * input.size(1)); terms *= 2) ++log2_terms;
    std::optional<FixedSum<I>> sum;
    if (fixed) {
      sum.emplace(device, of_input, log2_terms);
      double reach = 0;
      for (int a = 0; a < call.n(); ++a) reach = std::max(reach, double(input.size(input.dim() - 1 - a)));
      sum->template bound<I>(grad);
      sum->template bound<T>(directions, reach / 2);
      scatter = sum->scatter();
    }
    with_second<T>(planar, grid, [&](auto transform, auto mode) {
      using Transform = decltype(transform);
      constexpr Mode kMode = decltype(mode)::value;
      constexpr int n = Transform::n;
      launch_sampler<n>(planar, !needs[2], [&](dim3 blocks, const Work& work) {
        simt::launch(sampler_second_kernel<Transform, kMode, I>, blocks, dim3(kThreads), 0, device.stream,
                     data<I>(grad), data<I>(input), other.numel() > 0 ? data<I>(other) : nullptr,
                     turns ? data<T>(directions) : nullptr, transform, needs[0] ? data<I>(of_output) : nullptr, scatter,
                     needs[2] && moves ? data<T>(of_grid) : nullptr, strides_of(grad, n), strides_of(input, n), work);
      });
    });
    if (fixed) {
      of_input = torch::stable::new_empty(input, input.sizes());
      sum->store(of_input);
    }
  }
  const auto narrowed = [](const Tensor& t, ScalarType dtype) {
    return t.scalar_type() == dtype ? t : torch::stable::to(t, dtype);
  };
  return {of_output, narrowed(of_input, scalar_type<I>), narrowed(of_grid, call.params.scalar_type())};
}

}  // namespace stn
