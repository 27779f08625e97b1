// What is done with a list of taps: weighted sums of an image, its products with a cotangent, additions to a gradient.
#pragma once
#include "channels_last.h"
#include "planar.h"
#include "tap_list.h"

namespace stn::STN_LEVEL {

// The taps t and t + 1 of N points in one plane; kPairs: they are neighbours in memory and inside.
template <bool kPairs, class T>
STN_INLINE void read_two(const TapList<Compute<T>>& list, const T* plane, int t, typename TapList<Compute<T>>::V& a,
                         typename TapList<Compute<T>>::V& b) {
  constexpr int N = TapList<Compute<T>>::N;
  using V = typename TapList<Compute<T>>::V;
  if constexpr (kPairs) {
    load_pairs<T, true, N>(plane + list.step[t], list.offset, 1, a, b);
  } else {
    const auto one = [&](int k) STN_LAMBDA {
      T lanes[N];
      if (list.interior) {
        for (int i = 0; i < N; ++i) lanes[i] = plane[list.offset[i] + list.step[k]];
        return load_as<N>(lanes);
      }
      for (int i = 0; i < N; ++i) lanes[i] = plane[list.offsets[k][i]];
      return masked(load_as<N>(lanes), list.inside[k]);
    };
    a = one(t);
    b = t + 1 < list.taps ? one(t + 1) : V{};
  }
}

// Whether the taps of a row can be read two by two.
template <class T>
STN_INLINE bool in_pairs(const TapList<Compute<T>>& list, int64_t column) {
  return sizeof(T) < 8 && list.interior && column == 1 && list.row > 1;
}

// sum_t weight[t] image[t] of N points in one plane.
template <bool kPairs, class T>
STN_INLINE typename TapList<Compute<T>>::V weighted_sum(const TapList<Compute<T>>& list, const T* plane,
                                                        const typename TapList<Compute<T>>::V* weight) {
  using V = typename TapList<Compute<T>>::V;
  V first{}, second{};
  for (int t = 0; t < list.taps; t += 2) {
    V a, b;
    read_two<kPairs, T>(list, plane, t, a, b);
    first += weight[t] * a;
    if (kPairs || t + 1 < list.taps) second += weight[t + 1] * b;
  }
  return first + second;
}

// dots[t] += sum_c grad[c] image[c][t] over planes.
template <bool kPairs, class T>
STN_INLINE void add_dots(const TapList<Compute<T>>& list, const T* image, int64_t plane_stride,
                         const typename TapList<Compute<T>>::V* grad, int64_t channels,
                         typename TapList<Compute<T>>::V* dots) {
  using V = typename TapList<Compute<T>>::V;
  for (int t = 0; t < list.taps; t += 2) {
    V first{}, second{};
    for (int64_t c = 0; c < channels; ++c) {
      V a, b;
      read_two<kPairs, T>(list, image + c * plane_stride, t, a, b);
      first += grad[c] * a, second += grad[c] * b;
    }
    dots[t] += first;
    if (t + 1 < list.taps) dots[t + 1] += second;
  }
}

// target[t] += weight[t] grad of the first `count` points, in one plane in the compute type.
template <class A>
STN_INLINE void scatter_plane(const TapList<A>& list, A* plane, typename TapList<A>::V grad,
                              const typename TapList<A>::V* weight, int64_t count) {
  constexpr int N = TapList<A>::N;
  for (int t = 0; t < list.taps; ++t) {
    A lanes[N];
    store(lanes, weight[t] * grad);
    if (list.interior) {
      A* at = plane + list.step[t];
      if (count == N) {
        for (int i = 0; i < N; ++i) at[list.offset[i]] += lanes[i];
      } else {
        for (int64_t i = 0; i < count; ++i) at[list.offset[i]] += lanes[i];
      }
    } else {
      for (int64_t i = 0; i < count; ++i) {
        if (list.inside[t][i]) plane[list.offsets[t][i]] += lanes[i];
      }
    }
  }
}

// The taps of one point of a list that are inside: for lanes over channels.
template <class A>
struct PointTaps {
  int count = 0;
  int64_t offset[TapList<A>::kMost];
  A weight[TapList<A>::kMost];
  int tap[TapList<A>::kMost];

  STN_INLINE PointTaps(const TapList<A>& list, const typename TapList<A>::V* weights, int64_t i) {
    for (int t = 0; t < list.taps; ++t) {
      if (!list.interior && !list.inside[t][i]) continue;
      offset[count] = list.interior ? list.offset[i] + list.step[t] : list.offsets[t][i];
      weight[count] = weights[t][i], tap[count++] = t;
    }
  }
};

// output[c] (+)= sum_t weight[t] image[t][c] for the channels of one point.
template <class T>
STN_INLINE void channels_sum(const PointTaps<Compute<T>>& taps, const T* image, T* output, int64_t channels) {
  over_channels<T>(channels, [&](int64_t c, auto lanes) STN_LAMBDA {
    typename decltype(lanes)::V value{};
    for (int k = 0; k < taps.count; ++k) value += taps.weight[k] * lanes.load(image + taps.offset[k] + c);
    lanes.store(output + c, value);
  });
}

// dots[t] of one point of a list.
template <class T>
STN_INLINE void channels_dots(const PointTaps<Compute<T>>& taps, const T* image, const T* grad, int64_t channels,
                              int64_t i, typename TapList<Compute<T>>::V* dots) {
  for (int k = 0; k < taps.count; ++k) {
    ChannelSum<T> sum;
    over_channels<T>(channels, [&](int64_t c, auto lanes) STN_LAMBDA {
      sum.add(lanes.load(grad + c) * lanes.load(image + taps.offset[k] + c));
    });
    dots[taps.tap[k]][i] += sum_of_lanes(sum.folded());
  }
}

template <class T>
STN_INLINE void channels_scatter(const PointTaps<Compute<T>>& taps, const T* grad, Compute<T>* pixels,
                                 int64_t channels) {
  using A = Compute<T>;
  over_channels<T>(channels, [&](int64_t c, auto lanes) STN_LAMBDA {
    const auto g = lanes.load(grad + c);
    for (int k = 0; k < taps.count; ++k) {
      A* pixel = pixels + taps.offset[k] + c;
      lanes.store(pixel, lanes.load(pixel) + taps.weight[k] * g);
    }
  });
}

// gradient[a] = sum_t dots[t] d weight[t] / d coordinate a, one axis after another.
template <class A>
STN_INLINE void contract(const TapList<A>& list, int n, const typename TapList<A>::V* dots,
                         typename TapList<A>::V (&gradient)[3]) {
  using V = typename TapList<A>::V;
  const int K = list.row;
  V gx{}, gy{}, gz{};
  const V* d = dots;
  for (int c = 0; c < (n > 2 ? K : 1); ++c) {
    V along_x{}, along_y{}, plane{};
    for (int b = 0; b < (n > 1 ? K : 1); ++b) {
      V line{}, slope{};
      for (int a = 0; a < K; ++a, ++d) line += list.axis_weight[0][a] * *d, slope += list.axis_slope[0][a] * *d;
      if (n > 1) {
        along_x += list.axis_weight[1][b] * slope, along_y += list.axis_slope[1][b] * line;
        plane += list.axis_weight[1][b] * line;
      } else {
        along_x = slope;
      }
    }
    if (n > 2) {
      gx += list.axis_weight[2][c] * along_x, gy += list.axis_weight[2][c] * along_y;
      gz += list.axis_slope[2][c] * plane;
    } else {
      gx = along_x, gy = along_y;
    }
  }
  gradient[0] = gx, gradient[1] = gy, gradient[2] = gz;
}

}  // namespace stn::STN_LEVEL
