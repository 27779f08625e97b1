// Counter-based normal numbers, to the bit those of reference/philox.py.
#pragma once
#include "portable.h"

namespace stn {

// Four 32-bit words: uint32_t, or vectors of uint64_t that hold them.
template <class U>
struct Words {
  U a, b, c, d;
};

// Philox4x32-10 (Salmon et al. 2011): a counter and a key to four random words.
template <class U>
STN_HD Words<U> philox(Words<U> w, uint32_t low, uint32_t high) {
  for (int round = 0; round < 10; ++round) {
    if constexpr (std::is_same_v<U, uint32_t>) {
      const uint64_t first = uint64_t(w.a) * 0xD2511F53u, second = uint64_t(w.c) * 0xCD9E8D57u;
      w = {uint32_t(second >> 32) ^ w.b ^ low, uint32_t(second), uint32_t(first >> 32) ^ w.d ^ high, uint32_t(first)};
    } else {
      const U first = w.a * uint64_t(0xD2511F53), second = w.c * uint64_t(0xCD9E8D57);
      w = {(second >> 32) ^ w.b ^ uint64_t(low), second & uint64_t(0xFFFFFFFF), (first >> 32) ^ w.d ^ uint64_t(high),
           first & uint64_t(0xFFFFFFFF)};
    }
    low += 0x9E3779B9u, high += 0xBB67AE85u;
  }
  return w;
}

template <int N, class F>
STN_HD F unfused_polynomial(F x, const float (&coefficients)[N]) {  // highest degree first
  F value = constant<F>(coefficients[0]);
  STN_UNROLL
  for (int i = 1; i < N; ++i) value = unfused_product(value, x) + coefficients[i];
  return value;
}

// Two words -> two standard normal numbers (Box and Muller). U: uint32_t or vectors of it; F: as many floats.
template <class U, class F>
STN_HD void normal_pair(U first, U second, F& x, F& y) {
  constexpr float kLog[] = {-0.08101558f, 0.12712307f, -0.12972239f, 0.14202173f,
                            -0.16642247f, 0.20001468f, -0.25000298f, 0.33333328f};
  constexpr float kSin[] = {-0.00019587925f, 0.0083327485f, -0.16666665f};
  constexpr float kCos[] = {0.000024547966f, -0.0013888303f, 0.041666664f};
  using I = Like<U, int32_t>;
  constexpr int32_t kSqrtHalf = 0x3F3504F3;
  const I bits = bits_as<I>(converted<float>(bits_as<I>((first >> 9) * 2u + 1u)));
  const I exponent = (bits - kSqrtHalf) >> 23;
  const F f = bits_as<F>(bits - exponent * (1 << 23)) - 1.f, square = unfused_product(f, f);
  F log = f - square * 0.5f;
  log = log + unfused_product(unfused_product(square, f), unfused_polynomial(f, kLog));
  log = unfused_product(converted<float>(exponent - 24), constant<F>(0.6931472f)) + log;
  const F radius = square_root(log * -2.f);

  const I part = bits_as<I>((second >> 6) & 0xFFFFFFu);
  const F angle = unfused_product(converted<float>(part) * 0x1p-24f + (0x1p-25f - 0.5f), constant<F>(1.5707964f));
  const F squared = unfused_product(angle, angle);
  const F sine = angle + unfused_product(unfused_product(squared, angle), unfused_polynomial(squared, kSin));
  const F cosine =
      (1.f - squared * 0.5f) + unfused_product(unfused_product(squared, squared), unfused_polynomial(squared, kCos));
  const U quarter = second >> 30;
  const auto swapped = (quarter & 1u) != 0u;
  const auto left = (quarter == 1u) | (quarter == 2u);
  const auto below = quarter >= 2u;
  const F along_x = select(swapped, sine, cosine), along_y = select(swapped, cosine, sine);
  x = unfused_product(radius, select(left, -along_x, along_x));
  y = unfused_product(radius, select(below, -along_y, along_y));
}

}  // namespace stn
