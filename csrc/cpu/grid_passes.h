// Affine transformation of the output lattice alone: normalized coordinates, and their sums against a gradient.
#pragma once
#include "coordinates.h"

namespace stn::STN_LEVEL {

template <class G>
void rows_affine_grid(const Problem& p, int64_t item, int64_t row_begin, int64_t row_end) {
  const G* theta = static_cast<const G*>(p.parameters) + 6 * item;
  const auto x = centred_lattice<double>(p.out_width, p.align_corners),
             y = centred_lattice<double>(p.out_height, p.align_corners);
  const int width = int(p.out_width);
  for (int64_t v = row_begin; v < row_end; ++v) {
    G* grid = static_cast<G*>(p.grid) + 2 * p.out_width * (item * p.out_height + v);
    const double row = y.at(int(v));
    const double x0 = double(theta[1]) * row + double(theta[2]), y0 = double(theta[4]) * row + double(theta[5]);
    const double xu = double(theta[0]), yu = double(theta[3]);
    for (int u = 0; u < width; ++u) grid[2 * u] = G(x0 + xu * x.at(u)), grid[2 * u + 1] = G(y0 + yu * x.at(u));
  }
}

// sums (6, as theta) = dL/d(theta) of some rows.
template <class G>
void rows_affine_grid_sums(const Problem& p, int64_t item, int64_t row_begin, int64_t row_end, double* sums) {
  const auto x = centred_lattice<double>(p.out_width, p.align_corners),
             y = centred_lattice<double>(p.out_height, p.align_corners);
  Doubles totals[6] = {}, lane;
  for (int i = 0; i < kDoubles; ++i) lane[i] = i - x.centre;
  for (int64_t v = row_begin; v < row_end; ++v) {
    const G* grad = static_cast<const G*>(p.grad_grid) + 2 * p.out_width * (item * p.out_height + v);
    const double row = y.at(int(v));
    for (int64_t u = 0; u < p.out_width; u += kDoubles) {
      Doubles gx, gy;
      load_points(grad + 2 * u, p.out_width - u, gx, gy);
      const Doubles column = x.step * (lane + double(u));
      totals[0] += gx * column, totals[1] += gx * row, totals[2] += gx;
      totals[3] += gy * column, totals[4] += gy * row, totals[5] += gy;
    }
  }
  for (int k = 0; k < 6; ++k) {
    sums[k] = 0;
    for (int i = 0; i < kDoubles; ++i) sums[k] += totals[k][i];
  }
}

}  // namespace stn::STN_LEVEL
