// One source for host and device: the maths of one point in csrc/common is marked STN_HD.
#pragma once
#include <cmath>
#include <cstdint>
#include <type_traits>

#if defined(__CUDACC__)
#define STN_HD __host__ __device__ __forceinline__
#else
#define STN_HD inline __attribute__((always_inline))
#endif

namespace stn {

enum class Mode : int { bilinear = 0, nearest = 1, bicubic = 2 };    // the codes of _library.MODES
enum class Padding : int { zeros = 0, border = 1, reflection = 2 };  // the codes of _library.PADDING_MODES

template <class T>
STN_HD T minimum(T a, T b) {  // NaN in a loses: minimum(NaN, high) = high
#if defined(__CUDA_ARCH__)
  if constexpr (std::is_floating_point_v<T>) return std::fmin(a, b);  // one instruction instead of two
#endif
  return a < b ? a : b;
}
template <class T>
STN_HD T maximum(T a, T b) {  // NaN in b loses: maximum(low, NaN) = low
#if defined(__CUDA_ARCH__)
  if constexpr (std::is_floating_point_v<T>) return std::fmax(a, b);
#endif
  return b > a ? b : a;
}

// The words in which a rule is written once, for a float, a double or a vector of them (GNU vectors on the CPU).
template <class T, class V>
STN_HD T constant(V value) {
  if constexpr (std::is_arithmetic_v<T>)
    return T(value);
  else
    return T(T{} + std::remove_cvref_t<decltype(T{}[0])>(value));
}
template <class M, class T>
STN_HD T select(M condition, T a, T b) {
  return condition ? a : b;
}
template <class T>
STN_HD T absolute(T x) {
  return x < T{} ? -x : x;
}
template <class T>
STN_HD T floor_of(T x) {
  if constexpr (requires { x[0]; }) {
    for (size_t i = 0; i < sizeof x / sizeof x[0]; ++i) x[i] = floor_of(x[i]);
    return x;
  } else {
    return std::floor(x);
  }
}

}  // namespace stn
