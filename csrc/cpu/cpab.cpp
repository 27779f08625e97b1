// CPAB on points. Compiled once a level, like kernels.cpp, and under its rules.
#include "cpab_exact.h"
#include "cpab_fixed.h"
#include "cpab_images.h"
#include "cpab_kernels.h"

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

// A method made ready for the item of a part.
template <class Method, class T, int n>
STN_INLINE void prepare(Method& method, const CpabProblem& p, const Part& part, int64_t& prepared) {
  if (part.item == prepared) return;
  const T* velocities = static_cast<const T*>(p.velocities) + part.item * p.vertices * n;
  method.prepare_item(part.item, velocities, p.at ? points_of<T, n>(p, part.item) : nullptr);
  prepared = part.item;
}

// A vector of lattice points -> points (count, n), scaled by axis and shifted.
template <class T, int n>
STN_INLINE void store_points(const typename Lane<T>::V (&y)[n], const T (&scale)[n], T shift, int64_t count, T* to) {
  T x[n][Lane<T>::N];
  for (int d = 0; d < n; ++d) store(x[d], y[d] * scale[d] + shift);
  for (int64_t l = 0; l < count; ++l) {
    for (int d = 0; d < n; ++d) to[l * n + d] = x[d][l];
  }
}

// Lattice units -> the domain, or normalized coordinates where points are handed on.
template <class T, int n>
STN_INLINE void scales(const CpabProblem& p, T (&scale)[n], T& shift) {
  for (int d = 0; d < n; ++d) scale[d] = T(p.at_points ? 2 : 1) / T(p.tables.shape[d]);
  shift = T(p.at_points ? -1 : 0);
}

template <class Method, class T, int n>
void forward(const CpabProblem& p, int64_t begin, int64_t end) {
  constexpr int64_t N = Lane<T>::N;
  Method method(p);
  T scale[n], shift;
  scales<T, n>(p, scale, shift);
  const Scratch<T> run(p.at_points ? kCpabRun * n : 0, uninitialized);
  int64_t prepared = -1;
  over_parts(p, begin, end, [&](const Part& part) {
    prepare<Method, T, n>(method, p, part, prepared);
    const int64_t step = p.at_points ? kCpabRun : part.last - part.first;
    for (int64_t first = part.first; first < part.last; first += step) {
      const int64_t last = minimum(first + step, part.last);
      T* output = p.at_points ? run.data : static_cast<T*>(p.output) + (part.item * p.points + first) * n;
      for (int64_t i = first; i < last; i += N) {
        const int64_t count = minimum(N, last - i);
        typename Lane<T>::V y[n];
        method.move(i, count, nullptr, y);
        store_points<T, n>(y, scale, shift, count, output + (i - first) * n);
      }
      if (p.at_points) p.at_points(p.context, {part.task, part.item, first, last - first, run.data});
    }
  });
}

// A task's gradients to the regions' maps -> its part of the gradient to velocities.
template <int n>
STN_INLINE void store_sums(const CpabProblem& p, int64_t task, const double* regions) {
  double* to = p.sums + task * p.vertices * n;
  for (int64_t k = 0; k < p.vertices * n; ++k) to[k] = 0;
  for (int64_t r = 0; r < p.tables.regions; ++r) {
    prepare_adjoint<n>(p.tables, r, regions + r * n * (n + 1), [&](int64_t k, double value) { to[k] += value; });
  }
}

template <class T, int n>
STN_INLINE void load_cotangents(const T* grad, const T (&scale)[n], int64_t count, typename Lane<T>::V (&lambda)[n]) {
  T values[n][Lane<T>::N] = {};
  for (int64_t l = 0; l < count; ++l) {
    for (int d = 0; d < n; ++d) values[d][l] = grad[l * n + d] * scale[d];
  }
  for (int d = 0; d < n; ++d) lambda[d] = load<typename Lane<T>::V>(values[d]);
}

template <class T, int n>
STN_INLINE void store_cotangents(const CpabProblem& p, const T* points, int64_t count,
                                 const typename Lane<T>::V (&lambda)[n], T* grad) {
  T values[n][Lane<T>::N];
  for (int d = 0; d < n; ++d) store(values[d], lambda[d] * T(p.tables.shape[d]));
  for (int64_t l = 0; l < count; ++l) {
    for (int d = 0; d < n; ++d) {
      const bool clamped = p.bounded() && (points[l * n + d] < 0 || points[l * n + d] > 1);
      grad[l * n + d] = clamped ? T(0) : values[d][l];
    }
  }
}

template <class Method, class T, int n>
void backward(const CpabProblem& p, int64_t begin, int64_t end) {
  constexpr int64_t N = Lane<T>::N, kEntries = n * (n + 1), kMore = 512;  // visits beyond those of one vector
  const int64_t vectors = p.at_points ? kCpabRun / N : 1;
  Method method(p);
  T scale[n], shift;
  scales<T, n>(p, scale, shift);
  const int64_t room = method.most_visits() + (p.at_points ? kMore : 0);
  const Scratch<typename Method::Visit> visits(room, uninitialized);
  const Scratch<int> steps(vectors, uninitialized);
  const Scratch<T> run(p.at_points ? kCpabRun * n : 0, uninitialized);
  const Scratch<double> regions(p.tables.regions * kEntries, uninitialized);
  int64_t prepared = -1;
  over_parts(p, begin, end, [&](const Part& part) {
    prepare<Method, T, n>(method, p, part, prepared);
    __builtin_memset(regions.data, 0, size_t(p.tables.regions * kEntries) * sizeof(double));
    int64_t first = part.first;
    while (first < part.last) {
      // There, as far as the visits find room; a vector that hits the segment limit is the last.
      int64_t last = first, used = 0, v = 0;
      for (; last < part.last && v < vectors && used + method.most_visits() <= room; ++v, last += N) {
        typename Lane<T>::V y[n];
        const int64_t count = minimum(N, part.last - last);
        used += steps.data[v] = method.move(last, count, visits.data + used, y);
        if (p.at_points) store_points<T, n>(y, scale, shift, count, run.data + (last - first) * n);
        if (method.unfinished) {
          ++v, last += N;
          break;
        }
      }
      last = minimum(last, part.last);
      const T* grad = static_cast<const T*>(p.grad_output) + (part.item * p.points + first) * n;
      if (p.at_points) {
        p.at_points(p.context, {part.task, part.item, first, last - first, run.data});
        grad = run.data;
      }
      // And back.
      used = 0, v = 0;
      for (int64_t i = first; i < last; i += N, used += steps.data[v++]) {
        const int64_t count = minimum(N, last - i);
        typename Lane<T>::V lambda[n];
        load_cotangents<T, n>(grad + (i - first) * n, scale, count, lambda);
        method.pull_back(visits.data + used, steps.data[v], lambda,
                         [&](int, int64_t region, const auto& entries) STN_LAMBDA {
                           double* to = regions.data + kEntries * region;
                           for (int k = 0; k < kEntries; ++k) to[k] += entries(k);
                         });
        if (p.grad_points) {
          store_cotangents<T, n>(p, points_of<T, n>(p, part.item) + i * n, count, lambda,
                                 static_cast<T*>(p.grad_points) + (part.item * p.points + i) * n);
        }
      }
      first = last;
    }
    if (!p.sums) return;
    method.finish_sums(regions.data);
    store_sums<n>(p, part.task, regions.data);
  });
}

template <class Method, class T, int n>
void jacobian(const CpabProblem& p, int64_t begin, int64_t end) {
  constexpr int64_t N = Lane<T>::N, kEntries = n * (n + 1);
  Method method(p);
  const Scratch<typename Method::Visit> visits(method.most_visits(), uninitialized);
  const int64_t row = p.vertices * n;
  int64_t prepared = -1;
  over_parts(p, begin, end, [&](const Part& part) {
    prepare<Method, T, n>(method, p, part, prepared);
    for (int64_t i = part.first; i < part.last; i += N) {
      typename Lane<T>::V y[n];
      const int64_t count = minimum(N, part.last - i);
      const int steps = method.move(i, count, visits.data, y);
      T* rows = static_cast<T*>(p.output) + (part.item * p.points + i) * n * row;
      __builtin_memset(rows, 0, size_t(count * n * row) * sizeof(T));
      for (int axis = 0; axis < n; ++axis) {
        typename Lane<T>::V lambda[n] = {};
        lambda[axis] += T(1) / T(p.tables.shape[axis]);
        method.pull_back(visits.data, steps, lambda, [&](int lane, int64_t region, const auto& entries) {
          double G[kEntries];
          for (int k = 0; k < kEntries; ++k) G[k] = entries(k);
          method.to_field(region, G);
          T* to = rows + (lane * n + axis) * row;
          if (lane < count) {
            prepare_adjoint<n>(p.tables, region, G, [&](int64_t k, double value) { to[k] += T(value); });
          }
        });
      }
    }
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
  if constexpr (kHasFloat64) {
    if (p.is_double) return with_n(double{});
  }
  return with_n(float{});
}
// Calls f(type tag, dimensions, a null pointer to the method).
template <class F>
STN_INLINE CpabWork with_method(const CpabProblem& p, F f) {
  return with_type(p, [&](auto t, auto n) -> CpabWork {
    using T = decltype(t);
    return p.steps ? f(t, n, (Fixed<T, n>*)nullptr) : f(t, n, (Exact<T, n>*)nullptr);
  });
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
CpabWork forward_work(const CpabProblem& p) {
  return with_method(p, [&]<class Method>(auto t, auto n, Method*) -> CpabWork {
    return {p.items() * p.blocks(), forward<Method, decltype(t), n>};
  });
}
CpabWork backward_work(const CpabProblem& p) {
  return with_method(p, [&]<class Method>(auto t, auto n, Method*) -> CpabWork {
    return {p.items() * p.blocks(), backward<Method, decltype(t), n>};
  });
}
CpabWork jacobian_work(const CpabProblem& p) {
  return with_method(p, [&]<class Method>(auto t, auto n, Method*) -> CpabWork {
    return {p.items() * p.blocks(), jacobian<Method, decltype(t), n>};
  });
}

}  // namespace

const CpabKernels cpab_kernels = {start_bytes,   locate_points, forward_work,   backward_work,
                                  jacobian_work, cpab_read,     cpab_transpose, cpab_pull};

}  // namespace stn::STN_LEVEL
