// Where points that the user gives lie in the image, in float32: as exact as in float64 where products and sums fuse.
#pragma once
#include "common/taps.h"
#include "interleave.h"
#include "kernels.h"

namespace stn::STN_LEVEL {

#if defined(__FMA__)
constexpr bool kFused = true;  // a product and a sum with one rounding
#else
constexpr bool kFused = false;
#endif

// Halves to even.
template <class V>
STN_INLINE V nearest_of(V x) {
  for (size_t i = 0; i < sizeof x / sizeof x[0]; ++i) x[i] = __builtin_nearbyint(x[i]);
  return x;
}

// The coordinates between which points are told apart; beyond, no tap is read or all read the edge.
template <Mode kMode, Padding kPadding>
STN_INLINE Lattice<float> bounds(int64_t size) {
  if (kMode == Mode::bicubic) return {-3, float(size + 2)};
  return kPadding == Padding::zeros ? Lattice<float>{-2, float(size + 1)} : Lattice<float>{0, float(size - 1)};
}

// Where the pixels, fractions and slopes of points along one axis go.
struct Placed {
  int32_t* index;
  float *fraction, *slope;
};

// One axis of the rule of reference/sampling.py, but reflection: normalized coordinates -> pixel, fraction and slope.
template <Mode kMode, class V, class I>
STN_INLINE void place(V g, Axis<float> axis, Lattice<float> limits, I& pixel, V& fraction, V& slope) {
  const V first = splat<V>(limits.first), last = splat<V>(limits.step);
  const V x = g * axis.scale + axis.shift, at = minimum(maximum(first, x), last);
  if constexpr (kMode == Mode::nearest) {
    pixel = __builtin_convertvector(nearest_of(at), I);
  } else {
    const auto inside = (x > first) & (x < last);
    // The fraction comes from the exact product: only it is rounded, not the coordinate.
    V low = floor_of(at);
    fraction = g * axis.scale + (axis.shift - low);
    const auto below = fraction < V{};  // x was rounded up to a whole number
    low = below ? low - 1 : low, fraction = below ? fraction + 1 : fraction;
    pixel = __builtin_convertvector(inside ? low : at, I);
    fraction = masked(fraction, inside), slope = masked(splat<V>(1.f), inside);
  }
}

// Places `count` points, and repeats the last one up to a whole vector.
template <Mode kMode, Padding kPadding, int n>
STN_INLINE void place_grid(const Problem& p, const float* grid, int64_t count, const Axis<float> (&axis)[n],
                           const Placed (&to)[n]) {
  constexpr int W = kVectorBytes / 4;
  using V = Vec<float, W>;
  using I = Vec<int32_t, W>;
  Lattice<float> limits[n];
  for (int a = 0; a < n; ++a) limits[a] = bounds<kMode, kPadding>(p.extent(a));
  for (int64_t i = 0; i < count; i += W, grid += n * W) {
    V g[n];
    if (count - i >= W) {
      deinterleave<n, W>(grid, g);
    } else {
      float rest[n * W];
      for (int k = 0; k < W; ++k) {
        for (int a = 0; a < n; ++a) rest[n * k + a] = grid[n * (k < count - i ? k : count - i - 1) + a];
      }
      deinterleave<n, W>(rest, g);
    }
    for (int a = 0; a < n; ++a) {
      I pixel;
      V fraction, slope;
      place<kMode>(g[a], axis[a], limits[a], pixel, fraction, slope);
      store(to[a].index + i, pixel);
      if constexpr (kMode != Mode::nearest) store(to[a].fraction + i, fraction), store(to[a].slope + i, slope);
    }
  }
}

// Whether the points of a call are placed so: an axis of one pixel has rules of its own.
STN_INLINE bool placed_in_float(const Problem& p) {
  bool single = false;
  for (int a = 0; a < p.dimensions; ++a) single |= p.extent(a) == 1;
  return kFused && p.transform == Transform::grid && !p.double_parameters && p.padding != Padding::reflection &&
         !single;
}

}  // namespace stn::STN_LEVEL
