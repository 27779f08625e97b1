// What the CPAB kernels do with a run of points: images sampled there, and the gradients of that.
#pragma once
#include "cpab_sample.h"
#include "level.h"
#include "points.h"

namespace stn::STN_LEVEL {
namespace {

int64_t bytes_of(DType type) { return type == DType::float64 ? 8 : type == DType::float32 ? 4 : 2; }

template <class Pointer>
void advance(Pointer& data, int64_t bytes) {
  using Byte = std::conditional_t<std::is_const_v<std::remove_pointer_t<Pointer>>, const char, char>;
  if (data) data = static_cast<Byte*>(data) + bytes;
}

// The points of a run as a call of their own, of one image at a grid.
Problem at_run(const CpabSampling& s, const CpabRun& run, const void* grid) {
  Problem p = s.images;
  const int64_t image = run.item / p.samples, bytes = bytes_of(p.dtype), wide = bytes == 8 ? 8 : 4;
  advance(p.input.data, image * p.input.batch * bytes);
  advance(p.output.data, (run.item * p.output.batch + run.first * p.output.column) * bytes);
  advance(p.grad_output.data, (run.item * p.grad_output.batch + run.first * p.grad_output.column) * bytes);
  advance(p.grad_input.data, image * p.grad_input.batch * wide);
  p.batch = p.samples = p.out_height = p.out_depth = p.threads = 1;
  p.transform = Transform::grid, p.parameters = grid, p.out_width = run.count;
  return p;
}

// to = affine(points), n coordinates each.
template <class T, int n>
void apply(const T* affine, const T* points, int64_t count, T* to) {
  for (int64_t i = 0; i < count; ++i) {
    T x[n];
    for (int r = 0; r < n; ++r) {
      x[r] = affine[r * (n + 1) + n];
      for (int c = 0; c < n; ++c) x[r] += affine[r * (n + 1) + c] * points[i * n + c];
    }
    for (int r = 0; r < n; ++r) to[i * n + r] = x[r];
  }
}

// Cotangents of affine(points) -> of the points, in place of these; adds to the gradient of affine.
template <class T, int n>
void apply_adjoint(const T* affine, const T* grad, int64_t count, T* points, double* sums) {
  double total[n][n + 1] = {};
  for (int64_t i = 0; i < count; ++i) {
    T x[n] = {};
    for (int r = 0; r < n; ++r) {
      const T g = grad[i * n + r];
      for (int c = 0; c < n; ++c)
        total[r][c] += double(g) * double(points[i * n + c]), x[c] += affine[r * (n + 1) + c] * g;
      total[r][n] += double(g);
    }
    for (int c = 0; c < n; ++c) points[i * n + c] = x[c];
  }
  for (int k = 0; sums && k < n * (n + 1); ++k) sums[k] += total[k / (n + 1)][k % (n + 1)];
}

// Where a run samples: its points, or in `moved` their images under the affine map.
template <class T, int n>
const T* source_of(const CpabSampling& s, const CpabRun& run, T (&moved)[kCpabRun * n]) {
  const T* points = static_cast<const T*>(run.coordinates);
  if (!s.affine) return points;
  apply<T, n>(static_cast<const T*>(s.affine) + run.item * n * (n + 1), points, run.count, moved);
  return moved;
}

template <class T, int n>
void read_run(const CpabSampling& s, const CpabRun& run) {
  T moved[kCpabRun * n];
  const Problem p = at_run(s, run, source_of<T, n>(s, run, moved));
  const Work work = kernels(p).forward(p);
  work.run(work.problem, 0, work.tasks);
}

template <class T, int n>
void transpose_run(const CpabSampling& s, const CpabRun& run) {
  T moved[kCpabRun * n];
  const Problem p = at_run(s, run, source_of<T, n>(s, run, moved));
  kernels(p).add_grad_input(p, s.first_row, s.last_row);
}

template <class T, int n>
void pull_run(const CpabSampling& s, const CpabRun& run) {
  T moved[kCpabRun * n], grad[kCpabRun * n];
  Problem p = at_run(s, run, source_of<T, n>(s, run, moved));
  if (p.grad_input.data) kernels(p).add_grad_input(p, s.first_row, s.last_row);
  p.grad_grid = grad;
  const Work work = kernels(p).grad_parameters(p);
  work.run(work.problem, 0, work.tasks);
  T* points = static_cast<T*>(run.coordinates);
  if (!s.affine) {
    __builtin_memcpy(points, grad, size_t(run.count * n) * sizeof(T));
    return;
  }
  apply_adjoint<T, n>(static_cast<const T*>(s.affine) + run.item * n * (n + 1), grad, run.count, points,
                      s.affine_sums ? s.affine_sums + run.task * n * (n + 1) : nullptr);
}

// Calls f(type tag of the coordinates, dimensions) and the sampling it is for.
template <class F>
void with_context(const void* context, F f) {
  const auto& s = *static_cast<const CpabSampling*>(context);
  with_dimensions(s.images.dimensions,
                  [&](auto n) { s.images.double_parameters ? f(double{}, n, s) : f(float{}, n, s); });
}

void cpab_read(const void* context, const CpabRun& run) {
  with_context(context, [&](auto t, auto n, const CpabSampling& s) { read_run<decltype(t), n>(s, run); });
}
void cpab_transpose(const void* context, const CpabRun& run) {
  with_context(context, [&](auto t, auto n, const CpabSampling& s) { transpose_run<decltype(t), n>(s, run); });
}
void cpab_pull(const void* context, const CpabRun& run) {
  with_context(context, [&](auto t, auto n, const CpabSampling& s) { pull_run<decltype(t), n>(s, run); });
}

}  // namespace
}  // namespace stn::STN_LEVEL
