// The exponential function of a number, or of a GNU vector of them.
#pragma once
#include "portable.h"

namespace stn {

// Of vectors: |x| < 80, to 2 ulp. With x = k log 2 + r, |r| <= log(2) / 2: 2^k times the series of e^r.
template <class T>
STN_HD T exp_of(T x) {
#if !defined(__CUDACC__)
  if constexpr (!std::is_arithmetic_v<T>) {
    using E = std::remove_cvref_t<decltype(T{}[0])>;
    constexpr bool kDouble = sizeof(E) == 8;
    using Word = std::conditional_t<kDouble, int64_t, int32_t>;
    const T k = floor_of(x * E(1.4426950408889634) + E(0.5));
    // log 2 in two parts, the first with few bits, so that k times it is exact.
    const E high = kDouble ? E(0x1.62e42fefa38p-1) : E(0x1.63p-1f);
    const T r = x - k * high - k * E(kDouble ? 0x1.ef35793c7673p-45 : -0x1.bd0105p-13);
    constexpr int kTerms = kDouble ? 14 : 7;
    T sum = constant<T>(1);
    for (int i = kTerms; i > 0; --i) sum = r * sum * E(1.0 / i) + E(1);
    return sum * bits_as<T>((converted<Word>(k) + (kDouble ? 1023 : 127)) << (kDouble ? 52 : 23));
  } else
#endif
    return std::exp(x);
}

}  // namespace stn
