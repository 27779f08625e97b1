// Paths in fixed steps: all of "fixed", and what the exact method leaves at its segment limit.
#pragma once
#include "common/cpab_fixed.h"
#include "cpab.h"
#include "cpab_paths.h"

namespace stn::STN_LEVEL {

// Gradients to a region's [matrix, start] (CpabPlace), summed in double.
template <int n>
struct Sums {
  static constexpr int kEntries = n * (n + 1);
  double* data;
  // from one to [M b] on lattice coordinates
  STN_INLINE void add_generator(const CpabTables& t, int64_t region, const double (&G)[n][n + 1]) const {
    const CpabRegion<n> place(t, region);
    double* to = data + kEntries * region;
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j < n; ++j) to[i * (n + 1) + j] += G[i][j] - G[i][n] * place.origin[j];
      to[i * (n + 1) + n] += G[i][n];
    }
  }
};

template <int n>
struct FixedVisit {
  int32_t region;
  double y[n];
};

// kCpabRestSteps steps of a point that has `time` left, each by an exponential of its own: rare, and not fast.
template <int n, class P>
void finish(const CpabTables& t, const P* velocities, double time, double (&y)[n], FixedVisit<n>* visits) {
  for (int s = 0; s < kCpabRestSteps; ++s) {
    double g[n + 1], A[n][n + 1], E[n][n + 1], next[n];
    const int32_t region = locate<n>(t, y, g);
    if (visits) {
      visits[s].region = region;
      for (int d = 0; d < n; ++d) visits[s].y[d] = y[d];
    }
    generator<n>(t, region, velocities, A);
    affine_exponential<n>(A, time / kCpabRestSteps, E);
    for (int i = 0; i < n; ++i) {
      next[i] = E[i][n];
      for (int j = 0; j < n; ++j) next[i] += E[i][j] * y[j];
    }
    for (int d = 0; d < n; ++d) y[d] = next[d];
  }
}

template <int n, class P>
void finish_adjoint(const CpabTables& t, const P* velocities, double time, const FixedVisit<n>* visits,
                    double (&lambda)[n], const Sums<n>& sums) {
  for (int s = kCpabRestSteps - 1; s >= 0; --s) {
    double A[n][n + 1], E[n][n + 1], outer[n][n + 1], G[n][n + 1], back[n] = {};
    generator<n>(t, visits[s].region, velocities, A);
    affine_exponential<n>(A, time / kCpabRestSteps, E);
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j < n; ++j) outer[i][j] = lambda[i] * visits[s].y[j], back[j] += E[i][j] * lambda[i];
      outer[i][n] = lambda[i];
    }
    affine_exponential_adjoint<n>(A, time / kCpabRestSteps, outer, G);
    sums.add_generator(t, visits[s].region, G);
    for (int d = 0; d < n; ++d) lambda[d] = back[d];
  }
}

// The maps of one fixed step in every cell of an image.
template <class T, int n>
struct FixedField {
  Aligned<T> maps;  // (cells, n, n + 1)
  template <class P>
  FixedField(const CpabTables& t, const P* velocities, int steps) : maps(int64_t(t.cells) * n * (n + 1)) {
    for (int32_t c = 0; c < t.cells; ++c) {
      double A[n][n + 1], E[n][n + 1];
      generator<n>(t, c, velocities, A);
      affine_exponential<n>(A, 1.0 / steps, E);
      for (int i = 0; i < n * (n + 1); ++i) maps.data[c * n * (n + 1) + i] = T(E[i / (n + 1)][i % (n + 1)]);
    }
  }
  STN_INLINE const T* map(int32_t cell) const { return maps.data + int64_t(cell) * n * (n + 1); }
};

}  // namespace stn::STN_LEVEL
