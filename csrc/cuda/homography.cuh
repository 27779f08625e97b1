// Matrices (N, 3, 3) of projective transforms: the rules of reference/homography.py.
#pragma once
#include "common/homography.h"
#include "transform.cuh"

namespace stn {

template <class T>
struct HomographyTransform {
  using Scalar = T;
  using Parameter = T;
  static constexpr int n = 2, kSums = 9;
  static constexpr bool kSumsGradient = true;
  const T* matrix;
  Frame<T> frame;

  int parameters() const { return kSums; }
  size_t shared_bytes() const { return 0; }

  struct Image {
    const HomographyTransform* t;
    const T* matrix;
    __device__ __forceinline__ Source<T> source(const Pixel<>& pixel) const {
      T point[2];
      t->frame.point(pixel, point);
      const Projected<T> p = project(matrix, point[0], point[1]);
      const Axis<T>* axis = t->frame.source;
      return {axis[0].scale * p.x + axis[0].shift, axis[1].scale * p.y + axis[1].shift};
    }
  };
  __device__ __forceinline__ Image image(int64_t item) const { return {this, matrix + kSums * item}; }

  struct Gradient : SummedGradient<T, kSums> {
    __device__ __forceinline__ Gradient(const HomographyTransform&) {}
    __device__ __forceinline__ void add(const HomographyTransform& t, const Work&, int64_t item, const Pixel<>& pixel,
                                        bool valid, int, const Source<T>& grad, T*) {
      if (!valid) return;
      T point[2], homogeneous[3];
      t.frame.point(pixel, point);
      const Projected<T> p = project(t.matrix + kSums * item, point[0], point[1]);
      project_vjp(p, t.frame.source[0].scale * grad.at[0], t.frame.source[1].scale * grad.at[1], homogeneous);
#pragma unroll
      for (int a = 0; a < 3; ++a) {
        this->sum[3 * a] += homogeneous[a] * point[0];
        this->sum[3 * a + 1] += homogeneous[a] * point[1];
        this->sum[3 * a + 2] += homogeneous[a];
      }
    }
    __device__ __forceinline__ void finish(const HomographyTransform&, const Work& work, const Share& share,
                                           T* partial) const {
      SummedGradient<T, kSums>::finish(work, share, partial, [](int) { return T(1); });
    }
  };
};

}  // namespace stn
