#include "cpab.h"
#include "cpab_grid.cuh"
#include "warp_launch.cuh"

namespace stn {
namespace {

// f(type, dimensions) of a call.
template <class F>
void with_kind(const CpabCall& call, F&& f) {
  with_dimensions(int(call.shape.size()), [&](auto n) {
    call.velocities.scalar_type() == ScalarType::Double ? f(double{}, n) : f(float{}, n);
  });
}

// A call for the output's lattice alone.
Call lattice_call(const std::vector<int64_t>& size, bool align_corners) {
  return {Kind::affine, {}, {}, size, Mode::bilinear, Padding::zeros, align_corners, {}};
}

// The matrices in the type of the velocities; undefined without any.
Tensor matrices(const CpabCall& call, const std::optional<Tensor>& affine) {
  return affine ? coordinates(*affine, call.velocities.scalar_type()) : Tensor();
}

}  // namespace

Tensor cpab_pixels(const CpabCall& call, const std::vector<int64_t>& size, bool align_corners) {
  int64_t count = 1;
  for (const int64_t extent : size) count *= extent;
  const Tensor points = torch::stable::new_empty(call.velocities, {count, int64_t(size.size())});
  if (count == 0) return points;
  const Device device(call.velocities);
  with_kind(call, [&](auto type, auto dimensions) {
    using T = decltype(type);
    constexpr int n = decltype(dimensions)::value;
    const Call lattice = lattice_call(size, align_corners);
    const Work work = lattice_work(lattice);
    launch_tiles<CpabAccess, n>(work, 1, work.out_width, work.out_rows, [&](dim3 grid, const Work& now) {
      simt::launch(cpab_lattice_kernel<T, n>, grid, dim3(kThreads), 0, device.stream, frame_of<T, n>(lattice, true),
                   data<T>(points), now);
    });
  });
  return points;
}

Tensor cpab_grid(const CpabCall& call, const Tensor& phi, const std::optional<Tensor>& affine,
                 const std::vector<int64_t>& size) {
  std::vector<int64_t> shape = shape_of(phi);
  shape.resize(shape.size() - 2);
  shape.insert(shape.end(), size.begin(), size.end());
  shape.push_back(int64_t(size.size()));
  const Tensor grid = torch::stable::new_empty(phi, shape), matrix = matrices(call, affine);
  if (grid.numel() == 0) return grid;
  const Device device(phi);
  with_kind(call, [&](auto type, auto dimensions) {
    using T = decltype(type);
    constexpr int n = decltype(dimensions)::value;
    const int64_t count = phi.numel() / n;
    simt::launch(cpab_to_grid_kernel<T, n>, dim3(unsigned(ceil_div(count, kThreads))), dim3(kThreads), 0, device.stream,
                 data<T>(phi), affine ? data<T>(matrix) : nullptr, data<T>(grid), phi.size(phi.dim() - 2), count);
  });
  return grid;
}

std::tuple<Tensor, Tensor> cpab_grid_backward(const CpabCall& call, const Tensor& grad_grid, const Tensor& phi,
                                              const std::optional<Tensor>& affine, bool need_phi, bool need_affine) {
  const Tensor none = torch::stable::new_empty(phi, {0});
  Tensor grad_affine = none, matrix = matrices(call, affine);
  if (phi.numel() == 0) return {none, need_affine ? torch::stable::new_zeros(*affine, affine->sizes()) : none};
  const Tensor grad_phi = need_phi ? torch::stable::new_empty(phi, phi.sizes()) : none;
  const Device device(phi);
  const Tensor grad = coordinates(grad_grid, phi.scalar_type());
  with_kind(call, [&](auto type, auto dimensions) {
    using T = decltype(type);
    constexpr int n = decltype(dimensions)::value;
    Work work{};
    work.out_width = int(phi.size(phi.dim() - 2));
    work.out_height = work.out_rows = work.samples = work.splits = 1;
    ParameterGradient<AffineTransform<T, n>> gradient(need_affine ? matrix : phi, need_affine, device.stream);
    launch_tiles<CpabAccess, 1>(work, call.items(), work.out_width, 1, [&](dim3 blocks, const Work& now) {
      simt::launch(cpab_to_grid_backward_kernel<T, n>, blocks, dim3(kThreads), 0, device.stream, data<T>(grad),
                   data<T>(phi), affine ? data<T>(matrix) : nullptr, need_phi ? data<T>(grad_phi) : nullptr,
                   gradient.out(blocks, now), now);
    });
    grad_affine = gradient.result();
  });
  if (!need_affine) return {grad_phi, none};
  const ScalarType dtype = affine->scalar_type();
  return {grad_phi, grad_affine.scalar_type() == dtype ? grad_affine : torch::stable::to(grad_affine, dtype)};
}

}  // namespace stn
