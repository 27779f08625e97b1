// The gradient of affine sampling to its input under zeros padding: every input pixel gathers from the outputs that
// read it, found through the inverse map. Written once, without atomics, the same bits every time.
#pragma once
#include <limits>

#include "affine.cuh"
#include "common/bilinear.h"

namespace stn {

// The u with |slope u + offset| < reach; slack for rounding is in reach.
template <class T>
struct Slab {
  T slope, inverse, reach;

  // Intersects [low, high] with it; a bound that is NaN (an overflow) keeps the old one.
  __device__ __forceinline__ void clip(T offset, T& low, T& high) const {
    const T centre = -offset * inverse, half = reach * std::fabs(inverse);
    const bool flat = slope == 0, all = std::fabs(offset) < reach;
    low = flat ? low : maximum(low, centre - half);
    high = flat ? (all ? high : T(-1)) : minimum(centre + half, high);
  }
};

// Which outputs read input pixel (x, y)? Those whose source is less than a pixel away on both axes: a parallelogram.
template <class T>
struct Footprint {
  typename AffineTransform<T>::Image image;
  Source<T> origin;  // of output (0, 0)
  T ux, uy, vx, vy;  // output pixels by input pixels
  T reach_v;         // half the parallelogram's height, with slack
  Slab<T> x, y;
  int window;   // 2 or 3: that many columns and rows hold all candidates; 0: find them row by row
  bool finite;  // otherwise every source is outside

  __device__ __forceinline__ Footprint(const AffineTransform<T>& transform, int64_t n, const Work& work)
      : image(transform.image(n)), origin(image.source({0, 0})) {
    const T xu = image.map[0][0], xv = image.map[0][1], yu = image.map[1][0], yv = image.map[1][1];
    const T r = 1 / (xu * yv - xv * yu);
    ux = yv * r;
    uy = -xv * r;
    vx = -yu * r;
    vy = xu * r;
    // Rounding errors of a source coordinate, and by how much the determinant's cancellation enlarges them.
    constexpr T kUnit = 4 * std::numeric_limits<T>::epsilon();
    const T u = T(work.out_width), v = T(work.out_height);
    const T slack_x = kUnit * (std::fabs(xu) * u + std::fabs(xv) * v + std::fabs(origin.at[0]) + T(work.width));
    const T slack_y = kUnit * (std::fabs(yu) * u + std::fabs(yv) * v + std::fabs(origin.at[1]) + T(work.height));
    const T condition = 1 + (std::fabs(xu * yv) + std::fabs(xv * yu)) * std::fabs(r);
    x = {xu, 1 / xu, 1 + slack_x};
    y = {yu, 1 / yu, 1 + slack_y};
    const T half_u = std::fabs(ux) + std::fabs(uy), half_v = std::fabs(vx) + std::fabs(vy);
    const T slack_v = (std::fabs(vx) * slack_x + std::fabs(vy) * slack_y) * condition;
    const T slack_u = (std::fabs(ux) * slack_x + std::fabs(uy) * slack_y) * condition;
    reach_v = half_v + slack_v;
    const bool precise = slack_u < T(1) / 64 && slack_v < T(1) / 64;
    const bool two = half_u <= 1 && half_v <= 1, three = half_u <= T(1.5) && half_v <= T(1.5);
    window = precise && two ? 2 : precise && three ? 3 : 0;
    finite = std::isfinite(xu) && std::isfinite(xv) && std::isfinite(image.map[0][2]) && std::isfinite(yu) &&
             std::isfinite(yv) && std::isfinite(image.map[1][2]);
  }

  // The weight of output (u, v) for input pixel (px, py), from the very coordinates of the forward.
  __device__ __forceinline__ T weight(int u, int v, int px, int py) const {
    const Source<T> source = image.source({u, v});
    return hat(source.at[0] - T(px)) * hat(source.at[1] - T(py));
  }
};

// Both searches call visit(exists, weight, offset) with an output's offset in its image.

// The candidates lie in the kSize x kSize window around the pixel's pre-image.
template <int kSize, class T, class F>
__device__ __forceinline__ void visit_window(const Footprint<T>& f, const Work& work, const Strides& out, int px,
                                             int py, F&& visit) {
  const T dx = T(px) - f.origin.at[0], dy = T(py) - f.origin.at[1];
  const auto first = [](T centre, int size) {
    return int(std::ceil(minimum(maximum(T(-kSize), centre - T(0.5) * kSize), T(size))));
  };
  const int u0 = first(f.ux * dx + f.uy * dy, work.out_width), v0 = first(f.vx * dx + f.vy * dy, work.out_height);
  const int64_t first_offset = offset(out, u0, v0);
#pragma unroll
  for (int k = 0; k < kSize * kSize; ++k) {
    const int u = u0 + k % kSize, v = v0 + k / kSize;
    const bool exists = unsigned(u) < unsigned(work.out_width) && unsigned(v) < unsigned(work.out_height);
    const T weight = f.weight(u, v, px, py);
    visit(exists && weight > 0, weight, first_offset + offset(out, k % kSize, k / kSize));
  }
}

// The candidates row by row, for any map: an exact interval of columns in every row of the parallelogram. The cost
// grows with its area; for a singular map it is bounded by the output's.
template <class T, class F>
__device__ __forceinline__ void visit_rows(const Footprint<T>& f, const Work& work, const Strides& out, int px, int py,
                                           F&& visit) {
  const T last_u = T(work.out_width - 1), last_v = T(work.out_height - 1);
  const T centre = f.vx * (T(px) - f.origin.at[0]) + f.vy * (T(py) - f.origin.at[1]);
  const int v0 = int(std::ceil(minimum(maximum(T(0), centre - f.reach_v), last_v + 1)));
  const int v1 = int(std::floor(maximum(T(-1), minimum(centre + f.reach_v, last_v))));
#pragma unroll 1
  for (int v = v0; v <= v1; ++v) {
    T low = 0, high = last_u;
    const Source<T> start = f.image.source({0, v});
    f.x.clip(start.at[0] - T(px), low, high);
    f.y.clip(start.at[1] - T(py), low, high);
    const int u0 = int(std::ceil(minimum(low, last_u + 1))), u1 = int(std::floor(maximum(T(-1), high)));
#pragma unroll 1
    for (int u = u0; u <= u1; ++u) {
      const T weight = f.weight(u, v, px, py);
      visit(weight > 0, weight, offset(out, u, v));
    }
  }
}

// kGroup: how many chunks of channels share the search for candidates.
template <class A, int kGroup, class I, class T>
__global__ void __launch_bounds__(kThreads, resident_blocks<T>(Tile<A>::kGatherBlocks))
    affine_gather_kernel(const I* __restrict__ grad_output, I* __restrict__ grad_input, AffineTransform<T> transform,
                         Strides output_strides, Strides input_strides, Work work) {
  const Strides out = known<A>(output_strides), in = known<A>(input_strides);
  const Share share = share_of(work);
  const Points points = points_of<A>(work);
  if (points.x >= work.width) return;
  const int step = A::kVector << log2_lanes<A>(work);
  const int64_t first_image = share.image * work.samples;
  Footprint<T> footprint(transform, first_image, work);
#pragma unroll 1
  for (int row = 0; row < work.rows; ++row) {
    const int py = points.y(row);
    if (py >= work.height) return;
#pragma unroll 1
    for (int c = share.first_channel + points.lane * A::kVector; c < share.last_channel; c += step * kGroup) {
      T sum[kGroup][A::kVector] = {};
#pragma unroll 1
      for (int s = 0; s < work.samples; ++s) {
        const int64_t n = first_image + s;
        if (work.samples > 1) footprint = Footprint<T>(transform, n, work);
        const I* source = grad_output + n * out.image + c * out.channel;
        const auto visit = [&](bool ok, T weight, int64_t at) {
          const I* p = source + at;
#pragma unroll
          for (int k = 0; k < kGroup; ++k) {
            T value[A::kVector];
            load(p + k * step * out.channel, ok && (A::kChannels || c + k * step < share.last_channel), value);
#pragma unroll
            for (int i = 0; i < A::kVector; ++i) sum[k][i] += weight * value[i];
          }
        };
        if (!footprint.finite) continue;
        if (footprint.window == 2)
          visit_window<2>(footprint, work, out, points.x, py, visit);
        else if (footprint.window == 3)
          visit_window<3>(footprint, work, out, points.x, py, visit);
        else
          visit_rows(footprint, work, out, points.x, py, visit);
      }
      I* target = grad_input + share.image * in.image + c * in.channel + offset(in, points.x, py);
#pragma unroll
      for (int k = 0; k < kGroup; ++k)
        if (A::kChannels || c + k * step < share.last_channel) store(target + k * step * in.channel, sum[k]);
    }
  }
}

}  // namespace stn
