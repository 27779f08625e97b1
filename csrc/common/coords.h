// Normalized coordinates, pixel coordinates and what lies outside an image: the rules of reference/sampling.py.
#pragma once
#include "portable.h"

namespace stn {

// x_pixel = scale * x_normalized + shift.
template <class T>
struct Axis {
  T scale, shift;
};

template <class T>
STN_HD Axis<T> pixel_axis(int64_t size, bool align_corners) {
  const T scale = T(align_corners ? size - 1 : size) / 2;
  return {scale, align_corners ? scale : scale - T(0.5)};
}

// Normalized coordinate of output pixel i: first + step * i. A single pixel with align_corners sits at 0.
template <class T>
struct Lattice {
  T first, step;
};

template <class T>
STN_HD Lattice<T> output_lattice(int64_t size, bool align_corners) {
  if (!align_corners) return {T(1) / T(size) - 1, T(2) / T(size)};
  return size > 1 ? Lattice<T>{T(-1), T(2) / T(size - 1)} : Lattice<T>{T(0), T(0)};
}

// A pixel coordinate after padding, and its derivative by the pixel coordinate before.
template <class T>
struct Padded {
  T x, slope;
};

// zeros: clamped to two pixels outside, where no tap is read. NaN becomes the low end in every mode.
template <Padding P, class T>
STN_HD Padded<T> pad(T x, int size, bool align_corners) {
  const T zero = constant<T>(0), one = constant<T>(1);
  T slope = one;
  if constexpr (P == Padding::reflection) {
    if (align_corners && size == 1) return {zero, zero};
    const T low = constant<T>(align_corners ? 0 : -0.5), span = constant<T>(align_corners ? size - 1 : size);
    const auto usable = absolute(x) < constant<T>(8388608);  // 2^23: no fractional part left in float32
    const T signed_distance = select(usable, x, low) - low, distance = absolute(signed_distance);
    const T flips = floor_of(distance / span), rest = distance - flips * span;
    const T odd = flips - constant<T>(2) * floor_of(flips * constant<T>(0.5));  // 0 or 1
    x = select(usable, low + rest + odd * (span - rest - rest), zero);
    slope = select(usable, select(signed_distance < zero, -one, one) * (one - odd - odd), zero);
  }
  const T first = constant<T>(P == Padding::zeros ? -2 : 0);
  const T last = constant<T>(P == Padding::zeros ? size + 1 : size - 1);
  const auto inside = (x > first) & (x < last);
  return {minimum(maximum(first, x), last), select(inside, slope, zero)};
}

}  // namespace stn
