// Vectors by GNU extensions, no intrinsics; the widths follow the instruction set this file is compiled for.
#pragma once
#include <cstdint>

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

// Whether every lane of a comparison holds, by as few extractions as each width allows.
template <class M>
STN_INLINE bool all(M mask) {
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

// Planes whose rows or sizes are multiples of 4 KB share cache sets: fewer channels at a time then.
STN_INLINE int64_t channel_block(int64_t channels, int64_t plane_bytes, int64_t row_bytes) {
  const int64_t block = row_bytes % 4096 == 0 ? 1 : plane_bytes % 4096 == 0 ? 4 : plane_bytes < 4096 ? 16 : 8;
  return channels < block ? channels : block;
}

// Storage types. Half-precision images are computed in float32 and rounded once, to nearest even, at the store.
struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};
template <class T>
struct ComputeOf {
  using type = float;
};
template <>
struct ComputeOf<double> {
  using type = double;
};
template <class T>
using Compute = typename ComputeOf<T>::type;

template <int N>
STN_INLINE Vec<float, N> widen(BFloat16, Vec<uint32_t, N> bits) {
  return (Vec<float, N>)(bits << 16);
}
template <int N>
STN_INLINE Vec<float, N> widen(Float16, Vec<uint32_t, N> bits) {
  const auto magnitude = (Vec<float, N>)((bits & 0x7fffu) << 13) * 0x1p112f;  // exact, subnormals too
  const auto special = (bits & 0x7c00u) == 0x7c00u;                           // Inf and NaN
  return (Vec<float, N>)((Vec<uint32_t, N>)magnitude | ((bits & 0x8000u) << 16) |
                         ((Vec<uint32_t, N>)special & 0x7f800000u));
}
template <int N>
STN_INLINE Vec<uint32_t, N> narrow(BFloat16, Vec<float, N> value) {
  const auto bits = (Vec<uint32_t, N>)value;
  const auto rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return value == value ? rounded : (bits >> 16) | 0x40u;
}
template <int N>
STN_INLINE Vec<uint32_t, N> narrow(Float16, Vec<float, N> value) {
  using U = Vec<uint32_t, N>;
  const U bits = (U)value, sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  const U normal = (magnitude + 0xc8000fffu + ((magnitude >> 13) & 1u)) >> 13;
  const U subnormal = (U)((Vec<float, N>)magnitude + 0.5f) - 0x3f000000u;
  const U large = value == value ? splat<U>(0x7c00u) : splat<U>(0x7e00u);
  return sign | (magnitude >= 0x47800000u ? large : magnitude < 0x38800000u ? subnormal : normal);
}

// N consecutive elements of storage type T, widened.
template <int N, class T>
STN_INLINE Vec<Compute<T>, N> load_as(const T* p) {
  if constexpr (sizeof(T) == 2) {
    return widen<N>(T{}, __builtin_convertvector(load<Vec<uint16_t, N>>(p), Vec<uint32_t, N>));
  } else {
    return load<Vec<T, N>>(p);
  }
}
template <int N, class T>
STN_INLINE void store_as(T* p, Vec<Compute<T>, N> v) {
  if constexpr (sizeof(T) == 2) {
    store(p, __builtin_convertvector(narrow<N>(T{}, v), Vec<uint16_t, N>));
  } else {
    store(p, v);
  }
}
// The first n < N of them; nothing beyond is touched.
template <int N, class T>
STN_INLINE Vec<Compute<T>, N> load_part(const T* p, int64_t n) {
  T buffer[N] = {};
  for (int64_t i = 0; i < n; ++i) buffer[i] = p[i];
  return load_as<N>(buffer);
}
template <int N, class T>
STN_INLINE void store_part(T* p, Vec<Compute<T>, N> v, int64_t n) {
  T buffer[N];
  store_as<N>(buffer, v);
  for (int64_t i = 0; i < n; ++i) p[i] = buffer[i];
}
template <class T>
STN_INLINE Compute<T> load_one(const T* p) {
  if constexpr (sizeof(T) == 2) {
    return widen<4>(T{}, Vec<uint32_t, 4>{p->bits})[0];
  } else {
    return *p;
  }
}
template <class T>
STN_INLINE void store_one(T* p, Compute<T> v) {
  if constexpr (sizeof(T) == 2) {
    *p = T{uint16_t(narrow<4>(T{}, Vec<float, 4>{v})[0])};
  } else {
    *p = v;
  }
}

}  // namespace stn::STN_LEVEL
