// Paths of a vector of points at a time: each lane in its own region, in lockstep.
#pragma once
#include <utility>

#include "coordinates.h"
#include "cpab.h"
#include "interleave.h"
#include "storage.h"

namespace stn::STN_LEVEL {

template <class T>
struct Lane {
  static constexpr int N = kVectorBytes / int(sizeof(T));
  using V = Vec<T, N>;
  using I = Vec<IndexOf<T>, N>;
};

template <class M>
STN_INLINE bool some(M mask) {
  return !all(~mask);
}
struct Some {
  template <class M>
  STN_INLINE bool operator()(M mask) const {
    return some(mask);
  }
};

// Reads record region[l] into lane l of a struct of vectors.
template <int kElements, class T, class Record>
STN_INLINE void load_records(const T* records, typename Lane<T>::I region, Record& out) {
  constexpr int N = Lane<T>::N, kUsed = sizeof(Record) / sizeof(typename Lane<T>::V);
  using V = typename Lane<T>::V;
  V* fields = reinterpret_cast<V*>(&out);
  if (all(region == region[0])) {
    const T* record = records + kElements * int64_t(region[0]);
#pragma GCC unroll 32
    for (int k = 0; k < kUsed; ++k) fields[k] = splat<V>(record[k]);
    return;
  }
  IndexOf<T> number[N];
  store(number, region);
#pragma GCC unroll 8
  for (int begin = 0; begin < kUsed; begin += N) {
    V rows[N];
#pragma GCC unroll 16
    for (int l = 0; l < N; ++l) rows[l] = load<V>(records + kElements * int64_t(number[l]) + begin);
    transpose<1>(rows);
#pragma GCC unroll 16
    for (int k = 0; k < N; ++k) {
      if (begin + k < kUsed) fields[begin + k] = rows[k];
    }
  }
}

// The regions of one image, as records.
template <class T, int n>
struct Field {
  static constexpr int kRecord = kCpabRecord<n>;
  const CpabTables& tables;
  Scratch<T> motions, places;

  STN_INLINE explicit Field(const CpabProblem& p)
      : tables(p.tables),
        motions(kRecord * p.tables.regions, uninitialized),
        places(kRecord * p.tables.regions, uninitialized) {}
  STN_INLINE void prepare_item(const CpabProblem& p, int64_t item) {
    const T* velocities = static_cast<const T*>(p.velocities) + item * p.vertices * n;
    for (int64_t r = 0; r < tables.regions; ++r) {
      prepare<n>(tables, r, velocities, *reinterpret_cast<CpabMotion<T, n>*>(motions.data + kRecord * r),
                 *reinterpret_cast<CpabPlace<T, n>*>(places.data + kRecord * r));
    }
  }
};

// Where a vector of points starts: its region, coordinates, and the time it has to go (0 for lanes that are not there,
// NaN for a point that is not finite).
template <class T, int n>
struct Paths {
  typename Lane<T>::I region;
  typename Lane<T>::V g[n + 1], rest;
};

template <class T, int n>
STN_SHARED Paths<T, n> start_paths(const CpabProblem& p, const T* points, int64_t count) {
  constexpr int N = Lane<T>::N;
  IndexOf<T> region[N] = {};
  T g[n + 1][N] = {}, rest[N] = {};
  const bool bounded = p.tables.regions == p.tables.cells;
  for (int64_t l = 0; l < count && l < N; ++l) {
    double y[n], local[n + 1], sum = 0;
    for (int d = 0; d < n; ++d) {
      double x = double(points[l * n + d]);
      sum += x;
      if (bounded) x = x < 0 ? 0 : x > 1 ? 1 : x;
      y[d] = x * p.tables.shape[d];
    }
    const bool finite = sum - sum == 0;
    if (!finite) {
      for (int d = 0; d < n; ++d) y[d] = 0;
    }
    region[l] = locate<n>(p.tables, y, local);
    for (int j = 0; j <= n; ++j) g[j][l] = T(local[j]);
    rest[l] = finite ? T(1) : T(NAN);
  }
  Paths<T, n> paths;
  paths.region = load<typename Lane<T>::I>(region), paths.rest = load<typename Lane<T>::V>(rest);
  for (int j = 0; j <= n; ++j) paths.g[j] = load<typename Lane<T>::V>(g[j]);
  return paths;
}

// What the transposes need of a step.
template <class T, int n>
struct Visit {
  typename Lane<T>::I region;
  typename Lane<T>::V time, x[n];
};

// Sets a lane to the region beyond a face whose coordinates differ.
template <class T, int n>
STN_SHARED void change_coordinates(const CpabTables& tables, int64_t from, int code, T (&g)[n + 1]) {
  const CpabRegion<n> old(tables, from), next(tables, crossing_region(code));
  double y[n];
  for (int d = 0; d < n; ++d) {
    y[d] = old.origin[d];
    for (int j = 0; j < n; ++j) y[d] += old.axes[d * n + j] * double(g[j + 1]);
  }
  for (int j = 0; j <= n; ++j) {
    const double value = next.coordinate(j, y);
    g[j] = value > 0 && j != crossing_slot(code) ? T(value) : T(0);
  }
}

// Follows paths to the end of their time; visits, if given, gets every step. Returns the number of steps.
template <class T, int n>
STN_INLINE int follow(const Field<T, n>& field, Paths<T, n>& paths, Visit<T, n>* visits) {
  using V = typename Lane<T>::V;
  using I = typename Lane<T>::I;
  constexpr int N = Lane<T>::N, m = n + 1;
  const V zero = {};
  I entry = splat<I>(IndexOf<T>(-1));
  int steps = 0;
  for (; steps < kCpabSegments; ++steps) {
    const I active = paths.rest > zero;
    if (!some(active)) break;
    CpabMotion<V, n> motion;
    load_records<Field<T, n>::kRecord>(field.motions.data, paths.region, motion);
    I entered[m];
    for (int j = 0; j < m; ++j) entered[j] = entry == j;
    const CpabStep<V, n> done = step<V, n>(motion, paths.g, entered, active, paths.rest, Some{});
    if (visits) {
      visits[steps].region = paths.region, visits[steps].time = masked(done.time, active);
      for (int d = 0; d < n; ++d) visits[steps].x[d] = paths.g[d + 1];
    }
    const V rest = done.time == paths.rest ? zero : paths.rest - done.time;
    paths.rest = active ? rest : paths.rest;
    for (int j = 0; j < m; ++j) paths.g[j] = active ? done.g[j] : paths.g[j];
    I slot = splat<I>(IndexOf<T>(-1));
    for (int j = 0; j < m; ++j) slot = done.leaves[j] & active ? splat<I>(IndexOf<T>(j)) : slot;
    entry = splat<I>(IndexOf<T>(-1));
    const I crosses = slot >= 0;
    if (!some(crosses)) continue;
    IndexOf<T> region[N], slots[N], code[N];
    store(region, paths.region), store(slots, slot);
    for (int l = 0; l < N; ++l) {
      code[l] = slots[l] < 0 ? 0 : CpabRegion<n>(field.tables, region[l]).crossing[slots[l]];
    }
    const I codes = load<I>(code);
    const I changes = crosses & ((codes & 1) == 1);
    if (some(changes)) {
      T g[m][N];
      for (int j = 0; j < m; ++j) store(g[j], paths.g[j]);
      for (int l = 0; l < N; ++l) {
        if (!changes[l]) continue;
        T own[m];
        for (int j = 0; j < m; ++j) own[j] = g[j][l];
        change_coordinates<T, n>(field.tables, region[l], int(code[l]), own);
        for (int j = 0; j < m; ++j) g[j][l] = own[j];
      }
      for (int j = 0; j < m; ++j) paths.g[j] = load<V>(g[j]);
    }
    paths.region = crosses ? codes >> 3 : paths.region;
    entry = crosses ? (codes >> 1) & 3 : entry;
  }
  return steps;
}

}  // namespace stn::STN_LEVEL
