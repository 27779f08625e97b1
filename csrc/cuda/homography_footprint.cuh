// The outputs of a projective transform that read a pixel: a quadrilateral.
#pragma once
#include <limits>

#include "common/bilinear.h"
#include "gather.cuh"
#include "homography.cuh"

namespace stn {

// The u with slope u + offset > 0.
template <class T>
struct HalfLine {
  T slope, inverse;

  __device__ __forceinline__ explicit HalfLine(T along) : slope(along), inverse(1 / along) {}
  // Intersects columns with it; a bound that is NaN keeps the old one.
  __device__ __forceinline__ void clip(T offset, Columns<T>& columns) const {
    const T bound = -offset * inverse;
    if (slope > 0) columns.low = maximum(columns.low, bound);
    if (slope < 0) columns.high = minimum(bound, columns.high);
    if (slope == 0 && !(offset > 0)) columns.high = columns.low - 1;
  }
};

// With the homogeneous source pixel (X, Y, w), linear in (u, v), an output reads (px, py) where
// |X - px w| < w and |Y - py w| < w: half-planes, whose bounds hold for every v that the corners' pre-images span.
template <class T>
struct Footprint<HomographyTransform<T>> {
  static constexpr int kBlocks = 2;
  typename HomographyTransform<T>::Image image;
  T map[3][3];         // (X, Y, w) by (u, v, 1), counted from the output's middle
  T slack[2];          // rounding errors of X - px w and Y - py w, here and in the forward
  T to_v[3], to_w[3];  // rows of the adjugate, by the sign of the determinant: (v w', w') by (px, py, 1)
  T error_v, error_w;  // of these
  T most_w;            // w' up to which the slack is less than 1/8 pixel; 0 if there is no inverse

  __device__ __forceinline__ Footprint(const HomographyTransform<T>& transform, int64_t n, const Work& work)
      : image(transform.image(n)) {
    constexpr T kUnit = std::numeric_limits<T>::epsilon();
    const T* h = image.matrix;
    T largest = 0, total[3] = {0, 0, 0};
#pragma unroll
    for (int k = 0; k < 9; ++k) {
      largest = maximum(largest, std::fabs(h[k]));
      total[k / 3] += std::fabs(h[k]);
    }
    const bool linear = total[0] + total[1] + total[2] < std::numeric_limits<T>::infinity() && largest > T(1e-30);
    const T unit = 1 / largest, size[2] = {T(work.width), T(work.height)};  // a matrix's scale has no effect
#pragma unroll
    for (int b = 0; b < 3; ++b) {
      const T step = b < 2 ? transform.frame.output[b].step * unit : unit;
      map[2][b] = linear ? h[6 + b] * step : 0;
#pragma unroll
      for (int a = 0; a < 2; ++a) {
        const Axis<T>& axis = transform.frame.source[a];
        map[a][b] = linear ? axis.scale * h[3 * a + b] * step + axis.shift * map[2][b] : 0;
      }
    }
#pragma unroll
    for (int a = 0; a < 2; ++a)
      slack[a] = linear ? 8 * kUnit * size[a] * (T(0.5) * total[a] + 2 * total[2]) * unit : T(1);
    T determinant = 0, cancelled = 0;
    error_v = 0, error_w = 0;
#pragma unroll
    for (int k = 0; k < 3; ++k) {
      const int i = (k + 1) % 3, j = (k + 2) % 3;
      const T reach = 4 * kUnit * (k < 2 ? size[k] + 2 : T(1));
      const T v0 = map[i][2] * map[j][0], v1 = map[j][2] * map[i][0];
      const T w0 = map[i][0] * map[j][1], w1 = map[j][0] * map[i][1];
      to_v[k] = v0 - v1, to_w[k] = w0 - w1;
      error_v += reach * (std::fabs(v0) + std::fabs(v1)), error_w += reach * (std::fabs(w0) + std::fabs(w1));
      determinant += map[k][2] * to_w[k];
      cancelled += std::fabs(map[k][2]) * (std::fabs(w0) + std::fabs(w1));
    }
    const T magnitude = std::fabs(determinant);
    most_w = magnitude > 64 * kUnit * cancelled ? magnitude / (9 * maximum(slack[0], slack[1])) : 0;
#pragma unroll
    for (int k = 0; k < 3; ++k) {
      to_v[k] = determinant < 0 ? -to_v[k] : to_v[k];
      to_w[k] = determinant < 0 ? -to_w[k] : to_w[k];
    }
  }

  // Rows, from the output's middle, that hold the outputs whose source is less than 9/8 pixels away, a convex set while
  // it is in front of w = 0. It holds all that read the pixel if the slack is less than 1/8 pixel at its corners.
  __device__ __forceinline__ bool rows(int px, int py, T& low, T& high) const {
    constexpr T kReach = T(1.125);
    T nearest = std::numeric_limits<T>::infinity(), farthest = 0;
    low = nearest, high = -nearest;
#pragma unroll
    for (int corner = 0; corner < 4; ++corner) {
      const T x = T(px) + (corner % 2 ? kReach : -kReach), y = T(py) + (corner / 2 ? kReach : -kReach);
      const T w = to_w[0] * x + (to_w[1] * y + to_w[2]), reciprocal = 1 / w;
      const T v = (to_v[0] * x + (to_v[1] * y + to_v[2])) * reciprocal;
      const T error = (error_v + std::fabs(v) * error_w) * reciprocal;
      low = minimum(v - error, low), high = maximum(high, v + error);
      nearest = minimum(w, nearest), farthest = maximum(farthest, w);
    }
    return nearest > 16 * error_w && farthest < most_w;
  }

  template <class F>
  __device__ __forceinline__ void visit(const Work& work, const Strides& out, int px, int py, F&& f) const {
    const T middle_u = image.t->frame.output[0].centre, middle_v = image.t->frame.output[1].centre;
    T low, high;
    const bool bounded = rows(px, py, low, high);
    low = bounded ? low + middle_v : T(0), high = bounded ? high + middle_v : T(work.out_height - 1);
    const T left = T(px - 1), right = T(px + 1), upper = T(py - 1), lower = T(py + 1);
    const HalfLine<T> sides[4] = {HalfLine<T>(map[0][0] - left * map[2][0]), HalfLine<T>(right * map[2][0] - map[0][0]),
                                  HalfLine<T>(map[1][0] - upper * map[2][0]),
                                  HalfLine<T>(lower * map[2][0] - map[1][0])};
    const auto columns = [&](int v) {
      const T from_middle = T(v) - middle_v;
      const T x = map[0][1] * from_middle + map[0][2], y = map[1][1] * from_middle + map[1][2];
      const T w = map[2][1] * from_middle + map[2][2];
      Columns<T> row{-middle_u, middle_u};
      sides[0].clip(x - left * w + slack[0], row), sides[1].clip(right * w - x + slack[0], row);
      sides[2].clip(y - upper * w + slack[1], row), sides[3].clip(lower * w - y + slack[1], row);
      return Columns<T>{row.low + middle_u, row.high + middle_u};
    };
    const auto weigh = [&](int u, int v) {
      const Source<T> source = image.source({u, v});
      return hat(source.at[0] - T(px)) * hat(source.at[1] - T(py));
    };
    visit_rows<T>(work, out, low, high, columns, weigh, f);
  }
};

}  // namespace stn
