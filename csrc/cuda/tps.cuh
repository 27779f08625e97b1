// Thin-plate splines: coefficients (N, controls + 3, 2) of radial functions around control points (controls, 2), and of
// 1, x and y. Both are float64: the sum cancels, and float32 would move a source by some 1e-6 of the image.
#pragma once
#include "common/tps.h"
#include "transform.cuh"

namespace stn {

template <class T>
struct TpsTransform {
  using Scalar = T;
  using Parameter = double;
  static constexpr int n = 2;
  static constexpr bool kSumsGradient = true;
  const double *coefficients, *control_points;
  int controls;
  Frame<double> frame;

  __host__ __device__ int rows() const { return controls + kTpsAffine; }
  int parameters() const { return 2 * rows(); }
  // A tile's points and gradients, then the block's sums.
  size_t shared_bytes() const { return size_t(4 * kThreads + parameters()) * sizeof(T); }

  struct Image {
    const TpsTransform& t;
    const double* coefficients;
    __device__ __forceinline__ Source<T> source(const Pixel<>& pixel) const {
      double point[2];
      t.frame.point(pixel, point);
      const double* affine = coefficients + 2 * t.controls;
      double x = affine[0] + affine[4] * point[1] + affine[2] * point[0];
      double y = affine[1] + affine[5] * point[1] + affine[3] * point[0];
#pragma unroll 1
      for (int k = 0; k < t.controls; ++k) {
        const double dx = point[0] - t.control_points[2 * k], dy = point[1] - t.control_points[2 * k + 1];
        const double value = thin_plate(dx * dx + dy * dy);
        x += coefficients[2 * k] * value;
        y += coefficients[2 * k + 1] * value;
      }
      const Axis<double>* axis = t.frame.source;
      return {T(axis[0].scale * x + axis[0].shift), T(axis[1].scale * y + axis[1].shift)};
    }
  };
  __device__ __forceinline__ Image image(int64_t item) const { return {*this, coefficients + 2 * rows() * item}; }

  // Summed tile by tile: a warp takes every eighth function over the points of all.
  struct Gradient {
    __device__ __forceinline__ Gradient(const TpsTransform& t) {
      SIMT_DYNAMIC_SHARED(T, shared);
      for (int k = int(threadIdx.x); k < 2 * t.rows(); k += kThreads) shared[4 * kThreads + k] = 0;
    }
    __device__ __forceinline__ void add(const TpsTransform& t, const Work& work, int64_t, const Pixel<>& pixel,
                                        bool valid, int lane, const Source<T>& grad, T*) {
      constexpr int kWarps = kThreads / 32;
      SIMT_DYNAMIC_SHARED(T, shared);
      T* sums = shared + 4 * kThreads;
      T *tile_x = shared, *tile_y = shared + kThreads, *grad_x = tile_y + kThreads, *grad_y = grad_x + kThreads;
      const T total[2] = {sum_lanes(grad.at[0], work.log2_lanes), sum_lanes(grad.at[1], work.log2_lanes)};
      if (lane == 0) {
        double point[2];
        t.frame.point(pixel, point);
        const int i = int(threadIdx.x) >> work.log2_lanes;
        tile_x[i] = T(point[0]), grad_x[i] = valid ? T(t.frame.source[0].scale) * total[0] : T(0);
        tile_y[i] = T(point[1]), grad_y[i] = valid ? T(t.frame.source[1].scale) * total[1] : T(0);
      }
      __syncthreads();
      const int points = kThreads >> work.log2_lanes, first = int(threadIdx.x) % 32;
      for (int k = int(threadIdx.x) / 32; k < t.rows(); k += kWarps) {
        const bool radial = k < t.controls;
        const T x = radial ? T(t.control_points[2 * k]) : T(0), y = radial ? T(t.control_points[2 * k + 1]) : T(0);
        T sum[2] = {};
        for (int i = first; i < points; i += 32) {
          const T dx = tile_x[i] - x, dy = tile_y[i] - y;
          const T value = radial                ? thin_plate(dx * dx + dy * dy)
                          : k == t.controls     ? T(1)
                          : k == t.controls + 1 ? dx
                                                : dy;
          sum[0] += value * grad_x[i];
          sum[1] += value * grad_y[i];
        }
        for (int a = 0; a < 2; ++a) {
          const T whole = sum_lanes(sum[a], 5);
          if (first == 0) sums[2 * k + a] += whole;
        }
      }
      __syncthreads();
    }
    __device__ __forceinline__ void finish(const TpsTransform& t, const Work& work, const Share& share,
                                           T* partial) const {
      SIMT_DYNAMIC_SHARED(T, shared);
      const int count = 2 * t.rows();
      for (int k = int(threadIdx.x); k < count; k += kThreads)
        partial[partial_index(work, share, count, k)] = shared[4 * kThreads + k];
    }
  };
};

}  // namespace stn
