// Compiled once a level, like kernels.cpp, and under its rules.
#include "linearized.h"

#include "samplers.h"
#include "storage.h"

namespace stn::STN_LEVEL {
namespace {

// Calls f(type tag of the compute type, number of dimensions).
template <class F>
STN_INLINE Work with_samples(const Problem& p, F f) {
  return with_compute(p.dtype, [&](auto a) STN_LAMBDA {
    return with_dimensions(p.dimensions, [&](auto n) STN_LAMBDA { return f(a, n); });
  });
}

}  // namespace

Work multi_forward(const Problem& call) {
  const Problem p = call.in_lines();
  return with_samples(
      p, [&](auto a, auto n) STN_LAMBDA { return Work{p, Lines(p).tasks(p), samples_forward<decltype(a), n>}; });
}

Work multi_grad_input(const Problem& call) {
  const Problem p = call.in_lines();
  const Bands bands(p);
  const int64_t tasks = p.batch * bands.blocks * bands.count;
  return with_samples(p, [&](auto a, auto n) STN_LAMBDA { return Work{p, tasks, samples_grad_input<decltype(a), n>}; });
}

Work multi_grad_grid(const Problem& call) {
  const Problem p = call.in_lines();
  return with_storage(p.dtype,
                      [&](auto t) STN_LAMBDA { return Work{p, Lines(p).tasks(p), slopes_grad_grid<decltype(t)>}; });
}

}  // namespace stn::STN_LEVEL
