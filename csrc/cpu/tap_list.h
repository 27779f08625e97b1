// The taps of a vector of points in any mode and number of dimensions: a list of offsets and weights.
#pragma once
#include "points.h"
#include "taps.h"

namespace stn::STN_LEVEL {

// The image, or the part of it, that taps may touch: strides in elements by axis, and the first and last slice of it
// along the last axis.
struct Window {
  int64_t stride[3];
  int64_t first, last;

  template <class Pointer>
  STN_INLINE Window(const Problem& p, const Images<Pointer>& images)
      : stride{images.column, images.row, images.slice}, first(0), last(p.extent(p.dimensions - 1)) {}
};

template <class T>
struct TapList {
  static constexpr int N = kLanes<T>, kMost = 64;
  using V = Vec<T, N>;
  using I = Vec<IndexOf<T>, N>;
  using Offsets = Vec<int64_t, N>;
  int taps, row;                  // K^n with x fastest, and K
  bool interior, outside;         // all taps of all points are inside, none is
  alignas(64) int64_t offset[N];  // interior: of the first tap, and from there to each
  int64_t step[kMost];
  Offsets offsets[kMost];  // else of each tap
  I inside[kMost];
  V weight[kMost];
  V axis_weight[3][4], axis_slope[3][4];
};

// The pixel that a cubic tap reads.
template <class I>
STN_INLINE I padded_tap(I tap, const Problem& p, int64_t size) {
  if (p.padding == Padding::zeros) return tap;
  constexpr int N = int(sizeof(I) / sizeof(tap[0]));
  using D = Vec<double, N>;
  const D x = __builtin_convertvector(tap, D);
  const auto rule = [&]<Padding kPadding>() STN_LAMBDA {
    return __builtin_convertvector(pad<kPadding>(x, int(size), p.align_corners).x, I);
  };
  return p.padding == Padding::border ? rule.template operator()<Padding::border>()
                                      : rule.template operator()<Padding::reflection>();
}

// kCross: also the mixed products that a second derivative needs. Points [i, i + N) of `points`.
template <class T>
using BuildTaps = void (*)(const Problem&, const Points<T>& points, int64_t i, const Window&, TapList<T>&);

// Products along the axes of one number a tap, x fastest.
template <int n, int K, class V>
STN_INLINE void products(const V (&x)[K], const V (&y)[K], const V (&z)[K], V* result) {
  for (int c = 0; c < (n > 2 ? K : 1); ++c) {
    for (int b = 0; b < (n > 1 ? K : 1); ++b) {
      for (int a = 0; a < K; ++a) {
        V value = x[a];
        if constexpr (n > 1) value *= n > 2 ? y[b] * z[c] : y[b];
        *result++ = value;
      }
    }
  }
}

template <Mode kMode, int n, class T>
void build_taps(const Problem& p, const Points<T>& points, int64_t i, const Window& w, TapList<T>& list) {
  using List = TapList<T>;
  using V = typename List::V;
  using I = typename List::I;
  using Offsets = typename List::Offsets;
  constexpr int K = kTaps<kMode>, kAll = n == 1 ? K : n == 2 ? K * K : K * K * K;
  list.taps = kAll, list.row = K;
  V weight[3][K], slope[3][K];
  I first[3];
  auto within = I{} == I{};
  for (int a = 0; a < n; ++a) {
    first[a] = load<I>(points.index[a] + i) + IndexOf<T>(kFirstTap<kMode>);
    tap_weights<kMode>(load<V>(points.fraction[a] + i), weight[a], slope[a]);
    const V along = load<V>(points.slope[a] + i);
    for (int k = 0; k < K; ++k) {
      list.axis_weight[a][k] = weight[a][k];
      list.axis_slope[a][k] = kMode == Mode::nearest ? V{} : slope[a][k] * along;
    }
    const int64_t low = a == n - 1 ? w.first : 0, high = a == n - 1 ? w.last : p.extent(a);
    within &= (first[a] >= splat<I>(IndexOf<T>(low))) & (first[a] <= splat<I>(IndexOf<T>(high - K)));
  }
  products<n, K>(weight[0], weight[n > 1], weight[n > 2 ? 2 : 0], list.weight);
  list.interior = all(within), list.outside = false;
  if (list.interior) {
    Offsets offset{};
    for (int a = 0; a < n; ++a) offset += __builtin_convertvector(first[a], Offsets) * w.stride[a];
    store(list.offset, offset);
    int64_t* step = list.step;
    for (int c = 0; c < (n > 2 ? K : 1); ++c)
      for (int b = 0; b < (n > 1 ? K : 1); ++b)
        for (int a = 0; a < K; ++a) *step++ = a * w.stride[0] + b * w.stride[1] + c * w.stride[2];
    return;
  }
  I inside[3][K];
  Offsets offset[3][K];
  for (int a = 0; a < n; ++a) {
    const IndexOf<T> low = IndexOf<T>(a == n - 1 ? w.first : 0),
                     high = IndexOf<T>((a == n - 1 ? w.last : p.extent(a)) - 1);
    for (int k = 0; k < K; ++k) {
      I tap = first[a] + IndexOf<T>(k);
      if constexpr (kMode == Mode::bicubic) tap = padded_tap(tap, p, p.extent(a));
      const I lowest = splat<I>(low), highest = splat<I>(high);
      inside[a][k] = (tap >= lowest) & (tap <= highest);
      tap = inside[a][k] ? tap : lowest;
      offset[a][k] = __builtin_convertvector(tap, Offsets) * w.stride[a];
    }
  }
  I some{};
  int t = 0;
  for (int c = 0; c < (n > 2 ? K : 1); ++c) {
    for (int b = 0; b < (n > 1 ? K : 1); ++b) {
      for (int a = 0; a < K; ++a, ++t) {
        I in = inside[0][a];
        Offsets at = offset[0][a];
        if constexpr (n > 1) in &= inside[1][b], at += offset[1][b];
        if constexpr (n > 2) in &= inside[2][c], at += offset[2][c];
        list.inside[t] = in, list.offsets[t] = at;
        some |= in;
      }
    }
  }
  list.outside = all(some == I{});
}

template <class T>
STN_INLINE BuildTaps<T> builder(const Problem& p) {
  const auto of = [&]<Mode kMode>() STN_LAMBDA -> BuildTaps<T> {
    if (p.dimensions == 1) return build_taps<kMode, 1, T>;
    return p.dimensions == 2 ? build_taps<kMode, 2, T> : build_taps<kMode, 3, T>;
  };
  if (p.mode == Mode::nearest) return of.template operator()<Mode::nearest>();
  return p.mode == Mode::bilinear ? of.template operator()<Mode::bilinear>() : of.template operator()<Mode::bicubic>();
}

}  // namespace stn::STN_LEVEL
