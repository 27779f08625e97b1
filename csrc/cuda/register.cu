// The operators of ops/*.py for CUDA tensors; in the test runner (tests/simt) for CPU tensors of its own namespace.
#include <torch/csrc/stable/library.h>

#include "cpab.h"
#include "lattice.h"
#include "sampler.h"

#if defined(SIMT_HOST)
#define STN_NAMESPACE stn_kernels_simt
#define STN_DISPATCH_KEY CPU
#else
#define STN_NAMESPACE stn_kernels
#define STN_DISPATCH_KEY CUDA
#endif

namespace stn {

std::vector<int64_t> Call::output_shape() const {
  std::vector<int64_t> shape = {input.size(0)};
  if (has_samples()) shape.push_back(samples());
  shape.push_back(input.size(1));
  shape.insert(shape.end(), size.begin(), size.end());
  return shape;
}

namespace {

template <class F>
void with_image_type(const Tensor& input, F&& f) {
  switch (input.scalar_type()) {
    case ScalarType::Float:
      return f(float{});
    case ScalarType::Double:
      return f(double{});
#ifndef STN_WITHOUT_FLOAT16
    case ScalarType::Half:
      return f(c10::Half{});
#endif
    case ScalarType::BFloat16:
      return f(c10::BFloat16{});
    default:
      STD_TORCH_CHECK(false, "input must be float32, float64, float16 or bfloat16");
  }
}

// Whether coordinates are float64; a spline's are made in float64 and rounded to the image's type.
bool is_wide(const Call& call) { return call.kind != Kind::tps && call.params.scalar_type() == ScalarType::Double; }

Tensor converted(const Tensor& tensor, ScalarType dtype) {
  return tensor.scalar_type() == dtype ? tensor : torch::stable::to(tensor, dtype);
}

// The call as the kernels take it: float64 coordinates of other images in float64 throughout.
Call checked(Call call) {
  const int n = call.n();
  const auto in = call.input.sizes();
  int64_t in_rows = 1, out_rows = 1;
  for (int a = 1; a < n; ++a) in_rows *= in[in.size() - 1 - a], out_rows *= call.size[n - 1 - a];
  const int64_t channels = in[1];
  STD_TORCH_CHECK(
      std::max({channels, in[in.size() - 1], in_rows, call.size[n - 1], out_rows, channels * in[in.size() - 1],
                channels * call.size[n - 1], call.images()}) <= kLargestExtent,
      "images, channels, rows, columns and the elements of a row must each be at most 2^30");
  call.channels_last = is_channels_last(call.input, n);
  if (is_wide(call)) call.input = converted(call.input, ScalarType::Double);
  return call;
}

Tensor forward(const Call& call) {
  const ScalarType dtype = call.input.scalar_type();
  const Call wide = checked(call);
  Tensor output;
  with_image_type(wide.input, [&](auto type) { output = warp_forward<decltype(type)>(wide); });
  return converted(output, dtype);
}

std::tuple<Tensor, Tensor> backward(const Call& call, const Tensor& grad_output, Needs needs) {
  const ScalarType dtype = call.input.scalar_type();
  const Call wide = checked(call);
  const Tensor grad = converted(grad_output, wide.input.scalar_type());
  std::tuple<Tensor, Tensor> gradients;
  with_image_type(wide.input, [&](auto type) { gradients = warp_backward<decltype(type)>(wide, grad, needs); });
  return {converted(std::get<0>(gradients), dtype), std::get<1>(gradients)};
}

// The n sizes of a tensor whose last one is dimension `end` - 1.
std::vector<int64_t> spatial_size(const Tensor& tensor, int64_t end, int64_t n) {
  return {tensor.sizes().begin() + (end - n), tensor.sizes().begin() + end};
}

// A call of a transform with parameters, forward (its output's size is given) and backward (grad_output has it).
Call sampling(Kind kind, const Tensor& input, const Tensor& params, std::vector<int64_t> size, int64_t mode,
              int64_t padding, bool align_corners, const Tensor& control_points = {}) {
  return {kind, input, params, size, Mode(mode), Padding(padding), align_corners, control_points};
}
std::vector<int64_t> output_size(const Tensor& grad_output, const Tensor& input) {
  return spatial_size(grad_output, grad_output.dim(), input.dim() - 2);
}

Tensor affine_sample(const Tensor& input, const Tensor& theta, std::vector<int64_t> size, int64_t mode, int64_t padding,
                     bool align_corners) {
  return forward(sampling(Kind::affine, input, theta, size, mode, padding, align_corners));
}

std::tuple<Tensor, Tensor> affine_sample_backward(const Tensor& grad_output, const Tensor& input, const Tensor& theta,
                                                  int64_t mode, int64_t padding, bool align_corners, bool need_input,
                                                  bool need_theta, bool deterministic) {
  return backward(sampling(Kind::affine, input, theta, output_size(grad_output, input), mode, padding, align_corners),
                  grad_output, {need_input, need_theta, deterministic});
}

Call at_grid(const Tensor& input, const Tensor& grid, int64_t mode, int64_t padding, bool align_corners) {
  return sampling(Kind::grid, input, grid, spatial_size(grid, grid.dim() - 1, input.dim() - 2), mode, padding,
                  align_corners);
}

Tensor grid_sample(const Tensor& input, const Tensor& grid, int64_t mode, int64_t padding, bool align_corners) {
  return forward(at_grid(input, grid, mode, padding, align_corners));
}

std::tuple<Tensor, Tensor> grid_sample_backward(const Tensor& grad_output, const Tensor& input, const Tensor& grid,
                                                int64_t mode, int64_t padding, bool align_corners, bool need_input,
                                                bool need_grid, bool deterministic) {
  return backward(at_grid(input, grid, mode, padding, align_corners), grad_output,
                  {need_input, need_grid, deterministic});
}

std::tuple<Tensor, Tensor, Tensor> grid_sample_double_backward(const Tensor& grad_grad_input,
                                                               const Tensor& grad_grad_grid, const Tensor& grad_output,
                                                               const Tensor& input, const Tensor& grid, int64_t mode,
                                                               int64_t padding, bool align_corners, bool need_output,
                                                               bool need_input, bool need_grid, bool deterministic) {
  STD_TORCH_CHECK(mode != int64_t(Mode::bicubic), "the second backward has no CUDA kernel for bicubic");
  const Call call = checked(at_grid(input, grid, mode, padding, align_corners));
  const ScalarType wide = call.input.scalar_type(), dtype = input.scalar_type();
  const bool needs[] = {need_output, need_input, need_grid};
  std::tuple<Tensor, Tensor, Tensor> gradients;
  with_image_type(call.input, [&](auto type) {
    gradients = warp_second<decltype(type)>(call, converted(grad_grad_input, wide), grad_grad_grid,
                                            converted(grad_output, wide), needs, deterministic);
  });
  return {converted(std::get<0>(gradients), dtype), converted(std::get<1>(gradients), dtype), std::get<2>(gradients)};
}

Tensor homography_sample(const Tensor& input, const Tensor& matrix, std::vector<int64_t> size, int64_t mode,
                         int64_t padding, bool align_corners) {
  return forward(sampling(Kind::homography, input, matrix, size, mode, padding, align_corners));
}

std::tuple<Tensor, Tensor> homography_sample_backward(const Tensor& grad_output, const Tensor& input,
                                                      const Tensor& matrix, int64_t mode, int64_t padding,
                                                      bool align_corners, bool need_input, bool need_matrix,
                                                      bool deterministic) {
  return backward(
      sampling(Kind::homography, input, matrix, output_size(grad_output, input), mode, padding, align_corners),
      grad_output, {need_input, need_matrix, deterministic});
}

Tensor tps_sample(const Tensor& input, const Tensor& coefficients, const Tensor& control_points,
                  std::vector<int64_t> size, int64_t mode, int64_t padding, bool align_corners) {
  return forward(sampling(Kind::tps, input, coefficients, size, mode, padding, align_corners, control_points));
}

std::tuple<Tensor, Tensor> tps_sample_backward(const Tensor& grad_output, const Tensor& input,
                                               const Tensor& coefficients, const Tensor& control_points, int64_t mode,
                                               int64_t padding, bool align_corners, bool need_input,
                                               bool need_coefficients, bool deterministic) {
  return backward(sampling(Kind::tps, input, coefficients, output_size(grad_output, input), mode, padding,
                           align_corners, control_points),
                  grad_output, {need_input, need_coefficients, deterministic});
}

Call linearized(const Tensor& input, const Tensor& params, const std::optional<Tensor>& control_points,
                const std::optional<Tensor>& seed, const std::optional<Tensor>& offsets, int64_t transform,
                std::vector<int64_t> size, int64_t padding, bool align_corners, int64_t samples, double noise,
                bool push_away, int64_t weighting, double ridge) {
  Call call = sampling(Kind(transform), input, params, size, int64_t(Mode::linearized), padding, align_corners,
                       control_points.value_or(Tensor{}));
  STD_TORCH_CHECK(samples <= kLargestExtent, "samples must be at most 2^30");
  call.multi.samples = samples, call.multi.weighting = Weighting(weighting), call.multi.ridge = ridge;
  const size_t n = size.size();
  for (size_t a = 0; a < n; ++a) {
    const double push = push_away ? 2.0 / double(input.size(int64_t(n + 1 - a))) : 0.0;
    call.multi.spread[a] = std::hypot(noise / double(size[n - 1 - a]), push);
  }
  call.seed = seed.value_or(Tensor{}), call.offsets = offsets.value_or(Tensor{});
  return call;
}

// A call for coordinates alone: no input.
Call lattice_call(Kind kind, const Tensor& params, std::vector<int64_t> size, bool align_corners,
                  const Tensor& control_points = {}) {
  return {kind, {}, params, size, Mode::bilinear, Padding::zeros, align_corners, control_points};
}
std::vector<int64_t> lattice_size(const Tensor& grad_output) {
  return spatial_size(grad_output, grad_output.dim() - 1, grad_output.size(grad_output.dim() - 1));
}

Tensor affine_grid(const Tensor& theta, std::vector<int64_t> size, bool align_corners) {
  return lattice(lattice_call(Kind::affine, theta, size, align_corners));
}

Tensor affine_grid_backward(const Tensor& grad_output, bool align_corners) {
  const std::vector<int64_t> size = lattice_size(grad_output);
  const int64_t n = int64_t(size.size());
  std::vector<int64_t> shape = shape_of(grad_output);
  shape.resize(shape.size() - n - 1);
  shape.insert(shape.end(), {n, n + 1});
  // Its values do not matter: the map is linear.
  const Tensor theta = torch::stable::new_empty(grad_output, shape);
  return lattice_backward(lattice_call(Kind::affine, theta, size, align_corners), grad_output);
}

Tensor homography_grid(const Tensor& matrix, std::vector<int64_t> size, bool align_corners) {
  return lattice(lattice_call(Kind::homography, matrix, size, align_corners));
}

Tensor homography_grid_backward(const Tensor& grad_output, const Tensor& matrix, bool align_corners) {
  return lattice_backward(lattice_call(Kind::homography, matrix, lattice_size(grad_output), align_corners),
                          grad_output);
}

Tensor tps_grid(const Tensor& coefficients, const Tensor& control_points, std::vector<int64_t> size,
                bool align_corners) {
  return lattice(lattice_call(Kind::tps, coefficients, size, align_corners, control_points));
}

Tensor tps_grid_backward(const Tensor& grad_output, const Tensor& coefficients, const Tensor& control_points,
                         bool align_corners) {
  return lattice_backward(
      lattice_call(Kind::tps, coefficients, lattice_size(grad_output), align_corners, control_points), grad_output);
}

std::tuple<Tensor, Tensor> linearized_sample(const Tensor& input, const Tensor& params,
                                             std::optional<Tensor> control_points, std::optional<Tensor> seed,
                                             std::optional<Tensor> offsets, int64_t transform,
                                             std::vector<int64_t> size, int64_t padding, bool align_corners,
                                             int64_t samples, double noise, bool push_away, bool fixed_bias,
                                             int64_t weighting, double ridge, bool, bool need_slopes) {
  Call call = checked(linearized(input, params, control_points, seed, offsets, transform, size, padding, align_corners,
                                 samples, noise, push_away, weighting, ridge));
  const ScalarType dtype = input.scalar_type(), stored = dtype == ScalarType::Double ? dtype : ScalarType::Float;
  Tensor output, slopes = torch::stable::new_empty(input, {0}, stored);
  if (need_slopes) {
    std::vector<int64_t> shape = call.output_shape();
    shape[shape.size() - size.size() - 1] *= call.n();
    const ScalarType computed = call.input.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
    call.slopes = new_images(call.input, shape, call.channels_last, computed, call.n());
  }
  if (need_slopes || !fixed_bias) output = forward(call);
  if (need_slopes) slopes = converted(call.slopes, stored);
  if (fixed_bias) call.mode = Mode::bilinear, output = forward(call);
  return {converted(output, dtype), slopes};
}

std::tuple<Tensor, Tensor> linearized_sample_backward(const Tensor& grad_output, const Tensor& slopes,
                                                      const Tensor& input, const Tensor& params,
                                                      std::optional<Tensor> control_points, std::optional<Tensor> seed,
                                                      std::optional<Tensor> offsets, int64_t transform,
                                                      std::vector<int64_t> size, int64_t padding, bool align_corners,
                                                      int64_t samples, double noise, bool push_away, bool fixed_bias,
                                                      int64_t weighting, double ridge, bool through_samples,
                                                      bool need_input, bool need_params, bool deterministic) {
  Call call = linearized(input, params, control_points, seed, offsets, transform, size, padding, align_corners, samples,
                         noise, push_away, weighting, ridge);
  if (!through_samples || fixed_bias) call.mode = Mode::bilinear;
  const Tensor grad_input = std::get<0>(backward(call, grad_output, {need_input, false, deterministic}));
  if (!need_params) return {grad_input, torch::stable::new_empty(params, {0})};
  call.channels_last = is_channels_last(input, call.n());
  Tensor grad_grid;
  with_image_type(input,
                  [&](auto type) { grad_grid = linearized_grad_grid<decltype(type)>(call, grad_output, slopes); });
  if (is_wide(call)) grad_grid = converted(grad_grid, ScalarType::Double);
  if (call.kind == Kind::grid) return {grad_input, converted(grad_grid, params.scalar_type())};
  const Call lattice = lattice_call(call.kind, params, size, align_corners, call.control_points);
  return {grad_input, converted(lattice_backward(lattice, grad_grid), params.scalar_type())};
}

Tensor cpab_transform_points(const Tensor& points, const Tensor& velocities, const Tensor& integers,
                             const Tensor& reals, std::vector<int64_t> shape, int64_t steps) {
  return cpab_transform({points, velocities, integers, reals, shape, steps});
}

std::tuple<Tensor, Tensor> cpab_transform_points_backward(const Tensor& grad_output, const Tensor& points,
                                                          const Tensor& velocities, const Tensor& integers,
                                                          const Tensor& reals, std::vector<int64_t> shape,
                                                          int64_t steps, bool need_points, bool need_velocities) {
  return cpab_transform_backward({points, velocities, integers, reals, shape, steps}, grad_output, need_points,
                                 need_velocities);
}

Tensor cpab_points_jacobian(const Tensor& points, const Tensor& velocities, const Tensor& integers, const Tensor& reals,
                            std::vector<int64_t> shape, int64_t steps) {
  return cpab_jacobian({points, velocities, integers, reals, shape, steps});
}

CpabSampling checked(CpabSampling sampling) {
  sampling.images = checked(sampling.images);
  sampling.field.velocities = sampling.images.params;
  return sampling;
}

Tensor cpab_sample_images(const Tensor& input, const Tensor& velocities, std::optional<Tensor> affine,
                          const Tensor& integers, const Tensor& reals, std::vector<int64_t> shape, int64_t steps,
                          std::vector<int64_t> size, int64_t mode, int64_t padding, bool align_corners) {
  const CpabSampling wide = checked({sampling(Kind::cpab, input, velocities, size, mode, padding, align_corners),
                                     {{}, velocities, integers, reals, shape, steps},
                                     affine});
  Tensor output;
  with_image_type(wide.images.input, [&](auto type) { output = cpab_sample<decltype(type)>(wide); });
  return converted(output, input.scalar_type());
}

std::tuple<Tensor, Tensor, Tensor> cpab_sample_images_backward(
    const Tensor& grad_output, const Tensor& input, const Tensor& velocities, std::optional<Tensor> affine,
    const Tensor& integers, const Tensor& reals, std::vector<int64_t> shape, int64_t steps, std::vector<int64_t> size,
    int64_t mode, int64_t padding, bool align_corners, bool need_input, bool need_velocities, bool need_affine,
    bool deterministic) {
  const CpabSampling wide = checked({sampling(Kind::cpab, input, velocities, size, mode, padding, align_corners),
                                     {{}, velocities, integers, reals, shape, steps},
                                     affine});
  const Tensor grad = converted(grad_output, wide.images.input.scalar_type());
  std::tuple<Tensor, Tensor, Tensor> gradients;
  with_image_type(wide.images.input, [&](auto type) {
    gradients =
        cpab_sample_backward<decltype(type)>(wide, grad, {need_input, need_velocities, deterministic}, need_affine);
  });
  auto& [grad_input, grad_velocities, grad_affine] = gradients;
  return {converted(grad_input, input.scalar_type()), grad_velocities, grad_affine};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(STN_NAMESPACE, STN_DISPATCH_KEY, m) {
  m.impl("affine_sample", TORCH_BOX(&affine_sample));
  m.impl("_affine_sample_backward", TORCH_BOX(&affine_sample_backward));
  m.impl("grid_sample", TORCH_BOX(&grid_sample));
  m.impl("_grid_sample_backward", TORCH_BOX(&grid_sample_backward));
  m.impl("_grid_sample_double_backward", TORCH_BOX(&grid_sample_double_backward));
  m.impl("homography_sample", TORCH_BOX(&homography_sample));
  m.impl("_homography_sample_backward", TORCH_BOX(&homography_sample_backward));
  m.impl("tps_sample", TORCH_BOX(&tps_sample));
  m.impl("_tps_sample_backward", TORCH_BOX(&tps_sample_backward));
  m.impl("_linearized_sample", TORCH_BOX(&linearized_sample));
  m.impl("_linearized_sample_backward", TORCH_BOX(&linearized_sample_backward));
  m.impl("cpab_transform", TORCH_BOX(&cpab_transform_points));
  m.impl("_cpab_transform_backward", TORCH_BOX(&cpab_transform_points_backward));
  m.impl("cpab_jacobian", TORCH_BOX(&cpab_points_jacobian));
  m.impl("cpab_sample", TORCH_BOX(&cpab_sample_images));
  m.impl("_cpab_sample_backward", TORCH_BOX(&cpab_sample_images_backward));
  m.impl("affine_grid", TORCH_BOX(&affine_grid));
  m.impl("_affine_grid_backward", TORCH_BOX(&affine_grid_backward));
  m.impl("homography_grid", TORCH_BOX(&homography_grid));
  m.impl("_homography_grid_backward", TORCH_BOX(&homography_grid_backward));
  m.impl("tps_grid", TORCH_BOX(&tps_grid));
  m.impl("_tps_grid_backward", TORCH_BOX(&tps_grid_backward));
}

}  // namespace stn
