// From a call to the arguments that its kernels share.
#pragma once
#include "transforms.cuh"
#include "warp.h"

namespace stn {

inline Work work_of(const Call& call) {
  Work work{};
  work.height = int(call.input.size(2));
  work.width = int(call.input.size(3));
  work.out_height = int(call.size[0]);
  work.out_width = int(call.size[1]);
  work.channels = int(call.input.size(1));
  work.samples = int(call.samples());
  work.align_corners = call.align_corners;
  return work;
}

template <class T>
AffineTransform<T> affine_transform(const Call& call, const Tensor& theta) {
  return {data<T>(theta), pixel_axis<T>(call.input.size(3), call.align_corners),
          pixel_axis<T>(call.input.size(2), call.align_corners), centred_lattice<T>(call.size[1], call.align_corners),
          centred_lattice<T>(call.size[0], call.align_corners)};
}

template <class T>
GridTransform<T> grid_transform(const Call& call, const Tensor& grid) {
  return {data<T>(grid), pixel_axis<T>(call.input.size(3), call.align_corners),
          pixel_axis<T>(call.input.size(2), call.align_corners), int(call.size[0]), int(call.size[1])};
}

// f(transform) with the call's transform; params: its parameters as `coordinates` gives them.
template <class T, class F>
void with_transform(const Call& call, const Tensor& params, F&& f) {
  if (call.kind == Kind::affine)
    f(affine_transform<T>(call, params));
  else
    f(grid_transform<T>(call, params));
}

}  // namespace stn
