// The thin-plate spline of one point: a sum of radial functions around control points and an affine part.
#pragma once
#include "logarithm.h"

namespace stn {

// r^2 log(r^2) by the square of r; 0 at 0, where the logarithm of a tiny number stands in for -inf.
template <class T>
STN_HD T thin_plate(T squared) {
  return squared * log_of(maximum(constant<T>(1e-30), squared));
}

// Rows of the coefficients (K + 3, 2): K weights of the control points, then those of 1, x and y.
constexpr int kTpsAffine = 3;

}  // namespace stn
