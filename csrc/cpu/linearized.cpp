// Compiled once a level, like kernels.cpp, and under its rules.
#include "linearized.h"

#include "samplers.h"
#include "storage.h"

namespace stn::STN_LEVEL {

Work multi_forward(const Problem& call) {
  const Problem p = call.in_lines();
  return with_storage(p.dtype,
                      [&](auto t) STN_LAMBDA { return Work{p, Lines(p).tasks(p), samples_forward<decltype(t)>}; });
}

Work multi_grad_input(const Problem& call) {
  const Problem p = call.in_lines();
  const Bands bands(p);
  const int64_t tasks = p.batch * bands.blocks * bands.count;
  return with_storage(p.dtype, [&](auto t) STN_LAMBDA { return Work{p, tasks, samples_grad_input<decltype(t)>}; });
}

Work multi_grad_parameters(const Problem& call) {
  const Problem p = call.in_lines();
  return with_storage(p.dtype, [&](auto t) STN_LAMBDA {
    using T = decltype(t);
    using S = MultiSampler<T>;
    const int64_t tasks = Lines(p).tasks(p);
    if (p.transform == Transform::affine) return Work{p, tasks, taps_theta_sums<T, S>};
    if (p.transform == Transform::grid) return Work{p, tasks, taps_grad_grid<T, S>};
    return with_transform(p, [&]<class Row, class Sums>(Row*, Sums*)
                                 STN_LAMBDA { return Work{p, tasks, taps_parameter_sums<T, S, Sums>}; });
  });
}

}  // namespace stn::STN_LEVEL
