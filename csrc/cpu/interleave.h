// Elements of n kinds that alternate in memory, such as the coordinates of points or the channels of pixels, apart and
// together again; and the transpose of as many vectors as they have lanes.
#pragma once
#include <utility>

#include "simd.h"

namespace stn::STN_LEVEL {

// Every third of three vectors' elements, from element k on.
template <int k, class V, size_t... i>
STN_INLINE V every_third(V a, V b, V c, std::index_sequence<i...>) {
  constexpr size_t W = sizeof...(i);
  const V two = __builtin_shufflevector(a, b, int(3 * i + k < 2 * W ? 3 * i + k : 0)...);
  return __builtin_shufflevector(two, c, int(3 * i + k < 2 * W ? i : 3 * i + k - W)...);
}
template <int k, class V, size_t... i>
STN_INLINE V every_second(V a, V b, std::index_sequence<i...>) {
  return __builtin_shufflevector(a, b, int(2 * i + k)...);
}
// The k-th vector of two, or of three, that alternate.
template <int k, class V, size_t... i>
STN_INLINE V alternating(V a, V b, std::index_sequence<i...>) {
  constexpr size_t W = sizeof...(i);
  return __builtin_shufflevector(a, b, int((k * W + i) / 2 + (k * W + i) % 2 * W)...);
}
template <int k, class V, size_t... i>
STN_INLINE V alternating(V a, V b, V c, std::index_sequence<i...>) {
  constexpr size_t W = sizeof...(i);
  const V two = __builtin_shufflevector(a, b, int((k * W + i) / 3 + (k * W + i) % 3 % 2 * W)...);
  return __builtin_shufflevector(two, c, int((k * W + i) % 3 == 2 ? W + (k * W + i) / 3 : i)...);
}

// n vectors of elements that alternate -> one of each kind.
template <int n, class V>
STN_INLINE void separate(const V (&row)[n], V (&to)[n]) {
  static_assert(n >= 1 && n <= 4);
  constexpr auto all = std::make_index_sequence<sizeof(V) / sizeof(row[0][0])>{};
  if constexpr (n == 1) {
    to[0] = row[0];
  } else if constexpr (n == 2) {
    to[0] = every_second<0>(row[0], row[1], all), to[1] = every_second<1>(row[0], row[1], all);
  } else if constexpr (n == 3) {
    to[0] = every_third<0>(row[0], row[1], row[2], all), to[1] = every_third<1>(row[0], row[1], row[2], all);
    to[2] = every_third<2>(row[0], row[1], row[2], all);
  } else {
    const V even[] = {every_second<0>(row[0], row[1], all), every_second<0>(row[2], row[3], all)};
    const V odd[] = {every_second<1>(row[0], row[1], all), every_second<1>(row[2], row[3], all)};
    to[0] = every_second<0>(even[0], even[1], all), to[2] = every_second<1>(even[0], even[1], all);
    to[1] = every_second<0>(odd[0], odd[1], all), to[3] = every_second<1>(odd[0], odd[1], all);
  }
}
template <int n, int W, class T>
STN_INLINE void deinterleave(const T* from, Vec<T, W> (&to)[n]) {
  Vec<T, W> row[n];
  for (int k = 0; k < n; ++k) row[k] = load<Vec<T, W>>(from + k * W);
  separate(row, to);
}

// The other way round.
template <int n, int W, class T>
STN_INLINE void interleave(const Vec<T, W> (&from)[n], T* to) {
  static_assert(n >= 2 && n <= 4);
  using V = Vec<T, W>;
  constexpr auto all = std::make_index_sequence<size_t(W)>{};
  if constexpr (n == 2) {
    store(to, alternating<0>(from[0], from[1], all)), store(to + W, alternating<1>(from[0], from[1], all));
  } else if constexpr (n == 3) {
    store(to, alternating<0>(from[0], from[1], from[2], all));
    store(to + W, alternating<1>(from[0], from[1], from[2], all));
    store(to + 2 * W, alternating<2>(from[0], from[1], from[2], all));
  } else {
    const V even[] = {alternating<0>(from[0], from[2], all), alternating<1>(from[0], from[2], all)};
    const V odd[] = {alternating<0>(from[1], from[3], all), alternating<1>(from[1], from[3], all)};
    for (int k = 0; k < 2; ++k) {
      store(to + 2 * k * W, alternating<0>(even[k], odd[k], all));
      store(to + (2 * k + 1) * W, alternating<1>(even[k], odd[k], all));
    }
  }
}

// Lane l of rows[k] becomes lane k of rows[l].
template <int kStep, class V, int... I>
STN_INLINE void exchange(V& a, V& b, std::integer_sequence<int, I...>) {
  constexpr int N = sizeof...(I);
  const V first = __builtin_shufflevector(a, b, (I & kStep ? N + I - kStep : I)...);
  b = __builtin_shufflevector(a, b, (I & kStep ? N + I : I + kStep)...);
  a = first;
}
template <int kStep, class V, int N>
STN_INLINE void transpose(V (&rows)[N]) {
  if constexpr (kStep < N) {
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) {
      if (!(i & kStep)) exchange<kStep>(rows[i], rows[i + kStep], std::make_integer_sequence<int, N>{});
    }
    transpose<2 * kStep>(rows);
  }
}

}  // namespace stn::STN_LEVEL
