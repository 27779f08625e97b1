// The transforms: where the source of an output point lies, and what becomes of the gradient to it.
#pragma once
#include "common/affine.h"
#include "reduce.cuh"

namespace stn {

// A position, or a gradient to one, in input pixels.
template <class T>
struct Source {
  T x, y;
};

// Matrices theta (N, 2, 3). Their gradient: partial sums a block, then sum_partials_kernel.
template <class T>
struct AffineTransform {
  using Scalar = T;
  static constexpr bool kSumsGradient = true;
  const T* theta;
  Axis<T> x, y;            // input pixels
  CentredLattice<T> u, v;  // output

  struct Image {
    CentredMap<T> map;
    CentredLattice<T> u, v;
    __device__ __forceinline__ Source<T> source(int column, int row) const {
      const T du = u.from_centre(column), dv = v.from_centre(row);
      return {map.xu * du + (map.xv * dv + map.x0), map.yu * du + (map.yv * dv + map.y0)};
    }
  };
  __device__ __forceinline__ Image image(int64_t n) const {
    return {centred_map(theta + 6 * n, x, y, u.step, v.step), u, v};
  }

  struct Gradient {
    T sum[kSums] = {};

    // grad: this lane's share of the gradient to the source of (u, v).
    __device__ __forceinline__ void add(const AffineTransform& t, const Work&, int64_t, int u, int v, bool valid, int,
                                        Source<T> grad, T*) {
      if (!valid) return;
      const T x = t.u.at(u), y = t.v.at(v);
      sum[0] += grad.x * x;
      sum[1] += grad.x * y;
      sum[2] += grad.x;
      sum[3] += grad.y * x;
      sum[4] += grad.y * y;
      sum[5] += grad.y;
    }
    __device__ __forceinline__ void finish(const Work& work, const Share& share, T* partial) const {
      sum_block(sum, partial + partial_index(work, share) * kSums);
    }
  };
};

// Normalized coordinates grid (N, Ho, Wo, 2). Their gradient is stored as it arises.
template <class T>
struct GridTransform {
  using Scalar = T;
  static constexpr bool kSumsGradient = false;
  const T* grid;
  Axis<T> x, y;
  int out_height, out_width;

  __device__ __forceinline__ int64_t index(int64_t n, int u, int v) const {
    return ((n * out_height + v) * out_width + u) * 2;
  }

  struct Image {
    const GridTransform& t;
    int64_t n;
    __device__ __forceinline__ Source<T> source(int u, int v) const {
      T point[2];
      load(t.grid + t.index(n, u, v), true, point);
      return {t.x.scale * point[0] + t.x.shift, t.y.scale * point[1] + t.y.shift};
    }
  };
  __device__ __forceinline__ Image image(int64_t n) const { return {*this, n}; }

  struct Gradient {
    __device__ __forceinline__ void add(const GridTransform& t, const Work& work, int64_t n, int u, int v, bool valid,
                                        int lane, Source<T> grad, T* grad_grid) {
      const T value[2] = {t.x.scale * sum_lanes(grad.x, work.log2_lanes),
                          t.y.scale * sum_lanes(grad.y, work.log2_lanes)};
      if (valid && lane == 0) store(grad_grid + t.index(n, u, v), value);
    }
    __device__ __forceinline__ void finish(const Work&, const Share&, T*) const {}
  };
};

}  // namespace stn
