// The second backward of sampling at a grid: what the cotangents u of the image's gradient and q of the grid's give to
// the output's gradient, the image and the grid. Nearest and bilinear modes; planar images of one layout.
#pragma once
#include "interleave.h"
#include "tap_passes.h"

namespace stn::STN_LEVEL {

// `count` directions of float32 from their normalized coordinates, which alternate.
STN_INLINE void separate_directions(const Item& item, const float* from, int count, TapList<float>::V (&q)[3]) {
  constexpr int N = TapList<float>::N;
  float part[3 * N] = {};
  if (count < N)
    from = static_cast<float*>(__builtin_memcpy(part, from, size_t(count * item.p.dimensions) * sizeof(float)));
  with_dimensions(item.p.dimensions, [&](auto n) STN_LAMBDA {
    TapList<float>::V apart[n];
    deinterleave<n, N>(from, apart);
    for (int a = 0; a < n; ++a) q[a] = float(item.axis[a].scale) * apart[a];
  });
}

// q of N points in source pixels, by axis; 0 if there is none.
template <class A>
STN_INLINE void load_directions(const Row& row, int64_t u, int count, typename TapList<A>::V (&q)[3]) {
  const Item& item = row.item;
  const Problem& p = item.p;
  const int n = p.dimensions;
  const int64_t first = (item.item * p.item_points() + row.row * p.out_width + u) * n;
  for (int a = 0; a < 3; ++a) q[a] = typename TapList<A>::V{};
  if (!p.grad_grad_grid) return;
  if constexpr (sizeof(A) == sizeof(float)) {
    if (!p.double_parameters)
      return separate_directions(item, static_cast<const float*>(p.grad_grad_grid) + first, count, q);
  }
  for (int a = 0; a < n; ++a) {
    const A scale = A(item.axis[a].scale);
    for (int i = 0; i < count; ++i) {
      const int64_t at = first + i * n + a;
      q[a][i] = scale * A(p.double_parameters ? static_cast<const double*>(p.grad_grad_grid)[at]
                                              : double(static_cast<const float*>(p.grad_grad_grid)[at]));
    }
  }
}

// Calls f(tap, weights and slopes along x, y and z) for every tap.
template <class A, class F>
STN_INLINE void over_factors(const TapList<A>& list, int n, F f) {
  using V = typename TapList<A>::V;
  const V one = splat<V>(A(1)), none{};
  int t = 0;
  for (int c = 0; c < (n > 2 ? list.row : 1); ++c) {
    for (int b = 0; b < (n > 1 ? list.row : 1); ++b) {
      for (int a = 0; a < list.row; ++a, ++t) {
        const V weight[3] = {list.axis_weight[0][a], n > 1 ? list.axis_weight[1][b] : one,
                             n > 2 ? list.axis_weight[2][c] : one};
        const V slope[3] = {list.axis_slope[0][a], n > 1 ? list.axis_slope[1][b] : none,
                            n > 2 ? list.axis_slope[2][c] : none};
        f(t, weight, slope);
      }
    }
  }
}

// The derivative of every tap's weight along q.
template <class A>
STN_INLINE void directional_weights(const TapList<A>& list, int n, const typename TapList<A>::V (&q)[3],
                                    typename TapList<A>::V* result) {
  over_factors<A>(list, n, [&](int t, const auto& w, const auto& s) STN_LAMBDA {
    result[t] = q[0] * s[0] * w[1] * w[2] + q[1] * w[0] * s[1] * w[2] + q[2] * w[0] * w[1] * s[2];
  });
}

template <class A>
void taps_second_output(const Problem& p, int64_t begin, int64_t end) {
  using V = typename TapList<A>::V;
  const Region region(p, p.input);
  const auto kernels = TapKernels<A>::of(p.dtype);
  over_points<Sampler<A>>(
      p, begin, end, region, true, Nothing{},
      [&](const Row& row, const TapList<A>& list, int64_t u, int, int count, int64_t channel, int64_t channels)
          STN_LAMBDA {
            V q[3], along[TapList<A>::kMost], sums[kPlanes] = {};
            load_directions<A>(row, u, count, q);
            directional_weights<A>(list, p.dimensions, q, along);
            const int64_t at = row.item.image * p.input.batch + channel * p.input.channel;
            if (p.grad_grad_grid) kernels.add_values(p, list, region, p.input.data, at, along, channels, sums);
            if (p.grad_grad_input)
              kernels.add_values(p, list, region, p.grad_grad_input, at, list.weight, channels, sums);
            kernels.store_values(p, row.at(p.output, u) + channel * p.output.channel, channels, count, sums);
          });
}

template <class A>
void taps_second_input(const Problem& p, int64_t begin, int64_t end) {
  const auto kernels = TapKernels<A>::of(p.dtype);
  typename TapList<A>::V along[TapList<A>::kMost];
  scatter_tasks<A, Sampler<A>>(p, begin, end, true, kernels,
                               [&](const Row& row, const TapList<A>& list, int64_t u, int from, int to, int64_t grad_at,
                                   const Target<A>& target) STN_LAMBDA {
                                 typename TapList<A>::V q[3];
                                 load_directions<A>(row, u, to, q);
                                 directional_weights<A>(list, p.dimensions, q, along);
                                 kernels.scatter(p, list, along, grad_at, target, from, to);
                               });
}

template <class A>
void taps_second_grid(const Problem& p, int64_t begin, int64_t end) {
  using V = typename TapList<A>::V;
  const Region region(p, p.input);
  const auto kernels = TapKernels<A>::of(p.dtype);
  over_points<Sampler<A>>(
      p, begin, end, region, true, Nothing{},
      [&](const Row& row, const TapList<A>& list, int64_t u, int from, int to, int64_t channel, int64_t channels)
          STN_LAMBDA {
            V gradient[3] = {}, dots[TapList<A>::kMost], q[3];
            const int64_t at = row.item.image * p.input.batch + channel * p.input.channel;
            const int64_t grad_at = row.at(p.grad_output, u) + channel * p.grad_output.channel;
            if (p.grad_grad_input) {
              kernels.set_dots(p, list, region, p.grad_grad_input, at, grad_at, to, channels, dots);
              contract<A>(list, p.dimensions, dots, gradient);
            }
            if (p.grad_grad_grid && p.dimensions > 1) {  // along one axis a linear weight has no curvature
              kernels.set_dots(p, list, region, p.input.data, at, grad_at, to, channels, dots);
              load_directions<A>(row, u, to, q);
              over_factors<A>(list, p.dimensions, [&](int t, const auto& w, const auto& s) STN_LAMBDA {
                const V xy = dots[t] * s[0] * s[1] * w[2], xz = dots[t] * s[0] * w[1] * s[2],
                        yz = dots[t] * w[0] * s[1] * s[2];
                gradient[0] += q[1] * xy + q[2] * xz;
                gradient[1] += q[0] * xy + q[2] * yz;
                gradient[2] += q[0] * xz + q[1] * yz;
              });
            }
            p.double_parameters ? store_grid_gradient<double, A>(nullptr, row, u, from, to, channel == 0, gradient)
                                : store_grid_gradient<float, A>(nullptr, row, u, from, to, channel == 0, gradient);
          });
}

}  // namespace stn::STN_LEVEL
