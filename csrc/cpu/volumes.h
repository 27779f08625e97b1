// Trilinear sampling of float32 volumes whose pixels along x are adjacent, at points that lie anywhere: a point's eight
// taps are four pairs of neighbours, which are loaded and summed as pairs and taken apart once.
#pragma once
#include "tap_passes.h"

namespace stn::STN_LEVEL {

// Whether a call is sampled so.
STN_INLINE bool in_volumes(const Problem& p) {
  return p.dimensions == 3 && p.mode == Mode::bilinear && p.dtype == DType::float32 && p.input.column == 1 &&
         p.width > 1 && lanes_are_points(p) && Region(p, p.input).small;
}

// Whether gradients are: of few channels too little is shared.
STN_INLINE bool has_volume_gradients(const Problem& p) { return in_volumes(p) && p.channels * kVectorBytes >= 256; }

// The taps of N points. Those outside are moved in, where they weigh nothing and are not read as numbers.
struct VolumeTaps {
  static constexpr int N = kLanes<float>, kHalf = N / 2, kRows = 4;
  using V = Vec<float, N>;
  using I = Vec<int32_t, N>;
  template <class T>
  using Halves = T[2];  // of the first and the last points: a number for each of a pair
  static constexpr auto kLane = std::make_index_sequence<N>{};

  bool interior, outside;
  V weight[3][2], slope[3][2];  // by axis, of the lower and the upper tap
  Halves<V> row_weight[kRows];
  I x_inside[2];
  Halves<I> row_inside[kRows];
  alignas(64) int64_t offset[N];
  int64_t step[kRows];

  template <class X>
  static STN_INLINE void twice(X x, Halves<X>& to) {
    to[0] = alternating<0>(x, x, kLane), to[1] = alternating<1>(x, x, kLane);
  }
  STN_INLINE void build(const Problem& p, const Points<float>& points, int64_t i, const Region& region, bool slopes) {
    I at[3], inside[3][2], within = ~I{};
    for (int a = 0; a < 3; ++a) {
      at[a] = load<I>(points.index[a] + i);
      within &= (I)((Vec<uint32_t, N>)at[a] < uint32_t(p.extent(a) - 1));
    }
    interior = all(within), outside = false;
    for (int a = 0; a < 3; ++a) {
      const V fraction = load<V>(points.fraction[a] + i);
      const V along = slopes ? load<V>(points.slope[a] + i) : V{};
      if (interior) {
        weight[a][0] = 1 - fraction, weight[a][1] = fraction, slope[a][0] = -along, slope[a][1] = along;
        continue;
      }
      const AxisTaps<float, N> pair(at[a], fraction, along, p.extent(a));
      at[a] = pair.base;
      weight[a][0] = pair.first, weight[a][1] = pair.second;
      slope[a][0] = pair.first_slope, slope[a][1] = pair.second_slope;
      inside[a][0] = pair.first_inside, inside[a][1] = pair.second_inside;
    }
    I first = at[0];
    for (int a = 1; a < 3; ++a) first += at[a] * int32_t(region.stride[a]);
    store(offset, __builtin_convertvector(first, Vec<int64_t, N>));
    asm volatile("" : "+m"(offset));  // reloading beats extracting lane by lane
    I some{};
    for (int r = 0; r < kRows; ++r) {
      const int y = r % 2, z = r / 2;
      step[r] = (p.height > 1 ? y * region.stride[1] : 0) + (p.depth > 1 ? z * region.stride[2] : 0);
      twice(weight[1][y] * weight[2][z], row_weight[r]);
      if (interior) continue;
      const I row = inside[1][y] & inside[2][z];
      twice(row, row_inside[r]), some |= row;
    }
    if (interior) return;
    for (int k = 0; k < 2; ++k) x_inside[k] = inside[0][k];
    outside = all((some & (x_inside[0] | x_inside[1])) == I{});
  }

  // Calls body(r, h, pairs) for the rows of a plane's pairs.
  template <bool kInterior, class Body>
  STN_INLINE void over_pairs(const float* plane, Body body) const {
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const float* row = plane + step[r];
      asm("" : "+r"(row));  // one pointer that offsets are added to, not an address a pair
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        Vec<double, kHalf> pairs;  // as doubles these are inserted by one instruction
#pragma GCC unroll 8
        for (int i = 0; i < kHalf; ++i) __builtin_memcpy((char*)&pairs + 8 * i, row + offset[h * kHalf + i], 8);
        body(r, h, kInterior ? (V)pairs : masked((V)pairs, row_inside[r][h]));
      }
    }
  }
  // Sums of pairs -> of their lower and upper numbers.
  template <bool kInterior>
  STN_INLINE void apart(const Halves<V>& pairs, V (&to)[2]) const {
    separate(pairs, to);
    if (!kInterior) to[0] = masked(to[0], x_inside[0]), to[1] = masked(to[1], x_inside[1]);
  }
  template <bool kInterior>
  STN_INLINE V value(const float* plane) const {
    Halves<V> sum = {};
    over_pairs<kInterior>(plane, [&](int r, int h, V pairs) STN_LAMBDA { sum[h] += row_weight[r][h] * pairs; });
    V ends[2];
    apart<kInterior>(sum, ends);
    return weight[0][0] * ends[0] + weight[0][1] * ends[1];
  }
  // Adds dL/d(source pixel) from the output's gradient in some channels: grad(c) of channel c.
  template <bool kInterior, class Grad>
  STN_INLINE void gradient(const float* planes, int64_t plane, int64_t channels, Grad grad,
                           PixelGradient<float>& to) const {
    Halves<V> dots[kRows] = {};
    for (int64_t c = 0; c < channels; ++c, planes += plane) {
      Halves<V> g;
      twice(grad(c), g);
      over_pairs<kInterior>(planes, [&](int r, int h, V pairs) STN_LAMBDA { dots[r][h] += g[h] * pairs; });
    }
    for (int r = 0; r < kRows; ++r) {
      const int y = r % 2, z = r / 2;
      V ends[2];
      apart<kInterior>(dots[r], ends);
      const V line = weight[0][0] * ends[0] + weight[0][1] * ends[1];
      to[0] += weight[1][y] * weight[2][z] * (slope[0][0] * ends[0] + slope[0][1] * ends[1]);
      to[1] += slope[1][y] * weight[2][z] * line, to[2] += weight[1][y] * slope[2][z] * line;
    }
  }
};

inline void volumes_forward(const Problem& p, int64_t begin, int64_t end) {
  using V = VolumeTaps::V;
  over_points<Sampler<float, VolumeTaps>>(
      p, begin, end, Region(p, p.input), false, Nothing{},
      [&](const Row& row, const VolumeTaps& taps, int64_t u, int, int count, int64_t channel, int64_t channels)
          STN_LAMBDA {
            const float* image = row.item.input<float>() + channel * p.input.channel;
            float* out = static_cast<float*>(p.output.data) + row.at(p.output, u) + channel * p.output.channel;
            const auto store_all = [&](auto value) STN_LAMBDA {
              for (int64_t c = 0; c < channels; ++c)
                store_points_of<VolumeTaps::N>(out + c * p.output.channel, p.output.column, value(c), count);
            };
            const auto plane = [&](int64_t c) STN_LAMBDA { return image + c * p.input.channel; };
            if (taps.outside) {
              store_all([](int64_t) STN_LAMBDA { return V{}; });
            } else if (taps.interior) {
              store_all([&](int64_t c) STN_LAMBDA { return taps.value<true>(plane(c)); });
            } else {
              store_all([&](int64_t c) STN_LAMBDA { return taps.value<false>(plane(c)); });
            }
          });
}

inline void volumes_gradients(const Problem& p, int64_t begin, int64_t end, const TakeGradients<float>& to) {
  over_gradients<float, Sampler<float, VolumeTaps>>(
      p, begin, end, Region(p, p.input), to,
      [&](const Row& row, const VolumeTaps& taps, int64_t u, int count, int64_t channel, int64_t channels,
          PixelGradient<float>& gradient) STN_LAMBDA {
        const float* image = row.item.input<float>() + channel * p.input.channel;
        const float* grads =
            static_cast<const float*>(p.grad_output.data) + row.at(p.grad_output, u) + channel * p.grad_output.channel;
        const auto grad = [&](int64_t c) STN_LAMBDA {
          return load_points_of<VolumeTaps::N>(grads + c * p.grad_output.channel, p.grad_output.column, count);
        };
        if (taps.interior) {
          taps.gradient<true>(image, p.input.channel, channels, grad, gradient);
        } else {
          taps.gradient<false>(image, p.input.channel, channels, grad, gradient);
        }
      });
}

}  // namespace stn::STN_LEVEL
