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

// Splits scale g + shift into its floor and a fraction. The fraction comes from the exact product: only it is rounded,
// not the coordinate. On entry `low` is the floor of the rounded coordinate, at most one too high.
template <class V, class S>
STN_INLINE void split_exactly(V g, S scale, S shift, V& low, V& fraction) {
  fraction = g * scale + (shift - low);
  const auto below = fraction < V{};
  low = below ? low - 1 : low, fraction = below ? fraction + 1 : fraction;
}

// One axis of the rule of reference/sampling.py, but reflection: normalized coordinates -> pixel, fraction and slope.
template <Mode kMode, class V, class I>
STN_INLINE void place(V g, Axis<float> axis, Lattice<float> limits, I& pixel, V& fraction, V& slope) {
  const V first = splat<V>(limits.first), last = splat<V>(limits.step);
  const V x = g * axis.scale + axis.shift, at = minimum(maximum(first, x), last);
  if constexpr (kMode == Mode::nearest) {
    pixel = __builtin_convertvector(nearest_of(at), I);
  } else {
    const auto inside = (x > first) & (x < last);
    V low = floor_of(at);
    split_exactly(g, axis.scale, axis.shift, low, fraction);
    pixel = __builtin_convertvector(inside ? low : at, I);
    fraction = masked(fraction, inside), slope = masked(splat<V>(1.f), inside);
  }
}

// The same of bilinear with zeros, where nothing depends on how far outside a point is: its normalized coordinate is
// kept in these limits, a little more than a pixel outside.
STN_INLINE Lattice<float> near_limits(int64_t size, Axis<float> axis) {
  const float beyond = 1.75f + float(size) * 0x1p-22f;  // what a coordinate's rounding moves is less than the second
  return {(-beyond - axis.shift) / axis.scale, (float(size - 1) + beyond - axis.shift) / axis.scale};
}
template <class V, class I>
STN_INLINE void place_near(V g, Axis<float> axis, Lattice<float> limits, I& pixel, V& fraction) {
  g = minimum(maximum(splat<V>(limits.first), g), splat<V>(limits.step));
  V low = floor_of(g * axis.scale + axis.shift);
  split_exactly(g, axis.scale, axis.shift, low, fraction);
  pixel = __builtin_convertvector(low, I);
}

// The same with reflection, about the edges or the centres of the border pixels. Cubic taps are reflected one by one.
struct Mirrors {
  float low, span, last;
  STN_INLINE Mirrors(int64_t size, bool align_corners)
      : low(align_corners ? 0 : -0.5f), span(float(align_corners ? size - 1 : size)), last(float(size - 1)) {}
};
template <Mode kMode, class V, class I>
STN_INLINE void place_mirrored(V g, Axis<float> axis, Mirrors mirrors, I& pixel, V& fraction, V& slope) {
  V x = g * axis.scale + axis.shift;
  auto inside = absolute(x) < splat<V>(0x1p23f);  // no fractional part left
  V sign = splat<V>(1.f), shift{};                // the reflected coordinate is sign x + shift, which is exact
  if constexpr (kMode != Mode::bicubic) {
    const V flips = floor_of((masked(x, inside) - mirrors.low) / mirrors.span);
    const V odd = flips - 2 * floor_of(0.5f * flips);
    sign = 1 - 2 * odd;
    shift = odd * (2 * mirrors.low + mirrors.span) - sign * flips * mirrors.span;
    x = g * (sign * axis.scale) + (sign * axis.shift + shift);  // rounded where it ends, not where it began
  }
  const V at = masked(x, inside),
          kept = kMode == Mode::bicubic ? at : minimum(maximum(V{}, at), splat<V>(mirrors.last));
  if constexpr (kMode == Mode::nearest) {
    pixel = __builtin_convertvector(nearest_of(kept), I);
  } else {
    if constexpr (kMode == Mode::bilinear) inside &= (x > V{}) & (x < splat<V>(mirrors.last));
    V low = floor_of(kept);
    split_exactly(g, sign * axis.scale, sign * axis.shift + shift, low, fraction);
    pixel = __builtin_convertvector(inside ? low : kept, I);
    fraction = masked(fraction, inside), slope = masked(sign, inside);
  }
}

// Calls body(coordinates by axis, first point) for `count` points of a grid, a vector at a time; the last one repeats.
template <int n, class Body>
STN_INLINE void over_coordinates(const float* grid, int64_t count, Body body) {
  constexpr int W = kVectorBytes / 4;
  const auto separated = [&](const float* from, int64_t i) STN_LAMBDA {
    Vec<float, W> g[n];
    deinterleave<n, W>(from, g);
    body(g, i);
  };
  const int64_t whole = count / W * W;
  for (int64_t i = 0; i < whole; i += W) separated(grid + n * i, i);
  if (whole == count) return;
  float rest[n * W];
  for (int k = 0; k < W; ++k) {
    for (int a = 0; a < n; ++a) rest[n * k + a] = grid[n * minimum(whole + k, count - 1) + a];
  }
  asm volatile("" ::: "memory");  // one copy of what follows
  separated(rest, whole);
}

// Places `count` points, and repeats the last one up to a whole vector.
template <Mode kMode, Padding kPadding, int n>
STN_INLINE void place_grid(const Problem& p, const float* grid, int64_t count, const Axis<float> (&axis)[n],
                           const Placed (&to)[n]) {
  constexpr int W = kVectorBytes / 4;
  using V = Vec<float, W>;
  using I = Vec<int32_t, W>;
  constexpr bool kNear = kMode == Mode::bilinear && kPadding == Padding::zeros;
  Lattice<float> limits[n];
  for (int a = 0; a < n && kPadding != Padding::reflection; ++a)
    limits[a] = kNear ? near_limits(p.extent(a), axis[a]) : bounds<kMode, kPadding>(p.extent(a));
  over_coordinates<n>(grid, count, [&](const V(&g)[n], int64_t i) STN_LAMBDA {
#pragma GCC unroll 3
    for (int a = 0; a < n; ++a) {
      I pixel;
      V fraction, slope = splat<V>(1.f);
      if constexpr (kPadding == Padding::reflection) {
        place_mirrored<kMode>(g[a], axis[a], Mirrors(p.extent(a), p.align_corners), pixel, fraction, slope);
      } else if constexpr (kNear) {
        place_near(g[a], axis[a], limits[a], pixel, fraction);
      } else {
        place<kMode>(g[a], axis[a], limits[a], pixel, fraction, slope);
      }
      store(to[a].index + i, pixel);
      if constexpr (kMode != Mode::nearest) store(to[a].fraction + i, fraction), store(to[a].slope + i, slope);
    }
  });
}

// Whether the points of a call are placed so: an axis of one pixel has rules of its own.
STN_INLINE bool placed_in_float(const Problem& p) {
  bool single = false;
  for (int a = 0; a < p.dimensions; ++a) single |= p.extent(a) == 1;
  return kFused && p.transform == Transform::grid && !p.double_parameters && !single;
}
// Calls f.operator()<kPadding>().
template <class F>
STN_INLINE auto with_padding(Padding padding, F f) {
  if (padding == Padding::zeros) return f.template operator()<Padding::zeros>();
  return padding == Padding::border ? f.template operator()<Padding::border>()
                                    : f.template operator()<Padding::reflection>();
}

}  // namespace stn::STN_LEVEL
