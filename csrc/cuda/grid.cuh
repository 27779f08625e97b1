// Coordinates that the user has: grid (N, *out, n), normalized.
#pragma once
#include "transform.cuh"

namespace stn {

template <class T, int n_ = 2>
struct GridTransform {
  using Scalar = T;
  using Parameter = T;
  static constexpr int n = n_;
  static constexpr bool kSumsGradient = false;
  const T* grid;
  Frame<T, n> frame;
  int size[n];  // of the output: width, height, depth

  int parameters() const { return 0; }
  size_t shared_bytes() const { return 0; }

  __device__ __forceinline__ int64_t index(int64_t item, const Pixel<n>& pixel) const {
    int64_t point = item;
#pragma unroll
    for (int a = n - 1; a >= 0; --a) point = point * size[a] + pixel.at[a];
    return point * n;
  }
  // Two coordinates are one access, aligned so by `coordinates`.
  static constexpr int kTogether = n == 2 ? 2 : 1;

  struct Image {
    const GridTransform& t;
    int64_t item;
    __device__ __forceinline__ Source<T, n> source(const Pixel<n>& pixel) const {
      Source<T, n> s;
      load_all<kTogether>(t.grid + t.index(item, pixel), s.at);
#pragma unroll
      for (int a = 0; a < n; ++a) s.at[a] = t.frame.source[a].scale * s.at[a] + t.frame.source[a].shift;
      return s;
    }
  };
  __device__ __forceinline__ Image image(int64_t item) const { return {*this, item}; }

  // Stored as it arises.
  struct Gradient {
    __device__ __forceinline__ Gradient(const GridTransform&) {}
    __device__ __forceinline__ void add(const GridTransform& t, const Work& work, int64_t item, const Pixel<n>& pixel,
                                        bool valid, int lane, const Source<T, n>& grad, T* grad_grid) {
      T value[n];
#pragma unroll
      for (int a = 0; a < n; ++a) value[a] = t.frame.source[a].scale * sum_lanes(grad.at[a], work.log2_lanes);
      if (valid && lane == 0) store_all<kTogether>(grad_grid + t.index(item, pixel), value);
    }
    __device__ __forceinline__ void finish(const GridTransform&, const Work&, const Share&, T*) const {}
  };
};

}  // namespace stn
