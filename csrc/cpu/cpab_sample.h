// Images sampled at transformed points while these are in the cache: what CpabProblem::context is then. No torch here.
#pragma once
#include "cpab.h"
#include "kernels.h"

namespace stn {

struct CpabSampling {
  Problem images;               // without coordinates; its outputs are rows of all points
  const void* affine;           // (items, n, n + 1), applied to the points, of their type; or nullptr
  double* affine_sums;          // (tasks, n, n + 1), zeroed: each task's part of its gradient, or nullptr
  int64_t first_row, last_row;  // of grad_input, which is of the compute type; along its last axis
};

}  // namespace stn
