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

// f(transform) with the call's transform; params: its parameters as `coordinates` gives them.
template <class T, class F>
void with_transform(const Call& call, const Tensor& params, F&& f) {
  const Work w = work_of(call);
  if (call.kind == Kind::affine)
    f(AffineTransform<T>{data<T>(params),
                         affine_frame<T>(w.height, w.width, w.out_height, w.out_width, call.align_corners)});
  else
    f(GridTransform<T>{data<T>(params), pixel_axis<T>(w.width, call.align_corners),
                       pixel_axis<T>(w.height, call.align_corners), w.out_height, w.out_width});
}

}  // namespace stn
