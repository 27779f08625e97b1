// Bilinear sampling of channels_last images: taps of a vector of points at once, then lanes over channels.
#pragma once
#include "channels.h"
#include "taps.h"

namespace stn::STN_LEVEL {

template <int k>
using Tap = std::integral_constant<int, k>;

// The taps of each of N points: top left, top right, bottom left, bottom right.
template <class A, int N, bool kInterior>
struct PixelTaps {
  const Taps<A, N, kInterior>& taps;
  A weight[4][N];
  IndexOf<A> inside[4][N];
  int64_t step[4];

  STN_INLINE explicit PixelTaps(const Taps<A, N, kInterior>& t)
      : taps(t), step{0, t.right, t.below, t.right + t.below} {
    store(weight[0], t.first_x * t.first_y), store(weight[1], t.second_x * t.first_y);
    store(weight[2], t.first_x * t.second_y), store(weight[3], t.second_x * t.second_y);
    if constexpr (!kInterior) {
      store(inside[0], t.inside_a), store(inside[1], t.inside_b);
      store(inside[2], t.inside_c), store(inside[3], t.inside_d);
    }
  }
  // Calls f(tap, offset, weight) for the taps of point l that are inside.
  template <class F>
  STN_INLINE void each(int64_t l, F f) const {
    const auto tap = [&](auto k) STN_LAMBDA {
      if (kInterior || inside[k][l]) f(k, taps.offset[l] + step[k], weight[k][l]);
    };
    tap(Tap<0>{}), tap(Tap<1>{}), tap(Tap<2>{}), tap(Tap<3>{});
  }
};

// Channels of tap k, of which an interior point has a neighbour in memory.
template <bool kInterior, class Lanes, int k, class Pixel>
STN_INLINE typename Lanes::V load_tap(Lanes lanes, Tap<k>, Pixel p, int64_t channels) {
  if (kInterior && channels > 1) return lanes.template load_beside<k % 2 == 0>(p);
  return lanes.load(p);
}

template <class T>
STN_INLINE void channels_last_forward(const Run<Compute<T>>& run, const Problem& p, Elements<const T> image,
                                      Elements<T> output) {
  using A = Compute<T>;
  constexpr int N = kLanes<A>;
  const Plane plane{p.height, p.width, p.input.row, p.input.column, 0};
  const bool small = plane.small();
  for (int64_t i = 0; i < run.count; i += N) {
    const int64_t count = minimum<int64_t>(N, run.count - i);
    Elements<T> out = output + i * p.output.column;
    const bool some =
        with_plane_taps<N>(run, i, plane, small, [&]<bool kInterior>(const Taps<A, N, kInterior>& t) STN_LAMBDA {
          const PixelTaps<A, N, kInterior> points(t);
          for (int64_t l = 0; l < count; ++l, out += p.output.column) {
            over_channels<T>(p.channels, [&](int64_t c, auto lanes) STN_LAMBDA {
              typename decltype(lanes)::V value{};
              points.each(l, [&](auto tap, int64_t offset, A weight) STN_LAMBDA {
                value += weight * load_tap<kInterior>(lanes, tap, image + offset + c, p.channels);
              });
              lanes.store(out + c, value);
            });
          }
        });
    if (some) continue;
    for (int64_t l = 0; l < count; ++l, out += p.output.column)
      __builtin_memset(address(out), 0, size_t(p.channels) * sizeof(T));
  }
}

template <class T>
STN_INLINE void channels_last_grad_points(const Run<Compute<T>>& run, const Problem& p, Elements<const T> image,
                                          Elements<const T> grad_output, Compute<T>* grad_x, Compute<T>* grad_y) {
  using A = Compute<T>;
  constexpr int N = kLanes<A>;
  using V = Vec<A, N>;
  const Plane plane{p.height, p.width, p.input.row, p.input.column, 0};
  const bool small = plane.small();
  for (int64_t i = 0; i < run.count; i += N) {
    const int64_t count = minimum<int64_t>(N, run.count - i);
    V gx{}, gy{};
    with_plane_taps<N>(run, i, plane, small, [&]<bool kInterior>(const Taps<A, N, kInterior>& t) STN_LAMBDA {
      const PixelTaps<A, N, kInterior> points(t);
      Elements<const T> grad = grad_output + i * p.grad_output.column;
      for (int64_t l = 0; l < count; ++l, grad += p.grad_output.column) {
        ChannelSum<T> sum[4];  // of the output's gradient times each tap
        over_channels<T>(p.channels, [&](int64_t c, auto lanes) STN_LAMBDA {
          const auto g = lanes.load(grad + c);
          points.each(l, [&](auto tap, int64_t offset, A) STN_LAMBDA {
            sum[tap].add(g * load_tap<kInterior>(lanes, tap, image + offset + c, p.channels));
          });
        });
        const auto a = sum[0].folded(), b = sum[1].folded(), c = sum[2].folded(), d = sum[3].folded();
        gx[l] = sum_of_lanes(t.first_y[l] * (t.first_slope_x[l] * a + t.second_slope_x[l] * b) +
                             t.second_y[l] * (t.first_slope_x[l] * c + t.second_slope_x[l] * d));
        gy[l] = sum_of_lanes(t.first_x[l] * (t.first_slope_y[l] * a + t.second_slope_y[l] * c) +
                             t.second_x[l] * (t.first_slope_y[l] * b + t.second_slope_y[l] * d));
      }
    });
    store(grad_x + i, gx), store(grad_y + i, gy);
  }
}

// Adds a run's gradients, of which one point's channels follow another's after `column` elements, to rows [first_row,
// first_row + rows) of pixels of `channels`, `row` elements apart.
STN_INLINE void channels_last_scatter(const Run<float>& run, const float* grad_output, int64_t column, float* pixels,
                                      int64_t channels, int64_t width, int64_t row, int64_t first_row, int64_t rows) {
  constexpr int N = kLanes<float>;
  const Plane plane{rows, width, row, channels, first_row};
  const bool small = plane.small();
  float* target = pixels - first_row * row;
  for (int64_t i = 0; i < run.count; i += N) {
    const int64_t count = minimum<int64_t>(N, run.count - i);
    with_plane_taps<N>(run, i, plane, small, [&]<bool kInterior>(const Taps<float, N, kInterior>& t) STN_LAMBDA {
      const PixelTaps<float, N, kInterior> points(t);
      const float* grad = grad_output + i * column;
      for (int64_t l = 0; l < count; ++l, grad += column) {
        over_channels<float>(channels, [&](int64_t c, auto lanes) STN_LAMBDA {
          const auto g = lanes.load(grad + c);
          points.each(l, [&](auto, int64_t offset, float weight) STN_LAMBDA {
            float* pixel = target + offset + c;
            lanes.store(pixel, lanes.load(pixel) + weight * g);
          });
        });
      }
    });
  }
}

}  // namespace stn::STN_LEVEL
