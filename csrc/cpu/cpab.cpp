// CPAB on points. Compiled once a level, like kernels.cpp, and under its rules.
#include "cpab_fixed.h"
#include "cpab_kernels.h"
#include "cpab_paths.h"

namespace stn::STN_LEVEL {
namespace {

// Points [first, last) of one item, as a task.
struct Part {
  int64_t task, item, first, last;
};
template <class Body>
STN_INLINE void over_parts(const CpabProblem& p, int64_t begin, int64_t end, Body body) {
  const int64_t blocks = p.blocks(), size = p.block();
  for (int64_t task = begin; task < end; ++task) {
    const int64_t first = task % blocks * size;
    body(Part{task, task / blocks, first, minimum<int64_t>(first + size, p.points)});
  }
}

template <class T, int n>
STN_INLINE const T* points_of(const CpabProblem& p, int64_t item) {
  return static_cast<const T*>(p.at) + (p.own_points ? item / p.samples * p.points * n : 0);
}

template <class T, int n>
void locate_shared(const CpabProblem& p, int64_t begin, int64_t end) {
  const T* points = points_of<T, n>(p, 0);
  auto* starts = static_cast<Paths<T, n>*>(p.starts);
  for (int64_t i = begin; i < end; ++i) {
    starts[i] = start_paths<T, n>(p, points + i * Lane<T>::N * n, p.points - i * Lane<T>::N);
  }
}

// Calls body(start, first point, count) for vectors of points of a part.
template <class T, int n, class Body>
STN_INLINE void over_vectors(const CpabProblem& p, const Part& part, Body body) {
  constexpr int64_t N = Lane<T>::N;
  const T* points = points_of<T, n>(p, part.item);
  for (int64_t i = part.first; i < part.last; i += N) {
    const int64_t count = minimum<int64_t>(N, part.last - i);
    Paths<T, n> paths =
        p.own_points ? start_paths<T, n>(p, points + i * n, count) : static_cast<const Paths<T, n>*>(p.starts)[i / N];
    body(paths, i, count);
  }
}

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

// The rest of the time of lanes that hit the segment limit; visits has room for all lanes, or is nullptr.
template <class T, int n>
void finish_lanes(const CpabProblem& p, int64_t item, const Paths<T, n>& paths, typename Lane<T>::V (&y)[n],
                  FixedVisit<n>* visits) {
  __atomic_store_n(p.unfinished, 1, __ATOMIC_RELAXED);
  const T* velocities = static_cast<const T*>(p.velocities) + item * p.vertices * n;
  for (int l = 0; l < Lane<T>::N; ++l) {
    if (!(paths.rest[l] > 0)) continue;
    double at[n];
    for (int d = 0; d < n; ++d) at[d] = double(y[d][l]);
    finish<n>(p.tables, velocities, double(paths.rest[l]), at, visits ? visits + l * kCpabRestSteps : nullptr);
    for (int d = 0; d < n; ++d) y[d][l] = T(at[d]);
  }
}

template <class T, int n>
void forward_exact(const CpabProblem& p, int64_t begin, int64_t end) {
  Field<T, n> field(p);
  int64_t prepared = -1;
  over_parts(p, begin, end, [&](const Part& part) {
    if (part.item != prepared) field.prepare_item(p, prepared = part.item);
    T* output = static_cast<T*>(p.output) + part.item * p.points * n;
    over_vectors<T, n>(p, part, [&](Paths<T, n>& paths, int64_t i, int64_t count) {
      typename Lane<T>::V y[n];
      follow<T, n>(field, paths, nullptr);
      position(field, paths, y);
      if (some(paths.rest > 0)) finish_lanes<T, n>(p, part.item, paths, y, nullptr);
      T x[n][Lane<T>::N];
      for (int d = 0; d < n; ++d) store(x[d], y[d] / T(p.tables.shape[d]));
      for (int64_t l = 0; l < count; ++l) {
        for (int d = 0; d < n; ++d) output[(i + l) * n + d] = x[d][l];
      }
    });
  });
}

// A task's gradients to the regions' maps -> its part of the gradient to velocities.
template <int n>
STN_INLINE void store_sums(const CpabProblem& p, int64_t task, const double* regions) {
  if (!p.sums) return;
  double* to = p.sums + task * p.vertices * n;
  for (int64_t k = 0; k < p.vertices * n; ++k) to[k] = 0;
  for (int64_t r = 0; r < p.tables.regions; ++r) {
    prepare_adjoint<n>(p.tables, r, regions + r * n * (n + 1), [&](int64_t k, double value) { to[k] += value; });
  }
}

// Pulls cotangents (lattice units) back along visits, adding to sums.
template <class T, int n, class Add>
STN_INLINE void pull_back(const Field<T, n>& field, const Visit<T, n>* visits, int steps,
                          typename Lane<T>::V (&lambda)[n], Add add) {
  using V = typename Lane<T>::V;
  for (int s = steps - 1; s >= 0; --s) {
    const Visit<T, n>& visit = visits[s];
    CpabPlace<V, n> place;
    load_records<Field<T, n>::kRecord>(field.places.data, visit.region, place);
    V u[n], G[n][n + 1];
    for (int d = 0; d < n; ++d) {
      u[d] = place.axes[d * n] * visit.x[0];
      for (int j = 1; j < n; ++j) u[d] += place.axes[d * n + j] * visit.x[j];
    }
    step_adjoint<V, n>(place, u, visit.time, lambda, G);
    add(visit, G);
  }
}

template <class T, int n>
STN_INLINE void add_to_regions(const Visit<T, n>& visit, const typename Lane<T>::V (&G)[n][n + 1], double* sums) {
  constexpr int N = Lane<T>::N, kEntries = n * (n + 1);
  T values[kEntries][N], time[N];
  IndexOf<T> region[N];
  for (int k = 0; k < kEntries; ++k) store(values[k], G[k / (n + 1)][k % (n + 1)]);
  store(region, visit.region), store(time, visit.time);
  for (int l = 0; l < N; ++l) {
    if (time[l] == 0) continue;
    double* to = sums + kEntries * int64_t(region[l]);
    for (int k = 0; k < kEntries; ++k) to[k] += double(values[k][l]);
  }
}

template <class T, int n>
STN_INLINE void load_cotangents(const CpabProblem& p, const T* grad, int64_t count, typename Lane<T>::V (&lambda)[n]) {
  T values[n][Lane<T>::N] = {};
  for (int64_t l = 0; l < count; ++l) {
    for (int d = 0; d < n; ++d) values[d][l] = grad[l * n + d] / T(p.tables.shape[d]);
  }
  for (int d = 0; d < n; ++d) lambda[d] = load<typename Lane<T>::V>(values[d]);
}

template <class T, int n>
STN_INLINE void store_cotangents(const CpabProblem& p, const T* points, int64_t count,
                                 const typename Lane<T>::V (&lambda)[n], T* grad) {
  T values[n][Lane<T>::N];
  for (int d = 0; d < n; ++d) store(values[d], lambda[d] * T(p.tables.shape[d]));
  const bool bounded = p.tables.regions == p.tables.cells;
  for (int64_t l = 0; l < count; ++l) {
    for (int d = 0; d < n; ++d) {
      const bool clamped = bounded && (points[l * n + d] < 0 || points[l * n + d] > 1);
      grad[l * n + d] = clamped ? T(0) : values[d][l];
    }
  }
}

template <class T, int n>
void backward_exact(const CpabProblem& p, int64_t begin, int64_t end) {
  Field<T, n> field(p);
  const Aligned<Visit<T, n>> visits(kCpabSegments);
  const Aligned<FixedVisit<n>> rest_visits(Lane<T>::N * kCpabRestSteps);
  const int64_t entries = p.tables.regions * n * (n + 1);
  const Aligned<double> regions(entries);
  int64_t prepared = -1;
  over_parts(p, begin, end, [&](const Part& part) {
    if (part.item != prepared) field.prepare_item(p, prepared = part.item);
    __builtin_memset(regions.data, 0, size_t(entries) * sizeof(double));
    const T* grad = static_cast<const T*>(p.grad_output) + part.item * p.points * n;
    const T* points = points_of<T, n>(p, part.item);
    over_vectors<T, n>(p, part, [&](Paths<T, n>& paths, int64_t i, int64_t count) {
      typename Lane<T>::V lambda[n], y[n];
      const int steps = follow<T, n>(field, paths, visits.data);
      load_cotangents<T, n>(p, grad + i * n, count, lambda);
      if (some(paths.rest > 0)) {
        position(field, paths, y);
        finish_lanes<T, n>(p, part.item, paths, y, rest_visits.data);
        for (int l = 0; l < count; ++l) {
          if (!(paths.rest[l] > 0)) continue;
          double own[n];
          for (int d = 0; d < n; ++d) own[d] = double(lambda[d][l]);
          finish_adjoint<n>(p.tables, static_cast<const T*>(p.velocities) + part.item * p.vertices * n,
                            double(paths.rest[l]), rest_visits.data + l * kCpabRestSteps, own, Sums<n>{regions.data});
          for (int d = 0; d < n; ++d) lambda[d][l] = T(own[d]);
        }
      }
      pull_back<T, n>(field, visits.data, steps, lambda, [&](const Visit<T, n>& visit, const auto& G) STN_LAMBDA {
        add_to_regions<T, n>(visit, G, regions.data);
      });
      if (p.grad_points) {
        store_cotangents<T, n>(p, points + i * n, count, lambda,
                               static_cast<T*>(p.grad_points) + (part.item * p.points + i) * n);
      }
    });
    store_sums<n>(p, part.task, regions.data);
  });
}

template <class T, int n>
STN_INLINE void fixed_start(const CpabProblem& p, const T* point, T (&y)[n]) {
  for (int d = 0; d < n; ++d) {
    T x = point[d];
    if (p.tables.regions == p.tables.cells) x = x < 0 ? T(0) : x > 1 ? T(1) : x;
    y[d] = x * T(p.tables.shape[d]);
  }
}

template <class T, int n>
STN_INLINE void fixed_step(const T* map, T (&y)[n]) {
  T next[n];
  for (int i = 0; i < n; ++i) {
    next[i] = map[i * (n + 1) + n];
    for (int j = 0; j < n; ++j) next[i] += map[i * (n + 1) + j] * y[j];
  }
  for (int d = 0; d < n; ++d) y[d] = next[d];
}

template <class T, int n>
void forward_fixed(const CpabProblem& p, int64_t begin, int64_t end) {
  over_parts(p, begin, end, [&](const Part& part) {
    const FixedField<T, n> field(p.tables, static_cast<const T*>(p.velocities) + part.item * p.vertices * n, p.steps);
    const T* points = points_of<T, n>(p, part.item);
    T* output = static_cast<T*>(p.output) + part.item * p.points * n;
    for (int64_t i = part.first; i < part.last; ++i) {
      T y[n];
      fixed_start(p, points + i * n, y);
      for (int s = 0; s < p.steps; ++s) fixed_step<T, n>(field.map(cell_of<n, T>(p.tables.shape, y)), y);
      for (int d = 0; d < n; ++d) output[i * n + d] = y[d] / T(p.tables.shape[d]);
    }
  });
}

template <class T, int n>
void backward_fixed(const CpabProblem& p, int64_t begin, int64_t end) {
  constexpr int kEntries = n * (n + 1);
  const Aligned<int32_t> cells(p.steps);
  const Aligned<T> path(int64_t(p.steps) * n);
  const Aligned<double> maps(int64_t(p.tables.cells) * kEntries), regions(int64_t(p.tables.regions) * kEntries);
  over_parts(p, begin, end, [&](const Part& part) {
    const T* velocities = static_cast<const T*>(p.velocities) + part.item * p.vertices * n;
    const FixedField<T, n> field(p.tables, velocities, p.steps);
    const T* points = points_of<T, n>(p, part.item);
    const T* grad = static_cast<const T*>(p.grad_output) + part.item * p.points * n;
    __builtin_memset(maps.data, 0, size_t(p.tables.cells * kEntries) * sizeof(double));
    for (int64_t i = part.first; i < part.last; ++i) {
      T y[n];
      fixed_start(p, points + i * n, y);
      for (int s = 0; s < p.steps; ++s) {
        cells.data[s] = cell_of<n, T>(p.tables.shape, y);
        for (int d = 0; d < n; ++d) path.data[s * n + d] = y[d];
        fixed_step<T, n>(field.map(cells.data[s]), y);
      }
      T lambda[n];
      for (int d = 0; d < n; ++d) lambda[d] = grad[i * n + d] / T(p.tables.shape[d]);
      for (int s = p.steps - 1; s >= 0; --s) {
        const T *map = field.map(cells.data[s]), *at = path.data + s * n;
        double* to = maps.data + int64_t(cells.data[s]) * kEntries;
        T back[n] = {};
        for (int r = 0; r < n; ++r) {
          for (int c = 0; c < n; ++c) {
            to[r * (n + 1) + c] += double(lambda[r] * at[c]), back[c] += map[r * (n + 1) + c] * lambda[r];
          }
          to[r * (n + 1) + n] += double(lambda[r]);
        }
        for (int d = 0; d < n; ++d) lambda[d] = back[d];
      }
      if (p.grad_points) {
        T* to = static_cast<T*>(p.grad_points) + (part.item * p.points + i) * n;
        for (int d = 0; d < n; ++d) {
          const bool clamped = p.tables.regions == p.tables.cells && (points[i * n + d] < 0 || points[i * n + d] > 1);
          to[d] = clamped ? T(0) : lambda[d] * T(p.tables.shape[d]);
        }
      }
    }
    if (!p.sums) return;
    __builtin_memset(regions.data, 0, size_t(p.tables.regions * kEntries) * sizeof(double));
    for (int32_t c = 0; c < p.tables.cells; ++c) {
      double A[n][n + 1], grad_E[n][n + 1], G[n][n + 1];
      for (int k = 0; k < kEntries; ++k) grad_E[k / (n + 1)][k % (n + 1)] = maps.data[c * kEntries + k];
      generator<n>(p.tables, c, velocities, A);
      affine_exponential_adjoint<n>(A, 1.0 / p.steps, grad_E, G);
      Sums<n>{regions.data}.add_generator(p.tables, c, G);
    }
    store_sums<n>(p, part.task, regions.data);
  });
}

// Calls f(type tag, dimensions).
template <class F>
STN_INLINE auto with_type(const CpabProblem& p, F f) {
  using std::integral_constant;
  const auto with_n = [&](auto t) STN_LAMBDA {
    if (p.dimensions == 1) return f(t, integral_constant<int, 1>{});
    return p.dimensions == 2 ? f(t, integral_constant<int, 2>{}) : f(t, integral_constant<int, 3>{});
  };
  return p.is_double ? with_n(double{}) : with_n(float{});
}

int64_t start_bytes(const CpabProblem& p) {
  return with_type(p, [&](auto t, auto n) -> int64_t {
    using T = decltype(t);
    return (p.points + Lane<T>::N - 1) / Lane<T>::N * int64_t(sizeof(Paths<T, n>));
  });
}
CpabWork locate_points(const CpabProblem& p) {
  return with_type(p, [&](auto t, auto n) -> CpabWork {
    using T = decltype(t);
    return {(p.points + Lane<T>::N - 1) / Lane<T>::N, locate_shared<T, n>};
  });
}
CpabWork forward(const CpabProblem& p) {
  return with_type(p, [&](auto t, auto n) -> CpabWork {
    using T = decltype(t);
    return {p.items() * p.blocks(), p.steps ? forward_fixed<T, n> : forward_exact<T, n>};
  });
}
CpabWork backward(const CpabProblem& p) {
  return with_type(p, [&](auto t, auto n) -> CpabWork {
    using T = decltype(t);
    return {p.items() * p.blocks(), p.steps ? backward_fixed<T, n> : backward_exact<T, n>};
  });
}

}  // namespace

const CpabKernels cpab_kernels = {start_bytes, locate_points, forward, backward};

}  // namespace stn::STN_LEVEL
