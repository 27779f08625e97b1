// The exact method for vectors of points: there in closed form from region to region, and back by the transposes.
#pragma once
#include "cpab_fixed.h"
#include "cpab_lattice.h"

namespace stn::STN_LEVEL {

// Where paths are, in lattice units; NaN where one never was.
template <class T, int n>
STN_INLINE void position(const Field<T, n>& field, const Paths<T, n>& paths, typename Lane<T>::V (&y)[n]) {
  using V = typename Lane<T>::V;
  CpabPlace<V, n> place;
  load_records<Field<T, n>::kRecord>(field.places.data, paths.region, place);
  for (int d = 0; d < n; ++d) {
    V sum = place.axes[d * n] * paths.g[1];
    for (int j = 1; j < n; ++j) sum += place.axes[d * n + j] * paths.g[j + 1];
    y[d] = paths.rest == paths.rest ? place.origin[d] + sum : paths.rest;
  }
}

template <class T, int n>
struct Exact {
  using V = typename Lane<T>::V;
  using Visit = STN_LEVEL::Visit<T, n>;
  static constexpr int N = Lane<T>::N;

  const CpabProblem& p;
  Field<T, n> field;
  PixelLattice<T, n> lattice;
  const T* velocities = nullptr;
  const T* points = nullptr;
  // Of the latest vector with lanes that hit the segment limit: where its visits begin, and the rest of their ways.
  const Visit* unfinished = nullptr;
  V rest{};
  Scratch<FixedVisit<n>> rest_visits;

  explicit Exact(const CpabProblem& problem)
      : p(problem), field(problem), lattice(problem), rest_visits(int64_t(N) * kCpabRestSteps, uninitialized) {}
  int64_t most_visits() const { return kCpabSegments; }
  STN_SHARED void prepare_item(int64_t item, const T* item_velocities, const T* item_points) {
    velocities = item_velocities, points = item_points;
    field.prepare_item(p, item);
  }

  // Moves the points [i, i + N), of which `count` are there; y in lattice units. visits may be nullptr. Returns their
  // number.
  int move(int64_t i, int64_t count, Visit* visits, V (&y)[n]) {
    Paths<T, n> paths = !p.at          ? paths_from<T, n>(p.tables, lattice, i, count)
                        : p.own_points ? start_paths<T, n>(p, points + i * n, count)
                                       : static_cast<const Paths<T, n>*>(p.starts)[i / N];
    unfinished = nullptr;
    const int steps = follow<T, n>(field, paths, visits);
    position(field, paths, y);
    if (some(paths.rest > 0)) finish_lanes(paths.rest, visits, y);
    return steps;
  }

  // Pulls cotangents (lattice units) back along the visits of a vector. add(lane, region, entries) gets dL/d[matrix,
  // start] of the lane's region, entries(k) its k-th number.
  template <class Add>
  STN_INLINE void pull_back(const Visit* visits, int steps, V (&lambda)[n], Add add) const {
    if (steps > 0 && visits == unfinished) pull_back_rest(lambda, add);
    for (int s = steps - 1; s >= 0; --s) {
      V G[n][n + 1];
      step_back(visits[s], lambda, G);
      add_lanes<T, n>(visits[s].region, visits[s].time != V{}, G, add);
    }
  }

  void finish_sums(double*) const {}
  void to_field(int64_t, double*) const {}

 private:
  STN_SHARED void step_back(const Visit& visit, V (&lambda)[n], V (&G)[n][n + 1]) const {
    CpabPlace<V, n> place;
    load_records<Field<T, n>::kRecord>(field.places.data, visit.region, place);
    V u[n];
    for (int d = 0; d < n; ++d) {
      u[d] = place.axes[d * n] * visit.x[0];
      for (int j = 1; j < n; ++j) u[d] += place.axes[d * n + j] * visit.x[j];
    }
    step_adjoint<V, n>(place, u, visit.time, lambda, G);
  }
  STN_SHARED void finish_lanes(V left, const Visit* visits, V (&y)[n]) {
    unfinished = visits, rest = left;
    for (int l = 0; l < N; ++l) {
      if (!(rest[l] > 0)) continue;
      __atomic_fetch_add(p.unfinished, 1, __ATOMIC_RELAXED);
      double at[n];
      for (int d = 0; d < n; ++d) at[d] = double(y[d][l]);
      finish<n>(p.tables, velocities, double(rest[l]), at, rest_visits.data + l * kCpabRestSteps);
      for (int d = 0; d < n; ++d) y[d][l] = T(at[d]);
    }
  }
  template <class Add>
  void pull_back_rest(V (&lambda)[n], Add add) const {
    for (int l = 0; l < N; ++l) {
      if (!(rest[l] > 0)) continue;
      double own[n];
      RegionGradient<n> gradients[kCpabRestSteps];
      for (int d = 0; d < n; ++d) own[d] = double(lambda[d][l]);
      finish_adjoint<n>(p.tables, velocities, double(rest[l]), rest_visits.data + l * kCpabRestSteps, own, gradients);
      for (const auto& of_step : gradients) add(l, of_step.region, [&](int k) { return of_step.entries[k]; });
      for (int d = 0; d < n; ++d) lambda[d][l] = T(own[d]);
    }
  }
};

}  // namespace stn::STN_LEVEL
