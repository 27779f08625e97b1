// Source coordinates of a run of output points: transform, padding, split into pixel index and fraction.
#pragma once
#include "common/affine.h"
#include "common/homography.h"
#include "common/tps.h"
#include "grid_points.h"
#include "storage.h"

namespace stn::STN_LEVEL {

template <class T>
using IndexOf = typename std::conditional<sizeof(T) == 8, int64_t, int32_t>::type;  // lanes as wide as T's

// Up to kPoints points of one output row: x = x_index + x_fraction, and d x / d (pixel coordinate before padding).
template <class T>
struct Run {
  static constexpr int kPoints = 64;
  int64_t count;
  alignas(64) IndexOf<T> x_index[kPoints];
  IndexOf<T> y_index[kPoints];
  T x_fraction[kPoints], y_fraction[kPoints], x_slope[kPoints], y_slope[kPoints];
};

// The radial functions of a thin-plate spline on the latest output rows, for all items and channels that come by:
// (rows, vectors of points, controls). A row's slot is its number modulo `rows`.
struct TpsBasis {
  int64_t rows, row_size;
  Scratch<double> values;
  Scratch<int64_t> held;  // by slot: the number of its row plus one

  STN_INLINE TpsBasis(const Problem& p, int64_t capacity)
      : rows(capacity),
        row_size((p.out_width + kDoubles - 1) / kDoubles * p.controls * kDoubles),
        values(rows * row_size + 1),
        held(rows) {}
};

// One transformed image and the axes between which it maps, always in double. A Row places points of an output row.
struct Source {
  const Problem& p;
  int64_t item;
  Axis<double> x, y;            // source pixels, or normalized coordinates
  CentredLattice<double> u, v;  // output

  CentredMap<double> map{};  // of an affine transform
  double matrix[9];          // of a homography
  TpsBasis* shared;          // of a thin-plate spline; may be null

  STN_INLINE Source(const Problem& problem, int64_t n, TpsBasis* basis = nullptr)
      : p(problem),
        item(n),
        x(p.normalized ? Axis<double>{1, 0} : pixel_axis<double>(p.width, p.align_corners)),
        y(p.normalized ? Axis<double>{1, 0} : pixel_axis<double>(p.height, p.align_corners)),
        u(centred_lattice<double>(p.out_width, p.align_corners)),
        v(centred_lattice<double>(p.out_height, p.align_corners)),
        shared(basis) {
    if (p.transform == Transform::homography) parameters(matrix);
    if (p.transform != Transform::affine) return;
    double theta[6];
    parameters(theta);
    map = centred_map(theta, x, y, u.step, v.step);
  }
  // The item's parameters.
  template <int kCount>
  STN_INLINE void parameters(double (&to)[kCount]) const {
    const int64_t first = item * kCount;
    for (int k = 0; k < kCount; ++k) {
      to[k] = p.double_parameters ? static_cast<const double*>(p.parameters)[first + k]
                                  : double(static_cast<const float*>(p.parameters)[first + k]);
    }
  }
  // The affine map from the output's first pixel.
  STN_INLINE PixelMap<double> pixels() const {
    return {map.xu, map.xv, map.x0 - map.xu * u.centre - map.xv * v.centre,
            map.yu, map.yv, map.y0 - map.yu * u.centre - map.yv * v.centre};
  }
};

STN_INLINE Doubles indices_from(double first) {  // first, first + 1, ...
  Doubles index;
  for (int i = 0; i < kDoubles; ++i) index[i] = i;
  return index + first;
}

struct AffineRow {
  double x, y, xu, yu, centre;
  STN_INLINE AffineRow(const Source& s, int64_t v)
      : x(s.map.xv * s.v.from_centre(int(v)) + s.map.x0),
        y(s.map.yv * s.v.from_centre(int(v)) + s.map.y0),
        xu(s.map.xu),
        yu(s.map.yu),
        centre(s.u.centre) {}
  STN_INLINE void points(int64_t u, int64_t, Doubles& source_x, Doubles& source_y) const {
    const Doubles index = indices_from(double(u) - centre);
    source_x = x + xu * index, source_y = y + yu * index;
  }
};

// The next kDoubles (x, y) pairs, of which only some may be there; zeros follow.
template <class G>
STN_INLINE void load_points(const G* pairs, int64_t available, Doubles& x, Doubles& y) {
  using Pairs = Vec<G, 2 * kDoubles>;
  Pairs both{};
  if (available >= kDoubles) {
    both = load<Pairs>(pairs);
  } else {
    for (int64_t i = 0; i < 2 * available; ++i) both[i] = pairs[i];
  }
  x = y = Doubles{};
  for (int i = 0; i < kDoubles; ++i) x[i] = double(both[2 * i]), y[i] = double(both[2 * i + 1]);
}

template <class G>
struct GridRow {
  const G* grid;
  Axis<double> x, y;
  STN_INLINE GridRow(const Source& s, int64_t v)
      : grid(static_cast<const G*>(s.p.parameters) + 2 * (s.item * s.p.item_points() + v * s.p.out_width)),
        x(s.x),
        y(s.y) {}
  STN_INLINE void points(int64_t u, int64_t available, Doubles& source_x, Doubles& source_y) const {
    Doubles gx, gy;
    load_points(grid + 2 * u, available, gx, gy);
    source_x = x.scale * gx + x.shift, source_y = y.scale * gy + y.shift;
  }
};

struct HomographyRow {
  const double (&h)[9];
  double y;
  Axis<double> to_x, to_y;
  CentredLattice<double> lattice;
  STN_INLINE HomographyRow(const Source& s, int64_t v)
      : h(s.matrix), y(s.v.at(int(v))), to_x(s.x), to_y(s.y), lattice(s.u) {}
  STN_INLINE Projected<Doubles> projected(int64_t u, Doubles& x) const {
    x = lattice.step * indices_from(double(u) - lattice.centre);
    return project(h, x, splat<Doubles>(y));
  }
  STN_INLINE void points(int64_t u, int64_t, Doubles& source_x, Doubles& source_y) const {
    Doubles x;
    const Projected<Doubles> p = projected(u, x);
    source_x = to_x.scale * p.x + to_x.shift, source_y = to_y.scale * p.y + to_y.shift;
  }
};

// In two dimensions; VolumeSpline of points.h is that of three.
struct TpsRow {
  const double *control, *coefficients;
  int64_t count;
  double y;
  Axis<double> to_x, to_y;
  CentredLattice<double> lattice;
  const double* stored;  // the shared functions of this row, or null

  STN_INLINE TpsRow(const Source& s, int64_t v)
      : control(s.p.control_points),
        coefficients(static_cast<const double*>(s.p.parameters) + s.item * s.p.parameter_count()),
        count(s.p.controls),
        y(s.v.at(int(v))),
        to_x(s.x),
        to_y(s.y),
        lattice(s.u),
        stored(nullptr) {
    if (!s.shared) return;
    const int64_t slot = v % s.shared->rows;
    double* values = s.shared->values.data + slot * s.shared->row_size;
    if (s.shared->held.data[slot] != v + 1) {
      for (int64_t u = 0; u < s.p.out_width; u += kDoubles) {
        for (int64_t k = 0; k < count; ++k) store(values + (u * count + k * kDoubles), radial(columns(u), k));
      }
      s.shared->held.data[slot] = v + 1;
    }
    stored = values;
  }
  STN_INLINE Doubles columns(int64_t u) const { return lattice.step * indices_from(double(u) - lattice.centre); }
  STN_INLINE Doubles radial(Doubles x, int64_t k) const {
    const Doubles dx = x - control[2 * k];
    const double dy = y - control[2 * k + 1];
    return radial_function<2>(dx * dx + dy * dy);
  }
  // Function k of the points [u, u + kDoubles), which lie at x; u is a multiple of kDoubles.
  STN_INLINE Doubles basis(int64_t u, Doubles x, int64_t k) const {
    return stored ? load<Doubles>(stored + (u * count + k * kDoubles)) : radial(x, k);
  }
  STN_INLINE void points(int64_t u, int64_t, Doubles& source_x, Doubles& source_y) const {
    const Doubles x = columns(u);
    const double* affine = coefficients + 2 * count;  // of 1, x, y
    Doubles sum_x[] = {affine[0] + affine[4] * y + affine[2] * x, Doubles{}},
            sum_y[] = {affine[1] + affine[5] * y + affine[3] * x, Doubles{}};
    in_two_parts(count, [&](int64_t k, int part) STN_LAMBDA {
      const Doubles value = basis(u, x, k);
      sum_x[part] += coefficients[2 * k] * value, sum_y[part] += coefficients[2 * k + 1] * value;
    });
    source_x = to_x.scale * (sum_x[0] + sum_x[1]) + to_x.shift;
    source_y = to_y.scale * (sum_y[0] + sum_y[1]) + to_y.shift;
  }
};

// Follows the points of a run by points outside, up to a multiple of 16.
template <class T>
STN_INLINE void end_run(Run<T>& run) {
  for (int64_t i = run.count; i % 16 != 0; ++i) {
    run.x_index[i] = run.y_index[i] = -2;
    run.x_fraction[i] = run.y_fraction[i] = run.x_slope[i] = run.y_slope[i] = 0;
  }
}

template <class T>
using Locate = void (*)(const Source&, int64_t v, int64_t u0, int64_t count, Run<T>&);

// The one function that places points for this problem: transforms and paddings end here, samplers never see them.
template <class T>
Locate<T> locator(const Problem& p);

}  // namespace stn::STN_LEVEL
