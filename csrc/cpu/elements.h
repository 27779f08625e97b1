// Images in their storage type: half precision is computed in float32 and rounded once, at the store.
#pragma once
#include <type_traits>

#include "half.h"
#include "kernels.h"

namespace stn::STN_LEVEL {

// An element of 16 bits, bfloat16 or float16: kernels are compiled once for both, and where the elements are says
// which.
struct Half {
  uint16_t bits;
};
template <class H>  // Half or const Half
struct HalfElements {
  H* data;
  bool is_bfloat16;
  STN_INLINE HalfElements operator+(int64_t i) const { return {data + i, is_bfloat16}; }
  STN_INLINE HalfElements operator-(int64_t i) const { return {data - i, is_bfloat16}; }
  STN_INLINE HalfElements& operator+=(int64_t i) { return data += i, *this; }
  STN_INLINE H& operator[](int64_t i) const { return data[i]; }
  STN_INLINE operator HalfElements<const Half>() const { return {data, is_bfloat16}; }
};
// Elements of 32 or 16 bits, for kernels that look at the format once a tile.
struct Any {};
template <class A>  // Any or const Any
struct AnyElements {
  template <class T>
  using Alike = std::conditional_t<std::is_const_v<A>, const T, T>;
  Alike<char>* data;
  DType format;
  template <class T>
  STN_INLINE Alike<T>* as() const {
    return reinterpret_cast<Alike<T>*>(data);
  }
  STN_INLINE int64_t size() const { return format == DType::float32 ? 4 : 2; }  // bytes of one
  STN_INLINE AnyElements operator+(int64_t i) const { return {data + size() * i, format}; }
  STN_INLINE operator AnyElements<const Any>() const { return {data, format}; }
};
// Calls f(a, b) with what they are.
template <class A, class B, class F>
STN_INLINE void in_format(AnyElements<A> a, AnyElements<B> b, F f) {
  if (a.format == DType::float32) return f(a.template as<float>(), b.template as<float>());
  const auto halves = []<class H>(H* p, bool is_bfloat16) STN_LAMBDA { return HalfElements<H>{p, is_bfloat16}; };
  const bool is_bfloat16 = a.format == DType::bfloat16;
  f(halves(a.template as<Half>(), is_bfloat16), halves(b.template as<Half>(), is_bfloat16));
}

// Calls f(a) with what it is.
template <class A, class F>
STN_INLINE void in_format(AnyElements<A> a, F f) {
  in_format(a, a, [&](auto elements, auto) STN_LAMBDA { f(elements); });
}

template <class T, class Storage>
constexpr bool kIs = std::is_same_v<std::remove_const_t<T>, Storage>;
template <class T>  // of storage type T, perhaps const
using Elements = std::conditional_t<kIs<T, Half>, HalfElements<T>, std::conditional_t<kIs<T, Any>, AnyElements<T>, T*>>;

template <class T, class Void>
STN_INLINE Elements<T> elements(const Problem& p, Void* data) {
  if constexpr (kIs<T, Any>) {
    return {static_cast<typename AnyElements<T>::template Alike<char>*>(data), p.dtype};
  } else if constexpr (kIs<T, Half>) {
    return {static_cast<T*>(data), p.dtype == DType::bfloat16};
  } else {
    return static_cast<T*>(data);
  }
}
// With the format known when it is compiled, as far as T is.
template <class T, class Void>
STN_INLINE auto any_elements(const Problem& p, Void* data) {
  auto all = elements<std::conditional_t<std::is_const_v<Void>, const Any, Any>>(p, data);
  if constexpr (kIs<T, float>) all.format = DType::float32;
  return all;
}
template <class T>
STN_INLINE T* address(T* p) {
  return p;
}
template <class H>
STN_INLINE H* address(HalfElements<H> p) {
  return p.data;
}

template <class A>
STN_INLINE auto address(AnyElements<A> p) {
  return p.data;
}

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

// Elements as they lie in memory, and vectors of them widened and narrowed.
template <class T>
STN_INLINE T* stored(T* p) {
  return p;
}
STN_INLINE const uint16_t* stored(HalfElements<const Half> p) { return &p.data->bits; }
STN_INLINE uint16_t* stored(HalfElements<Half> p) { return &p.data->bits; }
template <int N, class T>
STN_INLINE Vec<T, N> widened(const T*, Vec<T, N> v) {
  return v;
}
template <int N>
STN_INLINE Vec<float, N> widened(HalfElements<const Half> p, Halves<N> v) {
  return widen<N>(p.is_bfloat16, v);
}
template <int N, class T>
STN_INLINE Vec<T, N> narrowed(T*, Vec<T, N> v) {
  return v;
}
template <int N>
STN_INLINE Halves<N> narrowed(HalfElements<Half> p, Vec<float, N> v) {
  return narrow<N>(p.is_bfloat16, v);
}

// N consecutive elements, widened.
template <int N, class T>
STN_INLINE Vec<T, N> load_as(const T* p) {
  return load<Vec<T, N>>(p);
}
template <int N, class H>
STN_INLINE Vec<float, N> load_as(HalfElements<H> p) {
  return widen<N>(p.is_bfloat16, load<Halves<N>>(p.data));
}
template <int N, class T>
STN_INLINE void store_as(T* p, Vec<T, N> v) {
  store(p, v);
}
template <int N>
STN_INLINE void store_as(HalfElements<Half> p, Vec<float, N> v) {
  store(p.data, narrow<N>(p.is_bfloat16, v));
}
// Of values sampled from elements of that type.
template <int N, class P, class V>
STN_INLINE void store_sampled(P p, V v) {
  if constexpr (sizeof(p[0]) == 2) {
    store(p.data, narrow_sampled<N>(p.is_bfloat16, v));
  } else {
    store_as<N>(p, v);
  }
}
// Calls f(p) with the format known when it is compiled.
template <class T, class F>
STN_INLINE void with_format(T* p, F f) {
  f(p);
}
template <class H, class F>
STN_INLINE void with_format(HalfElements<H> p, F f) {
  p.is_bfloat16 ? f(HalfElements<H>{p.data, true}) : f(HalfElements<H>{p.data, false});
}
template <class A, class F>
STN_INLINE void with_format(AnyElements<A> p, F f) {
  in_format(p, [&](auto elements) STN_LAMBDA { with_format(elements, f); });
}
// The same of two that are stored alike.
template <class A, class B, class F>
STN_INLINE void with_format(AnyElements<A> a, AnyElements<B> b, F f) {
  in_format(a, b, [&](auto first, auto second) STN_LAMBDA {
    with_format(first, [&](auto known) STN_LAMBDA {
      auto other = second;
      if constexpr (sizeof(known[0]) == 2) other.is_bfloat16 = known.is_bfloat16;
      f(known, other);
    });
  });
}
template <int N>
STN_INLINE Vec<float, N> load_as(AnyElements<const Any> p) {
  Vec<float, N> v;
  with_format(p, [&](auto elements) STN_LAMBDA { v = load_as<N>(elements); });
  return v;
}
template <int N>
STN_INLINE void store_sampled(AnyElements<Any> p, Vec<float, N> v) {
  with_format(p, [&](auto elements) STN_LAMBDA { store_sampled<N>(elements, v); });
}
// Elements in a buffer of their own, of the format of others.
template <class T>
STN_INLINE T* like(const T*, T* buffer) {
  return buffer;
}
template <class H>
STN_INLINE HalfElements<Half> like(HalfElements<H> p, Half* buffer) {
  return {buffer, p.is_bfloat16};
}
// The first n < N of them, `step` apart; nothing beyond is touched.
template <int N, class P>
STN_INLINE auto load_part(P p, int64_t n, int64_t step = 1) {
  std::remove_cvref_t<decltype(p[0])> buffer[N] = {};
  for (int64_t i = 0; i < n; ++i) buffer[i] = p[i * step];
  return load_as<N>(like(p, buffer));
}
template <int N, class P, class V>
STN_INLINE void store_part(P p, V v, int64_t n, int64_t step = 1) {
  std::remove_cvref_t<decltype(p[0])> buffer[N];
  store_as<N>(like(p, buffer), v);
  for (int64_t i = 0; i < n; ++i) p[i * step] = buffer[i];
}
template <class T>
STN_INLINE T load_one(const T* p) {
  return *p;
}
template <class H>
STN_INLINE float load_one(HalfElements<H> p) {
  return widen<8>(p.is_bfloat16, Halves<8>{p.data->bits})[0];
}
template <class T>
STN_INLINE void store_one(T* p, T v) {
  *p = v;
}
STN_INLINE void store_one(HalfElements<Half> p, float v) {
  p.data->bits = narrow<8>(p.is_bfloat16, Vec<float, 8>{v})[0];
}

// Whether fetching ahead pays: a call reads and writes more elements of this size than the second cache holds.
STN_INLINE bool leaves_cache(const Problem& p, int64_t size) {
  return p.items() * p.channels * p.out_height * p.out_width * 2 * size > (3 << 19);
}
// Whether what is read next is the next block of channels: several blocks are walked, of planes that lie close.
STN_INLINE bool walks_planes(int64_t channels, int64_t block, int64_t plane) {
  return channels > block && plane < 65536;
}
// Else, whether it is the next image, and not rows below.
STN_INLINE bool small_images(int64_t channels, int64_t from_plane, int64_t to_plane) {
  return channels * maximum(from_plane, to_plane) < (1 << 15);
}

}  // namespace stn::STN_LEVEL
