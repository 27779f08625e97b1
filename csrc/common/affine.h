// The affine transform of one point, and its transpose for the parameters' gradient.
#pragma once
#include "coords.h"

namespace stn {

// Source pixel of output pixel (u, v): x = xu u + xv v + x0, y = yu u + yv v + y0.
template <class T>
struct PixelMap {
  T xu, xv, x0, yu, yv, y0;
};

// Everything but theta: the same for all images of a call, so that no kernel divides.
template <class T>
struct AffineFrame {
  Axis<T> x, y;     // source pixels
  Lattice<T> u, v;  // output lattice
};

template <class T>
STN_HD AffineFrame<T> affine_frame(int64_t height, int64_t width, int64_t out_height, int64_t out_width,
                                   bool align_corners) {
  return {pixel_axis<T>(width, align_corners), pixel_axis<T>(height, align_corners),
          output_lattice<T>(out_width, align_corners), output_lattice<T>(out_height, align_corners)};
}

// theta: row-major 2x3, normalized coordinates (Jaderberg et al. 2015, Eq. 1).
template <class T, class P>
STN_HD PixelMap<T> pixel_map(const P* theta, const AffineFrame<T>& f) {
  const T a = T(theta[0]), b = T(theta[1]), c = T(theta[2]), d = T(theta[3]), e = T(theta[4]), g = T(theta[5]);
  return {
      f.x.scale * a * f.u.step, f.x.scale * b * f.v.step, f.x.scale * (a * f.u.first + b * f.v.first + c) + f.x.shift,
      f.y.scale * d * f.u.step, f.y.scale * e * f.v.step, f.y.scale * (d * f.u.first + e * f.v.first + g) + f.y.shift};
}

// Normalized coordinates of the output's pixels from the middle out: exact there, symmetric, exact signs everywhere.
template <class T>
struct CentredLattice {
  T centre, step;

  STN_HD T from_centre(int i) const { return T(i) - centre; }
  STN_HD T at(int i) const { return step * from_centre(i); }
};

template <class T>
STN_HD CentredLattice<T> centred_lattice(int64_t size, bool align_corners) {
  return {T(size - 1) / 2, output_lattice<T>(size, align_corners).step};
}

// Source pixel of output pixel (u, v) = centre + (du, dv): x = xu du + xv dv + x0, y = yu du + yv dv + y0. More exact
// than pixel_map, whose terms cancel under large matrices, and right for infinite entries.
template <class T>
struct CentredMap {
  T xu, xv, x0, yu, yv, y0;
};

template <class T, class P>
STN_HD CentredMap<T> centred_map(const P* theta, const Axis<T>& x, const Axis<T>& y, T u_step, T v_step) {
  return {x.scale * T(theta[0]) * u_step, x.scale * T(theta[1]) * v_step, x.scale * T(theta[2]) + x.shift,
          y.scale * T(theta[3]) * u_step, y.scale * T(theta[4]) * v_step, y.scale * T(theta[5]) + y.shift};
}

// Sums over output pixels of g_x, g_x u, g_x v (g_x = dL/dx_pixel), and the same for y -> grad theta (6, row-major).
template <class T>
STN_HD void theta_gradient(const T (&moments)[6], const AffineFrame<T>& f, T* grad_theta) {
  for (int row = 0; row < 2; ++row) {
    const T scale = row == 0 ? f.x.scale : f.y.scale;
    const T sum = moments[3 * row], sum_u = moments[3 * row + 1], sum_v = moments[3 * row + 2];
    grad_theta[3 * row] = scale * (f.u.first * sum + f.u.step * sum_u);
    grad_theta[3 * row + 1] = scale * (f.v.first * sum + f.v.step * sum_v);
    grad_theta[3 * row + 2] = scale * sum;
  }
}

}  // namespace stn
