// The operators of ops/*.py for CUDA tensors; in the test runner (tests/simt) for CPU tensors of its own namespace.
#include <torch/csrc/stable/library.h>

#include "affine_grid.h"
#include "warp.h"

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
  shape.insert(shape.end(), {input.size(1), size[0], size[1]});
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
    case ScalarType::Half:
      return f(c10::Half{});
    case ScalarType::BFloat16:
      return f(c10::BFloat16{});
    default:
      STD_TORCH_CHECK(false, "input must be float32, float64, float16 or bfloat16");
  }
}

Call checked(Call call, int64_t mode) {
  STD_TORCH_CHECK(mode == int64_t(Mode::bilinear), "this sampling mode has no CUDA kernel");
  const int64_t channels = call.input.size(1);
  STD_TORCH_CHECK(std::max({channels, call.input.size(2), call.input.size(3), call.size[0], call.size[1],
                            channels * call.input.size(3), channels * call.size[1], call.images()}) <= kLargestExtent,
                  "images, channels, height, width and the elements of a row must each be at most 2^30");
  return call;
}

Tensor forward(const Call& call) {
  Tensor output;
  with_image_type(call.input, [&](auto type) { output = warp_forward<decltype(type)>(call); });
  return output;
}

std::tuple<Tensor, Tensor> backward(const Call& call, const Tensor& grad_output, Needs needs) {
  std::tuple<Tensor, Tensor> gradients;
  with_image_type(call.input, [&](auto type) { gradients = warp_backward<decltype(type)>(call, grad_output, needs); });
  return gradients;
}

std::vector<int64_t> spatial_size(const Tensor& tensor, int64_t height_dim) {
  return {tensor.size(height_dim), tensor.size(height_dim + 1)};
}

Tensor affine_sample(const Tensor& input, const Tensor& theta, std::vector<int64_t> size, int64_t mode,
                     int64_t padding_mode, bool align_corners) {
  return forward(checked({Kind::affine, input, theta, size, Padding(padding_mode), align_corners}, mode));
}

std::tuple<Tensor, Tensor> affine_sample_backward(const Tensor& grad_output, const Tensor& input, const Tensor& theta,
                                                  int64_t mode, int64_t padding_mode, bool align_corners,
                                                  bool need_input, bool need_theta, bool deterministic) {
  const std::vector<int64_t> size = spatial_size(grad_output, grad_output.dim() - 2);
  return backward(checked({Kind::affine, input, theta, size, Padding(padding_mode), align_corners}, mode), grad_output,
                  {need_input, need_theta, deterministic});
}

Tensor grid_sample(const Tensor& input, const Tensor& grid, int64_t mode, int64_t padding_mode, bool align_corners) {
  const std::vector<int64_t> size = spatial_size(grid, grid.dim() - 3);
  return forward(checked({Kind::grid, input, grid, size, Padding(padding_mode), align_corners}, mode));
}

std::tuple<Tensor, Tensor> grid_sample_backward(const Tensor& grad_output, const Tensor& input, const Tensor& grid,
                                                int64_t mode, int64_t padding_mode, bool align_corners, bool need_input,
                                                bool need_grid, bool deterministic) {
  const std::vector<int64_t> size = spatial_size(grid, grid.dim() - 3);
  return backward(checked({Kind::grid, input, grid, size, Padding(padding_mode), align_corners}, mode), grad_output,
                  {need_input, need_grid, deterministic});
}

Tensor affine_grid_sized(const Tensor& theta, std::vector<int64_t> size, bool align_corners) {
  return affine_grid(theta, size, align_corners);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(STN_NAMESPACE, STN_DISPATCH_KEY, m) {
  m.impl("affine_sample", TORCH_BOX(&affine_sample));
  m.impl("_affine_sample_backward", TORCH_BOX(&affine_sample_backward));
  m.impl("grid_sample", TORCH_BOX(&grid_sample));
  m.impl("_grid_sample_backward", TORCH_BOX(&grid_sample_backward));
  m.impl("affine_grid", TORCH_BOX(&affine_grid_sized));
  m.impl("_affine_grid_backward", TORCH_BOX(&affine_grid_backward));
}

}  // namespace stn
