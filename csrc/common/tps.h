// The thin-plate spline of one point: a sum of radial functions around control points and an affine part.
#pragma once
#include "logarithm.h"

namespace stn {

// What bends least in n dimensions, by the square of r: r^2 log(r^2), where the logarithm of a tiny number stands in
// for -inf at 0; in three r itself.
template <int n, class T>
STN_HD T radial_function(T squared) {
  static_assert(n == 2 || n == 3);
  if constexpr (n == 3)
    return square_root(squared);
  else
    return squared * log_of(maximum(constant<T>(1e-30), squared));
}

// Rows of the coefficients (K + n + 1, n): K weights of the control points, then those of 1, x, y (, z).
STN_HD constexpr int tps_affine_rows(int n) { return n + 1; }

}  // namespace stn
