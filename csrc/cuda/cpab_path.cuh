// The path of one point along a CPAB velocity field (common/cpab.h), step by step, and back.
#pragma once
#include "common/cpab_fixed.h"
#include "memory.cuh"

namespace stn {

// The prepared regions of all items: records (items, regions, kCpabRecord), as cpab_prepare_kernel fills them.
template <class T, int n>
struct CpabField {
  static constexpr int kRecord = kCpabRecord<n>;
  CpabTables tables;
  T *motions, *places;

  __device__ __forceinline__ const CpabMotion<T, n>& motion(int64_t item, int region) const {
    return *reinterpret_cast<const CpabMotion<T, n>*>(motions + (item * tables.regions + region) * kRecord);
  }
  __device__ __forceinline__ const CpabPlace<T, n>& place(int64_t item, int region) const {
    return *reinterpret_cast<const CpabPlace<T, n>*>(places + (item * tables.regions + region) * kRecord);
  }
  // With walls there are no regions outside the domain.
  __device__ __forceinline__ bool bounded() const { return tables.regions == tables.cells; }
};

// What the transposes need of a step: the region, for how long, and the lattice offset from the region's origin.
template <class T, int n>
struct CpabVisit {
  int region;
  T time, u[n];
};

template <class T, int n>
struct CpabPath {
  static constexpr int m = n + 1;
  const CpabField<T, n>& field;
  int64_t item;
  int region, entry, steps;  // entry: the face it came in through, or -1
  int rest_steps;            // of the fixed ones that follow the last segment
  T g[m], rest;              // coordinates in the region; time left, NaN for a point that is not finite

  __device__ __forceinline__ CpabPath(const CpabField<T, n>& f, int64_t i, const T (&point)[n])
      : field(f), item(i), entry(-1), steps(0), rest_steps(0) {
    double y[n], local[m], sum = 0;
    for (int d = 0; d < n; ++d) {
      double x = double(point[d]);
      sum += x;
      if (f.bounded()) x = x < 0 ? 0 : x > 1 ? 1 : x;
      y[d] = x * f.tables.shape[d];
    }
    const bool finite = sum - sum == 0;
    for (int d = 0; d < n; ++d) y[d] = finite ? y[d] : 0;
    region = locate<n>(f.tables, y, local);
    for (int j = 0; j < m; ++j) g[j] = T(local[j]);
    rest = finite ? T(1) : T(NAN);
  }

  // The lattice offset from the region's origin, or from 0.
  __device__ __forceinline__ void offset_here(const CpabPlace<T, n>& place, T (&u)[n]) const {
    for (int d = 0; d < n; ++d) {
      u[d] = place.axes[d * n] * g[1];
      for (int j = 1; j < n; ++j) u[d] += place.axes[d * n + j] * g[j + 1];
    }
  }
  // Where it is, in units of the domain.
  __device__ __forceinline__ void image(T (&y)[n]) const {
    const CpabPlace<T, n>& place = field.place(item, region);
    offset_here(place, y);
    for (int d = 0; d < n; ++d) y[d] = rest == rest ? (place.origin[d] + y[d]) / T(field.tables.shape[d]) : rest;
  }

  // Takes a step and says which; false at the end of the time.
  __device__ __forceinline__ bool advance(CpabVisit<T, n>& visit) {
    if (!(rest > 0)) return false;
    visit.region = region;
    offset_here(field.place(item, region), visit.u);
    if (steps >= kCpabSegments)
      drift(visit);
    else
      segment(visit);
    ++steps;
    return true;
  }

 private:
  // To where the path leaves the region, or as far as the series reach.
  __device__ __forceinline__ void segment(CpabVisit<T, n>& visit) {
    const CpabMotion<T, n> motion = field.motion(item, region);
    bool entered[m];
    for (int j = 0; j < m; ++j) entered[j] = entry == j;
    const CpabStep<T, n> done = step<T, n>(motion, g, entered, true, rest, [](bool some) { return some; });
    visit.time = done.time;
    rest = done.time == rest ? T(0) : rest - done.time;
    int code = 0;
    bool crosses = false;
    for (int j = 0; j < m; ++j) {
      g[j] = done.g[j];
      if (done.leaves[j]) code = CpabRegion<n>(field.tables, region).crossing[j], crosses = true;
    }
    entry = crosses ? crossing_slot(code) : -1;
    if (!crosses) return;
    if (code < 0) {  // the domain's wall, which only roundings cross
      for (int j = 0; j < m; ++j) entry = done.leaves[j] ? j : entry;
      return;
    }
    if (crossing_changes(code)) {
      double y[n];
      const CpabRegion<n> old(field.tables, region);
      for (int d = 0; d < n; ++d) {
        y[d] = old.origin[d];
        for (int j = 0; j < n; ++j) y[d] += old.axes[d * n + j] * double(g[j + 1]);
      }
      const CpabRegion<n> next(field.tables, crossing_region(code));
      for (int j = 0; j < m; ++j) {
        const double value = next.coordinate(j, y);
        g[j] = value > 0 && j != crossing_slot(code) ? T(value) : T(0);
      }
    }
    region = crossing_region(code);
  }

  // Behind the segment limit: along the field of the region it is in, whatever the region's faces; for a fiftieth of
  // the path's time, or as far as the series reach.
  __device__ __forceinline__ void drift(CpabVisit<T, n>& visit) {
    constexpr int kMost = 20 * kCpabRestSteps;  // then the rest of the time is let go
    const CpabPlace<T, n>& place = field.place(item, region);
    const T limit = field.motion(item, region).limit, share = T(1) / kCpabRestSteps;
    visit.time = minimum(minimum(rest, share), limit);
    rest = visit.time == rest || ++rest_steps == kMost ? T(0) : rest - visit.time;
    T a[n], v[n], next[n];
    CpabSeries<T, n>(place.powers).at(visit.time, a);
    double y[n], local[m];
    for (int i = 0; i < n; ++i) {
      v[i] = place.start[i];
      for (int j = 0; j < n; ++j) v[i] += place.matrix[i * n + j] * visit.u[j];
    }
    for (int i = 0; i < n; ++i) next[i] = visit.u[i];
    for (int l = 0; l < n; ++l) {
      T turned[n];
      for (int i = 0; i < n; ++i) {
        next[i] += a[l] * v[i];
        turned[i] = 0;
        for (int j = 0; j < n; ++j) turned[i] += place.matrix[i * n + j] * v[j];
      }
      for (int i = 0; i < n; ++i) v[i] = turned[i];
    }
    for (int d = 0; d < n; ++d) y[d] = double(place.origin[d] + next[d]);
    const int there = locate<n>(field.tables, y, local);
    const CpabRegion<n> target(field.tables, there);
    for (int j = 0; j < m; ++j) g[j] = T(target.coordinate(j, y));
    region = there;
  }
};

// The adjoint of a step: pulls lambda back and gives G = dL/d[matrix, start] of its region.
template <class T, int n>
__device__ __forceinline__ void pull_back(const CpabPath<T, n>& path, const CpabVisit<T, n>& visit, T (&lambda)[n],
                                          T (&G)[n][n + 1]) {
  step_adjoint<T, n>(path.field.place(path.item, visit.region), visit.u, visit.time, lambda, G);
}

// The maps of one fixed step in every cell: (items, cells, n, n + 1).
template <class T, int n>
struct CpabMaps {
  CpabTables tables;
  T* maps;
  int steps;
  __device__ __forceinline__ const T* map(int64_t item, int cell) const {
    return maps + (item * tables.cells + cell) * (n * (n + 1));
  }
};

// The same path in fixed steps, each by the map of the cell it starts in; a visit's region is that cell, u the point.
template <class T, int n>
struct CpabFixedPath {
  const CpabMaps<T, n>& field;
  int64_t item;
  int steps;
  T y[n];

  __device__ __forceinline__ CpabFixedPath(const CpabMaps<T, n>& f, int64_t i, const T (&point)[n])
      : field(f), item(i), steps(0) {
    const bool bounded = f.tables.regions == f.tables.cells;
    for (int d = 0; d < n; ++d) {
      T x = point[d];
      if (bounded) x = x < 0 ? T(0) : x > 1 ? T(1) : x;
      y[d] = x * T(f.tables.shape[d]);
    }
  }
  __device__ __forceinline__ void image(T (&at)[n]) const {
    for (int d = 0; d < n; ++d) at[d] = y[d] / T(field.tables.shape[d]);
  }
  __device__ __forceinline__ bool advance(CpabVisit<T, n>& visit) {
    if (steps == field.steps) return false;
    visit.region = cell_of<n, T>(field.tables.shape, y);
    const T* map = field.map(item, visit.region);
    for (int d = 0; d < n; ++d) visit.u[d] = y[d];
    for (int i = 0; i < n; ++i) {
      y[i] = map[i * (n + 1) + n];
      for (int j = 0; j < n; ++j) y[i] += map[i * (n + 1) + j] * visit.u[j];
    }
    ++steps;
    return true;
  }
};

// G: of the cell's map.
template <class T, int n>
__device__ __forceinline__ void pull_back(const CpabFixedPath<T, n>& path, const CpabVisit<T, n>& visit, T (&lambda)[n],
                                          T (&G)[n][n + 1]) {
  const T* map = path.field.map(path.item, visit.region);
  T back[n] = {};
  for (int r = 0; r < n; ++r) {
    for (int c = 0; c < n; ++c) G[r][c] = lambda[r] * visit.u[c], back[c] += map[r * (n + 1) + c] * lambda[r];
    G[r][n] = lambda[r];
  }
  for (int d = 0; d < n; ++d) lambda[d] = back[d];
}

}  // namespace stn
