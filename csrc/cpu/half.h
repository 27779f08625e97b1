// Vectors of bfloat16 and float16 to float32 and back, rounded to nearest even.
#pragma once
#include "simd.h"

namespace stn::STN_LEVEL {

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

// The upper 16 bits of words.
template <int N>
STN_INLINE Halves<N> upper_halves(Vec<uint32_t, N> words) {
  if constexpr (N == 16 && kVectorBytes == 64) {  // one permute
    const auto all = (Halves<32>)words;
    return __builtin_shufflevector(all, all, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  }
  return truncated<N>(words >> 16);
}

template <int N>
STN_INLINE Vec<float, N> widen_bfloat16(Halves<N> bits) {
  return (Vec<float, N>)(extended<N>(bits) << 16);
}
// Of values whose NaNs have nothing in the lower half, where the rounding would carry: sums of pixels of that format by
// finite weights have either a pixel's or the processor's own.
template <int N>
STN_INLINE Vec<uint32_t, N> rounded_bfloat16(Vec<float, N> value) {
  // Volatile so that they are read from memory, by all lanes, and not moved from general registers every time.
  static const volatile uint32_t below_half = 0x7fff, lowest_kept = 1;
  const auto bits = (Vec<uint32_t, N>)value;
  return bits + below_half + ((bits >> 16) & lowest_kept);
}
template <int N>
STN_INLINE Halves<N> narrow_bfloat16(Vec<float, N> value) {
  const auto quiet = (Vec<uint32_t, N>)value | 0x400000u;
  return upper_halves<N>(value == value ? rounded_bfloat16<N>(value) : quiet);
}

// The processor's conversions have a width: narrower vectors are filled up to it, wider ones cut in two.
template <class To, class From>
STN_INLINE To refitted(From v) {  // the first elements of v; what is beyond them is 0
  To to{};
  __builtin_memcpy(&to, &v, sizeof(to) < sizeof(v) ? sizeof(to) : sizeof(v));
  return to;
}
template <int N>
STN_INLINE Vec<float, N> widen_float16(Halves<N> bits) {
#if defined(__AVX512F__)
  if constexpr (N == 16)
    return __builtin_ia32_vcvtph2ps512_mask((Vec<short, 16>)bits, Vec<float, 16>{}, 0xffff, 4 /* current rounding */);
#endif
#if defined(__F16C__)
  if constexpr (N == 8) {
    return __builtin_ia32_vcvtph2ps256((Vec<short, 8>)bits);
  } else if constexpr (N < 8) {
    return refitted<Vec<float, N>>(widen_float16<8>(refitted<Halves<8>>(bits)));
  } else {
    constexpr int kHalf = N / 2;
    Halves<kHalf> part[2];
    __builtin_memcpy(part, &bits, sizeof bits);
    const Vec<float, kHalf> wide[] = {widen_float16<kHalf>(part[0]), widen_float16<kHalf>(part[1])};
    return load<Vec<float, N>>(wide);
  }
#else
  const Vec<uint32_t, N> word = extended<N>(bits);
  const auto magnitude = (Vec<float, N>)((word & 0x7fffu) << 13) * 0x1p112f;  // exact, subnormals too
  const auto special = (word & 0x7c00u) == 0x7c00u;                           // Inf and NaN
  return (Vec<float, N>)((Vec<uint32_t, N>)magnitude | ((word & 0x8000u) << 16) |
                         ((Vec<uint32_t, N>)special & 0x7f800000u));
#endif
}
template <int N>
STN_INLINE Halves<N> narrow_float16(Vec<float, N> value) {
#if defined(__AVX512F__)
  if constexpr (N == 16) return (Halves<16>)__builtin_ia32_vcvtps2ph512_mask(value, 0, Vec<short, 16>{}, 0xffff);
#endif
#if defined(__F16C__)
  if constexpr (N == 8) {
    return (Halves<8>)__builtin_ia32_vcvtps2ph256(value, 0 /* to nearest even */);
  } else if constexpr (N < 8) {
    return refitted<Halves<N>>(narrow_float16<8>(refitted<Vec<float, 8>>(value)));
  } else {
    constexpr int kHalf = N / 2;
    Vec<float, kHalf> part[2];
    __builtin_memcpy(part, &value, sizeof value);
    const Halves<kHalf> halves[] = {narrow_float16<kHalf>(part[0]), narrow_float16<kHalf>(part[1])};
    return load<Halves<N>>(halves);
  }
#else
  using U = Vec<uint32_t, N>;
  const U bits = (U)value, sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  const U normal = (magnitude + 0xc8000fffu + ((magnitude >> 13) & 1u)) >> 13;
  const U subnormal = (U)((Vec<float, N>)magnitude + 0.5f) - 0x3f000000u;
  const U large = value == value ? splat<U>(0x7c00u) : splat<U>(0x7e00u);
  return truncated<N>(sign | (magnitude >= 0x47800000u ? large : magnitude < 0x38800000u ? subnormal : normal));
#endif
}

template <int N>
STN_INLINE Vec<float, N> widen(bool is_bfloat16, Halves<N> bits) {
  if (is_bfloat16) return widen_bfloat16<N>(bits);
  return widen_float16<N>(bits);
}
template <int N>
STN_INLINE Halves<N> narrow(bool is_bfloat16, Vec<float, N> value) {
  if (is_bfloat16) return narrow_bfloat16<N>(value);
  return narrow_float16<N>(value);
}
template <int N>
STN_INLINE Halves<N> narrow_sampled(bool is_bfloat16, Vec<float, N> value) {
  if (is_bfloat16) return upper_halves<N>(rounded_bfloat16<N>(value));
  return narrow_float16<N>(value);
}
// Pairs of neighbours, each pair in a word, apart.
template <int N>
STN_INLINE void widen_pairs(bool is_bfloat16, Vec<uint32_t, N> pairs, Vec<float, N>& first, Vec<float, N>& second) {
  if (is_bfloat16) {
    first = (Vec<float, N>)(pairs << 16), second = (Vec<float, N>)(pairs & 0xffff0000u);
  } else {
    first = widen_float16<N>(truncated<N>(pairs & 0xffffu)), second = widen_float16<N>(truncated<N>(pairs >> 16));
  }
}

}  // namespace stn::STN_LEVEL
