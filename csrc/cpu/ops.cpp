// The operators on CPU tensors: outputs, memory layouts and threads around the kernels of the chosen instruction set.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
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

// Images (..., C, *size) with n spatial dimensions, stored (..., *size, C) if channels_last: as ops/_outputs.py.
Tensor empty_images(const Tensor& like, const Shape& size, bool channels_last, size_t n) {
  if (!channels_last) return empty(like, size);
  const auto atleast1 = [](int64_t v) { return v > 0 ? v : 1; };
  const size_t c = size.size() - n - 1;
  Shape stride(size.size());
  int64_t next = atleast1(size[c]);
  stride[c] = 1;
  for (size_t i = size.size(); i-- > c + 1; next *= atleast1(size[i])) stride[i] = next;
  for (size_t i = c; i-- > 0; next *= atleast1(size[i])) stride[i] = next;
  return empty(like, size, stride);
}

Shape shape_of(const Tensor& t) { return {t.sizes().begin(), t.sizes().end()}; }

bool is_channels_last(const Tensor& t) {
  int64_t pixel = t.size(1);
  if (pixel <= 1 || t.stride(1) != 1) return false;
  for (int64_t i = t.dim(); i-- > 2; pixel *= t.size(i)) {
    if (t.stride(i) != pixel) return false;
  }
  return true;
}

// (..., C, *size) as a batch of images; a sample dimension is folded into the batch (its stride fits by construction).
template <class Pointer>
Images<Pointer> images(const Tensor& t, int n) {
  const int64_t last = t.dim() - 1;
  return {static_cast<Pointer>(t.mutable_data_ptr()),
          t.stride(last - n - 1),
          t.stride(last - n),
          n > 1 ? t.stride(last - 1) : 0,
          t.stride(last),
          n > 2 ? t.stride(last - 2) : 0};
}

Tensor dense(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }  // saves a dispatch

Tensor float_parameters(const Tensor& t) {
  const ScalarType type = t.scalar_type();
  const Tensor wide =
      type == ScalarType::Double || type == ScalarType::Float ? t : torch::stable::to(t, ScalarType::Float);
  return dense(wide);
}

// grad_output in the layout of the output, copied only if it has another.
Tensor with_layout(const Tensor& grad, bool channels_last, int n) {
  if (!channels_last) return dense(grad);
  Tensor wanted = empty_images(grad, shape_of(grad), true, size_t(n));
  bool same = true;
  for (int64_t i = 0; i < grad.dim(); ++i) same &= grad.stride(i) == wanted.stride(i) || grad.size(i) == 1;
  if (same) return grad;
  torch::stable::copy_(wanted, grad);
  return wanted;
}

struct Options {
  int64_t mode, padding;
  bool align_corners;
};

// The dimensions of parameters (B, ...) or (B, S, ...): theta (n, n + 1), or a grid (*out, n).
int64_t parameter_dims(stn::Transform transform, int n) { return transform == stn::Transform::grid ? n + 1 : 2; }

bool has_samples(const Tensor& parameters, stn::Transform transform, int n) {
  return parameters.dim() > parameter_dims(transform, n) + 1;
}

Problem problem(const Tensor& input, const Tensor& parameters, const Shape& out_size, stn::Transform transform,
                const Options& options) {
  Problem p{};
  const int n = int(input.dim()) - 2;
  p.dimensions = n;
  p.batch = input.size(0), p.channels = input.size(1);
  p.width = input.size(n + 1), p.height = n > 1 ? input.size(n) : 1, p.depth = n > 2 ? input.size(n - 1) : 1;
  p.out_width = out_size[size_t(n) - 1];
  p.out_height = n > 1 ? out_size[size_t(n) - 2] : 1, p.out_depth = n > 2 ? out_size[0] : 1;
  p.samples = has_samples(parameters, transform, n) ? parameters.size(1) : 1;
  p.dtype = dtype_of(input);
  p.channels_last = is_channels_last(input);
  p.mode = static_cast<stn::Mode>(options.mode);
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

// Writes the entries of a matrix into (items, n, n + 1), float32 or float64.
void store_theta(Tensor& result, int64_t item, const double* theta, int64_t entries) {
  const bool is_double = result.scalar_type() == ScalarType::Double;
  for (int64_t k = 0; k < entries; ++k) {
    if (is_double) {
      static_cast<double*>(result.mutable_data_ptr())[entries * item + k] = theta[k];
    } else {
      static_cast<float*>(result.mutable_data_ptr())[entries * item + k] = float(theta[k]);
    }
  }
}

// Adds up what the tasks of a Work wrote for each item, and writes finish(total) as its matrix.
template <class Finish>
void sum_theta(Problem& p, const stn::Work& work, int64_t points, Tensor& result, Finish finish) {
  const int64_t entries = p.dimensions * (p.dimensions + 1), each = work.tasks / p.items() * entries;
  std::vector<double> sums(size_t(p.items() * each));
  p.theta_sums = sums.data();
  execute(p, work, points);
  for (int64_t item = 0; item < p.items(); ++item) {
    double total[12] = {}, theta[12];
    for (int64_t i = 0; i < each; ++i) total[i % entries] += sums[size_t(item * each + i)];
    finish(total, theta);
    store_theta(result, item, theta, entries);
  }
}

Tensor forward(const Tensor& input, const Tensor& parameters, const Shape& out_size, stn::Transform transform,
               const Options& options) {
  const Tensor values = float_parameters(parameters);
  Problem p = problem(input, values, out_size, transform, options);
  Shape size{p.batch};
  if (has_samples(parameters, transform, p.dimensions)) size.push_back(p.samples);
  size.push_back(p.channels);
  size.insert(size.end(), out_size.begin(), out_size.end());
  Tensor output = empty_images(input, size, p.channels_last, out_size.size());
  if (output.numel() == 0) return output;
  p.input = images<const void*>(input, p.dimensions), p.output = images<void*>(output, p.dimensions);
  execute(p, stn::kernels().forward(p), output.numel());
  return output;
}

std::tuple<Tensor, Tensor> backward(const Tensor& grad_output, const Tensor& input, const Tensor& parameters,
                                    stn::Transform transform, const Options& options, bool need_input,
                                    bool need_parameters) {
  const Tensor values = float_parameters(parameters);
  const int n = int(input.dim()) - 2;
  const bool channels_last = is_channels_last(input);
  const Tensor grad = with_layout(grad_output, channels_last, n);
  Problem p = problem(input, values, Shape(grad.sizes().end() - n, grad.sizes().end()), transform, options);
  p.input = images<const void*>(input, n), p.grad_output = images<const void*>(grad, n);
  const bool empty_call = grad.numel() == 0;

  Tensor grad_input, grad_parameters;
  if (need_input) {
    grad_input = empty_images(input, shape_of(input), channels_last, size_t(n));
    if (empty_call) {
      torch::stable::zero_(grad_input);
    } else {
      p.grad_input = images<void*>(grad_input, n);
      execute(p, stn::kernels().grad_input(p), std::max(grad_input.numel(), grad.numel()));
    }
  }
  if (!need_input) grad_input = empty(input, {0});
  if (!need_parameters) grad_parameters = empty(parameters, {0});
  if (need_parameters) {
    Tensor result = empty(values, shape_of(values));
    if (empty_call) {
      torch::stable::zero_(result);
    } else if (transform == stn::Transform::grid) {
      p.grad_grid = result.mutable_data_ptr();
      execute(p, stn::kernels().grad_parameters(p), grad.numel());
    } else {
      const auto frame = stn::affine_frame<double>(p.height, p.width, p.out_height, p.out_width, p.align_corners);
      sum_theta(p, stn::kernels().grad_parameters(p), grad.numel(), result, [&](double (&total)[12], double* theta) {
        if (p.bilinear_2d()) {
          stn::theta_gradient({total[0], total[1], total[2], total[3], total[4], total[5]}, frame, theta);
        } else {
          std::copy(total, total + 12, theta);
        }
      });
    }
    grad_parameters =
        parameters.scalar_type() == values.scalar_type() ? result : torch::stable::to(result, parameters.scalar_type());
  }
  return {grad_input, grad_parameters};
}

Tensor affine_sample(const Tensor& input, const Tensor& theta, Shape size, int64_t mode, int64_t padding,
                     bool align_corners) {
  return forward(input, theta, size, stn::Transform::affine, {mode, padding, align_corners});
}

std::tuple<Tensor, Tensor> affine_sample_backward(const Tensor& grad_output, const Tensor& input, const Tensor& theta,
                                                  int64_t mode, int64_t padding, bool align_corners, bool need_input,
                                                  bool need_theta, bool) {
  return backward(grad_output, input, theta, stn::Transform::affine, {mode, padding, align_corners}, need_input,
                  need_theta);
}

Tensor grid_sample(const Tensor& input, const Tensor& grid, int64_t mode, int64_t padding, bool align_corners) {
  const Shape size(grid.sizes().end() - 1 - (input.dim() - 2), grid.sizes().end() - 1);
  return forward(input, grid, size, stn::Transform::grid, {mode, padding, align_corners});
}

std::tuple<Tensor, Tensor> grid_sample_backward(const Tensor& grad_output, const Tensor& input, const Tensor& grid,
                                                int64_t mode, int64_t padding, bool align_corners, bool need_input,
                                                bool need_grid, bool) {
  return backward(grad_output, input, grid, stn::Transform::grid, {mode, padding, align_corners}, need_input,
                  need_grid);
}

// size: of the output lattice.
Problem lattice_problem(int64_t items, const Shape& size, bool align_corners, bool is_double) {
  Problem p{};
  const size_t n = size.size();
  p.dimensions = int(n);
  p.batch = items, p.samples = 1;
  p.out_width = size[n - 1], p.out_height = n > 1 ? size[n - 2] : 1, p.out_depth = n > 2 ? size[0] : 1;
  p.align_corners = align_corners, p.double_parameters = is_double;
  p.threads = torch::stable::get_num_threads();
  return p;
}

Tensor affine_grid(const Tensor& theta, Shape size, bool align_corners) {
  const Tensor values = float_parameters(theta);
  const int64_t n = int64_t(size.size());
  Shape shape(theta.sizes().begin(), theta.sizes().end() - 2);
  shape.insert(shape.end(), size.begin(), size.end());
  shape.push_back(n);
  Tensor grid = empty(values, shape);
  if (grid.numel() == 0) return grid;
  Problem p =
      lattice_problem(values.numel() / (n * (n + 1)), size, align_corners, values.scalar_type() == ScalarType::Double);
  p.parameters = values.const_data_ptr(), p.grid = grid.mutable_data_ptr();
  execute(p, stn::kernels().affine_grid(p), grid.numel());
  return grid;
}

Tensor affine_grid_backward(const Tensor& grad_output, bool align_corners) {
  const Tensor grad = dense(grad_output);
  const int64_t n = grad.size(grad.dim() - 1);
  Shape shape(grad.sizes().begin(), grad.sizes().end() - n - 1);
  shape.insert(shape.end(), {n, n + 1});
  Tensor result = empty(grad, shape);
  if (grad.numel() == 0) return torch::stable::zero_(result);
  const Shape size(grad.sizes().end() - n - 1, grad.sizes().end() - 1);
  Problem p =
      lattice_problem(result.numel() / (n * (n + 1)), size, align_corners, grad.scalar_type() == ScalarType::Double);
  p.grad_grid = grad.mutable_data_ptr();
  sum_theta(p, stn::kernels().affine_grid_sums(p), grad.numel(), result,
            [](double (&total)[12], double* theta) { std::copy(total, total + 12, theta); });
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
