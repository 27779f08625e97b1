// The coordinates of a transform alone, and their adjoint.
#pragma once
#include "taps.cuh"
#include "warp_launch.cuh"

namespace stn {

using LatticeAccess = Planar<1>;  // a point's coordinates are adjacent

template <int n>
__device__ __forceinline__ int64_t lattice_index(const Work& work, int64_t image, int column, int row) {
  return ((image * work.out_rows + row) * work.out_width + column) * n;
}

// -> grid (N, *out, n); the transform's sources are normalized coordinates.
template <class Transform>
__global__ void __launch_bounds__(kThreads)
    lattice_kernel(Transform transform, typename Transform::Scalar* __restrict__ grid, Work work) {
  constexpr int n = Transform::n;
  const Share share = share_of(work);
  const Points points = points_of<LatticeAccess, n>(work);
  if (points.x >= work.out_width) return;
  const auto image = transform.image(share.image);
#pragma unroll 1
  for (int row = 0; row < work.rows; ++row) {
    const int y = points.y(row);
    if (y >= work.out_rows) return;
    const auto source = image.source(pixel_at<n>(work, points.x, y));
    store_all<n == 2 ? 2 : 1>(grid + lattice_index<n>(work, share.image, points.x, y), source.at);
  }
}

// grad_output (N, *out, n) -> what Transform::Gradient makes of it.
template <class Transform>
__global__ void __launch_bounds__(kThreads)
    lattice_backward_kernel(const typename Transform::Scalar* __restrict__ grad_output,
                            typename Transform::Scalar* __restrict__ grad_params, Transform transform, Work work) {
  using T = typename Transform::Scalar;
  constexpr int n = Transform::n;
  const Share share = share_of(work);
  const Points points = points_of<LatticeAccess, n>(work);
  typename Transform::Gradient gradient(transform);
#pragma unroll 1
  for (int row = 0; row < work.rows; ++row) {
    const int y = points.y(row);
    const bool valid = points.x < work.out_width && y < work.out_rows;
    Source<T, n> grad = {};
    if (valid) load_all<n == 2 ? 2 : 1>(grad_output + lattice_index<n>(work, share.image, points.x, y), grad.at);
    gradient.add(transform, work, share.image, pixel_at<n>(work, points.x, y), valid, 0, grad, grad_params);
  }
  gradient.finish(transform, work, share, grad_params);
}

}  // namespace stn
