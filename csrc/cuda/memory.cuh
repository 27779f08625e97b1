// How kernels read and write image elements: pixels by stride, channels one by one or 16 bytes at a time.
#pragma once
#include <cstdint>

#include "common/portable.h"
#include "simt.h"

namespace stn {

// Strides of (image, channel, z, y, x) in elements.
struct Strides {
  int64_t image, channel;
  int row, pixel;
  int64_t slice;
};

// kPixel: the pixel stride, 0 if known at run time only. kVector: adjacent channels a thread handles at once.
// kChannels: the number of channels, 0 if known at run time only.
template <int kPixel_, int kVector_, int kChannels_>
struct Access {
  static constexpr int kPixel = kPixel_, kVector = kVector_, kChannels = kChannels_;
};
template <int kChannels>
using Planar = Access<1, 1, kChannels>;
using Strided = Access<0, 1, 0>;
template <class I>
using Packed = Access<0, 16 / sizeof(I), 0>;

// Strides with what A knows of them.
template <class A>
__device__ __forceinline__ Strides known(Strides strides) {
  if (A::kPixel) strides.pixel = A::kPixel;
  return strides;
}
__device__ __forceinline__ int64_t offset(const Strides& strides, int x, int y) {
  return int64_t(y) * strides.row + int64_t(x) * strides.pixel;
}

template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T value[N];
};

// N numbers of type T at address, as they lie there if ok, else 0.
template <class T, int N, class I>
__device__ __forceinline__ void load(const I* address, bool ok, T (&value)[N]) {
  Pack<I, N> pack;
  if (ok) pack = *reinterpret_cast<const Pack<I, N>*>(address);
#pragma unroll
  for (int i = 0; i < N; ++i) value[i] = ok ? T(pack.value[i]) : T(0);
}

template <int N, class I, class T>
__device__ __forceinline__ void store(I* address, const T (&value)[N]) {
  Pack<I, N> pack;
#pragma unroll
  for (int i = 0; i < N; ++i) pack.value[i] = I(value[i]);
  *reinterpret_cast<Pack<I, N>*>(address) = pack;
}

// All N numbers at address, kTogether at a time.
template <int kTogether, class T, int N>
__device__ __forceinline__ void load_all(const T* address, T (&value)[N]) {
  if constexpr (kTogether == N) {
    load(address, true, value);
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) value[i] = address[i];
  }
}
template <int kTogether, class T, int N>
__device__ __forceinline__ void store_all(T* address, const T (&value)[N]) {
  if constexpr (kTogether == N) {
    store(address, value);
  } else {
#pragma unroll
    for (int i = 0; i < N; ++i) address[i] = value[i];
  }
}

}  // namespace stn
