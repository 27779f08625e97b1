// Paths in fixed steps: all of "fixed", and what the exact method leaves at its segment limit.
#pragma once
#include "common/cpab_fixed.h"
#include "cpab.h"
#include "cpab_lattice.h"
#include "cpab_paths.h"

namespace stn::STN_LEVEL {

// add(lane, region, entries) for the lanes of a mask: entries(k) is the k-th of the lane's n (n + 1) numbers.
template <class T, int n, class Add>
STN_INLINE void add_lanes(typename Lane<T>::I region, typename Lane<T>::I mask,
                          const typename Lane<T>::V (&G)[n][n + 1], Add add) {
  constexpr int N = Lane<T>::N, kEntries = n * (n + 1);
  T values[kEntries][N];
  IndexOf<T> regions[N], wanted[N];
  for (int k = 0; k < kEntries; ++k) store(values[k], G[k / (n + 1)][k % (n + 1)]);
  store(regions, region), store(wanted, mask);
  for (int l = 0; l < N; ++l) {
    if (wanted[l]) add(l, int64_t(regions[l]), [&](int k) STN_LAMBDA { return double(values[k][l]); });
  }
}

// dL/d[M b] of a region on lattice coordinates -> dL/d[matrix, start] (CpabPlace).
template <int n>
STN_INLINE void to_place(const CpabTables& t, int64_t region, const double (&G)[n][n + 1], double* entries) {
  const CpabRegion<n> place(t, region);
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < n; ++j) entries[i * (n + 1) + j] = G[i][j] - G[i][n] * place.origin[j];
    entries[i * (n + 1) + n] = G[i][n];
  }
}

template <int n>
struct FixedVisit {
  int32_t region;
  double y[n];
};

// dL/d[matrix, start] of a region.
template <int n>
struct RegionGradient {
  int32_t region;
  double entries[n * (n + 1)];
};

template <int n>
STN_SHARED void exponential(const double (&A)[n][n + 1], double time, double (&E)[n][n + 1]) {
  affine_exponential<n>(A, time, E);
}
template <int n>
STN_SHARED void exponential_adjoint(const double (&A)[n][n + 1], double time, const double (&grad_E)[n][n + 1],
                                    double (&grad_A)[n][n + 1]) {
  affine_exponential_adjoint<n>(A, time, grad_E, grad_A);
}

// kCpabRestSteps steps of a point that has `time` left, each by an exponential of its own: rare, and not fast.
template <int n, class P>
STN_SHARED void finish(const CpabTables& t, const P* velocities, double time, double (&y)[n], FixedVisit<n>* visits) {
  for (int s = 0; s < kCpabRestSteps; ++s) {
    double g[n + 1], A[n][n + 1], E[n][n + 1], next[n];
    const int32_t region = locate<n>(t, y, g);
    visits[s].region = region;
    for (int d = 0; d < n; ++d) visits[s].y[d] = y[d];
    generator<n>(t, region, velocities, A);
    exponential<n>(A, time / kCpabRestSteps, E);
    for (int i = 0; i < n; ++i) {
      next[i] = E[i][n];
      for (int j = 0; j < n; ++j) next[i] += E[i][j] * y[j];
    }
    for (int d = 0; d < n; ++d) y[d] = next[d];
  }
}

// gradients: of every step.
template <int n, class P>
STN_SHARED void finish_adjoint(const CpabTables& t, const P* velocities, double time, const FixedVisit<n>* visits,
                               double (&lambda)[n], RegionGradient<n>* gradients) {
  for (int s = kCpabRestSteps - 1; s >= 0; --s) {
    double A[n][n + 1], E[n][n + 1], outer[n][n + 1], G[n][n + 1], back[n] = {};
    generator<n>(t, visits[s].region, velocities, A);
    exponential<n>(A, time / kCpabRestSteps, E);
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j < n; ++j) outer[i][j] = lambda[i] * visits[s].y[j], back[j] += E[i][j] * lambda[i];
      outer[i][n] = lambda[i];
    }
    exponential_adjoint<n>(A, time / kCpabRestSteps, outer, G);
    gradients[s].region = visits[s].region;
    to_place<n>(t, visits[s].region, G, gradients[s].entries);
    for (int d = 0; d < n; ++d) lambda[d] = back[d];
  }
}

// The method "fixed" for vectors of points.
template <class T, int n>
struct Fixed {
  using V = typename Lane<T>::V;
  using I = typename Lane<T>::I;
  static constexpr int N = Lane<T>::N, kRecord = kCpabRecord<n>;
  struct Visit {
    I cell;
    V y[n];
  };
  struct Map {
    V entries[n * (n + 1)];
  };

  const CpabProblem& p;
  PixelLattice<T, n> lattice;
  Scratch<T> maps;  // of one step: a record a cell
  const T* velocities = nullptr;
  const T* points = nullptr;
  static constexpr const Visit* unfinished = nullptr;

  explicit Fixed(const CpabProblem& problem)
      : p(problem), lattice(problem), maps(kRecord * problem.tables.cells, uninitialized) {}
  int64_t most_visits() const { return p.steps; }
  STN_SHARED void prepare_item(int64_t, const T* item_velocities, const T* item_points) {
    velocities = item_velocities, points = item_points;
    for (int32_t c = 0; c < p.tables.cells; ++c) {
      double A[n][n + 1], E[n][n + 1];
      generator<n>(p.tables, c, velocities, A);
      exponential<n>(A, 1.0 / p.steps, E);
      for (int k = 0; k < n * (n + 1); ++k) maps.data[c * kRecord + k] = T(E[k / (n + 1)][k % (n + 1)]);
    }
  }

  int move(int64_t i, int64_t count, Visit* visits, V (&y)[n]) {
    start(i, count, y);
    for (int s = 0; s < p.steps; ++s) {
      const I cell = __builtin_convertvector(cell_number<n>(p.tables.shape, y), I);
      if (visits) {
        visits[s].cell = cell;
        for (int d = 0; d < n; ++d) visits[s].y[d] = y[d];
      }
      Map map;
      load_records<kRecord>(maps.data, cell, map);
      V next[n];
      for (int r = 0; r < n; ++r) {
        next[r] = map.entries[r * (n + 1) + n];
        for (int c = 0; c < n; ++c) next[r] += map.entries[r * (n + 1) + c] * y[c];
      }
      for (int d = 0; d < n; ++d) y[d] = next[d];
    }
    return p.steps;
  }

  // As Exact::pull_back, but the entries are dL/d(map) of a cell: `to_field` turns them into what that gives.
  template <class Add>
  STN_INLINE void pull_back(const Visit* visits, int steps, V (&lambda)[n], Add add) const {
    if (steps == 0) return;
    V sums[n][n + 1] = {};
    for (int s = steps - 1; s >= 0; --s) {
      const Visit& visit = visits[s];
      Map map;
      load_records<kRecord>(maps.data, visit.cell, map);
      V back[n] = {};
      for (int r = 0; r < n; ++r) {
        for (int c = 0; c < n; ++c) {
          sums[r][c] += lambda[r] * visit.y[c], back[c] += map.entries[r * (n + 1) + c] * lambda[r];
        }
        sums[r][n] += lambda[r];
      }
      for (int d = 0; d < n; ++d) lambda[d] = back[d];
      const I changes = s == 0 ? visit.cell == visit.cell : visits[s - 1].cell != visit.cell;
      if (!some(changes)) continue;
      add_lanes<T, n>(visit.cell, changes, sums, add);
      for (int k = 0; k < n * (n + 1); ++k) {
        sums[k / (n + 1)][k % (n + 1)] = masked(sums[k / (n + 1)][k % (n + 1)], ~changes);
      }
    }
  }
  STN_SHARED void to_field(int64_t cell, double* entries) const {
    double A[n][n + 1], grad_E[n][n + 1], G[n][n + 1];
    for (int k = 0; k < n * (n + 1); ++k) grad_E[k / (n + 1)][k % (n + 1)] = entries[k];
    generator<n>(p.tables, cell, velocities, A);
    exponential_adjoint<n>(A, 1.0 / p.steps, grad_E, G);
    to_place<n>(p.tables, cell, G, entries);
  }
  void finish_sums(double* sums) const {
    for (int32_t c = 0; c < p.tables.cells; ++c) to_field(c, sums + c * n * (n + 1));
  }

 private:
  STN_INLINE void start(int64_t i, int64_t count, V (&y)[n]) const {
    if (!p.at) {
      I cube[n];
      lattice.at(i, cube, y);
      for (int d = 0; d < n; ++d) y[d] += __builtin_convertvector(cube[d], V);
      return;
    }
    T x[n][N] = {};
    for (int64_t l = 0; l < count && l < N; ++l) {
      for (int d = 0; d < n; ++d) x[d][l] = points[(i + l) * n + d];
    }
    const V zero = {}, one = splat<V>(T(1));
    for (int d = 0; d < n; ++d) {
      y[d] = load<V>(x[d]);
      if (p.bounded()) y[d] = y[d] < zero ? zero : y[d] > one ? one : y[d];
      y[d] *= T(p.tables.shape[d]);
    }
  }
};

}  // namespace stn::STN_LEVEL
