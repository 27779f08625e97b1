// What every transform is made of. A transform is one header (affine.cuh, grid.cuh, homography.cuh, tps.cuh) with
//   image(n): the transform of image n, whose source(pixel) is where an output pixel comes from, in input pixels;
//   Gradient: what becomes of the gradient to that source; every thread of a block calls add and finish.
#pragma once
#include "common/affine.h"
#include "reduce.cuh"

namespace stn {

// A position, or a gradient to one, in input pixels: x, y, z.
template <class T, int n = 2>
struct Source {
  T at[n];
};

// An output pixel: column, row, slice.
template <int n = 2>
struct Pixel {
  int at[n];
};

// The output, from its middle out, and the source's axes: pixels, or {1, 0} for normalized coordinates.
template <class T, int n = 2>
struct Frame {
  Axis<T> source[n];
  CentredLattice<T> output[n];

  // Normalized coordinates of an output pixel.
  __device__ __forceinline__ void point(const Pixel<n>& pixel, T (&x)[n]) const {
#pragma unroll
    for (int a = 0; a < n; ++a) x[a] = output[a].at(pixel.at[a]);
  }
};

// A gradient to parameters that is `count` sums over the output's pixels, each the product of a row's gradient and a
// column's function of the pixel: a matrix of kSums numbers, summed by a thread, then over the block.
template <class T, int kSums>
struct SummedGradient {
  T sum[kSums] = {};

  // Writes scale(k) times the block's sum k.
  template <class F>
  __device__ __forceinline__ void finish(const Work& work, const Share& share, T* partial, F&& scale) const {
    sum_block<kSums>(sum, [&](int k, T total) { partial[partial_index(work, share, kSums, k)] = scale(k) * total; });
  }
};

}  // namespace stn
