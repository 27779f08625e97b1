// The four taps of a vector of points: where to read, with which weights, and what is outside.
#pragma once
#include "coordinates.h"

namespace stn::STN_LEVEL {

template <class T>
constexpr int kLanes = (kVectorBytes < 32 ? kVectorBytes : 32) / int(sizeof(T));

// One axis: the pair of neighbours read is (base, base + 1), always inside; first and second are the weights, 0 where
// the pair's element is no tap of the point. At the borders one of the point's taps is outside and the other moves in
// the pair.
template <class T, int N>
struct AxisTaps {
  using V = Vec<T, N>;
  using I = Vec<IndexOf<T>, N>;
  I base, first_inside, second_inside;
  V first, second, first_slope, second_slope;
  bool interior, outside;  // all lanes have both taps; no lane has any
};

template <class I>
STN_INLINE bool all(I mask) {
  const auto words = (Vec<int64_t, sizeof(I) / 8>)mask;
  int64_t conjunction = words[0];
  for (size_t i = 1; i < sizeof(I) / 8; ++i) conjunction &= words[i];
  return conjunction == -1;
}

template <int N, class T>
STN_INLINE AxisTaps<T, N> axis_taps(const IndexOf<T>* index, const T* fraction, const T* slope, int64_t size) {
  using Taps = AxisTaps<T, N>;
  using I = typename Taps::I;
  using V = typename Taps::V;
  const I x = load<I>(index), zero = {};
  const V f = load<V>(fraction), s = load<V>(slope), none = {};
  const I last = splat<I>(IndexOf<T>(size > 1 ? size - 2 : 0)), wide = splat<I>(IndexOf<T>(size > 1 ? -1 : 0));
  Taps t;
  t.base = x < zero ? zero : x;
  t.base = t.base > last ? last : t.base;
  const I shift = x - t.base, both = shift == 0, before = shift == -1, after = shift == 1;
  t.first_inside = both | before;
  t.second_inside = (both | after) & wide;
  t.first = both ? 1 - f : before ? f : none;
  t.second = masked(both ? f : after ? 1 - f : none, wide);
  t.first_slope = both ? -s : before ? s : none;
  t.second_slope = masked(both ? s : after ? -s : none, wide);
  t.interior = all(both & wide);
  t.outside = all(~(t.first_inside | t.second_inside));
  return t;
}

}  // namespace stn::STN_LEVEL
