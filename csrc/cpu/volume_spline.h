// The thin-plate spline in three dimensions, row by row of the output, and its transpose. (TpsRow is that of two.)
#pragma once
#include <optional>

#include "grid_passes.h"
#include "points.h"

namespace stn::STN_LEVEL {

STN_INLINE bool is_volume_spline(const Problem& p) { return p.transform == Transform::tps && p.dimensions == 3; }

// The radial functions on the latest output rows, for the items that come by: (slots, controls, points). A row's slot
// is its number modulo the slots: one where items take a row in turn, else as many as no block has rows.
struct RadialRows {
  static constexpr int64_t kInCache = 1 << 17;  // numbers that a block's rows may have
  int64_t slots, controls, width;               // points of a row, and two vectors behind it
  Scratch<double> values;
  Scratch<int64_t> held;  // by slot: the number of its row plus one

  static STN_INLINE int64_t width_of(const Problem& p) { return (p.out_width / kDoubles + 3) * kDoubles; }
  static STN_INLINE bool are_worth_it(const Problem& p) {
    return is_volume_spline(p) && p.items() > 1 && kRowBlock * p.controls * width_of(p) <= kInCache;
  }
  STN_INLINE RadialRows(const Problem& p, bool in_turn)
      : slots(in_turn ? 1 : 2 * kRowBlock),
        controls(p.controls),
        width(width_of(p)),
        values(slots * controls * width + kDoubles, Uninitialized{}),
        held(slots) {}
  // The values of a row, which fill(values) works out if they are not there.
  template <class Fill>
  STN_INLINE const double* row(int64_t number, Fill fill) {
    const auto whole = (reinterpret_cast<uintptr_t>(values.data) + kVectorBytes - 1) & ~uintptr_t(kVectorBytes - 1);
    double* at = reinterpret_cast<double*>(whole) + number % slots * controls * width;  // no vector crosses lines
    if (held.data[number % slots] != number + 1) fill(at), held.data[number % slots] = number + 1;
    return at;
  }
};

// They where a call has a use for them, and how many items its tasks then take side by side; else none, and 0.
struct SharedRows {
  int64_t items = 0;
  std::optional<RadialRows> held;
  STN_INLINE SharedRows(const Problem& p, bool in_turn) {
    if (RadialRows::are_worth_it(p)) items = p.items(), held.emplace(p, in_turn);
  }
  STN_INLINE RadialRows* rows() { return held ? &*held : nullptr; }
};

// One spline on one output row; rows count through y, then z.
struct VolumeSpline {
  const double *control, *coefficients;
  int64_t count;
  double y, z;
  CentredLattice<double> lattice;
  const double* stored = nullptr;  // the shared functions of this row: (controls, width); or null
  int64_t width = 0;

  // shared: may be null.
  STN_INLINE VolumeSpline(const Problem& p, int64_t item, int64_t row, RadialRows* shared)
      : control(p.control_points),
        coefficients(static_cast<const double*>(p.parameters) + item * p.parameter_count()),
        count(p.controls) {
    const OutputLattice<3> output(p);
    lattice = output.axis[0], y = output.at(1, row), z = output.at(2, row);
    if (!shared) return;
    width = shared->width;
    stored = shared->row(row, [&](double* values) STN_LAMBDA {
      for (int64_t k = 0; k < count; ++k) {
        const double distance = aside(k);
        for (int64_t u = 0; u < width; u += kDoubles) store(values + k * width + u, radial(columns(u), k, distance));
      }
    });
  }
  STN_INLINE Doubles columns(int64_t u) const { return lattice.step * indices_from(double(u) - lattice.centre); }
  // The square of the row's distance from control point k.
  STN_INLINE double aside(int64_t k) const {
    const double dy = y - control[3 * k + 1], dz = z - control[3 * k + 2];
    return dy * dy + dz * dz;
  }
  STN_INLINE Doubles radial(Doubles x, int64_t k, double aside) const {
    const Doubles dx = x - control[3 * k];
    return radial_function<3>(dx * dx + aside);
  }
  // Calls f with the radial functions, as (k, u) -> function k of the points [u, u + kDoubles).
  template <class F>
  STN_INLINE void with_functions(F f) const {
    if (stored) {
      f([this](int64_t k, int64_t u) STN_LAMBDA { return load<Doubles>(stored + k * width + u); });
    } else {
      f([this](int64_t k, int64_t u) STN_LAMBDA { return radial(columns(u), k, aside(k)); });
    }
  }
  // Normalized sources of the points [u0, u0 + count), and others up to a multiple of 2 kDoubles.
  void points(int64_t u0, int64_t points, double (*x)[kRun]) const;
};

// The gradient of the coefficients, row by row.
struct VolumeSplineSums {
  const Problem& p;
  Scratch<Doubles> sums;  // (controls + 4, 3)
  STN_INLINE explicit VolumeSplineSums(const Problem& problem) : p(problem), sums(problem.parameter_count()) {}
  // grads: cotangents of the sources of the points [u0, u0 + count), zeros up to a multiple of kDoubles.
  void add(const VolumeSpline& spline, int64_t u0, int64_t count, const double (*grads)[kRun]);
  STN_INLINE void finish(double* out) const {
    for (int64_t k = 0; k < p.parameter_count(); ++k) {
      const int axis = int(k % 3);
      const double scale = p.normalized ? 1 : pixel_axis<double>(p.extent(axis), p.align_corners).scale;
      out[k] = scale * sum_of_lanes(sums.data[k]);
    }
  }
};

// Coordinates of a grid operator, as they are stored, of points that begin at `at`.
inline void store_lattice(const Problem& p, int64_t at, int64_t count, const double (*x)[kRun]) {
  const auto store_as = [&](auto* grid) STN_LAMBDA {
    using G = std::remove_reference_t<decltype(*grid)>;
    for (int64_t i = 0; i < count; ++i) {
      for (int a = 0; a < 3; ++a) grid[3 * (at + i) + a] = G(x[a][i]);
    }
  };
  p.double_grid ? store_as(static_cast<double*>(p.grid)) : store_as(static_cast<float*>(p.grid));
}
inline void load_lattice_gradient(const Problem& p, int64_t at, int64_t count, double (*grads)[kRun]) {
  const auto load_from = [&](const auto* grid) STN_LAMBDA {
    for (int64_t i = 0; i < count; ++i) {
      for (int a = 0; a < 3; ++a) grads[a][i] = double(grid[3 * (at + i) + a]);
    }
  };
  p.double_grid ? load_from(static_cast<const double*>(p.grad_grid))
                : load_from(static_cast<const float*>(p.grad_grid));
}

// Calls body(spline, first point of a run, points, where they begin in the call's grid) for rows of an item.
template <class Body>
STN_INLINE void over_runs(const Problem& p, int64_t item, int64_t first, int64_t last, RadialRows* shared, Body body) {
  for (int64_t row = first; row < last; ++row) {
    const VolumeSpline spline(p, item, row, shared);
    const int64_t begin = (item * p.out_depth * p.out_height + row) * p.out_width;
    for (int64_t u = 0; u < p.out_width; u += kRun) body(spline, u, minimum<int64_t>(kRun, p.out_width - u), begin + u);
  }
}

inline void run_volume_spline_grid(const Problem& p, int64_t begin, int64_t end) {
  SharedRows shared(p, true);
  over_row_blocks(
      begin, end, p.out_depth * p.out_height,
      [&](int64_t, int64_t item, int64_t first, int64_t last) STN_LAMBDA {
        over_runs(p, item, first, last, shared.rows(),
                  [&](const VolumeSpline& spline, int64_t u, int64_t count, int64_t at) STN_LAMBDA {
                    double x[3][kRun];
                    spline.points(u, count, x);
                    store_lattice(p, at, count, x);
                  });
      },
      shared.items, true);
}

inline void run_volume_spline_grid_sums(const Problem& p, int64_t begin, int64_t end) {
  SharedRows shared(p, false);
  over_row_blocks(
      begin, end, p.out_depth * p.out_height,
      [&](int64_t task, int64_t item, int64_t first, int64_t last) STN_LAMBDA {
        VolumeSplineSums total(p);
        over_runs(p, item, first, last, shared.rows(),
                  [&](const VolumeSpline& spline, int64_t u, int64_t count, int64_t at) STN_LAMBDA {
                    double grads[3][kRun] = {};
                    load_lattice_gradient(p, at, count, grads);
                    total.add(spline, u, count, grads);
                  });
        total.finish(p.sums + p.parameter_count() * task);
      },
      shared.items);
}

}  // namespace stn::STN_LEVEL
