// Matrices theta (N, n, n + 1): Jaderberg et al. (2015), Eq. 1, in one to three dimensions.
#pragma once
#include "transform.cuh"

namespace stn {

template <class T, int n_ = 2>
struct AffineTransform {
  using Scalar = T;
  using Parameter = T;
  static constexpr int n = n_, kColumns = n + 1, kSums = n * kColumns;
  static constexpr bool kSumsGradient = true;
  const T* theta;
  Frame<T, n> frame;

  int parameters() const { return kSums; }  // of an image
  size_t shared_bytes() const { return 0; }

  // Source pixels by output pixels from the centre: exact there, and right for infinite entries.
  struct Image {
    T map[n][kColumns];
    CentredLattice<T> output[n];
    __device__ __forceinline__ Source<T, n> source(const Pixel<n>& pixel) const {
      Source<T, n> s;
#pragma unroll
      for (int a = 0; a < n; ++a) {
        s.at[a] = map[a][n];
#pragma unroll
        for (int b = n - 1; b >= 0; --b) s.at[a] = map[a][b] * output[b].from_centre(pixel.at[b]) + s.at[a];
      }
      return s;
    }
  };
  __device__ __forceinline__ Image image(int64_t item) const {
    Image result;
#pragma unroll
    for (int a = 0; a < n; ++a) {
      const T* row = theta + (item * n + a) * kColumns;
#pragma unroll
      for (int b = 0; b < n; ++b) {
        result.map[a][b] = frame.source[a].scale * row[b] * frame.output[b].step;
        result.output[b] = frame.output[b];
      }
      result.map[a][n] = frame.source[a].scale * row[n] + frame.source[a].shift;
    }
    return result;
  }

  struct Gradient : SummedGradient<T, kSums> {
    __device__ __forceinline__ Gradient(const AffineTransform&) {}
    // grad: this lane's share of the gradient to the pixel's source.
    __device__ __forceinline__ void add(const AffineTransform& t, const Work&, int64_t, const Pixel<n>& pixel,
                                        bool valid, int, const Source<T, n>& grad, T*) {
      if (!valid) return;
      T x[n];
      t.frame.point(pixel, x);
#pragma unroll
      for (int a = 0; a < n; ++a) {
#pragma unroll
        for (int b = 0; b < n; ++b) this->sum[a * kColumns + b] += grad.at[a] * x[b];
        this->sum[a * kColumns + n] += grad.at[a];
      }
    }
    __device__ __forceinline__ void finish(const AffineTransform& t, const Work& work, const Share& share,
                                           T* partial) const {
      SummedGradient<T, kSums>::finish(work, share, partial, [&](int k) {
        T scale = t.frame.source[0].scale;
#pragma unroll
        for (int a = 1; a < n; ++a) scale = k >= a * kColumns ? t.frame.source[a].scale : scale;
        return scale;
      });
    }
  };
};

}  // namespace stn
