// The outputs of an affine transform that read a pixel: a parallelogram.
#pragma once
#include <limits>

#include "affine.cuh"
#include "common/bilinear.h"
#include "gather.cuh"

namespace stn {

// The u with |slope u + offset| < reach; slack for rounding is in reach.
template <class T>
struct Slab {
  T slope, inverse, reach;

  // Intersects columns with it; a bound that is NaN (an overflow) keeps the old one.
  __device__ __forceinline__ void clip(T offset, Columns<T>& columns) const {
    const T centre = -offset * inverse, half = reach * std::fabs(inverse);
    const bool flat = slope == 0, all = std::fabs(offset) < reach;
    columns.low = flat ? columns.low : maximum(columns.low, centre - half);
    columns.high = flat ? (all ? columns.high : T(-1)) : minimum(centre + half, columns.high);
  }
};

template <class T>
struct Footprint<AffineTransform<T>> {
  static constexpr int kBlocks = 3;
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

  __device__ __forceinline__ T weight(int u, int v, int px, int py) const {
    const Source<T> source = image.source({u, v});
    return hat(source.at[0] - T(px)) * hat(source.at[1] - T(py));
  }

  // The candidates lie in the kSize x kSize window around the pixel's pre-image.
  template <int kSize, class F>
  __device__ __forceinline__ void visit_window(const Work& work, const Strides& out, int px, int py, F&& f) const {
    const T dx = T(px) - origin.at[0], dy = T(py) - origin.at[1];
    const auto first = [](T centre, int size) {
      return int(std::ceil(minimum(maximum(T(-kSize), centre - T(0.5) * kSize), T(size))));
    };
    const int u0 = first(ux * dx + uy * dy, work.out_width), v0 = first(vx * dx + vy * dy, work.out_height);
    const int64_t first_offset = offset(out, u0, v0);
#pragma unroll
    for (int k = 0; k < kSize * kSize; ++k) {
      const int u = u0 + k % kSize, v = v0 + k / kSize;
      const bool exists = unsigned(u) < unsigned(work.out_width) && unsigned(v) < unsigned(work.out_height);
      const T w = weight(u, v, px, py);
      f(exists && w > 0, w, first_offset + offset(out, k % kSize, k / kSize));
    }
  }

  template <class F>
  __device__ __forceinline__ void visit(const Work& work, const Strides& out, int px, int py, F&& f) const {
    if (!finite) return;
    if (window == 2) return visit_window<2>(work, out, px, py, f);
    if (window == 3) return visit_window<3>(work, out, px, py, f);
    // The cost grows with the parallelogram's area; of a singular map it is bounded by the output's.
    const T centre = vx * (T(px) - origin.at[0]) + vy * (T(py) - origin.at[1]);
    const auto columns = [&](int v) {
      Columns<T> row{0, T(work.out_width - 1)};
      const Source<T> start = image.source({0, v});
      x.clip(start.at[0] - T(px), row), y.clip(start.at[1] - T(py), row);
      return row;
    };
    const auto weigh = [&](int u, int v) { return weight(u, v, px, py); };
    visit_rows<T>(work, out, centre - reach_v, centre + reach_v, columns, weigh, f);
  }
};

}  // namespace stn
