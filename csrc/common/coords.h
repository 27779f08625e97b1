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
  T slope = 1;
  if constexpr (P == Padding::reflection) {
    constexpr T limit = T(8388608);  // 2^23: no fractional part left in float32
    const T low = align_corners ? T(0) : T(-0.5), span = T(align_corners ? size - 1 : size);
    if (span == 0) return {T(0), T(0)};
    const bool usable = std::fabs(x) < limit;
    T distance = (usable ? x : low) - low;
    slope = distance < 0 ? T(-1) : T(1);
    distance = std::fabs(distance);
    const T flips = std::floor(distance / span), rest = distance - flips * span;
    const bool odd = flips - 2 * std::floor(flips / 2) != 0;
    x = odd ? low + span - rest : low + rest;
    slope = usable ? (odd ? -slope : slope) : T(0);
    x = usable ? x : T(0);
  }
  const T first = P == Padding::zeros ? T(-2) : T(0), last = T(P == Padding::zeros ? size + 1 : size - 1);
  return {minimum(maximum(first, x), last), x > first && x < last ? slope : T(0)};
}

}  // namespace stn
