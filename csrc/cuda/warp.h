// The sampling operators between registration and kernels: one call, and its forward and backward by image type.
#pragma once
#include <tuple>
#include <type_traits>

#include "common/linearized.h"
#include "tensors.h"

namespace stn {

enum class Kind { affine, grid, homography, tps, cpab };

struct Call {
  Kind kind;
  Tensor input;  // (B, C, *in)
  // theta (B[, S], n, n + 1), grid (B[, S], *out, n), matrix (B[, S], 3, 3), coefficients (B[, S], controls + n + 1, n)
  // or velocities (B[, S], vertices, n)
  Tensor params;
  std::vector<int64_t> size;  // of the output
  Mode mode;
  Padding padding;
  bool align_corners;
  Tensor control_points;       // of a thin-plate spline: (controls, n)
  bool channels_last = false;  // how images, outputs and gradients are stored
  MultiSampling multi{};       // of Mode::linearized; its seed and offsets are these tensors, one of them:
  Tensor seed{}, offsets{};    // int64 (), and (B[, S], K, *out, n)
  Tensor slopes{};             // (B[, S], n C, *out), that its forward writes; undefined for none

  int n() const { return int(size.size()); }
  bool has_samples() const { return params.dim() == (kind == Kind::grid ? n() + 3 : 4); }
  int64_t samples() const { return has_samples() ? params.size(1) : 1; }
  int64_t images() const { return input.size(0) * samples(); }
  // Bilinear in two dimensions: warp_*.cuh. Linearized: linearized.cuh. Every other sampler: sampler_*.cuh.
  bool is_plain() const { return mode == Mode::bilinear && n() == 2; }
  std::vector<int64_t> output_shape() const;
};

struct Needs {
  bool input, params, deterministic;
};

// I: the image's element type; coordinates and sums are float64 for float64 images, else float32. Instantiated in
// warp_forward_*.cu, warp_backward_*.cu and sampler_second_*.cu.
template <class I>
Tensor warp_forward(const Call& call);
template <class I>
std::tuple<Tensor, Tensor> warp_backward(const Call& call, const Tensor& grad_output, Needs needs);

// The second backward at a grid, bilinear and nearest: the gradients to grad_output, input and grid of
// <grad_grad_input, grad_input> + <grad_grad_grid, grad_grid>, where a cotangent may be empty for none.
template <class I>
std::tuple<Tensor, Tensor, Tensor> warp_second(const Call& call, const Tensor& grad_grad_input,
                                               const Tensor& grad_grad_grid, const Tensor& grad_output,
                                               const bool (&needs)[3], bool deterministic);

template <class T>
constexpr ScalarType scalar_type = std::is_same_v<T, double>      ? ScalarType::Double
                                   : std::is_same_v<T, float>     ? ScalarType::Float
                                   : std::is_same_v<T, c10::Half> ? ScalarType::Half
                                                                  : ScalarType::BFloat16;

template <class I>
using ScalarOf = std::conditional_t<std::is_same_v<I, double>, double, float>;

}  // namespace stn
