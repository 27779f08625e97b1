// The pixels that a point reads along one axis, and their weights: what makes a sampling mode. An n-dimensional point
// has their products.
#pragma once
#include "portable.h"

namespace stn {

template <Mode kMode>
constexpr int kTaps = kMode == Mode::nearest    ? 1
                      : kMode == Mode::bilinear ? 2
                                                : 4;
// The first tap lies that far from the pixel to the left of the point.
template <Mode kMode>
constexpr int kFirstTap = kMode == Mode::bicubic ? -1 : 0;

// Weights of the taps of a point with fraction f of a pixel, and their derivatives by f.
template <Mode kMode, class T>
STN_HD void tap_weights(T f, T (&weight)[kTaps<kMode>], T (&slope)[kTaps<kMode>]) {
  const T one = constant<T>(1);
  if constexpr (kMode == Mode::nearest) {
    weight[0] = one, slope[0] = constant<T>(0);
  } else if constexpr (kMode == Mode::bilinear) {
    weight[0] = one - f, weight[1] = f;
    slope[0] = -one, slope[1] = one;
  } else {  // Keys (1981), a = -0.75
    const T a = constant<T>(-0.75);
    const auto near = [&](T d) { return ((a + 2) * d - (a + 3)) * d * d + 1; };
    const auto near_slope = [&](T d) { return (3 * (a + 2) * d - 2 * (a + 3)) * d; };
    const auto far = [&](T d) { return a * (((d - 5) * d + 8) * d - 4); };
    const auto far_slope = [&](T d) { return a * ((3 * d - 10) * d + 8); };
    const T g = one - f;
    weight[0] = far(f + 1), weight[1] = near(f), weight[2] = near(g), weight[3] = far(g + 1);
    slope[0] = far_slope(f + 1), slope[1] = near_slope(f), slope[2] = -near_slope(g), slope[3] = -far_slope(g + 1);
  }
}

}  // namespace stn
