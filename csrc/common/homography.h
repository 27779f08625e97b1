// The projective transform of one point, and its transpose for the matrix's gradient: the rules of
// reference/homography.py.
#pragma once
#include <limits>

#include "portable.h"

namespace stn {

constexpr double kSmallestDepth = 0x1p-60;  // a point whose w is not at least this lies at or behind the plane w = 0

// A normalized source point and 1 / w. A point at or behind the plane has no source: (NaN, NaN, 0).
template <class T>
struct Projected {
  T x, y, reciprocal;
};

// h: row-major 3x3; (x, y): a normalized output point.
template <class T, class P>
STN_HD Projected<T> project(const P& h, T x, T y) {
  const T w = h[6] * x + (h[7] * y + h[8]);
  const auto front = w >= constant<T>(kSmallestDepth);
  const T none = constant<T>(std::numeric_limits<float>::quiet_NaN());
  const T reciprocal = constant<T>(1) / select(front, w, constant<T>(1));
  return {select(front, (h[0] * x + (h[1] * y + h[2])) * reciprocal, none),
          select(front, (h[3] * x + (h[4] * y + h[5])) * reciprocal, none), select(front, reciprocal, constant<T>(0))};
}

// The gradients of the homogeneous coordinates (X, Y, w), from that of the source point.
template <class T>
STN_HD void project_vjp(const Projected<T>& p, T grad_x, T grad_y, T (&grad)[3]) {
  const T zero = constant<T>(0), infinity = constant<T>(std::numeric_limits<float>::infinity());
  const T x = select(absolute(p.x) < infinity, p.x, zero), y = select(absolute(p.y) < infinity, p.y, zero);
  grad[0] = grad_x * p.reciprocal, grad[1] = grad_y * p.reciprocal;
  grad[2] = -(grad[0] * x + grad[1] * y);
}

}  // namespace stn
