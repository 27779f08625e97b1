// Bilinear sampling of planar images with dense rows: lanes over points, channels inside.
#pragma once
#include "taps.h"

namespace stn::STN_LEVEL {

// The neighbours in memory at N offsets, by one load each.
template <int N, class P, class V>
STN_INLINE void load_pairs(P image, const int64_t* offset, V& first, V& second) {
  if constexpr (sizeof(image[0]) == 2) {
    Vec<uint32_t, N> pair{};
    for (int i = 0; i < N; ++i) __builtin_memcpy((char*)&pair + 4 * i, image.data + offset[i], 4);
    widen_pairs<N>(image.is_bfloat16, pair, first, second);
  } else if constexpr (sizeof(image[0]) == 8) {
    Vec<double, 2> pair[N];
    for (int i = 0; i < N; ++i) pair[i] = load<Vec<double, 2>>(image + offset[i]);
    first = second = V{};
    for (int i = 0; i < N; ++i) first[i] = pair[i][0], second[i] = pair[i][1];
  } else {
    // Lanes i and i + 2 of each half are loaded together, so that one in-lane shuffle separates firsts from seconds.
    auto from = image;
    asm("" : "+r"(from));  // one pointer that offsets are added to, not an address a pair
    const auto pair = [&](int i) STN_LAMBDA {
      double word;
      __builtin_memcpy(&word, from + offset[i], 8);
      return word;
    };
    if constexpr (N == 4) {
      const auto a = (Vec<float, 4>)Vec<double, 2>{pair(0), pair(1)},
                 b = (Vec<float, 4>)Vec<double, 2>{pair(2), pair(3)};
      first = __builtin_shufflevector(a, b, 0, 2, 4, 6), second = __builtin_shufflevector(a, b, 1, 3, 5, 7);
    } else {
      const auto a = (Vec<float, 8>)Vec<double, 4>{pair(0), pair(1), pair(4), pair(5)};
      const auto b = (Vec<float, 8>)Vec<double, 4>{pair(2), pair(3), pair(6), pair(7)};
      first = __builtin_shufflevector(a, b, 0, 2, 8, 10, 4, 6, 12, 14);
      second = __builtin_shufflevector(a, b, 1, 3, 9, 11, 5, 7, 13, 15);
    }
  }
}

// The values of the four taps of N points in one plane.
template <class T, int N, bool kInterior>
STN_INLINE void read_taps(Elements<const T> plane, const Taps<Compute<T>, N, kInterior>& t, Vec<Compute<T>, N>& a,
                          Vec<Compute<T>, N>& b, Vec<Compute<T>, N>& c, Vec<Compute<T>, N>& d) {
  load_pairs<N>(plane, t.offset, a, b);
  load_pairs<N>(plane + t.below, t.offset, c, d);
  t.clear_outside(a, b, c, d);
}

// The i-th vector of a run; the last one is moved back over its neighbour where that keeps it whole.
template <int N>
STN_INLINE int64_t whole_vector(int64_t i, int64_t count) {
  return count - i < N && count >= N ? count - N : i;
}

// Samples a run of points for some channels.
template <class T>
STN_INLINE void planar_forward(const Run<Compute<T>>& run, const Problem& p, Elements<const T> image,
                               Elements<T> output, int64_t channels) {
  constexpr int N = kLanes<Compute<T>>;
  using V = Vec<Compute<T>, N>;
  const Plane plane{p.height, p.width, p.input.row, p.input.column, 0};
  const bool small = plane.small();
  const int64_t in_plane = p.input.channel, out_plane = p.output.channel;
  for (int64_t first = 0; first < run.count; first += N) {
    const int64_t i = whole_vector<N>(first, run.count), count = run.count - i;
    Elements<T> out = output + i;
    const auto put = [&](V v) STN_LAMBDA { count >= N ? store_as<N>(out, v) : store_part<N>(out, v, count); };
    const bool some = with_plane_taps<N>(run, i, plane, small, [&](const auto& t) STN_LAMBDA {
      const V wa = t.first_x * t.first_y, wb = t.second_x * t.first_y, wc = t.first_x * t.second_y,
              wd = t.second_x * t.second_y;
      Elements<const T> in = image;
      for (int64_t k = 0; k < channels; ++k, in += in_plane, out += out_plane) {
        V a, b, c, d;
        read_taps<T>(in, t, a, b, c, d);
        put(wa * a + wb * b + (wc * c + wd * d));
      }
    });
    if (some) continue;
    for (int64_t k = 0; k < channels; ++k, out += p.output.channel) put(V{});
  }
}

// dL/d(pixel coordinate before padding) of each point of a run, summed over channels.
template <class T>
STN_INLINE void planar_grad_points(const Run<Compute<T>>& run, const Problem& p, Elements<const T> image,
                                   Elements<const T> grad_output, int64_t channels, Compute<T>* grad_x,
                                   Compute<T>* grad_y) {
  constexpr int N = kLanes<Compute<T>>;
  using V = Vec<Compute<T>, N>;
  const Plane plane{p.height, p.width, p.input.row, p.input.column, 0};
  const bool small = plane.small();
  for (int64_t first = 0; first < run.count; first += N) {
    const int64_t i = whole_vector<N>(first, run.count), count = run.count - i;
    V gx{}, gy{};
    with_plane_taps<N>(run, i, plane, small, [&](const auto& t) STN_LAMBDA {
      V sum_a{}, sum_b{}, sum_c{}, sum_d{};  // over channels, of the output's gradient times each tap
      auto in = image, grad = grad_output + i;
      for (int64_t k = 0; k < channels; ++k, in += p.input.channel, grad += p.grad_output.channel) {
        const V g = count >= N ? load_as<N>(grad) : load_part<N>(grad, count);
        V a, b, c, d;
        read_taps<T>(in, t, a, b, c, d);
        sum_a += g * a, sum_b += g * b, sum_c += g * c, sum_d += g * d;
      }
      gx = t.first_y * (t.first_slope_x * sum_a + t.second_slope_x * sum_b) +
           t.second_y * (t.first_slope_x * sum_c + t.second_slope_x * sum_d);
      gy = t.first_x * (t.first_slope_y * sum_a + t.second_slope_y * sum_c) +
           t.second_x * (t.first_slope_y * sum_b + t.second_slope_y * sum_d);
    });
    store(grad_x + i, gx), store(grad_y + i, gy);
  }
}

// Adds a run's gradients to rows [first_row, first_row + rows) of dense planes.
STN_INLINE void planar_scatter(const Run<float>& run, const float* grad_output, int64_t grad_plane, int64_t channels,
                               float* planes, int64_t plane_stride, int64_t width, int64_t first_row, int64_t rows) {
  constexpr int N = kLanes<float>;
  using V = Vec<float, N>;
  const Plane plane{rows, width, width, 1, first_row};
  const bool small = plane.small();
  for (int64_t i = 0; i < run.count; i += N) {
    const int64_t count = minimum<int64_t>(N, run.count - i);
    with_plane_taps<N>(run, i, plane, small, [&](const auto& t) STN_LAMBDA {
      const V wa = t.first_x * t.first_y, wb = t.second_x * t.first_y, wc = t.first_x * t.second_y,
              wd = t.second_x * t.second_y;
      const float* grad = grad_output + i;
      float* target = planes - first_row * width;
      for (int64_t k = 0; k < channels; ++k, grad += grad_plane, target += plane_stride) {
        const V g = count == N ? load_as<N>(grad) : load_part<N>(grad, count);
        V a = wa * g, b = wb * g, c = wc * g, d = wd * g;
        t.clear_outside(a, b, c, d);
        for (int64_t l = 0; l < count; ++l) {
          float *top = target + t.offset[l], *bottom = top + t.below;
          top[0] += a[l], bottom[0] += c[l];
          // Keeps the compiler from adding neighbours as one pair: the next point's overlapping pair would stall on it.
          asm volatile("" ::: "memory");
          top[t.right] += b[l], bottom[t.right] += d[l];
        }
      }
    });
  }
}

}  // namespace stn::STN_LEVEL
