// The coordinates of an affine transformation alone, and their adjoint.
#pragma once
#include "transforms.cuh"

namespace stn {

using GridAccess = Planar<1>;  // a point's two coordinates are one access

// theta (N, 2, 3) -> grid (N, Ho, Wo, 2) in normalized coordinates.
template <class T>
__global__ void __launch_bounds__(kThreads) affine_grid_kernel(const T* __restrict__ theta, T* __restrict__ grid,
                                                               CentredLattice<T> u, CentredLattice<T> v, Work work) {
  const Share share = share_of(work);
  const Points points = points_of<GridAccess>(work);
  if (points.x >= work.out_width) return;
  T t[kSums];
#pragma unroll
  for (int k = 0; k < kSums; ++k) t[k] = __ldg(theta + share.image * kSums + k);
  const T x = u.at(points.x);
#pragma unroll 1
  for (int row = 0; row < work.rows; ++row) {
    const int i = points.y(row);
    if (i >= work.out_height) return;
    const T y = v.at(i);
    const T point[2] = {t[0] * x + (t[1] * y + t[2]), t[3] * x + (t[4] * y + t[5])};
    store(grid + ((share.image * work.out_height + i) * work.out_width + points.x) * 2, point);
  }
}

// grad_output (N, Ho, Wo, 2) -> a block's six sums, for sum_partials_kernel.
template <class T>
__global__ void __launch_bounds__(kThreads)
    affine_grid_backward_kernel(const T* __restrict__ grad_output, T* __restrict__ partial,
                                AffineTransform<T> transform, Work work) {
  const Share share = share_of(work);
  const Points points = points_of<GridAccess>(work);
  typename AffineTransform<T>::Gradient gradient;
#pragma unroll 1
  for (int row = 0; row < work.rows; ++row) {
    const int i = points.y(row);
    const bool valid = points.x < work.out_width && i < work.out_height;
    T grad[2];
    load(grad_output + ((share.image * work.out_height + i) * work.out_width + points.x) * 2, valid, grad);
    gradient.add(transform, work, share.image, points.x, i, valid, 0, {grad[0], grad[1]}, partial);
  }
  gradient.finish(work, share, partial);
}

}  // namespace stn
