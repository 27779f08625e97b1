// Images in their storage type: half precision is computed in float32 and rounded once, to nearest even, at the store.
#pragma once
#include "simd.h"

namespace stn::STN_LEVEL {

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
using Halves = Vec<uint16_t, N>;

// 16 bits to 32 and back; as the compiler converts vectors, these take several instructions.
template <int N>
STN_INLINE Vec<uint32_t, N> extended(Halves<N> bits) {
#if defined(__AVX512F__)
  if constexpr (N == 16)
    return (Vec<uint32_t, 16>)__builtin_ia32_pmovzxwd512_mask((Vec<short, 16>)bits, Vec<int, 16>{}, 0xffff);
#endif
#if defined(__AVX2__)
  if constexpr (N == 8) return (Vec<uint32_t, 8>)__builtin_ia32_pmovzxwd256((Vec<short, 8>)bits);
#endif
  return __builtin_convertvector(bits, Vec<uint32_t, N>);
}
template <int N>
STN_INLINE Halves<N> truncated(Vec<uint32_t, N> words) {
#if defined(__AVX512F__)
  if constexpr (N == 16)
    return (Halves<16>)__builtin_ia32_pmovdw512_mask((Vec<int, 16>)words, Vec<short, 16>{}, 0xffff);
#endif
  return __builtin_convertvector(words, Halves<N>);
}

template <int N>
STN_INLINE Vec<float, N> widen(BFloat16, Halves<N> bits) {
  return (Vec<float, N>)(extended<N>(bits) << 16);
}
template <int N>
STN_INLINE Halves<N> narrow(BFloat16, Vec<float, N> value) {
  const auto bits = (Vec<uint32_t, N>)value;
  const auto rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return truncated<N>(value == value ? rounded : (bits >> 16) | 0x40u);
}

template <int N>
STN_INLINE Vec<float, N> widen(Float16, Halves<N> bits) {
#if defined(__AVX512F__)
  if constexpr (N == 16) {
    return __builtin_ia32_vcvtph2ps512_mask((Vec<short, 16>)bits, Vec<float, 16>{}, 0xffff, 4 /* current rounding */);
  }
#endif
#if defined(__F16C__)
  if constexpr (N == 8) return __builtin_ia32_vcvtph2ps256((Vec<short, 8>)bits);
#endif
  const Vec<uint32_t, N> word = extended<N>(bits);
  const auto magnitude = (Vec<float, N>)((word & 0x7fffu) << 13) * 0x1p112f;  // exact, subnormals too
  const auto special = (word & 0x7c00u) == 0x7c00u;                           // Inf and NaN
  return (Vec<float, N>)((Vec<uint32_t, N>)magnitude | ((word & 0x8000u) << 16) |
                         ((Vec<uint32_t, N>)special & 0x7f800000u));
}
template <int N>
STN_INLINE Halves<N> narrow(Float16, Vec<float, N> value) {
#if defined(__AVX512F__)
  if constexpr (N == 16) return (Halves<16>)__builtin_ia32_vcvtps2ph512_mask(value, 0, Vec<short, 16>{}, 0xffff);
#endif
#if defined(__F16C__)
  if constexpr (N == 8) return (Halves<8>)__builtin_ia32_vcvtps2ph256(value, 0 /* to nearest even */);
#endif
  using U = Vec<uint32_t, N>;
  const U bits = (U)value, sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  const U normal = (magnitude + 0xc8000fffu + ((magnitude >> 13) & 1u)) >> 13;
  const U subnormal = (U)((Vec<float, N>)magnitude + 0.5f) - 0x3f000000u;
  const U large = value == value ? splat<U>(0x7c00u) : splat<U>(0x7e00u);
  return truncated<N>(sign | (magnitude >= 0x47800000u ? large : magnitude < 0x38800000u ? subnormal : normal));
}

// The first or second of pairs of neighbours, each pair in a word.
template <int N>
STN_INLINE Vec<float, N> widen_first(BFloat16, Vec<uint32_t, N> pairs) {
  return (Vec<float, N>)(pairs << 16);
}
template <int N>
STN_INLINE Vec<float, N> widen_second(BFloat16, Vec<uint32_t, N> pairs) {
  return (Vec<float, N>)(pairs & 0xffff0000u);
}
template <int N>
STN_INLINE Vec<float, N> widen_first(Float16, Vec<uint32_t, N> pairs) {
  return widen<N>(Float16{}, truncated<N>(pairs & 0xffffu));
}
template <int N>
STN_INLINE Vec<float, N> widen_second(Float16, Vec<uint32_t, N> pairs) {
  return widen<N>(Float16{}, truncated<N>(pairs >> 16));
}

// N consecutive elements of storage type T, widened.
template <int N, class T>
STN_INLINE Vec<Compute<T>, N> load_as(const T* p) {
  if constexpr (sizeof(T) == 2) {
    return widen<N>(T{}, load<Halves<N>>(p));
  } else {
    return load<Vec<T, N>>(p);
  }
}
template <int N, class T>
STN_INLINE void store_as(T* p, Vec<Compute<T>, N> v) {
  if constexpr (sizeof(T) == 2) {
    store(p, narrow<N>(T{}, v));
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
    return widen<8>(T{}, Halves<8>{p->bits})[0];
  } else {
    return *p;
  }
}
template <class T>
STN_INLINE void store_one(T* p, Compute<T> v) {
  if constexpr (sizeof(T) == 2) {
    *p = T{narrow<8>(T{}, Vec<float, 8>{v})[0]};
  } else {
    *p = v;
  }
}

}  // namespace stn::STN_LEVEL
