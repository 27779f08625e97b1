// Between a CPAB transformation of the output's pixels and the coordinates at which an image is sampled.
#pragma once
#include "affine.cuh"
#include "taps.cuh"

namespace stn {

using CpabAccess = Planar<1>;

// The output's pixel centres in units of the domain: (P, n).
template <class T, int n>
__global__ void __launch_bounds__(kThreads) cpab_lattice_kernel(Frame<T, n> frame, T* __restrict__ points, Work work) {
  const Points at = points_of<CpabAccess, n>(work);
  if (at.x >= work.out_width) return;
#pragma unroll 1
  for (int row = 0; row < work.rows; ++row) {
    const int y = at.y(row);
    if (y >= work.out_rows) return;
    T x[n];
    frame.point(pixel_at<n>(work, at.x, y), x);
    for (int d = 0; d < n; ++d) points[(int64_t(y) * work.out_width + at.x) * n + d] = (x[d] + 1) / 2;
  }
}

// phi (N, P, n) -> normalized coordinates, with affine (N, n, n + 1) applied unless it is null.
template <class T, int n>
__global__ void __launch_bounds__(kThreads) cpab_to_grid_kernel(const T* __restrict__ phi, const T* __restrict__ affine,
                                                                T* __restrict__ grid, int64_t points, int64_t count) {
  const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  const T* matrix = affine ? affine + i / points * (n * (n + 1)) : nullptr;
  T y[n];
  for (int d = 0; d < n; ++d) y[d] = 2 * phi[i * n + d] - 1;
  for (int a = 0; a < n; ++a) {
    T value = affine ? matrix[a * (n + 1) + n] : y[a];
    for (int b = 0; affine && b < n; ++b) value += matrix[a * (n + 1) + b] * y[b];
    grid[i * n + a] = value;
  }
}

// The transpose: grad_grid (N, P, n) -> grad_phi, and to the matrices as AffineTransform's gradient is summed. Points
// are columns of one row an image.
template <class T, int n>
__global__ void __launch_bounds__(kThreads)
    cpab_to_grid_backward_kernel(const T* __restrict__ grad_grid, const T* __restrict__ phi,
                                 const T* __restrict__ affine, T* __restrict__ grad_phi, T* __restrict__ grad_affine,
                                 Work work) {
  const Share share = share_of(work);
  const Points at = points_of<CpabAccess, 1>(work);
  const int64_t i = share.image * work.out_width + at.x;
  SummedGradient<T, n*(n + 1)> gradient;
  if (at.x < work.out_width) {
    T g[n], back[n];
    for (int d = 0; d < n; ++d) g[d] = grad_grid[i * n + d], back[d] = affine ? T(0) : g[d];
    if (affine) {
      const T* matrix = affine + share.image * (n * (n + 1));
      for (int a = 0; a < n; ++a) {
        for (int b = 0; b < n; ++b) {
          back[b] += matrix[a * (n + 1) + b] * g[a];
          gradient.sum[a * (n + 1) + b] = g[a] * (2 * phi[i * n + b] - 1);
        }
        gradient.sum[a * (n + 1) + n] = g[a];
      }
    }
    for (int d = 0; grad_phi && d < n; ++d) grad_phi[i * n + d] = 2 * back[d];
  }
  if (grad_affine) gradient.finish(work, share, grad_affine, [](int) { return T(1); });
}

}  // namespace stn
