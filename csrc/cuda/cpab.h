// The CPAB operators on points, between registration and kernels.
#pragma once
#include <optional>
#include <tuple>

#include "common/cpab.h"
#include "tensors.h"

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

// Of sampling an output of `size`: its pixel centres in units of the domain, for `points` of the call; their images phi
// (B[, S], P, n) as normalized coordinates (B[, S], *size, n), affine (B[, S], n, n + 1) applied; and the transpose.
Tensor cpab_pixels(const CpabCall& call, const std::vector<int64_t>& size, bool align_corners);
Tensor cpab_grid(const CpabCall& call, const Tensor& phi, const std::optional<Tensor>& affine,
                 const std::vector<int64_t>& size);
std::tuple<Tensor, Tensor> cpab_grid_backward(const CpabCall& call, const Tensor& grad_grid, const Tensor& phi,
                                              const std::optional<Tensor>& affine, bool need_phi, bool need_affine);

}  // namespace stn
