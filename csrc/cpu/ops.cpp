// The operators on CPU tensors: outputs, memory layouts and threads around the kernels of the chosen instruction set.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>
#include <vector>

#include "common/affine.h"
#include "level.h"
#include "tensors.h"

namespace {

using stn::dense;
using stn::empty;
using stn::empty_images;
using stn::images;
using stn::is_channels_last;
using stn::Options;
using stn::Problem;
using stn::ScalarType;
using stn::Shape;
using stn::shape_of;
using stn::Tensor;
using stn::with_layout;

// A transform and its parameters (B, ...) or (B, S, ...): contiguous, float32 or float64, of a spline float64.
struct Parameters {
  stn::Transform transform;
  Tensor values, control_points{};

  bool has_samples(int n) const { return values.dim() > (transform == stn::Transform::grid ? n + 2 : 3); }
};

Parameters parameters_of(stn::Transform transform, const Tensor& values) {
  return {transform, stn::float_parameters(values)};
}

Parameters tps_parameters(const Tensor& coefficients, const Tensor& control_points) {
  const auto wide = [](const Tensor& t) {
    return dense(t.scalar_type() == ScalarType::Double ? t : torch::stable::to(t, ScalarType::Double));
  };
  return {stn::Transform::tps, wide(coefficients), wide(control_points)};
}

void set_parameters(Problem& p, const Parameters& parameters) {
  p.transform = parameters.transform;
  p.parameters = parameters.values.const_data_ptr();
  p.double_parameters = parameters.values.scalar_type() == ScalarType::Double;
  if (p.transform == stn::Transform::tps) {
    p.control_points = static_cast<const double*>(parameters.control_points.const_data_ptr());
    p.controls = parameters.control_points.size(0);
  }
  p.threads = torch::stable::get_num_threads();
}

Problem problem(const Tensor& input, const Parameters& parameters, const Shape& out_size, const Options& options) {
  Problem p = stn::image_problem(input, options);
  set_out_size(p, out_size.data());
  p.samples = parameters.has_samples(p.dimensions) ? parameters.values.size(1) : 1;
  set_parameters(p, parameters);
  return p;
}

// points: output or input pixels of the whole call, to keep small calls on one thread.
void execute(const stn::Work& work, int64_t points) {
  constexpr int64_t kWorthAThread = 16384;
  const Problem& p = work.problem;
  if (work.tasks == 0) return;
  const int64_t grain = std::max<int64_t>(1, kWorthAThread / std::max<int64_t>(1, points / work.tasks));
  if (work.tasks <= grain || p.threads == 1) return work.run(p, 0, work.tasks);
  torch::stable::parallel_for(0, work.tasks, grain, [&](int64_t begin, int64_t end) { work.run(p, begin, end); });
}

// Adds up what the tasks of a Work leave for each item: the gradient of its parameters, which goes to `data`.
void sum_parameters(stn::Work work, int64_t points, void* data, bool is_double) {
  Problem& p = work.problem;
  const size_t count = size_t(p.parameter_count()),
               each = size_t(work.shares ? work.shares : work.tasks / p.items()) * count;
  std::vector<double> sums(size_t(p.items()) * each), total(count);
  p.sums = sums.data();
  execute(work, points);
  const bool moments = p.transform == stn::Transform::affine && p.in_rows() && !p.normalized;
  for (size_t item = 0; item < size_t(p.items()); ++item) {
    std::fill(total.begin(), total.end(), 0.0);
    for (const double* share = &sums[item * each]; share < &sums[0] + (item + 1) * each; share += count) {
      for (size_t k = 0; k < count; ++k) total[k] += share[k];
    }
    if (moments) {
      const auto frame = stn::affine_frame<double>(p.height, p.width, p.out_height, p.out_width, p.align_corners);
      stn::theta_gradient({total[0], total[1], total[2], total[3], total[4], total[5]}, frame, total.data());
    }
    for (size_t k = 0; k < count; ++k) {
      if (is_double) {
        static_cast<double*>(data)[item * count + k] = total[k];
      } else {
        static_cast<float*>(data)[item * count + k] = float(total[k]);
      }
    }
  }
}

// (B[, S], channels, *out)
Shape output_shape(const Problem& p, const Parameters& parameters, const Shape& out_size, int64_t channels) {
  Shape shape{p.batch};
  if (parameters.has_samples(p.dimensions)) shape.push_back(p.samples);
  shape.push_back(channels);
  shape.insert(shape.end(), out_size.begin(), out_size.end());
  return shape;
}

Tensor forward(const Tensor& input, const Parameters& parameters, const Shape& out_size, const Options& options) {
  Problem p = problem(input, parameters, out_size, options);
  Tensor output =
      empty_images(input, output_shape(p, parameters, out_size, p.channels), p.channels_last, out_size.size());
  if (output.numel() == 0) return output;
  p.input = images<const void*>(input, p.dimensions), p.output = images<void*>(output, p.dimensions);
  execute(stn::kernels(p).forward(p), output.numel());
  return output;
}

// The gradients of a call: the input's if there is a place for it, and that of the parameters unless `data` is null.
void run_gradients(Problem& p, void* data) {
  const auto& kernels = stn::kernels(p);
  const bool at_grid = p.transform == stn::Transform::grid;
  const int64_t outputs = p.items() * p.channels * p.item_points(),
                points = std::max(p.batch * p.channels * p.width * p.height * p.depth, outputs);
  const auto run_parameters = [&](const stn::Work& work, int64_t count) {
    at_grid ? execute(work, count) : sum_parameters(work, count, data, p.double_parameters);
  };
  if (at_grid) p.grad_grid = data;
  if (p.grad_input.data && data) {
    if (const stn::Work both = kernels.gradients(p); both.run) return run_parameters(both, points);
  }
  if (p.grad_input.data)
    execute((p.mode == stn::Mode::linearized ? kernels.multi_grad_input : kernels.grad_input)(p), points);
  if (data) run_parameters(kernels.grad_parameters(p), outputs);
}

// The gradients; that of the parameters in `dtype`, the user's. multi: for the input's through all samples.
std::tuple<Tensor, Tensor> backward(const Tensor& grad_output, const Tensor& input, const Parameters& parameters,
                                    ScalarType dtype, const Options& options, bool need_input, bool need_parameters,
                                    const stn::MultiSampling& multi = {}) {
  const int n = int(input.dim()) - 2;
  const bool channels_last = is_channels_last(input);
  const Tensor grad = with_layout(grad_output, channels_last, n);
  Problem p = problem(input, parameters, Shape(grad.sizes().end() - n, grad.sizes().end()), options);
  p.input = images<const void*>(input, n), p.grad_output = images<const void*>(grad, n);
  p.multi = multi;
  const bool empty_call = grad.numel() == 0;

  const Tensor& values = parameters.values;
  Tensor grad_input = need_input ? empty_images(input, shape_of(input), channels_last, size_t(n)) : empty(input, {0});
  Tensor grad_parameters = empty(values, need_parameters ? shape_of(values) : Shape{0});
  if (empty_call) {
    if (need_input) torch::stable::zero_(grad_input);
    if (need_parameters) torch::stable::zero_(grad_parameters);
    need_input = need_parameters = false;
  } else if (need_parameters && p.mode == stn::Mode::nearest) {  // a step function of coordinates
    torch::stable::zero_(grad_parameters);
    need_parameters = false;
  }
  if (need_input) p.grad_input = images<void*>(grad_input, n);
  run_gradients(p, need_parameters ? grad_parameters.mutable_data_ptr() : nullptr);
  return {grad_input, dtype == values.scalar_type() ? grad_parameters : torch::stable::to(grad_parameters, dtype)};
}

std::tuple<Tensor, Tensor> sample_backward(stn::Transform transform, const Tensor& grad_output, const Tensor& input,
                                           const Tensor& parameters, const Options& options, bool need_input,
                                           bool need_parameters) {
  return backward(grad_output, input, parameters_of(transform, parameters), parameters.scalar_type(), options,
                  need_input, need_parameters);
}

Tensor affine_sample(const Tensor& input, const Tensor& theta, Shape size, int64_t mode, int64_t padding,
                     bool align_corners) {
  return forward(input, parameters_of(stn::Transform::affine, theta), size, {mode, padding, align_corners});
}

std::tuple<Tensor, Tensor> affine_sample_backward(const Tensor& grad_output, const Tensor& input, const Tensor& theta,
                                                  int64_t mode, int64_t padding, bool align_corners, bool need_input,
                                                  bool need_theta, bool) {
  return sample_backward(stn::Transform::affine, grad_output, input, theta, {mode, padding, align_corners}, need_input,
                         need_theta);
}

Tensor grid_sample(const Tensor& input, const Tensor& grid, int64_t mode, int64_t padding, bool align_corners) {
  const Shape size(grid.sizes().end() - 1 - (input.dim() - 2), grid.sizes().end() - 1);
  return forward(input, parameters_of(stn::Transform::grid, grid), size, {mode, padding, align_corners});
}

std::tuple<Tensor, Tensor> grid_sample_backward(const Tensor& grad_output, const Tensor& input, const Tensor& grid,
                                                int64_t mode, int64_t padding, bool align_corners, bool need_input,
                                                bool need_grid, bool) {
  return sample_backward(stn::Transform::grid, grad_output, input, grid, {mode, padding, align_corners}, need_input,
                         need_grid);
}

Tensor homography_sample(const Tensor& input, const Tensor& matrix, Shape size, int64_t mode, int64_t padding,
                         bool align_corners) {
  return forward(input, parameters_of(stn::Transform::homography, matrix), size, {mode, padding, align_corners});
}

std::tuple<Tensor, Tensor> homography_sample_backward(const Tensor& grad_output, const Tensor& input,
                                                      const Tensor& matrix, int64_t mode, int64_t padding,
                                                      bool align_corners, bool need_input, bool need_matrix, bool) {
  return sample_backward(stn::Transform::homography, grad_output, input, matrix, {mode, padding, align_corners},
                         need_input, need_matrix);
}

Tensor tps_sample(const Tensor& input, const Tensor& coefficients, const Tensor& control_points, Shape size,
                  int64_t mode, int64_t padding, bool align_corners) {
  return forward(input, tps_parameters(coefficients, control_points), size, {mode, padding, align_corners});
}

std::tuple<Tensor, Tensor> tps_sample_backward(const Tensor& grad_output, const Tensor& input,
                                               const Tensor& coefficients, const Tensor& control_points, int64_t mode,
                                               int64_t padding, bool align_corners, bool need_input,
                                               bool need_coefficients, bool) {
  return backward(grad_output, input, tps_parameters(coefficients, control_points), coefficients.scalar_type(),
                  {mode, padding, align_corners}, need_input, need_coefficients);
}

// The cotangents may be empty for none. Half precision is not converted; parameters are float32 or float64 as the grid.
std::tuple<Tensor, Tensor, Tensor> grid_sample_double_backward(const Tensor& grad_grad_input,
                                                               const Tensor& grad_grad_grid, const Tensor& grad_output,
                                                               const Tensor& input, const Tensor& grid, int64_t mode,
                                                               int64_t padding, bool align_corners, bool need_output,
                                                               bool need_input, bool need_grid, bool) {
  STD_TORCH_CHECK(mode != int64_t(stn::Mode::bicubic), "the second backward has no CPU kernel for bicubic");
  const Parameters parameters = parameters_of(stn::Transform::grid, grid);
  const Tensor image = dense(input), grad = dense(grad_output), &values = parameters.values;
  const int n = int(input.dim()) - 2;
  const Shape size(grad.sizes().end() - n, grad.sizes().end());
  Problem p = problem(image, parameters, size, {mode, padding, align_corners});
  p.channels_last = false;
  const bool moves = grad_grad_grid.numel() > 0 && mode == int64_t(stn::Mode::bilinear);
  const Tensor other = dense(grad_grad_input);
  const Tensor directions = dense(torch::stable::to(grad_grad_grid, values.scalar_type()));
  p.input = images<const void*>(image, n), p.grad_output = images<const void*>(grad, n);
  if (other.numel() > 0) p.grad_grad_input = other.const_data_ptr();
  if (moves) p.grad_grad_grid = directions.const_data_ptr();
  const bool empty_call = grad.numel() == 0;
  // Zero where nothing depends on a cotangent, else to be computed, into the problem's `data`.
  const auto result = [&](bool needed, bool depends, const Tensor& like, auto& data) {
    Tensor gradient = empty(like, needed ? shape_of(like) : Shape{0});
    if (needed && (empty_call || !depends)) return torch::stable::zero_(gradient);
    if (needed) data = gradient.mutable_data_ptr();
    return gradient;
  };
  p.output = images<void*>(grad, n), p.grad_input = images<void*>(image, n);
  p.output.data = p.grad_input.data = nullptr;
  Tensor of_output = result(need_output, p.grad_grad_input || moves, grad, p.output.data);
  Tensor of_input = result(need_input, moves, image, p.grad_input.data);
  Tensor of_grid = result(need_grid, mode == int64_t(stn::Mode::bilinear), values, p.grad_grid);
  const auto& kernels = stn::kernels(p);
  const int64_t points = std::max(of_input.numel(), grad.numel());
  if (const stn::Work all = kernels.second_gradients(p); all.run) {
    execute(all, points);
  } else {
    if (p.output.data) execute(kernels.second_grad_output(p), points);
    if (p.grad_input.data) execute(kernels.second_grad_input(p), points);
    if (p.grad_grid) execute(kernels.second_grad_grid(p), points);
  }
  if (need_grid && grid.scalar_type() != values.scalar_type()) of_grid = torch::stable::to(of_grid, grid.scalar_type());
  return {of_output, of_input, of_grid};
}

// size: of the output lattice.
Problem lattice_problem(const Parameters& parameters, const Shape& size, bool align_corners, bool double_grid) {
  Problem p{};
  const size_t n = size.size();
  p.dimensions = int(n);
  p.samples = 1;
  p.out_width = size[n - 1], p.out_height = n > 1 ? size[n - 2] : 1, p.out_depth = n > 2 ? size[0] : 1;
  p.align_corners = align_corners, p.normalized = true, p.double_grid = double_grid;
  set_parameters(p, parameters);
  p.batch = parameters.values.numel() / p.parameter_count();
  return p;
}

// The coordinates alone: float64 if `dtype`, the user's, is, else float32.
Tensor lattice(const Parameters& parameters, ScalarType dtype, const Shape& size, bool align_corners) {
  const Tensor& values = parameters.values;
  Shape shape(values.sizes().begin(), values.sizes().end() - 2);
  shape.insert(shape.end(), size.begin(), size.end());
  shape.push_back(int64_t(size.size()));
  const bool wide = dtype == ScalarType::Double;
  Tensor grid = torch::stable::new_empty(values, shape, wide ? ScalarType::Double : ScalarType::Float);
  if (grid.numel() == 0) return grid;
  Problem p = lattice_problem(parameters, size, align_corners, wide);
  p.grid = grid.mutable_data_ptr();
  execute(stn::kernels(p).grid(p), grid.numel());
  return grid;
}

// Fills result with the gradient of the parameters.
Tensor lattice_backward(const Tensor& grad_output, const Parameters& parameters, Tensor result, bool align_corners) {
  if (grad_output.numel() == 0) return torch::stable::zero_(result);
  const Tensor grad = dense(grad_output);
  const int64_t n = grad.size(grad.dim() - 1);
  const Shape size(grad.sizes().end() - n - 1, grad.sizes().end() - 1);
  Problem p = lattice_problem(parameters, size, align_corners, grad.scalar_type() == ScalarType::Double);
  p.grad_grid = grad.mutable_data_ptr();
  sum_parameters(stn::kernels(p).grid_sums(p), grad.numel(), result.mutable_data_ptr(),
                 result.scalar_type() == ScalarType::Double);
  return result;
}

Tensor affine_grid(const Tensor& theta, Shape size, bool align_corners) {
  return lattice(parameters_of(stn::Transform::affine, theta), theta.scalar_type(), size, align_corners);
}

Tensor affine_grid_backward(const Tensor& grad_output, bool align_corners) {
  const int64_t n = grad_output.size(grad_output.dim() - 1);
  Shape shape(grad_output.sizes().begin(), grad_output.sizes().end() - n - 1);
  shape.insert(shape.end(), {n, n + 1});
  const Tensor result = empty(grad_output, shape);  // the map is linear: theta itself does not matter
  return lattice_backward(grad_output, {stn::Transform::affine, result}, result, align_corners);
}

Tensor homography_grid(const Tensor& matrix, Shape size, bool align_corners) {
  return lattice(parameters_of(stn::Transform::homography, matrix), matrix.scalar_type(), size, align_corners);
}

Tensor homography_grid_backward(const Tensor& grad_output, const Tensor& matrix, bool align_corners) {
  return lattice_backward(grad_output, parameters_of(stn::Transform::homography, matrix),
                          empty(grad_output, shape_of(matrix)), align_corners);
}

Tensor tps_grid(const Tensor& coefficients, const Tensor& control_points, Shape size, bool align_corners) {
  return lattice(tps_parameters(coefficients, control_points), coefficients.scalar_type(), size, align_corners);
}

Tensor tps_grid_backward(const Tensor& grad_output, const Tensor& coefficients, const Tensor& control_points,
                         bool align_corners) {
  return lattice_backward(grad_output, tps_parameters(coefficients, control_points),
                          empty(grad_output, shape_of(coefficients)), align_corners);
}

// The gradient (B[, S], *out, n) of normalized coordinates, from the slopes of a linearized forward.
Tensor slopes_backward(const Tensor& grad_output, const Tensor& slopes, const Tensor& input,
                       const Parameters& parameters, const Shape& size) {
  const int n = int(size.size());
  const bool channels_last = is_channels_last(input);
  const Tensor grad = with_layout(grad_output, channels_last, n), planes = with_layout(slopes, channels_last, n);
  Shape shape = shape_of(grad);
  shape.erase(shape.end() - n - 1);
  shape.push_back(n);
  Tensor grad_grid = empty(slopes, shape);
  if (grad.numel() == 0) return torch::stable::zero_(grad_grid);
  Problem p = problem(input, parameters, size, {});
  p.transform = stn::Transform::grid;  // its points are those of the output
  p.grad_output = images<const void*>(grad, n), p.slopes = images<void*>(planes, n);
  p.grad_grid = grad_grid.mutable_data_ptr();
  execute(stn::kernels(p).multi_grad_grid(p), grad.numel());
  return grad_grid;
}

// The call of a linearized operator: its transform by the codes of ops/linearized.py.
struct Linearized {
  Tensor input, parameters;
  std::optional<Tensor> control_points, seed, offsets;
  int64_t transform;
  Shape size;
  int64_t padding;
  bool align_corners;
  int64_t samples;
  double noise;
  bool push_away;
  int64_t weighting;
  double ridge;

  Parameters checked_parameters() const {
    const auto kind = static_cast<stn::Transform>(transform);
    return kind == stn::Transform::tps ? tps_parameters(parameters, *control_points) : parameters_of(kind, parameters);
  }
  Options options(stn::Mode mode) const { return {int64_t(mode), padding, align_corners}; }
  // keep: what the result points to.
  stn::MultiSampling sampling(Tensor& keep) const {
    stn::MultiSampling m;
    m.samples = samples, m.ridge = ridge, m.weighting = static_cast<stn::Weighting>(weighting);
    const size_t n = size.size();
    for (size_t a = 0; a < n; ++a) {
      const double push = push_away ? 2.0 / double(input.size(int64_t(n + 1 - a))) : 0.0;
      m.spread[a] = std::hypot(noise / double(size[n - 1 - a]), push);
    }
    if (offsets) {
      keep = stn::float_parameters(*offsets);
      m.offsets = keep.const_data_ptr(), m.double_offsets = keep.scalar_type() == ScalarType::Double;
    } else {
      m.seed = uint64_t(*static_cast<const int64_t*>(seed->const_data_ptr()));
    }
    return m;
  }
};

std::tuple<Tensor, Tensor> linearized_sample(const Tensor& input, const Tensor& parameters,
                                             std::optional<Tensor> control_points, std::optional<Tensor> seed,
                                             std::optional<Tensor> offsets, int64_t transform, Shape size,
                                             int64_t padding, bool align_corners, int64_t samples, double noise,
                                             bool push_away, bool fixed_bias, int64_t weighting, double ridge, bool,
                                             bool need_slopes) {
  const Linearized call{input,   parameters,    control_points, seed,  offsets,   transform, size,
                        padding, align_corners, samples,        noise, push_away, weighting, ridge};
  const Parameters checked = call.checked_parameters();
  const size_t n = size.size();
  Tensor keep;
  Problem p = problem(input, checked, size, call.options(stn::Mode::linearized));
  p.multi = call.sampling(keep);
  const Tensor wide = input.element_size() == 2 ? torch::stable::new_empty(input, {0}, ScalarType::Float) : input;
  const Tensor output = empty_images(input, output_shape(p, checked, size, p.channels), p.channels_last, n);
  const Shape slopes_shape = output_shape(p, checked, size, int64_t(n) * p.channels);
  const Tensor slopes = need_slopes ? empty_images(wide, slopes_shape, p.channels_last, n) : empty(wide, {0});
  if (output.numel() == 0) return {output, slopes};
  p.input = images<const void*>(input, p.dimensions), p.output = images<void*>(output, p.dimensions);
  if (need_slopes) p.slopes = images<void*>(slopes, p.dimensions);
  if (need_slopes || !fixed_bias) execute(stn::kernels(p).multi_forward(p), output.numel());
  if (fixed_bias) {
    p.mode = stn::Mode::bilinear;
    execute(stn::kernels(p).forward(p), output.numel());
  }
  return {output, slopes};
}

std::tuple<Tensor, Tensor> linearized_sample_backward(
    const Tensor& grad_output, const Tensor& slopes, const Tensor& input, const Tensor& parameters,
    std::optional<Tensor> control_points, std::optional<Tensor> seed, std::optional<Tensor> offsets, int64_t transform,
    Shape size, int64_t padding, bool align_corners, int64_t samples, double noise, bool push_away, bool fixed_bias,
    int64_t weighting, double ridge, bool through_samples, bool need_input, bool need_parameters, bool) {
  const Linearized call{input,   parameters,    control_points, seed,  offsets,   transform, size,
                        padding, align_corners, samples,        noise, push_away, weighting, ridge};
  const Parameters checked = call.checked_parameters();
  const bool through = through_samples && !fixed_bias;
  Tensor keep;
  const Tensor grad_input =
      std::get<0>(backward(grad_output, input, checked, parameters.scalar_type(),
                           call.options(through ? stn::Mode::linearized : stn::Mode::bilinear), need_input, false,
                           through ? call.sampling(keep) : stn::MultiSampling{}));
  if (!need_parameters) return {grad_input, empty(parameters, {0})};
  const Tensor grad_grid = slopes_backward(grad_output, slopes, input, checked, size);
  if (checked.transform == stn::Transform::grid)
    return {grad_input, torch::stable::to(grad_grid, parameters.scalar_type())};
  const Tensor& values = checked.values;
  const Tensor grad = lattice_backward(grad_grid, checked, empty(values, shape_of(values)), align_corners);
  return {grad_input, torch::stable::to(grad, parameters.scalar_type())};
}

int64_t cpu_level() {  // the x86-64 microarchitecture level in use; 0 where there is only one
  const char* level = stn::kernels().level;
  return level[0] == 'v' ? level[1] - '0' : 0;
}

}  // namespace

// For csrc/eager.cpp, which looks them up by name.
#define STN_EXPORTED extern "C" __attribute__((visibility("default")))
STN_EXPORTED size_t stn_kernels_problem_bytes() { return sizeof(Problem); }
STN_EXPORTED void stn_kernels_forward(Problem* p, int64_t outputs) {
  p->has_half_rows = stn::kernels().has_half_rows;
  execute(stn::kernels(*p).forward(*p), outputs);
}
STN_EXPORTED void stn_kernels_gradients(Problem* p, void* grad_parameters) {
  p->has_half_rows = stn::kernels().has_half_rows;
  run_gradients(*p, grad_parameters);
}

STABLE_TORCH_LIBRARY_FRAGMENT(stn_kernels, m) { m.def("_cpu_level() -> int"); }

STABLE_TORCH_LIBRARY_IMPL(stn_kernels, CompositeExplicitAutograd, m) { m.impl("_cpu_level", TORCH_BOX(&cpu_level)); }

STABLE_TORCH_LIBRARY_IMPL(stn_kernels, CPU, m) {
  m.impl("affine_sample", TORCH_BOX(&affine_sample));
  m.impl("_affine_sample_backward", TORCH_BOX(&affine_sample_backward));
  m.impl("affine_grid", TORCH_BOX(&affine_grid));
  m.impl("_affine_grid_backward", TORCH_BOX(&affine_grid_backward));
  m.impl("homography_sample", TORCH_BOX(&homography_sample));
  m.impl("_homography_sample_backward", TORCH_BOX(&homography_sample_backward));
  m.impl("homography_grid", TORCH_BOX(&homography_grid));
  m.impl("_homography_grid_backward", TORCH_BOX(&homography_grid_backward));
  m.impl("tps_sample", TORCH_BOX(&tps_sample));
  m.impl("_tps_sample_backward", TORCH_BOX(&tps_sample_backward));
  m.impl("tps_grid", TORCH_BOX(&tps_grid));
  m.impl("_tps_grid_backward", TORCH_BOX(&tps_grid_backward));
  m.impl("grid_sample", TORCH_BOX(&grid_sample));
  m.impl("_grid_sample_backward", TORCH_BOX(&grid_sample_backward));
  m.impl("_linearized_sample", TORCH_BOX(&linearized_sample));
  m.impl("_linearized_sample_backward", TORCH_BOX(&linearized_sample_backward));
  m.impl("_grid_sample_double_backward", TORCH_BOX(&grid_sample_double_backward));
}
