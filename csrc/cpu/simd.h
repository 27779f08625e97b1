// Vectors by GNU extensions, no intrinsics; the widths follow the instruction set this file is compiled for.
#pragma once
#include <cstdint>
#include <type_traits>
#include <utility>

#include "common/portable.h"

#define STN_INLINE inline __attribute__((always_inline))
#define STN_LAMBDA __attribute__((always_inline))
#define STN_SHARED __attribute__((noinline))  // compiled once, not wherever it is called

namespace stn::STN_LEVEL {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

// In float64 512 bits gained 12 % in the mean over 256 and took a sixth of the build: the level below runs there.
constexpr bool kHasFloat64 = kVectorBytes < 64;
// Whether the kernels for rows of points (passes.h) take half precision: at the baseline those for lists of taps do, in
// which it is a small part to build.
constexpr bool kHasHalfRows = kVectorBytes > 16;
// Whether there are blocks of channels (channel_blocks.h): the baseline has none, so that it builds soon.
constexpr bool kHasBlocks = kVectorBytes > 16;

template <class T, int N>
struct VectorType {
  typedef T type __attribute__((vector_size(sizeof(T) * N)));
};
template <class T, int N>
using Vec = typename VectorType<T, N>::type;

template <class V>
STN_INLINE V load(const void* p) {  // unaligned
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
template <class V>
STN_INLINE void store(void* p, V v) {
  __builtin_memcpy(p, &v, sizeof v);
}
template <class V, class S>
STN_INLINE V splat(S value) {
  return V{} + value;
}
template <class V, class M>
STN_INLINE V masked(V value, M mask) {  // a select, not a product: 0 * Inf would leak
  return mask ? value : V{};
}
template <int i>
constexpr std::integral_constant<int, i> kConstant;
// Calls f(i) for i in [0, N), each a constant: arrays it indexes stay in registers, of a loop's the compiler stores
// them.
template <int N, class F>
STN_INLINE void unrolled(F f) {
  [&]<int... i>(std::integer_sequence<int, i...>)
      STN_LAMBDA { (f(kConstant<i>), ...); }(std::make_integer_sequence<int, N>{});
}
template <class V>
STN_INLINE auto joined(V a, V b) {
  using Whole = Vec<std::remove_cvref_t<decltype(a[0])>, 2 * sizeof(V) / sizeof(a[0])>;
  if constexpr (sizeof(V) == 16) {  // of floats: of shorter elements the compiler would permute each
    const auto x = (Vec<float, 4>)a, y = (Vec<float, 4>)b;
    return (Whole)__builtin_shufflevector(x, y, 0, 1, 2, 3, 4, 5, 6, 7);
  } else {
    const auto x = (Vec<float, 8>)a, y = (Vec<float, 8>)b;
    return (Whole)__builtin_shufflevector(x, y, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  }
}

template <class V>
STN_INLINE auto sum_of_lanes(V v) {
  constexpr int kLanes = sizeof(v) / sizeof(v[0]);
  if constexpr (kLanes == 2) {
    return v[0] + v[1];
  } else if constexpr (kLanes == 4) {
    return (v[0] + v[2]) + (v[1] + v[3]);
  } else {
    using Lane = std::remove_cvref_t<decltype(v[0])>;
    Vec<Lane, kLanes / 2> halves[2];
    __builtin_memcpy(halves, &v, sizeof v);
    return sum_of_lanes(halves[0] + halves[1]);
  }
}

// Calls add(k, part) for k from 0 to count - 1, the parts 0 and 1 in turn: a sum waits for the one before.
template <class Add>
STN_INLINE void in_two_parts(int64_t count, Add add) {
  int64_t k = 0;
  for (; k + 2 <= count; k += 2) add(k, 0), add(k + 1, 1);
  if (k < count) add(k, 0);
}

// Whether every lane of a comparison holds, by as few extractions as each width allows.
template <class M>
STN_INLINE bool all(M mask) {
#if defined(__AVX512DQ__) && !defined(__clang__)
  if constexpr (sizeof(M) == 64 && sizeof(mask[0]) == 4)
    return __builtin_ia32_cvtd2mask512((Vec<int32_t, 16>)mask) == 0xffff;
  if constexpr (sizeof(M) == 64 && sizeof(mask[0]) == 8)
    return __builtin_ia32_cvtq2mask512((Vec<long long, 8>)mask) == 0xff;
#endif
  if constexpr (sizeof(M) == 64 && sizeof(mask[0]) == 4) {
    return all((Vec<int64_t, 2>)__builtin_convertvector(mask, Vec<int8_t, 16>));
  } else if constexpr (sizeof(M) == 64) {
    const auto words = (Vec<int64_t, 8>)mask;
    return all(__builtin_shufflevector(words, words, 0, 1, 2, 3) & __builtin_shufflevector(words, words, 4, 5, 6, 7));
  } else if constexpr (sizeof(M) == 32) {
    const auto words = (Vec<int64_t, 4>)mask;
    return all(__builtin_shufflevector(words, words, 0, 1) & __builtin_shufflevector(words, words, 2, 3));
  } else {
    const auto words = (Vec<int64_t, 2>)mask;
    return (words[0] & words[1]) == -1;
  }
}

constexpr int kDoubles = kVectorBytes / 8;
using Doubles = Vec<double, kDoubles>;

// Channels at a time. Planes whose rows or sizes are multiples of 4 KB share cache sets: fewer of them then, of such
// rows at most the number that the walk was measured to be fastest with.
STN_INLINE int64_t channel_block(int64_t channels, int64_t plane_bytes, int64_t row_bytes, int64_t most_of_page_rows) {
  int64_t block = plane_bytes % 4096 == 0 ? 4 : plane_bytes < 4096 ? 16 : 8;
  if (row_bytes % 4096 == 0) block = minimum(block, most_of_page_rows);
  return minimum(channels, block);
}

}  // namespace stn::STN_LEVEL
