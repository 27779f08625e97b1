// The CPAB operators on CPU tensors, around the kernels of the chosen instruction set.
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <tuple>
#include <vector>

#include "cpab.h"
#include "level.h"

namespace {

using stn::CpabProblem;
using stn::CpabWork;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Shape = std::vector<int64_t>;

Tensor dense(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

const stn::CpabKernels& kernels() { return *stn::kernels().cpab; }

// The arguments of an operator on points, and what they point into.
struct Call {
  Tensor points, velocities, integers, reals, starts;
  CpabProblem p{};
  int unfinished = 0;

  Call(const Tensor& points_, const Tensor& velocities_, const Tensor& integers_, const Tensor& reals_,
       const Shape& shape, int64_t steps)
      : points(dense(points_)),
        velocities(dense(velocities_)),
        integers(dense(integers_)),
        reals(dense(reals_)),
        starts(torch::stable::new_empty(points, {0})) {
    const int n = int(shape.size());
    p.dimensions = n, p.steps = int(steps);
    p.batch = velocities.size(0), p.samples = velocities.dim() == 4 ? velocities.size(1) : 1;
    p.vertices = velocities.size(velocities.dim() - 2), p.points = points.size(points.dim() - 2);
    p.own_points = points.dim() == 3, p.is_double = points.scalar_type() == ScalarType::Double;
    p.at = points.const_data_ptr(), p.velocities = velocities.const_data_ptr();
    p.tables.integers = static_cast<const int32_t*>(integers.const_data_ptr());
    p.tables.reals = static_cast<const double*>(reals.const_data_ptr());
    p.tables.regions = int32_t(integers.size(0)), p.tables.cells = n == 1 ? 1 : n == 2 ? 4 : 5;
    for (int d = 0; d < n; ++d) {
      p.tables.shape[d] = int32_t(shape[size_t(d)]), p.tables.cells *= p.tables.shape[d];
    }
    p.unfinished = &unfinished;
  }
  Call(const Call&) = delete;

  void run(CpabWork (*kernel)(const CpabProblem&)) {
    if (p.items() * p.points == 0) return;
    if (p.steps == 0 && !p.own_points) {
      const int64_t each = p.is_double ? 8 : 4;
      starts = torch::stable::new_empty(points, {kernels().start_bytes(p) / each});
      p.starts = starts.mutable_data_ptr();
      launch(kernels().locate(p), p.points);
    }
    launch(kernel(p), p.items() * p.points);
    if (unfinished) {
      aoti_torch_warn("cpab_transform", __FILE__, __LINE__,
                      "stn_kernels: a CPAB path has more than 1024 segments; its rest was taken in 50 fixed steps");
    }
  }
  void launch(const CpabWork& work, int64_t count) {
    constexpr int64_t kWorthAThread = 1024;  // points: a path costs some hundred nanoseconds
    if (work.tasks == 0) return;
    const int64_t grain = std::max<int64_t>(1, kWorthAThread / std::max<int64_t>(1, count / work.tasks));
    torch::stable::parallel_for(0, work.tasks, grain, [&](int64_t begin, int64_t end) { work.run(p, begin, end); });
  }
};

Tensor cpab_transform(const Tensor& points, const Tensor& velocities, const Tensor& integers, const Tensor& reals,
                      Shape shape, int64_t steps) {
  Call call(points, velocities, integers, reals, shape, steps);
  Shape size(velocities.sizes().begin(), velocities.sizes().end() - 2);
  size.insert(size.end(), {call.p.points, call.p.dimensions});
  Tensor output = torch::stable::new_empty(call.points, size);
  call.p.output = output.mutable_data_ptr();
  call.run(kernels().forward);
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
  Call call(points, velocities, integers, reals, shape, steps);
  CpabProblem& p = call.p;
  const Tensor grad = dense(grad_output);
  p.grad_output = grad.const_data_ptr();
  const int64_t items = p.items(), count = p.vertices * p.dimensions, each = p.points * p.dimensions;
  Tensor grad_points = torch::stable::new_empty(
      call.points, need_points ? Shape(points.sizes().begin(), points.sizes().end()) : Shape{0});
  Tensor grad_velocities = torch::stable::new_empty(
      call.velocities, need_velocities ? Shape(velocities.sizes().begin(), velocities.sizes().end()) : Shape{0});
  Tensor by_item = grad_points;  // gradients to points before they are summed over the items that share them
  const int64_t shared = p.own_points ? p.samples : items;
  if (need_points) {
    if (shared != 1) by_item = torch::stable::new_empty(call.points, {items, p.points, p.dimensions});
    p.grad_points = by_item.mutable_data_ptr();
  }
  std::vector<double> sums(need_velocities ? size_t(items * p.blocks() * count) : 0);
  p.sums = need_velocities ? sums.data() : nullptr;
  call.run(kernels().backward);
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

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(stn_kernels, CPU, m) {
  m.impl("cpab_transform", TORCH_BOX(&cpab_transform));
  m.impl("_cpab_transform_backward", TORCH_BOX(&cpab_transform_backward));
}
