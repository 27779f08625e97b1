// One source for host and device: the maths of one point in csrc/common is marked STN_HD.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__CUDACC__)
#define STN_HD __host__ __device__ __forceinline__
#define STN_UNROLL _Pragma("unroll")  // registers have no index: an array lives in them if its loops are unrolled
#else
#define STN_HD inline __attribute__((always_inline))
#define STN_UNROLL
#endif

namespace stn {

enum class Mode : int { bilinear = 0, nearest = 1, bicubic = 2, linearized };  // the codes of _library.MODES
enum class Padding : int { zeros = 0, border = 1, reflection = 2, any };       // the codes of _library.PADDING_MODES

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

template <class T>
STN_HD T square_root(T x) {
  if constexpr (requires { x[0]; }) {
    for (size_t i = 0; i < sizeof x / sizeof x[0]; ++i) x[i] = square_root(x[i]);
    return x;
  } else {
    return std::sqrt(x);
  }
}

// Numbers of type E, as many as T has: E itself for a scalar T.
template <class T, class E, bool kScalar = std::is_arithmetic_v<T>>
struct LikeType {
  using type = E;
};
#if !defined(__CUDACC__)
template <class T, class E>
struct LikeType<T, E, false> {
  typedef E type __attribute__((vector_size(sizeof(T) / sizeof(T{}[0]) * sizeof(E))));
};
#endif
template <class T, class E>
using Like = typename LikeType<T, E>::type;

template <class E, class T>
STN_HD Like<T, E> converted(T value) {
#if !defined(__CUDACC__)
  if constexpr (!std::is_arithmetic_v<T>)
    return __builtin_convertvector(value, Like<T, E>);
  else
#endif
    return E(value);
}

template <class To, class T>
STN_HD To bits_as(T value) {
  static_assert(sizeof(To) == sizeof(T));
  To bits;
  memcpy(&bits, &value, sizeof value);
  return bits;
}

// a * b rounded by itself, whatever it is added to: results that must have the same bits everywhere.
template <class T>
STN_HD T unfused_product(T a, T b) {
#if defined(__CUDA_ARCH__)
  static_assert(sizeof(T) == 4);
  return __fmul_rn(a, b);
#else
  T product = a * b;
#if defined(__x86_64__)
  asm("" : "+v"(product));
#elif defined(__aarch64__)
  asm("" : "+w"(product));
#else
  asm("" : "+m"(product));
#endif
  return product;
#endif
}

}  // namespace stn
