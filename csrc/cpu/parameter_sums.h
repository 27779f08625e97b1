// The transposes of the transforms: cotangents of the source coordinates of runs of points -> sums for the gradient of
// an item's parameters, in float64.
#pragma once
#include "coordinates.h"
#include "storage.h"

namespace stn::STN_LEVEL {

// Cotangents of the points [u, u + count) of output row v, zeros up to a whole vector.
struct Cotangents {
  int64_t v, u, count;
  Doubles x[Run<float>::kPoints / kDoubles], y[Run<float>::kPoints / kDoubles];

  template <class A>
  STN_INLINE Cotangents(int64_t row, int64_t first, int64_t points, const A* grad_x, const A* grad_y)
      : v(row), u(first), count((points + kDoubles - 1) / kDoubles) {
    for (int64_t i = 0; i < count; ++i) {
      x[i] = __builtin_convertvector((load<Vec<A, kDoubles>>(grad_x + i * kDoubles)), Doubles);
      y[i] = __builtin_convertvector((load<Vec<A, kDoubles>>(grad_y + i * kDoubles)), Doubles);
    }
  }
};

// Moments of the cotangents with output pixels (u, v): g_x, g_x u, g_x v, g_y, g_y u, g_y v; see theta_gradient.
struct AffineSums {
  Doubles sums[6] = {};
  STN_INLINE explicit AffineSums(const Problem&) {}
  STN_INLINE void add(const Source&, const Cotangents& g) {
    const double row = double(g.v);
    for (int64_t i = 0; i < g.count; ++i) {
      const Doubles column = indices_from(double(g.u + i * kDoubles));
      sums[0] += g.x[i], sums[1] += g.x[i] * column, sums[2] += g.x[i] * row;
      sums[3] += g.y[i], sums[4] += g.y[i] * column, sums[5] += g.y[i] * row;
    }
  }
  STN_INLINE void finish(const Source&, double* out) const {
    for (int k = 0; k < 6; ++k) out[k] = sum_of_lanes(sums[k]);
  }
};

// The gradient of the matrix, row by row.
struct HomographySums {
  Doubles sums[9] = {};
  STN_INLINE explicit HomographySums(const Problem&) {}
  void add(const Source& source, const Cotangents& g);  // transforms.cpp
  STN_INLINE void finish(const Source&, double* out) const {
    for (int k = 0; k < 9; ++k) out[k] = sum_of_lanes(sums[k]);
  }
};

// The gradient of the coefficients, row by row.
struct TpsSums {
  Scratch<double> sums;  // (controls + 3, 2, kDoubles)
  STN_INLINE explicit TpsSums(const Problem& p) : sums(p.parameter_count() * kDoubles) {}
  void add(const Source& source, const Cotangents& g);  // transforms.cpp
  STN_INLINE void finish(const Source& source, double* out) const {
    for (int64_t k = 0; k < source.p.parameter_count(); ++k) {
      const double scale = k % 2 ? source.y.scale : source.x.scale;
      out[k] = scale * sum_of_lanes(load<Doubles>(sums.data + k * kDoubles));
    }
  }
};

// Calls f(a null pointer to the transform's Row, one to its Sums), for those that are neither affine nor a grid.
template <class F>
STN_INLINE auto with_transform(const Problem& p, F f) {
  if (p.transform == Transform::homography) return f((HomographyRow*)nullptr, (HomographySums*)nullptr);
  return f((TpsRow*)nullptr, (TpsSums*)nullptr);
}

}  // namespace stn::STN_LEVEL
