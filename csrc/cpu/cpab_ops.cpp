// The CPAB operators on CPU tensors, around the kernels of the chosen instruction set.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "cpab_sample.h"
#include "level.h"
#include "tensors.h"

namespace {

using stn::CpabProblem;
using stn::CpabSampling;
using stn::CpabWork;
using stn::dense;
using stn::empty;
using stn::images;
using stn::ScalarType;
using stn::Shape;
using stn::shape_of;
using stn::Tensor;

const stn::CpabKernels& kernels(const CpabProblem& p) { return *stn::kernels(p.is_double).cpab; }

// The arguments of an operator, and what they point into.
struct Call {
  Tensor velocities, integers, reals, points, starts;
  CpabProblem p{};
  int64_t unfinished = 0;

  Call(const Tensor& velocities_, const Tensor& integers_, const Tensor& reals_, const Shape& shape, int64_t steps)
      : velocities(dense(velocities_)),
        integers(dense(integers_)),
        reals(dense(reals_)),
        points(empty(velocities, {0})),
        starts(points) {
    const int n = int(shape.size());
    p.dimensions = n, p.steps = int(steps);
    p.batch = velocities.size(0), p.samples = velocities.dim() == 4 ? velocities.size(1) : 1;
    p.vertices = velocities.size(velocities.dim() - 2), p.is_double = velocities.scalar_type() == ScalarType::Double;
    p.velocities = velocities.const_data_ptr();
    p.tables.integers = static_cast<const int32_t*>(integers.const_data_ptr());
    p.tables.reals = static_cast<const double*>(reals.const_data_ptr());
    p.tables.regions = int32_t(integers.size(0)), p.tables.cells = n == 1 ? 1 : n == 2 ? 4 : 5;
    for (int d = 0; d < n; ++d) {
      p.tables.shape[d] = int32_t(shape[size_t(d)]), p.tables.cells *= p.tables.shape[d];
    }
    p.unfinished = &unfinished;
  }
  Call(const Call&) = delete;

  void at(const Tensor& points_) {
    points = dense(points_);
    p.at = points.const_data_ptr(), p.own_points = points.dim() == 3, p.points = points.size(points.dim() - 2);
  }
  void at_pixels(const Shape& size, bool align_corners) {
    p.points = 1, p.align_corners = align_corners;
    for (size_t d = 0; d < size.size(); ++d) p.points *= p.out_size[d] = size[size.size() - 1 - d];
  }
  // together: so many tasks follow one another in one thread.
  void run(CpabWork (*kernel)(const CpabProblem&), int64_t together = 1) {
    if (p.items() * p.points == 0) return;
    if (p.steps == 0 && p.at && !p.own_points) {
      starts = empty(points, {kernels(p).start_bytes(p) / (p.is_double ? 8 : 4)});
      p.starts = starts.mutable_data_ptr();
      launch(kernels(p).locate(p), p.points, 1);
    }
    launch(kernel(p), p.items() * p.points, together);
    if (unfinished) {
      const std::string text = "stn_kernels: " + std::to_string(unfinished) +
                               " CPAB paths have more than 1024 segments; their rest was taken in 50 fixed steps";
      aoti_torch_warn("cpab_transform", __FILE__, __LINE__, text.c_str());
    }
  }

 private:
  void launch(const CpabWork& work, int64_t count, int64_t together) {
    constexpr int64_t kWorthAThread = 1024;  // points: a path costs some hundred nanoseconds
    if (work.tasks == 0) return;
    const int64_t units = work.tasks / together;
    const int64_t grain = std::max<int64_t>(1, kWorthAThread / std::max<int64_t>(1, count / units));
    torch::stable::parallel_for(0, units, grain,
                                [&](int64_t begin, int64_t end) { work.run(p, begin * together, end * together); });
  }
};

Tensor cpab_transform(const Tensor& points, const Tensor& velocities, const Tensor& integers, const Tensor& reals,
                      Shape shape, int64_t steps) {
  Call call(velocities, integers, reals, shape, steps);
  call.at(points);
  Shape size(velocities.sizes().begin(), velocities.sizes().end() - 2);
  size.insert(size.end(), {call.p.points, call.p.dimensions});
  Tensor output = empty(call.points, size);
  call.p.output = output.mutable_data_ptr();
  call.run(kernels(call.p).forward);
  return output;
}

Tensor cpab_jacobian(const Tensor& points, const Tensor& velocities, const Tensor& integers, const Tensor& reals,
                     Shape shape, int64_t steps) {
  Call call(velocities, integers, reals, shape, steps);
  call.at(points);
  const int64_t n = call.p.dimensions;
  Shape size(velocities.sizes().begin(), velocities.sizes().end() - 2);
  size.insert(size.end(), {call.p.points, n, call.p.vertices, n});
  Tensor output = empty(call.points, size);
  call.p.output = output.mutable_data_ptr();
  call.run(kernels(call.p).jacobian);
  return output;
}

// Adds up blocks of `count` numbers in order, `blocks` of them for each of `items` results.
template <class From, class To>
void add_blocks(const From* from, int64_t items, int64_t blocks, int64_t count, To* to) {
  std::vector<double> total(static_cast<size_t>(count));
  for (int64_t i = 0; i < items; ++i, to += count) {
    std::fill(total.begin(), total.end(), 0.0);
    for (int64_t b = 0; b < blocks; ++b, from += count) {
      for (int64_t k = 0; k < count; ++k) total[size_t(k)] += double(from[k]);
    }
    for (int64_t k = 0; k < count; ++k) to[k] = To(total[size_t(k)]);
  }
}

std::tuple<Tensor, Tensor> cpab_transform_backward(const Tensor& grad_output, const Tensor& points,
                                                   const Tensor& velocities, const Tensor& integers,
                                                   const Tensor& reals, Shape shape, int64_t steps, bool need_points,
                                                   bool need_velocities) {
  Call call(velocities, integers, reals, shape, steps);
  call.at(points);
  CpabProblem& p = call.p;
  const Tensor grad = dense(grad_output);
  p.grad_output = grad.const_data_ptr();
  const int64_t items = p.items(), count = p.vertices * p.dimensions, each = p.points * p.dimensions;
  Tensor grad_points = empty(call.points, need_points ? shape_of(points) : Shape{0});
  Tensor grad_velocities = empty(call.velocities, need_velocities ? shape_of(velocities) : Shape{0});
  Tensor by_item = grad_points;  // gradients to points before they are summed over the items that share them
  const int64_t shared = p.own_points ? p.samples : items;
  if (need_points) {
    if (shared != 1) by_item = empty(call.points, {items, p.points, p.dimensions});
    p.grad_points = by_item.mutable_data_ptr();
  }
  std::vector<double> sums(need_velocities ? size_t(items * p.blocks() * count) : 0);
  p.sums = need_velocities ? sums.data() : nullptr;
  call.run(kernels(call.p).backward);
  const auto finish = [&](auto type) {
    using T = decltype(type);
    if (need_points && shared != 1) {
      const T* from = static_cast<const T*>(by_item.const_data_ptr());
      add_blocks(from, shared == 0 ? grad_points.numel() / std::max<int64_t>(1, each) : items / shared, shared, each,
                 static_cast<T*>(grad_points.mutable_data_ptr()));
    }
    if (need_velocities) {
      add_blocks(sums.data(), items, p.blocks(), count, static_cast<T*>(grad_velocities.mutable_data_ptr()));
    }
  };
  p.is_double ? finish(double{}) : finish(float{});
  return {grad_points, grad_velocities};
}

// An image sampled at the transformed pixel centres of an output.
struct SampleCall : Call {
  CpabSampling sampling{};
  Tensor affine;

  SampleCall(const Tensor& input, const Tensor& velocities, const std::optional<Tensor>& affine_,
             const Tensor& integers, const Tensor& reals, const Shape& shape, int64_t steps, const Shape& size,
             const stn::Options& options)
      : Call(in_type(velocities, type_of(input, velocities)), integers, reals, shape, steps), affine(points) {
    at_pixels(size, options.align_corners);
    stn::Problem& q = sampling.images = stn::image_problem(input, options);
    q.samples = p.samples, q.double_parameters = p.is_double, q.input = images<const void*>(input, p.dimensions);
    sampling.last_row = q.extent(p.dimensions - 1);
    if (affine_) {
      affine = dense(in_type(*affine_, type_of(input, velocities)));
      sampling.affine = affine.const_data_ptr();
    }
    p.context = &sampling;
  }
  void run(CpabWork (*kernel)(const CpabProblem&), void (*at_points)(const void*, const stn::CpabRun&),
           int64_t together = 1) {
    p.at_points = at_points;
    Call::run(kernel, together);
  }
  // The same on bands of the image's gradient, for more threads than images.
  void transpose_bands(int64_t threads) {
    const int64_t rows = sampling.last_row, each = std::max<int64_t>(1, (threads + p.batch - 1) / p.batch);
    const int64_t bands = std::min(rows, each);
    p.at_points = kernels(p).transpose;
    const CpabWork work = kernels(p).forward(p);
    const int64_t tasks = work.tasks / p.batch;
    torch::stable::parallel_for(0, p.batch * bands, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        CpabProblem own = p;
        CpabSampling band = sampling;
        band.first_row = rows * (i % bands) / bands, band.last_row = rows * (i % bands + 1) / bands;
        own.context = &band;
        work.run(own, i / bands * tasks, (i / bands + 1) * tasks);
      }
    });
  }

 private:
  static ScalarType type_of(const Tensor& input, const Tensor& velocities) {
    const bool wide = input.scalar_type() == ScalarType::Double || velocities.scalar_type() == ScalarType::Double;
    return wide ? ScalarType::Double : ScalarType::Float;
  }
  static Tensor in_type(const Tensor& t, ScalarType type) {
    return t.scalar_type() == type ? t : torch::stable::to(t, type);
  }
};

Tensor cpab_sample(const Tensor& input, const Tensor& velocities, std::optional<Tensor> affine, const Tensor& integers,
                   const Tensor& reals, Shape shape, int64_t steps, Shape size, int64_t mode, int64_t padding,
                   bool align_corners) {
  SampleCall call(input, velocities, affine, integers, reals, shape, steps, size, {mode, padding, align_corners});
  stn::Problem& q = call.sampling.images;
  Shape out(velocities.sizes().begin(), velocities.sizes().end() - 2);
  out.push_back(q.channels);
  out.insert(out.end(), size.begin(), size.end());
  Tensor output = stn::empty_images(input, out, q.channels_last, size.size());
  if (output.numel() == 0) return output;
  q.output = images<void*>(output, int(size.size()));
  call.run(kernels(call.p).forward, kernels(call.p).read);
  return output;
}

std::tuple<Tensor, Tensor, Tensor> cpab_sample_backward(const Tensor& grad_output, const Tensor& input,
                                                        const Tensor& velocities, std::optional<Tensor> affine,
                                                        const Tensor& integers, const Tensor& reals, Shape shape,
                                                        int64_t steps, Shape size, int64_t mode, int64_t padding,
                                                        bool align_corners, bool need_input, bool need_velocities,
                                                        bool need_affine, bool) {
  SampleCall call(input, velocities, affine, integers, reals, shape, steps, size, {mode, padding, align_corners});
  CpabProblem& p = call.p;
  stn::Problem& q = call.sampling.images;
  const int n = p.dimensions;
  const Tensor grad = stn::with_layout(grad_output, q.channels_last, n);
  q.grad_output = images<const void*>(grad, n);
  const bool half = q.dtype != stn::DType::float32 && q.dtype != stn::DType::float64;
  const Tensor like = half ? torch::stable::new_empty(input, {0}, ScalarType::Float) : input;
  Tensor grad_input = empty(input, {0}), sums = grad_input;  // summed in float32 or better
  if (need_input) {
    sums = stn::empty_images(like, shape_of(input), q.channels_last, size_t(n));
    torch::stable::zero_(sums);
    grad_input = half ? stn::empty_images(input, shape_of(input), q.channels_last, size_t(n)) : sums;
  }
  Tensor grad_velocities = empty(velocities, need_velocities ? shape_of(velocities) : Shape{0});
  Tensor grad_affine = empty(affine ? *affine : velocities, need_affine ? shape_of(*affine) : Shape{0});

  const bool empty_call = grad.numel() == 0, moves = q.mode != stn::Mode::nearest && !empty_call;
  const bool need_points = moves && (need_velocities || need_affine);
  const int64_t tasks = p.items() * p.blocks(), count = p.vertices * n, threads = torch::stable::get_num_threads();
  const bool together = need_input && p.batch >= threads;  // a thread has images of its own
  const int64_t of_image = p.samples * p.blocks();
  std::vector<double> by_task(need_points && need_velocities ? size_t(tasks * count) : 0);
  std::vector<double> affine_by_task(need_points && need_affine ? size_t(tasks * n * (n + 1)) : 0);
  p.sums = by_task.empty() ? nullptr : by_task.data();
  call.sampling.affine_sums = affine_by_task.empty() ? nullptr : affine_by_task.data();
  if (together) q.grad_input = images<void*>(sums, n);
  if (need_points) {
    call.run(p.sums ? kernels(p).backward : kernels(p).forward, kernels(p).pull, together ? of_image : 1);
  } else if (together && !empty_call) {
    call.run(kernels(p).forward, kernels(p).transpose, of_image);
  }
  if (need_input && !together && !empty_call) {
    q.grad_input = images<void*>(sums, n);
    call.transpose_bands(threads);
  }

  const auto store = [&](const std::vector<double>& parts, int64_t each, bool needed, Tensor& result) {
    if (!needed) return;
    Tensor total = torch::stable::new_empty(result, shape_of(result), ScalarType::Double);
    torch::stable::zero_(total);
    if (!parts.empty()) {
      add_blocks(parts.data(), p.items(), p.blocks(), each, static_cast<double*>(total.mutable_data_ptr()));
    }
    torch::stable::copy_(result, total);
  };
  store(by_task, count, need_velocities, grad_velocities);
  store(affine_by_task, n * (n + 1), need_affine, grad_affine);
  if (half && need_input) torch::stable::copy_(grad_input, sums);
  return {grad_input, grad_velocities, grad_affine};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(stn_kernels, CPU, m) {
  m.impl("cpab_transform", TORCH_BOX(&cpab_transform));
  m.impl("_cpab_transform_backward", TORCH_BOX(&cpab_transform_backward));
  m.impl("cpab_jacobian", TORCH_BOX(&cpab_jacobian));
  m.impl("cpab_sample", TORCH_BOX(&cpab_sample));
  m.impl("_cpab_sample_backward", TORCH_BOX(&cpab_sample_backward));
}
