// The CPAB operators between registration and kernels.
#pragma once
#include <optional>
#include <tuple>

#include "common/cpab.h"
#include "warp.h"

namespace stn {

// The arguments that all have: velocities (B[, S], vertices, n) and the tables of a tessellation (ops/_cpab.py).
struct CpabCall {
  Tensor points;  // (P, n) or (B, P, n), in units of the domain
  Tensor velocities, integers, reals;
  std::vector<int64_t> shape;  // of the tessellation
  int64_t steps;               // 0: exact

  int64_t items() const { return velocities.size(0) * samples(); }
  int64_t samples() const { return velocities.dim() == 4 ? velocities.size(1) : 1; }
  int64_t vertices() const { return velocities.size(velocities.dim() - 2); }
};

Tensor cpab_transform(const CpabCall& call);
std::tuple<Tensor, Tensor> cpab_transform_backward(const CpabCall& call, const Tensor& grad_output, bool need_points,
                                                   bool need_velocities);
// Of every point by the velocities: (B[, S], P, n, vertices, n).
Tensor cpab_jacobian(const CpabCall& call);

// Sampling where the transformation puts the output's pixels. images.params: the velocities.
struct CpabSampling {
  Call images;
  CpabCall field;                // its points are the output's pixel centres, and not there
  std::optional<Tensor> affine;  // (B[, S], n, n + 1), applied afterwards
};

// I: the image's element type. The backward returns the gradients to input, velocities (needs.params) and affine.
template <class I>
Tensor cpab_sample(const CpabSampling& sampling);
template <class I>
std::tuple<Tensor, Tensor, Tensor> cpab_sample_backward(const CpabSampling& sampling, const Tensor& grad_output,
                                                        Needs needs, bool need_affine);

}  // namespace stn
