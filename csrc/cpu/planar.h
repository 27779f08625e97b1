// Bilinear sampling of planar images (any strides): lanes over points, channels inside.
#pragma once
#include "taps.h"

namespace stn::STN_LEVEL {

constexpr int64_t kChannelBlock = 8;  // channels that share the taps of a point before the next rows are read

// The pixels (base, base + 1) of N points: as one load each where they are neighbours in memory.
template <class T, bool kAdjacent, int N>
STN_INLINE void load_pairs(const T* image, const int64_t* offset, int64_t step, Vec<Compute<T>, N>& first,
                           Vec<Compute<T>, N>& second) {
  if constexpr (!kAdjacent) {
    T a[N], b[N];
    for (int i = 0; i < N; ++i) a[i] = image[offset[i]], b[i] = image[offset[i] + step];
    first = load_as<N>(a), second = load_as<N>(b);
  } else if constexpr (sizeof(T) == 2) {
    Vec<uint32_t, N> pair;
    for (int i = 0; i < N; ++i) __builtin_memcpy((char*)&pair + 4 * i, image + offset[i], 4);
    first = widen<N>(T{}, pair & 0xffffu), second = widen<N>(T{}, pair >> 16);
  } else if constexpr (sizeof(T) == 8) {
    Vec<double, 2> pair[N];
    for (int i = 0; i < N; ++i) pair[i] = load<Vec<double, 2>>(image + offset[i]);
    for (int i = 0; i < N; ++i) first[i] = pair[i][0], second[i] = pair[i][1];
  } else {
    // Lanes i and i + 2 of each half are loaded together, so that one in-lane shuffle separates firsts from seconds.
    const auto pair = [&](int i) STN_LAMBDA {
      double word;
      __builtin_memcpy(&word, image + offset[i], 8);
      return word;
    };
    const auto two = [&](int i) STN_LAMBDA { return Vec<double, 2>{pair(i), pair(i + 1)}; };
    if constexpr (N == 4) {
      const auto a = (Vec<float, 4>)two(0), b = (Vec<float, 4>)two(2);
      first = __builtin_shufflevector(a, b, 0, 2, 4, 6), second = __builtin_shufflevector(a, b, 1, 3, 5, 7);
    } else {
      const auto a = (Vec<float, 8>)__builtin_shufflevector(two(0), two(4), 0, 1, 2, 3);
      const auto b = (Vec<float, 8>)__builtin_shufflevector(two(2), two(6), 0, 1, 2, 3);
      first = __builtin_shufflevector(a, b, 0, 2, 8, 10, 4, 6, 12, 14);
      second = __builtin_shufflevector(a, b, 1, 3, 9, 11, 5, 7, 13, 15);
    }
  }
}

// The taps of one vector of points in a plane.
template <class T, int N>
struct PlaneTaps {
  using V = Vec<Compute<T>, N>;
  AxisTaps<Compute<T>, N> x, y;
  int64_t top[N], bottom[N], step;

  STN_INLINE PlaneTaps(const Run<Compute<T>>& run, int64_t i, int64_t height, int64_t width, int64_t row,
                       int64_t column, int64_t first_row = 0)
      : x(axis_taps<N>(run.x_index + i, run.x_fraction + i, run.x_slope + i, width)), step(width > 1 ? column : 0) {
    IndexOf<Compute<T>> y_index[N];
    for (int k = 0; k < N; ++k) y_index[k] = run.y_index[i + k] - IndexOf<Compute<T>>(first_row);
    y = axis_taps<N>(y_index, run.y_fraction + i, run.y_slope + i, height);
    const int64_t below = height > 1 ? row : 0;
    for (int k = 0; k < N; ++k) {
      top[k] = (int64_t(y.base[k]) + first_row) * row + int64_t(x.base[k]) * column;
      bottom[k] = top[k] + below;
    }
  }
  STN_INLINE bool outside() const { return x.outside || y.outside; }
  STN_INLINE bool interior() const { return x.interior && y.interior; }
};

template <class T, int N, bool kAdjacent, bool kInterior>
struct PlaneValues {
  using V = Vec<Compute<T>, N>;
  V a, b, c, d;  // top pair, bottom pair
  STN_INLINE PlaneValues(const T* plane, const PlaneTaps<T, N>& t) {
    load_pairs<T, kAdjacent, N>(plane, t.top, t.step, a, b);
    load_pairs<T, kAdjacent, N>(plane, t.bottom, t.step, c, d);
    if constexpr (!kInterior) {
      a = masked(a, t.x.first_inside & t.y.first_inside), b = masked(b, t.x.second_inside & t.y.first_inside);
      c = masked(c, t.x.first_inside & t.y.second_inside), d = masked(d, t.x.second_inside & t.y.second_inside);
    }
  }
};

template <class F>
STN_INLINE void with_bool(bool value, F f) {
  if (value) {
    f(std::true_type{});
  } else {
    f(std::false_type{});
  }
}

// One run of output points, channels [0, channels): output += nothing, it is written.
template <class T, bool kAdjacent>
STN_INLINE void planar_forward(const Run<Compute<T>>& run, const Problem& p, const T* image, T* output,
                               int64_t channels) {
  constexpr int N = kLanes<Compute<T>>;
  using V = Vec<Compute<T>, N>;
  for (int64_t i = 0; i < run.count; i += N) {
    const PlaneTaps<T, N> t(run, i, p.height, p.width, p.input.row, p.input.column);
    const int64_t count = run.count - i;
    T* out = output + i;
    const auto put = [&](V v) STN_LAMBDA { count >= N ? store_as<N>(out, v) : store_part<N>(out, v, count); };
    if (t.outside()) {
      for (int64_t c = 0; c < channels; ++c, out += p.output.channel) put(V{});
      continue;
    }
    const V wa = t.x.first * t.y.first, wb = t.x.second * t.y.first, wc = t.x.first * t.y.second,
            wd = t.x.second * t.y.second;
    const auto channel_loop = [&](auto interior) STN_LAMBDA {
      const T* plane = image;
      for (int64_t c = 0; c < channels; ++c, plane += p.input.channel, out += p.output.channel) {
        const PlaneValues<T, N, kAdjacent, interior> v(plane, t);
        put(wa * v.a + wb * v.b + (wc * v.c + wd * v.d));
      }
    };
    with_bool(t.interior(), channel_loop);
  }
}

// dL/d(pixel coordinate before padding) of each point of a run, summed over channels [0, channels).
template <class T, bool kAdjacent>
STN_INLINE void planar_grad_points(const Run<Compute<T>>& run, const Problem& p, const T* image, const T* grad_output,
                                   int64_t channels, Compute<T>* grad_x, Compute<T>* grad_y) {
  constexpr int N = kLanes<Compute<T>>;
  using V = Vec<Compute<T>, N>;
  for (int64_t i = 0; i < run.count; i += N) {
    const PlaneTaps<T, N> t(run, i, p.height, p.width, p.input.row, p.input.column);
    V a{}, b{}, c{}, d{};  // sums over channels of the output's gradient times each tap
    if (!t.outside()) {
      const int64_t count = run.count - i;
      const auto channel_loop = [&](auto interior) STN_LAMBDA {
        const T *plane = image, *grad = grad_output + i;
        for (int64_t k = 0; k < channels; ++k, plane += p.input.channel, grad += p.grad_output.channel) {
          const V g = count >= N ? load_as<N>(grad) : load_part<N>(grad, count);
          const PlaneValues<T, N, kAdjacent, interior> v(plane, t);
          a += g * v.a, b += g * v.b, c += g * v.c, d += g * v.d;
        }
      };
      with_bool(t.interior(), channel_loop);
    }
    store(grad_x + i, t.y.first * (t.x.first_slope * a + t.x.second_slope * b) +
                          t.y.second * (t.x.first_slope * c + t.x.second_slope * d));
    store(grad_y + i, t.x.first * (t.y.first_slope * a + t.y.second_slope * c) +
                          t.x.second * (t.y.first_slope * b + t.y.second_slope * d));
  }
}

// Adds a run's gradients to rows [first_row, first_row + rows) of planes in the compute type (row and column strides
// given).
template <class T, bool kAdjacent = true>
STN_INLINE void planar_scatter(const Run<Compute<T>>& run, const Problem& p, const T* grad_output, int64_t channels,
                               Compute<T>* planes, int64_t plane_stride, int64_t first_row, int64_t rows) {
  using A = Compute<T>;
  constexpr int N = kLanes<A>;
  using V = Vec<A, N>;
  for (int64_t i = 0; i < run.count; i += N) {
    const PlaneTaps<T, N> t(run, i, rows, p.width, p.width, 1, first_row);
    if (t.outside()) continue;
    const int64_t count = run.count - i < N ? run.count - i : N;
    const V wa = t.x.first * t.y.first, wb = t.x.second * t.y.first, wc = t.x.first * t.y.second,
            wd = t.x.second * t.y.second;
    const auto channel_loop = [&](auto interior) STN_LAMBDA {
      const T* grad = grad_output + i;
      A* plane = planes - first_row * p.width;
      for (int64_t k = 0; k < channels; ++k, grad += p.grad_output.channel, plane += plane_stride) {
        const V g = count == N ? load_as<N>(grad) : load_part<N>(grad, count);
        V a = wa * g, b = wb * g, c = wc * g, d = wd * g;
        if constexpr (!interior) {
          a = masked(a, t.x.first_inside & t.y.first_inside), b = masked(b, t.x.second_inside & t.y.first_inside);
          c = masked(c, t.x.first_inside & t.y.second_inside), d = masked(d, t.x.second_inside & t.y.second_inside);
        }
        for (int64_t l = 0; l < count; ++l) {
          A *top = plane + t.top[l], *bottom = plane + t.bottom[l];
          top[0] += a[l], top[t.step] += b[l];
          bottom[0] += c[l], bottom[t.step] += d[l];
        }
      }
    };
    with_bool(t.interior(), channel_loop);
  }
}

}  // namespace stn::STN_LEVEL
