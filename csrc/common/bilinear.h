// Bilinear interpolation of one point: the four pixels around it, their weights and its gradient.
#pragma once
#include "portable.h"

namespace stn {

// The pixel to the upper left of a point, the point's position from there, and which of the four pixels exist.
template <class T>
struct Taps {
  int x, y;
  T right_weight, lower_weight;
  bool left, right, upper, lower;

  STN_HD bool interior() const { return left && right && upper && lower; }
};

// x, y: pixel coordinates after padding (coords.h).
template <class T>
STN_HD Taps<T> taps_around(T x, T y, int width, int height) {
  const T column = std::floor(x), row = std::floor(y);
  const int i = int(column), j = int(row);
  return {i,
          j,
          x - column,
          y - row,
          unsigned(i) < unsigned(width),
          unsigned(i + 1) < unsigned(width),
          unsigned(j) < unsigned(height),
          unsigned(j + 1) < unsigned(height)};
}

// One number for each of the four pixels.
template <class T>
struct Four {
  T upper_left, upper_right, lower_left, lower_right;
};

template <class T>
STN_HD Four<T> weights(const Taps<T>& t) {
  const T lower_right = t.right_weight * t.lower_weight;
  const T upper_right = t.right_weight - lower_right, lower_left = t.lower_weight - lower_right;
  return {1 - t.right_weight - lower_left, upper_right, lower_left, lower_right};
}

// d/dx and d/dy of the interpolated value, given the four pixels' values (or their products with a cotangent).
template <class T>
STN_HD T slope_x(const Taps<T>& t, const Four<T>& v) {
  return (1 - t.lower_weight) * (v.upper_right - v.upper_left) + t.lower_weight * (v.lower_right - v.lower_left);
}
template <class T>
STN_HD T slope_y(const Taps<T>& t, const Four<T>& v) {
  return (1 - t.right_weight) * (v.lower_left - v.upper_left) + t.right_weight * (v.lower_right - v.upper_right);
}

// How much a pixel counts for a point at distance d along one axis; 0 for NaN.
template <class T>
STN_HD T hat(T d) {
  return maximum(T(0), 1 - std::fabs(d));
}

}  // namespace stn
