// Compiled once a level, like kernels.cpp, and under its rules.
#include "samplers.h"

#include "cubic_scatter.h"
#include "nearest.h"
#include "second_quads.h"
#include "storage.h"
#include "tap_passes.h"
#include "tap_second.h"
#include "volume_blocks.h"
#include "volumes.h"

namespace stn::STN_LEVEL {

template struct TapSums<float>;
#ifndef __AVX512F__
template struct TapSums<double>;
#endif
template struct TapSums<Half>;

Work sampler_forward(const Problem& p) {
  if (reads_boxes(p)) return OutputBlocks(p).work(p, volume_blocks_forward);
  if (reads_volume_quads(p))
    return {p, VolumeTasks(p).count(), p.dimensions == 1 ? volume_quads_forward<1> : volume_quads_forward<3>};
  if (in_volumes(p)) return {p, Lines(p).tasks(p), volumes_forward};
  return with_compute(p.dtype, [&](auto a) STN_LAMBDA {
    using A = decltype(a);
    return Work{p, Lines(p).tasks(p), p.mode == Mode::nearest ? nearest_forward<A> : taps_forward<A>};
  });
}

Work sampler_grad_input(const Problem& p) {
  if (in_cubic_sums(p)) return cubic_grad_input(p);
  if (const GradientBoxes of(p); of.fit) return {p, of.tasks(p), volume_boxes_grad_input};
  if (in_volume_quads(p))
    return {p, VolumeTasks(p).count(), p.dimensions == 1 ? volume_quads_grad_input<1> : volume_quads_grad_input<3>};
  const Bands bands(p);
  const int64_t tasks = p.batch * bands.blocks * bands.count;
  return with_compute(p.dtype, [&](auto a) STN_LAMBDA {
    using A = decltype(a);
    return Work{p, tasks, p.mode == Mode::nearest ? nearest_grad_input<A> : taps_grad_input<A>};
  });
}

// Of the transforms that there are in any number of dimensions, or in three.
template <class A, GradientPass<A> kPass>
static Work gradient_work(const Problem& p) {
  const int64_t tasks = Lines(p).tasks(p);
  if (p.transform == Transform::affine) return {p, tasks, taps_theta_sums<A, kPass>};
  return {p, tasks, p.transform == Transform::grid ? taps_grad_grid<A, kPass> : taps_spline_sums<A, kPass>};
}

Work sampler_grad_parameters(const Problem& p) {
  return with_compute(p.dtype, [&](auto a) STN_LAMBDA {
    using A = decltype(a);
    if constexpr (sizeof(A) == sizeof(float)) {
      if (has_box_gradients(p)) return OutputBlocks(p).work(p, taps_theta_sums<A, volume_blocks_gradients>);
      if (has_volume_quad_gradients(p) && p.dimensions == 1) return gradient_work<A, volume_quads_gradients<1>>(p);
      if (has_volume_quad_gradients(p)) return gradient_work<A, volume_quads_gradients<3>>(p);
      if (has_volume_gradients(p)) return gradient_work<A, volumes_gradients>(p);
    }
    if (p.dimensions == 3 || p.transform == Transform::affine || p.transform == Transform::grid)
      return gradient_work<A, taps_gradients<A>>(p);
    return with_transform(p, [&]<class Row, class Sums>(Row*, Sums*)
                                 STN_LAMBDA { return Work{p, Lines(p).tasks(p), taps_parameter_sums<A, Sums>}; });
  });
}

void add_grad_input(const Problem& p, int64_t first, int64_t last) {
  with_compute(p.dtype, [&](auto a) STN_LAMBDA {
    using A = decltype(a);
    p.mode == Mode::nearest ? nearest_add_grad_input<A>(p, first, last) : taps_add_grad_input<A>(p, first, last);
    return Work{};
  });
}

Work second_gradients(const Problem& call) {
  const Problem p = call.in_lines();
  if (!in_second_quads(p)) return {};
  return with_row_storage(p.dtype,
                          [&](auto t) STN_LAMBDA { return Work{p, QuadTasks(p).count(p), second_quads<decltype(t)>}; });
}

Work second_grad_output(const Problem& call) {
  Problem p = call.in_lines();
  if (p.mode == Mode::nearest) {  // linear in the image, and indifferent to the grid
    p.input.data = p.grad_grad_input;
    return sampler_forward(p);
  }
  return with_compute(p.dtype,
                      [&](auto a) STN_LAMBDA { return Work{p, Lines(p).tasks(p), taps_second_output<decltype(a)>}; });
}

Work second_grad_input(const Problem& call) {
  const Problem p = call.in_lines();
  const Bands bands(p);
  const int64_t tasks = p.batch * bands.blocks * bands.count;
  return with_compute(p.dtype, [&](auto a) STN_LAMBDA { return Work{p, tasks, taps_second_input<decltype(a)>}; });
}

Work second_grad_grid(const Problem& call) {
  const Problem p = call.in_lines();
  return with_compute(p.dtype,
                      [&](auto a) STN_LAMBDA { return Work{p, Lines(p).tasks(p), taps_second_grid<decltype(a)>}; });
}

}  // namespace stn::STN_LEVEL
