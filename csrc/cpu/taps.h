// The four taps of a vector of points: where to read, with which weights, and what is outside.
#pragma once
#include "coordinates.h"

namespace stn::STN_LEVEL {

template <class T>
constexpr int kLanes = (kVectorBytes < 32 ? kVectorBytes : 32) / int(sizeof(T));

// Where a window of rows [first_row, first_row + rows) of a plane lies, and how to step in it; strides in elements.
struct Plane {
  int64_t rows, width, row, column, first_row;
  STN_INLINE bool small() const { return (rows + first_row) * row + width * column < INT32_MAX; }
};

// One axis of a vector of points: the pair of neighbours read is (base, base + 1), always inside; first and second are
// the weights, 0 where the pair's element is no tap of the point. At the borders one of the point's taps is outside and
// the other moves in the pair.
template <class T, int N>
struct AxisTaps {
  using V = Vec<T, N>;
  using I = Vec<IndexOf<T>, N>;
  I base, first_inside, second_inside;
  V first, second, first_slope, second_slope;

  STN_INLINE AxisTaps(I x, V f, V s, int64_t size) {
    const I zero = {}, last = splat<I>(IndexOf<T>(size > 1 ? size - 2 : 0)),
            wide = splat<I>(IndexOf<T>(size > 1 ? -1 : 0));
    const V none = {};
    base = x < zero ? zero : x;
    base = base > last ? last : base;
    const I shift = x - base, both = shift == 0, before = shift == -1, after = shift == 1;
    first_inside = both | before, second_inside = (both | after) & wide;
    first = both ? 1 - f : before ? f : none;
    second = masked(both ? f : after ? 1 - f : none, wide);
    first_slope = both ? -s : before ? s : none;
    second_slope = masked(both ? s : after ? -s : none, wide);
  }
};

// The four taps (a, b above c, d) of N points of a run: offsets of a, weights, and what is inside. In the interior
// every tap is.
template <class T, int N, bool kInterior>
struct Taps {
  using V = Vec<T, N>;
  using I = Vec<IndexOf<T>, N>;
  V first_x, second_x, first_y, second_y;                          // weights by axis
  V first_slope_x, second_slope_x, first_slope_y, second_slope_y;  // and their derivatives by the source pixel
  I inside_a, inside_b, inside_c, inside_d;
  int64_t offset[N], right, below;  // of tap a; steps to b and c
  bool outside = false;

  STN_INLINE Taps(const Run<T>& run, int64_t i, const Plane& plane, bool small) {
    const I x = load<I>(run.x_index + i), y = load<I>(run.y_index + i) - IndexOf<T>(plane.first_row);
    const V fx = load<V>(run.x_fraction + i), fy = load<V>(run.y_fraction + i);
    const V sx = load<V>(run.x_slope + i), sy = load<V>(run.y_slope + i);
    if constexpr (kInterior) {
      first_x = 1 - fx, second_x = fx, first_y = 1 - fy, second_y = fy;
      first_slope_x = -sx, second_slope_x = sx, first_slope_y = -sy, second_slope_y = sy;
      right = plane.column, below = plane.row;
      place(x, y, plane, small);
    } else {
      const AxisTaps<T, N> ax(x, fx, sx, plane.width), ay(y, fy, sy, plane.rows);
      first_x = ax.first, second_x = ax.second, first_y = ay.first, second_y = ay.second;
      first_slope_x = ax.first_slope, second_slope_x = ax.second_slope;
      first_slope_y = ay.first_slope, second_slope_y = ay.second_slope;
      inside_a = ax.first_inside & ay.first_inside, inside_b = ax.second_inside & ay.first_inside;
      inside_c = ax.first_inside & ay.second_inside, inside_d = ax.second_inside & ay.second_inside;
      outside = all(~(inside_a | inside_b | inside_c | inside_d));
      right = plane.width > 1 ? plane.column : 0, below = plane.rows > 1 ? plane.row : 0;
      place(ax.base, ay.base, plane, small);
    }
  }
  STN_INLINE void place(I x, I y, const Plane& plane, bool small) {
    if (sizeof(T) == 4 && small) {
      const I o = (y + IndexOf<T>(plane.first_row)) * IndexOf<T>(plane.row) + x * IndexOf<T>(plane.column);
      int32_t lanes[N];
      store(lanes, o);
      asm volatile("" : "+m"(lanes));  // reloading beats extracting lane by lane
      for (int k = 0; k < N; ++k) offset[k] = lanes[k];
    } else {
      for (int k = 0; k < N; ++k)
        offset[k] = (int64_t(y[k]) + plane.first_row) * plane.row + int64_t(x[k]) * plane.column;
    }
  }
  // Clears the lanes of per-tap values that are not inside: a select, not a weight, so that what is not read cannot
  // leak.
  STN_INLINE void clear_outside(V& a, V& b, V& c, V& d) const {
    if constexpr (!kInterior)
      a = masked(a, inside_a), b = masked(b, inside_b), c = masked(c, inside_c), d = masked(d, inside_d);
  }
};

// Calls body(taps) with the taps of points [i, i + N) of a run, those of interior points in their cheaper form; returns
// false, without a call, if no tap is inside.
template <int N, class T, class Body>
STN_INLINE bool with_plane_taps(const Run<T>& run, int64_t i, const Plane& plane, bool small, Body body) {
  using I = Vec<IndexOf<T>, N>;
  const I x = load<I>(run.x_index + i), y = load<I>(run.y_index + i) - IndexOf<T>(plane.first_row);
  const I last_x = splat<I>(IndexOf<T>(plane.width - 1)), last_y = splat<I>(IndexOf<T>(plane.rows - 1));
  if (all((x >= I{}) & (x < last_x) & (y >= I{}) & (y < last_y))) {
    body(Taps<T, N, true>(run, i, plane, small));
    return true;
  }
  const Taps<T, N, false> taps(run, i, plane, small);
  if (taps.outside) return false;
  body(taps);
  return true;
}

}  // namespace stn::STN_LEVEL
