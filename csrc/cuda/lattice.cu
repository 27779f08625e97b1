#include "lattice.cuh"
#include "lattice.h"

namespace stn {
namespace {

// f(transform) with the call's, to normalized coordinates.
template <class T, class F>
void with_lattice(const Call& call, const Tensor& params, F&& f) {
  with_dimensions(call.n(), [&](auto n) { with_transform<T, decltype(n)::value, true>(call, params, f); });
}

template <class T>
Tensor forward(const Call& call) {
  std::vector<int64_t> shape = shape_of(call.params);
  shape.resize(shape.size() - 2);
  shape.insert(shape.end(), call.size.begin(), call.size.end());
  shape.push_back(call.n());
  const Tensor grid = torch::stable::new_empty(call.params, shape, scalar_type<T>);
  if (grid.numel() == 0) return grid;
  const Device device(call.params);
  const Tensor params = readable_params<T>(call);
  with_lattice<T>(call, params, [&](auto transform) {
    using Transform = decltype(transform);
    const Work work = lattice_work(call);
    const int64_t images = params.numel() / transform.parameters();
    launch_tiles<LatticeAccess, Transform::n>(work, images, work.out_width, work.out_rows,
                                              [&](dim3 blocks, const Work& now) {
                                                simt::launch(lattice_kernel<Transform>, blocks, dim3(kThreads), 0,
                                                             device.stream, transform, data<T>(grid), now);
                                              });
  });
  return grid;
}

template <class T>
Tensor backward(const Call& call, const Tensor& grad_output) {
  if (grad_output.numel() == 0) return torch::stable::new_zeros(grad_output, call.params.sizes());
  const Device device(grad_output);
  const Tensor params = readable_params<T>(call), grad = coordinates(grad_output, scalar_type<T>);
  Tensor result;
  with_lattice<T>(call, params, [&](auto transform) {
    using Transform = decltype(transform);
    const Work work = lattice_work(call);
    const int64_t images = params.numel() / transform.parameters();
    ParameterGradient<Transform> gradient(params, true, device.stream);
    launch_tiles<LatticeAccess, Transform::n>(
        work, images, work.out_width, work.out_rows, [&](dim3 blocks, const Work& now) {
          simt::launch(lattice_backward_kernel<Transform>, blocks, dim3(kThreads), transform.shared_bytes(),
                       device.stream, data<T>(grad), gradient.out(blocks, now), transform, now);
        });
    result = gradient.result();
  });
  return result.scalar_type() == scalar_type<T> ? result : torch::stable::to(result, scalar_type<T>);
}

}  // namespace

Tensor lattice(const Call& call) {
  return call.params.scalar_type() == ScalarType::Double ? forward<double>(call) : forward<float>(call);
}

Tensor lattice_backward(const Call& call, const Tensor& grad_output) {
  const ScalarType dtype = grad_output.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Double || dtype == ScalarType::Float,
                  "the gradient of coordinates must be float32 or float64");
  return dtype == ScalarType::Double ? backward<double>(call, grad_output) : backward<float>(call, grad_output);
}

}  // namespace stn
