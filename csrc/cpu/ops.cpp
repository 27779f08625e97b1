// The operators on CPU tensors: outputs, memory layouts and threads around the kernels of the chosen instruction set.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <tuple>
#include <vector>

#include "common/affine.h"
#include "level.h"

namespace {

using stn::Images;
using stn::Problem;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Shape = std::vector<int64_t>;

stn::DType dtype_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float:
      return stn::DType::float32;
    case ScalarType::Double:
      return stn::DType::float64;
    case ScalarType::BFloat16:
      return stn::DType::bfloat16;
    case ScalarType::Half:
      return stn::DType::float16;
    default:
      STD_TORCH_CHECK(false, "stn_kernels: the images must be float32, float64, bfloat16 or float16");
  }
}

Tensor empty(const Tensor& like, const Shape& size, const Shape& stride) {
  int32_t dtype = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(int64_t(size.size()), size.data(), stride.data(), dtype,
                                                  aoti_torch_device_type_cpu(), 0, &handle));
  return Tensor(handle);
}

Tensor empty(const Tensor& like, const Shape& size) {
  Shape stride(size.size(), 1);
  for (size_t i = size.size(); i-- > 1;) stride[i - 1] = stride[i] * (size[i] > 0 ? size[i] : 1);
  return empty(like, size, stride);
}

// Images (..., C, H, W), stored (..., H, W, C) if channels_last: as ops/_outputs.py.
Tensor empty_images(const Tensor& like, const Shape& size, bool channels_last) {
  if (!channels_last) return empty(like, size);
  const size_t n = size.size();
  const auto atleast1 = [](int64_t v) { return v > 0 ? v : 1; };
  Shape stride(n);
  stride[n - 3] = 1, stride[n - 1] = atleast1(size[n - 3]), stride[n - 2] = stride[n - 1] * atleast1(size[n - 1]);
  int64_t next = stride[n - 2] * atleast1(size[n - 2]);
  for (size_t i = n - 3; i-- > 0; next *= atleast1(size[i])) stride[i] = next;
  return empty(like, size, stride);
}

bool is_channels_last(const Tensor& t) {
  return t.size(1) > 1 && t.stride(1) == 1 && t.stride(3) == t.size(1) && t.stride(2) == t.size(1) * t.size(3);
}

// (..., C, H, W) as a batch of images; a sample dimension is folded into the batch (its stride fits by construction).
template <class Pointer>
Images<Pointer> images(const Tensor& t) {
  const int64_t n = t.dim();
  return {static_cast<Pointer>(t.mutable_data_ptr()), t.stride(n - 4), t.stride(n - 3), t.stride(n - 2),
          t.stride(n - 1)};
}

Tensor dense(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }  // saves a dispatch

Tensor float_parameters(const Tensor& t) {
  const ScalarType type = t.scalar_type();
  const Tensor wide =
      type == ScalarType::Double || type == ScalarType::Float ? t : torch::stable::to(t, ScalarType::Float);
  return dense(wide);
}

// grad_output in the layout of the output, copied only if it has another.
Tensor with_layout(const Tensor& grad, bool channels_last) {
  const int64_t n = grad.dim();
  if (!channels_last) return dense(grad);
  Tensor wanted = empty_images(grad, Shape(grad.sizes().begin(), grad.sizes().end()), true);
  bool same = true;
  for (int64_t i = 0; i < n; ++i) same &= grad.stride(i) == wanted.stride(i) || grad.size(i) == 1;
  if (same) return grad;
  torch::stable::copy_(wanted, grad);
  return wanted;
}

struct Options {
  int64_t padding;
  bool align_corners;
};

Problem problem(const Tensor& input, const Tensor& parameters, int64_t parameter_dims, int64_t out_height,
                int64_t out_width, stn::Transform transform, const Options& options) {
  Problem p{};
  p.batch = input.size(0), p.channels = input.size(1), p.height = input.size(2), p.width = input.size(3);
  p.samples = parameters.dim() > parameter_dims + 1 ? parameters.size(1) : 1;
  p.out_height = out_height, p.out_width = out_width;
  p.dtype = dtype_of(input);
  p.channels_last = is_channels_last(input);
  p.padding = static_cast<stn::Padding>(options.padding), p.align_corners = options.align_corners;
  p.transform = transform;
  p.parameters = parameters.const_data_ptr();
  p.double_parameters = parameters.scalar_type() == ScalarType::Double;
  p.threads = torch::stable::get_num_threads();
  return p;
}

// points: output or input pixels of the whole call, to keep small calls on one thread.
void execute(const Problem& p, const stn::Work& work, int64_t points) {
  constexpr int64_t kWorthAThread = 16384;
  if (work.tasks == 0) return;
  const int64_t grain = std::max<int64_t>(1, kWorthAThread / std::max<int64_t>(1, points / work.tasks));
  if (work.tasks <= grain || p.threads == 1) return work.run(p, 0, work.tasks);
  torch::stable::parallel_for(0, work.tasks, grain, [&](int64_t begin, int64_t end) { work.run(p, begin, end); });
}

// Writes the six entries of a matrix (2, 3) into (items, 2, 3), float32 or float64.
void store_theta(Tensor& result, int64_t item, const double (&theta)[6]) {
  const bool is_double = result.scalar_type() == ScalarType::Double;
  for (int k = 0; k < 6; ++k) {
    if (is_double) {
      static_cast<double*>(result.mutable_data_ptr())[6 * item + k] = theta[k];
    } else {
      static_cast<float*>(result.mutable_data_ptr())[6 * item + k] = float(theta[k]);
    }
  }
}

Tensor forward(const Tensor& input, const Tensor& parameters, int64_t parameter_dims, int64_t out_height,
               int64_t out_width, stn::Transform transform, const Options& options) {
  const Tensor values = float_parameters(parameters);
  Problem p = problem(input, values, parameter_dims, out_height, out_width, transform, options);
  Shape size{p.batch};
  if (parameters.dim() > parameter_dims + 1) size.push_back(p.samples);
  size.insert(size.end(), {p.channels, out_height, out_width});
  Tensor output = empty_images(input, size, is_channels_last(input));
  if (output.numel() == 0) return output;
  p.input = images<const void*>(input), p.output = images<void*>(output);
  execute(p, stn::kernels().forward(p), output.numel());
  return output;
}

std::tuple<Tensor, Tensor> backward(const Tensor& grad_output, const Tensor& input, const Tensor& parameters,
                                    int64_t parameter_dims, stn::Transform transform, const Options& options,
                                    bool need_input, bool need_parameters) {
  const Tensor values = float_parameters(parameters);
  const bool channels_last = is_channels_last(input);
  const Tensor grad = with_layout(grad_output, channels_last);
  const int64_t n = grad.dim();
  Problem p = problem(input, values, parameter_dims, grad.size(n - 2), grad.size(n - 1), transform, options);
  p.input = images<const void*>(input), p.grad_output = images<const void*>(grad);
  const bool empty_call = grad.numel() == 0;

  Tensor grad_input, grad_parameters;
  if (need_input) {
    grad_input = empty_images(input, Shape(input.sizes().begin(), input.sizes().end()), channels_last);
    if (empty_call) {
      torch::stable::zero_(grad_input);
    } else {
      p.grad_input = images<void*>(grad_input);
      execute(p, stn::kernels().grad_input(p), std::max(grad_input.numel(), grad.numel()));
    }
  }
  if (!need_input) grad_input = empty(input, {0});
  if (!need_parameters) grad_parameters = empty(parameters, {0});
  if (need_parameters) {
    Tensor result = empty(values, Shape(values.sizes().begin(), values.sizes().end()));
    if (empty_call) {
      torch::stable::zero_(result);
    } else if (transform == stn::Transform::grid) {
      p.grad_grid = result.mutable_data_ptr();
      execute(p, stn::kernels().grad_parameters(p), grad.numel());
    } else {
      const int64_t blocks = stn::row_blocks(p.out_height);
      std::vector<double> sums(size_t(p.items() * blocks * 6));
      p.theta_sums = sums.data();
      execute(p, stn::kernels().grad_parameters(p), grad.numel());
      const auto frame = stn::affine_frame<double>(p.height, p.width, p.out_height, p.out_width, p.align_corners);
      for (int64_t item = 0; item < p.items(); ++item) {
        double moments[6] = {}, theta[6];
        for (int64_t i = 0; i < blocks * 6; ++i) moments[i % 6] += sums[size_t(item * blocks * 6 + i)];
        stn::theta_gradient(moments, frame, theta);
        store_theta(result, item, theta);
      }
    }
    grad_parameters =
        parameters.scalar_type() == values.scalar_type() ? result : torch::stable::to(result, parameters.scalar_type());
  }
  return {grad_input, grad_parameters};
}

Tensor affine_sample(const Tensor& input, const Tensor& theta, Shape size, int64_t, int64_t padding,
                     bool align_corners) {
  return forward(input, theta, 2, size[0], size[1], stn::Transform::affine, {padding, align_corners});
}

std::tuple<Tensor, Tensor> affine_sample_backward(const Tensor& grad_output, const Tensor& input, const Tensor& theta,
                                                  int64_t, int64_t padding, bool align_corners, bool need_input,
                                                  bool need_theta, bool) {
  return backward(grad_output, input, theta, 2, stn::Transform::affine, {padding, align_corners}, need_input,
                  need_theta);
}

Tensor grid_sample(const Tensor& input, const Tensor& grid, int64_t, int64_t padding, bool align_corners) {
  const int64_t n = grid.dim();
  return forward(input, grid, 3, grid.size(n - 3), grid.size(n - 2), stn::Transform::grid, {padding, align_corners});
}

std::tuple<Tensor, Tensor> grid_sample_backward(const Tensor& grad_output, const Tensor& input, const Tensor& grid,
                                                int64_t, int64_t padding, bool align_corners, bool need_input,
                                                bool need_grid, bool) {
  return backward(grad_output, input, grid, 3, stn::Transform::grid, {padding, align_corners}, need_input, need_grid);
}

Problem lattice_problem(int64_t items, int64_t out_height, int64_t out_width, bool align_corners, bool is_double) {
  Problem p{};
  p.batch = items, p.samples = 1, p.out_height = out_height, p.out_width = out_width;
  p.align_corners = align_corners, p.double_parameters = is_double;
  p.threads = torch::stable::get_num_threads();
  return p;
}

Tensor affine_grid(const Tensor& theta, Shape size, bool align_corners) {
  const Tensor values = float_parameters(theta);
  Shape shape(theta.sizes().begin(), theta.sizes().end() - 2);
  shape.insert(shape.end(), {size[0], size[1], 2});
  Tensor grid = empty(values, shape);
  if (grid.numel() == 0) return grid;
  Problem p =
      lattice_problem(values.numel() / 6, size[0], size[1], align_corners, values.scalar_type() == ScalarType::Double);
  p.parameters = values.const_data_ptr(), p.grid = grid.mutable_data_ptr();
  execute(p, stn::kernels().affine_grid(p), grid.numel());
  return grid;
}

Tensor affine_grid_backward(const Tensor& grad_output, bool align_corners) {
  const Tensor grad = dense(grad_output);
  const int64_t n = grad.dim();
  Shape shape(grad.sizes().begin(), grad.sizes().end() - 3);
  shape.insert(shape.end(), {2, 3});
  Tensor result = empty(grad, shape);
  if (grad.numel() == 0) return torch::stable::zero_(result);
  const bool is_double = grad.scalar_type() == ScalarType::Double;
  Problem p = lattice_problem(result.numel() / 6, grad.size(n - 3), grad.size(n - 2), align_corners, is_double);
  const int64_t blocks = stn::row_blocks(p.out_height);
  std::vector<double> sums(size_t(p.items() * blocks * 6));
  p.grad_grid = grad.mutable_data_ptr(), p.theta_sums = sums.data();
  execute(p, stn::kernels().affine_grid_sums(p), grad.numel());
  for (int64_t item = 0; item < p.items(); ++item) {
    double theta[6] = {};
    for (int64_t i = 0; i < blocks * 6; ++i) theta[i % 6] += sums[size_t(item * blocks * 6 + i)];
    store_theta(result, item, theta);
  }
  return result;
}

int64_t cpu_level() {  // the x86-64 microarchitecture level in use; 0 where there is only one
  const char* level = stn::kernels().level;
  return level[0] == 'v' ? level[1] - '0' : 0;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(stn_kernels, m) { m.def("_cpu_level() -> int"); }

STABLE_TORCH_LIBRARY_IMPL(stn_kernels, CompositeExplicitAutograd, m) { m.impl("_cpu_level", TORCH_BOX(&cpu_level)); }

STABLE_TORCH_LIBRARY_IMPL(stn_kernels, CPU, m) {
  m.impl("affine_sample", TORCH_BOX(&affine_sample));
  m.impl("_affine_sample_backward", TORCH_BOX(&affine_sample_backward));
  m.impl("affine_grid", TORCH_BOX(&affine_grid));
  m.impl("_affine_grid_backward", TORCH_BOX(&affine_grid_backward));
  m.impl("grid_sample", TORCH_BOX(&grid_sample));
  m.impl("_grid_sample_backward", TORCH_BOX(&grid_sample_backward));
}
