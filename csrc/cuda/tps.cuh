// Thin-plate splines: coefficients (N, controls + n + 1, n) of radial functions around control points (controls, n),
// and of 1, x, y (, z). Both are float64: the sum cancels, and float32 would move a source by some 1e-6 of the image.
#pragma once
#include "common/tps.h"
#include "transform.cuh"

namespace stn {

template <class T, int n_ = 2>
struct TpsTransform {
  using Scalar = T;
  using Parameter = double;
  static constexpr int n = n_;
  static constexpr bool kSumsGradient = true;
  const double *coefficients, *control_points;
  int controls;
  Frame<double, n> frame;

  __host__ __device__ int rows() const { return controls + tps_affine_rows(n); }
  int parameters() const { return n * rows(); }
  // A tile's points and gradients, then the block's sums.
  size_t shared_bytes() const { return size_t(2 * n * kThreads + parameters()) * sizeof(T); }

  struct Image {
    const TpsTransform& t;
    const double* coefficients;
    __device__ __forceinline__ Source<T, n> source(const Pixel<n>& pixel) const {
      double point[n], sum[n];
      t.frame.point(pixel, point);
      const double* affine = coefficients + n * t.controls;
#pragma unroll
      for (int a = 0; a < n; ++a) {
        sum[a] = affine[a];
#pragma unroll
        for (int b = n - 1; b >= 0; --b) sum[a] += affine[n * (b + 1) + a] * point[b];
      }
#pragma unroll 1
      for (int k = 0; k < t.controls; ++k) {
        double squared = 0;
#pragma unroll
        for (int b = 0; b < n; ++b) {
          const double along = point[b] - t.control_points[n * k + b];
          squared += along * along;
        }
        const double value = radial_function<n>(squared);
#pragma unroll
        for (int a = 0; a < n; ++a) sum[a] += coefficients[n * k + a] * value;
      }
      Source<T, n> source;
#pragma unroll
      for (int a = 0; a < n; ++a) source.at[a] = T(t.frame.source[a].scale * sum[a] + t.frame.source[a].shift);
      return source;
    }
  };
  __device__ __forceinline__ Image image(int64_t item) const { return {*this, coefficients + n * rows() * item}; }

  // Summed tile by tile: a warp takes every eighth function over the points of all.
  struct Gradient {
    __device__ __forceinline__ Gradient(const TpsTransform& t) {
      SIMT_DYNAMIC_SHARED(T, shared);
      for (int k = int(threadIdx.x); k < n * t.rows(); k += kThreads) shared[2 * n * kThreads + k] = 0;
    }
    __device__ __forceinline__ void add(const TpsTransform& t, const Work& work, int64_t, const Pixel<n>& pixel,
                                        bool valid, int lane, const Source<T, n>& grad, T*) {
      constexpr int kWarps = kThreads / 32;
      SIMT_DYNAMIC_SHARED(T, shared);
      T *at = shared, *grads = shared + n * kThreads, *sums = shared + 2 * n * kThreads;  // by axis, then point
      T total[n];
#pragma unroll
      for (int a = 0; a < n; ++a) total[a] = sum_lanes(grad.at[a], work.log2_lanes);
      if (lane == 0) {
        double point[n];
        t.frame.point(pixel, point);
        const int i = int(threadIdx.x) >> work.log2_lanes;
#pragma unroll
        for (int a = 0; a < n; ++a) {
          at[a * kThreads + i] = T(point[a]);
          grads[a * kThreads + i] = valid ? T(t.frame.source[a].scale) * total[a] : T(0);
        }
      }
      __syncthreads();
      const int points = kThreads >> work.log2_lanes, first = int(threadIdx.x) % 32;
      for (int k = int(threadIdx.x) / 32; k < t.rows(); k += kWarps) {
        const bool radial = k < t.controls;
        T sum[n] = {};
        for (int i = first; i < points; i += 32) {
          T value;
          if (radial) {
            T squared = 0;
#pragma unroll
            for (int a = 0; a < n; ++a) {
              const T along = at[a * kThreads + i] - T(t.control_points[n * k + a]);
              squared += along * along;
            }
            value = radial_function<n>(squared);
          } else {
            value = k == t.controls ? T(1) : at[(k - t.controls - 1) * kThreads + i];
          }
#pragma unroll
          for (int a = 0; a < n; ++a) sum[a] += value * grads[a * kThreads + i];
        }
#pragma unroll
        for (int a = 0; a < n; ++a) {
          const T whole = sum_lanes(sum[a], 5);
          if (first == 0) sums[n * k + a] += whole;
        }
      }
      __syncthreads();
    }
    __device__ __forceinline__ void finish(const TpsTransform& t, const Work& work, const Share& share,
                                           T* partial) const {
      SIMT_DYNAMIC_SHARED(T, shared);
      const int count = n * t.rows();
      for (int k = int(threadIdx.x); k < count; k += kThreads)
        partial[partial_index(work, share, count, k)] = shared[2 * n * kThreads + k];
    }
  };
};

}  // namespace stn
