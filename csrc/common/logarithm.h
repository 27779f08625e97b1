// The natural logarithm of a number, or of a GNU vector of float64 numbers.
#pragma once
#include "portable.h"

namespace stn {

// Of vectors: positive normal numbers only, to 2e-16 + 8e-16 |log x|. With x = 2^e m, sqrt(1/2) <= m < sqrt(2), and
// s = (m - 1) / (m + 1): log m = 2 artanh(s) = s (2 + s^2 R(s^2)), R by Chebyshev interpolation.
template <class T>
STN_HD T log_of(T x) {
#if !defined(__CUDACC__)
  if constexpr (!std::is_arithmetic_v<T>) {
    typedef uint64_t Bits __attribute__((vector_size(sizeof(T))));
    constexpr uint64_t kSqrtHalf = 0x3fe6a09e667f3bcd, kBias = uint64_t(1023) << 52;
    constexpr double kMagic = 0x1p52;  // its last bit is 1: a small integer in its mantissa is added
    const Bits exponent = ((Bits)x - kSqrtHalf + kBias) >> 52;
    const T m = (T)((Bits)x - (exponent << 52) + kBias);
    const T s = (m - 1.0) / (m + 1.0), z = s * s;
    T r = 0.166218171528589282 * z + 0.181401938028659911;
    r = r * z + 0.222228622801087156;
    r = r * z + 0.285714241383241606;
    r = r * z + 0.400000000112065063;
    r = r * z + 0.666666666666620832;
    const T e = (T)(exponent | 0x4330000000000000) - (kMagic + 1023);
    return e * 0.693147180559945309 + (s + s + s * z * r);
  } else
#endif
    return std::log(x);
}

}  // namespace stn
