#include "cpab_launch.cuh"
#include "warp_launch.cuh"

namespace stn {
namespace {

// f(CpabLaunch, empty CpabOutput) of the call's type and dimensions; its tensors are contiguous.
template <class F>
void with_launch(const CpabCall& call, simt::Stream stream, F&& f) {
  const auto with_type = [&](auto type) {
    using T = decltype(type);
    with_dimensions(int(call.shape.size()), [&](auto dimensions) {
      constexpr int n = decltype(dimensions)::value;
      const CpabPoints<T, n> points = given_points<T, n>(call);
      f(CpabLaunch(call, points, stream), CpabOutput<T, n>{nullptr, nullptr, points.count});
    });
  };
  call.points.scalar_type() == ScalarType::Double ? with_type(double{}) : with_type(float{});
}

CpabCall dense(CpabCall call) {
  for (Tensor* t : {&call.points, &call.velocities, &call.integers, &call.reals}) *t = torch::stable::contiguous(*t);
  return call;
}

}  // namespace

Tensor cpab_transform(const CpabCall& given) {
  const CpabCall call = dense(given);
  std::vector<int64_t> shape = shape_of(call.velocities);
  shape[shape.size() - 2] = call.points.size(call.points.dim() - 2);
  const Tensor output = torch::stable::new_empty(call.points, shape);
  if (output.numel() == 0) return output;
  const Device device(call.points);
  with_launch(call, device.stream, [&]<class T, int n>(auto launch, CpabOutput<T, n> ends) {
    ends.output = data<T>(output);
    launch.forward(ends);
  });
  return output;
}

std::tuple<Tensor, Tensor> cpab_transform_backward(const CpabCall& given, const Tensor& grad_output, bool need_points,
                                                   bool need_velocities) {
  const CpabCall call = dense(given);
  const Tensor grad = torch::stable::contiguous(grad_output), none = torch::stable::new_empty(call.points, {0});
  if (grad.numel() == 0 || !(need_points || need_velocities))
    return {need_points ? torch::stable::new_zeros(call.points, call.points.sizes()) : none,
            need_velocities ? torch::stable::new_zeros(call.velocities, call.velocities.sizes()) : none};
  const Device device(call.points);
  const Tensor grad_points = need_points ? torch::stable::new_empty(call.points, call.points.sizes()) : none;
  const Tensor grad_velocities =
      need_velocities ? torch::stable::new_empty(call.velocities, call.velocities.sizes()) : none;
  // Items whose points are the same tensor each have a gradient to it.
  const int64_t shared = call.points.dim() == 3 ? call.samples() : call.items();
  const Tensor each = need_points && shared > 1 ? torch::stable::new_empty(call.points, grad.sizes()) : grad_points;
  with_launch(call, device.stream, [&]<class T, int n>(auto launch, CpabOutput<T, n> ends) {
    ends.grad_output = data<T>(grad);
    const Tensor sums = launch.backward(ends, need_points ? data<T>(each) : nullptr, need_velocities, false);
    if (need_velocities) launch.to_velocities(sums, grad_velocities);
    if (need_points && shared > 1) sum_shared<T>(each, grad_points, shared, device.stream);
  });
  return {grad_points, grad_velocities};
}

Tensor cpab_jacobian(const CpabCall& given) {
  const CpabCall call = dense(given);
  const int64_t n = int64_t(call.shape.size());
  std::vector<int64_t> shape = shape_of(call.velocities);
  shape.resize(shape.size() - 2);
  for (const int64_t extent : {call.points.size(call.points.dim() - 2), n, call.vertices(), n}) shape.push_back(extent);
  const Tensor jacobian = torch::stable::new_zeros(call.points, shape);
  if (jacobian.numel() == 0) return jacobian;
  const Device device(call.points);
  with_launch(call, device.stream, [&](auto launch, auto) { launch.jacobian(jacobian); });
  return jacobian;
}

}  // namespace stn
