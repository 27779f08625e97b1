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
  // Pixels along an axis.
  template <int n>
  STN_INLINE int64_t low(int a) const {
    return a == n - 1 ? first : 0;
  }
  template <int n>
  STN_INLINE int64_t size(int a, const Problem& p) const {
    return a == n - 1 ? last - first : p.extent(a);
  }
};

// Where taps lie: `step` from `offset` if those are the same for all points, that is in the interior and, of two taps
// an axis, everywhere, as one outside moves in; else at row_offset + column_offset, of pixels moved inside.
template <class T>
struct TapList {
  static constexpr int N = kLanes<T>, kMost = 64, kMostRows = 16;
  using V = Vec<T, N>;
  using I = Vec<IndexOf<T>, N>;
  using Offsets = Vec<int64_t, N>;
  int taps, row, log2_row;  // K^n, K
  bool interior, outside;   // all taps of all points are inside, none is
  V weight[kMost];
  V axis_weight[3][4], axis_slope[3][4];
  alignas(64) int64_t offset[N];
  int64_t step[kMost];
  Offsets row_offset[kMostRows], column_offset[4];
  I row_inside[kMostRows], column_inside[4];  // but in the interior

  STN_INLINE bool stepped() const { return interior || row == 2; }
  STN_INLINE int row_of(int t) const { return t >> log2_row; }
  STN_INLINE int column_of(int t) const { return t & (row - 1); }
  STN_INLINE Offsets offsets(int t) const { return row_offset[row_of(t)] + column_offset[column_of(t)]; }
  STN_INLINE int64_t offset_of(int t, int64_t i) const {
    return stepped() ? offset[i] + step[t] : row_offset[row_of(t)][i] + column_offset[column_of(t)][i];
  }
  STN_INLINE bool is_inside(int t, int64_t i) const {
    return interior || (row_inside[row_of(t)][i] & column_inside[column_of(t)][i]);
  }
  STN_INLINE V inside_only(V value, int t) const {  // 0 elsewhere
    return (V)((I)value & row_inside[row_of(t)] & column_inside[column_of(t)]);
  }
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

// first: each axis' first tap, of which K follow one another.
template <Mode kMode, int n, bool kInterior, class T>
STN_INLINE void fill_taps(const Problem& p, const Points<T>& points, int64_t i, const Region& w, bool slopes,
                          typename TapList<T>::I (&first)[n], TapList<T>& list) {
  using List = TapList<T>;
  using V = typename List::V;
  using I = typename List::I;
  using Offsets = typename List::Offsets;
  constexpr int K = kTaps<kMode>, kZ = n > 2 ? K : 1, kY = n > 1 ? K : 1;
  constexpr int y = n > 1 ? 1 : 0, z = n > 2 ? 2 : 0;
  constexpr bool kMoves = kMode == Mode::bilinear && !kInterior;
  V weight[n][K];
  I inside[n][K];
  int64_t step[3] = {w.stride[0], w.stride[1], w.stride[2]};
  for (int a = 0; a < n; ++a) {
    const V fraction = load<V>(points.fraction[a] + i);
    if constexpr (kMoves) {
      const IndexOf<T> low = IndexOf<T>(w.low<n>(a));
      const AxisTaps<T, List::N> pair(first[a] - low, fraction, load<V>(points.slope[a] + i), w.size<n>(a, p));
      first[a] = pair.base + low;
      weight[a][0] = pair.first, weight[a][1] = pair.second;
      inside[a][0] = pair.first_inside, inside[a][1] = pair.second_inside;
      if (w.size<n>(a, p) == 1) step[a] = 0;
      if (slopes) list.axis_slope[a][0] = pair.first_slope, list.axis_slope[a][1] = pair.second_slope;
    } else {
      V slope[K];
      tap_weights<kMode>(fraction, weight[a], slope);
      if (slopes) {
        const V along = load<V>(points.slope[a] + i);
        for (int k = 0; k < K; ++k) list.axis_slope[a][k] = slope[k] * along;
      }
    }
    for (int k = 0; slopes && k < K; ++k) list.axis_weight[a][k] = weight[a][k];
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
  const auto times = [&](I index, int a) STN_LAMBDA {
    if (w.small) return __builtin_convertvector(index * IndexOf<T>(w.stride[a]), Offsets);
    return __builtin_convertvector(index, Offsets) * w.stride[a];
  };
  if constexpr (kInterior || kMoves) {
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
        for (int a = 0; a < K; ++a) list.step[(c * kY + b) * K + a] = a * step[0] + b * step[1] + c * step[2];
      }
    }
  } else {
    Offsets offset[n][K];
    for (int a = 0; a < n; ++a) {
      const I low = splat<I>(IndexOf<T>(w.low<n>(a))), high = low + IndexOf<T>(w.size<n>(a, p) - 1);
      for (int k = 0; k < K; ++k) {
        const I tap = padded_tap(first[a] + IndexOf<T>(k), p, p.extent(a));
        inside[a][k] = (tap >= low) & (tap <= high);
        offset[a][k] = times(inside[a][k] ? tap : low, a);
      }
    }
    for (int c = 0; c < kZ; ++c) {
      for (int b = 0; b < kY; ++b) {
        Offsets at{};
        if constexpr (n > 1) at += offset[y][b];
        if constexpr (n > 2) at += offset[z][c];
        list.row_offset[c * kY + b] = at;
      }
    }
    for (int k = 0; k < K; ++k) list.column_offset[k] = offset[0][k];
  }
  if constexpr (!kInterior) {
    I some_row{}, some{};
    for (int c = 0; c < kZ; ++c) {
      for (int b = 0; b < kY; ++b) {
        I in = ~I{};
        if constexpr (n > 1) in &= inside[y][b];
        if constexpr (n > 2) in &= inside[z][c];
        list.row_inside[c * kY + b] = in;
        some_row |= in;
      }
    }
    for (int k = 0; k < K; ++k) list.column_inside[k] = inside[0][k], some |= inside[0][k];
    list.outside = all((some & some_row) == I{});
  }
}

template <Mode kMode, int n, class T>
void build_taps(const Problem& p, const Points<T>& points, int64_t i, const Region& w, bool slopes, TapList<T>& list) {
  using I = typename TapList<T>::I;
  constexpr int K = kTaps<kMode>;
  static_assert(K == 2 || K == 4);
  I first[n];
  auto within = I{} == I{};
  for (int a = 0; a < n; ++a) {
    const int64_t low = w.low<n>(a), end = low + w.size<n>(a, p);
    first[a] = load<I>(points.index[a] + i) + IndexOf<T>(kFirstTap<kMode>);
    within &= (first[a] >= splat<I>(IndexOf<T>(low))) & (first[a] <= splat<I>(IndexOf<T>(end - K)));
  }
  list.taps = n == 1 ? K : n == 2 ? K * K : K * K * K, list.row = K, list.log2_row = K / 2;
  list.interior = all(within), list.outside = false;
  list.interior ? fill_taps<kMode, n, true>(p, points, i, w, slopes, first, list)
                : fill_taps<kMode, n, false>(p, points, i, w, slopes, first, list);
}

// Of nearest sampling, whose points read one pixel, there are no lists: nearest.h.
template <class T>
STN_INLINE BuildTaps<T> builder(const Problem& p) {
  return with_dimensions(p.dimensions, [&](auto n) STN_LAMBDA -> BuildTaps<T> {
    return p.mode == Mode::bicubic ? build_taps<Mode::bicubic, n, T> : build_taps<Mode::bilinear, n, T>;
  });
}

}  // namespace stn::STN_LEVEL
