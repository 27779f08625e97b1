// The taps of a vector of points in any mode and number of dimensions: K^n of them, rows of K along x.
#pragma once
#include "points.h"
#include "taps.h"

namespace stn::STN_LEVEL {

// The image, or the part of it, that taps may touch: strides in elements by axis, and the first and last slice of it
// along the last axis.
struct Region {
  int64_t stride[3];
  int64_t first, last;
  bool small;  // offsets fit 32 bits

  template <class Pointer>
  STN_INLINE Region(const Problem& p, const Images<Pointer>& images)
      : stride{images.column, images.row, images.slice}, first(0), last(p.extent(p.dimensions - 1)), small(true) {
    int64_t reach = 0;
    for (int a = 0; a < p.dimensions; ++a) reach += p.extent(a) * (stride[a] < 0 ? -stride[a] : stride[a]);
    small = reach < INT32_MAX;
  }
};

template <class T>
struct TapList {
  static constexpr int N = kLanes<T>, kMost = 64, kMostRows = 16;
  using V = Vec<T, N>;
  using I = Vec<IndexOf<T>, N>;
  using Offsets = Vec<int64_t, N>;
  int taps, rows, row;     // K^n, K^(n - 1), K
  bool interior, outside;  // all taps of all points are inside, none is
  V weight[kMost];
  V axis_weight[3][4], axis_slope[3][4];
  // In the interior: the offset of the first tap, and the steps from there to each.
  alignas(64) int64_t offset[N];
  int64_t step[kMost];
  // Elsewhere, of pixels moved inside: the offset of a row and of a tap in its row, and which are inside.
  Offsets row_offset[kMostRows], column_offset[4];
  I row_inside[kMostRows], column_inside[4];
  // With two taps a row: their pair moved inside, whose second pixel is tap 0 behind the end and first is tap 1 before
  // the start.
  Offsets pair_offset;
  I behind, before;

  STN_INLINE Offsets offsets(int t) const { return row_offset[t / row] + column_offset[t % row]; }
  STN_INLINE I inside(int t) const { return row_inside[t / row] & column_inside[t % row]; }
};

// The pixel that a cubic tap reads.
template <class I>
I padded_tap(I tap, const Problem& p, int64_t size) {
  if (p.padding == Padding::zeros) return tap;
  constexpr int N = int(sizeof(I) / sizeof(tap[0]));
  const auto x = __builtin_convertvector(tap, Vec<double, N>);
  const auto rule = [&]<Padding kPadding>() STN_LAMBDA {
    return __builtin_convertvector(pad<kPadding>(x, int(size), p.align_corners).x, I);
  };
  return p.padding == Padding::border ? rule.template operator()<Padding::border>()
                                      : rule.template operator()<Padding::reflection>();
}

// Lists the taps of points [i, i + N); with slopes only if asked to.
template <class T>
using BuildTaps = void (*)(const Problem&, const Points<T>& points, int64_t i, const Region&, bool slopes, TapList<T>&);

template <Mode kMode, int n, class T>
void build_taps(const Problem& p, const Points<T>& points, int64_t i, const Region& w, bool slopes, TapList<T>& list) {
  using List = TapList<T>;
  using V = typename List::V;
  using I = typename List::I;
  using Offsets = typename List::Offsets;
  constexpr int K = kTaps<kMode>, kRows = n == 1 ? 1 : n == 2 ? K : K * K, kZ = n > 2 ? K : 1, kY = n > 1 ? K : 1;
  constexpr int y = n > 1 ? 1 : 0, z = n > 2 ? 2 : 0;
  list.taps = kRows * K, list.rows = kRows, list.row = K;
  V weight[n][K];
  I first[n];
  auto within = I{} == I{};
  for (int a = 0; a < n; ++a) {
    first[a] = load<I>(points.index[a] + i) + IndexOf<T>(kFirstTap<kMode>);
    if constexpr (kMode == Mode::nearest) {
      weight[a][0] = splat<V>(T(1));
    } else {
      V slope[K];
      tap_weights<kMode>(load<V>(points.fraction[a] + i), weight[a], slope);
      if (slopes) {
        const V along = load<V>(points.slope[a] + i);
        for (int k = 0; k < K; ++k) list.axis_weight[a][k] = weight[a][k], list.axis_slope[a][k] = slope[k] * along;
      }
    }
    const int64_t low = a == n - 1 ? w.first : 0, high = a == n - 1 ? w.last : p.extent(a);
    within &= (first[a] >= splat<I>(IndexOf<T>(low))) & (first[a] <= splat<I>(IndexOf<T>(high - K)));
  }
  for (int c = 0; c < kZ; ++c) {
    for (int b = 0; b < kY; ++b) {
      for (int a = 0; a < K; ++a) {
        V product = weight[0][a];
        if constexpr (n > 1) product *= n > 2 ? weight[y][b] * weight[z][c] : weight[y][b];
        list.weight[(c * kY + b) * K + a] = product;
      }
    }
  }
  list.interior = all(within), list.outside = false;
  const auto times = [&](I index, int a) STN_LAMBDA {
    if (w.small) return __builtin_convertvector(index * IndexOf<T>(w.stride[a]), Offsets);
    return __builtin_convertvector(index, Offsets) * w.stride[a];
  };
  if (list.interior) {
    if (w.small) {
      I offset = first[0] * IndexOf<T>(w.stride[0]);
      for (int a = 1; a < n; ++a) offset += first[a] * IndexOf<T>(w.stride[a]);
      store(list.offset, __builtin_convertvector(offset, Offsets));
    } else {
      Offsets offset = times(first[0], 0);
      for (int a = 1; a < n; ++a) offset += times(first[a], a);
      store(list.offset, offset);
    }
    for (int c = 0; c < kZ; ++c) {
      for (int b = 0; b < kY; ++b) {
        for (int a = 0; a < K; ++a)
          list.step[(c * kY + b) * K + a] = a * w.stride[0] + b * w.stride[1] + c * w.stride[2];
      }
    }
    return;
  }
  I inside[n][K];
  Offsets offset[n][K];
  for (int a = 0; a < n; ++a) {
    const I low = splat<I>(IndexOf<T>(a == n - 1 ? w.first : 0)),
            high = splat<I>(IndexOf<T>((a == n - 1 ? w.last : p.extent(a)) - 1));
    for (int k = 0; k < K; ++k) {
      I tap = first[a] + IndexOf<T>(k);
      if constexpr (kMode == Mode::bicubic) tap = padded_tap(tap, p, p.extent(a));
      inside[a][k] = (tap >= low) & (tap <= high);
      offset[a][k] = times(inside[a][k] ? tap : low, a);
    }
  }
  I some_row{}, some{};
  for (int c = 0; c < kZ; ++c) {
    for (int b = 0; b < kY; ++b) {
      I in = ~I{};
      Offsets at{};
      if constexpr (n > 1) in &= inside[y][b], at += offset[y][b];
      if constexpr (n > 2) in &= inside[z][c], at += offset[z][c];
      list.row_inside[c * kY + b] = in, list.row_offset[c * kY + b] = at;
      some_row |= in;
    }
  }
  for (int k = 0; k < K; ++k) {
    list.column_inside[k] = inside[0][k], list.column_offset[k] = offset[0][k];
    some |= inside[0][k];
  }
  list.outside = all((some & some_row) == I{});
  if constexpr (kMode == Mode::bilinear) {
    const I low = splat<I>(IndexOf<T>(n == 1 ? w.first : 0)),
            high = splat<I>(IndexOf<T>((n == 1 ? w.last : p.extent(0)) - 2));
    I pair = first[0] < low ? low : first[0];
    pair = pair > high ? high : pair;
    list.pair_offset = times(pair, 0), list.behind = first[0] > pair, list.before = first[0] < pair;
  }
}

template <class T>
STN_INLINE BuildTaps<T> builder(const Problem& p) {
  return with_mode(p.mode, [&]<Mode kMode>() STN_LAMBDA {
    return with_dimensions(p.dimensions, [&](auto n) STN_LAMBDA -> BuildTaps<T> { return build_taps<kMode, n, T>; });
  });
}

}  // namespace stn::STN_LEVEL
