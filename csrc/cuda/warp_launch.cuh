// From a call to the arguments that its kernels share.
#pragma once
#include "affine.cuh"
#include "grid.cuh"
#include "homography.cuh"
#include "tps.cuh"
#include "warp.h"

namespace stn {

// f(n as an integral constant).
template <class F>
void with_dimensions(int n, F&& f) {
  if (n == 1) f(std::integral_constant<int, 1>{});
  if (n == 2) f(std::integral_constant<int, 2>{});
  if (n == 3) f(std::integral_constant<int, 3>{});
}

// Entry a, of the axis x, y or z, of sizes in the order of a tensor's dimensions; 1 where there is no such axis.
template <class Sizes>
int64_t along(const Sizes& sizes, int n, int a) {
  return a < n ? sizes[sizes.size() - 1 - a] : 1;
}

// Of the output alone.
inline Work lattice_work(const Call& call) {
  Work work{};
  work.out_width = int(along(call.size, call.n(), 0));
  work.out_height = int(along(call.size, call.n(), 1));
  work.out_rows = int(work.out_height * along(call.size, call.n(), 2));
  work.samples = 1;
  work.splits = 1;
  work.align_corners = call.align_corners;
  work.padding = call.padding;
  return work;
}

inline Work work_of(const Call& call) {
  Work work = lattice_work(call);
  const auto sizes = call.input.sizes();
  work.width = int(along(sizes, call.n(), 0));
  work.height = int(along(sizes, call.n(), 1));
  work.depth = int(along(sizes, call.n(), 2));
  work.channels = int(call.input.size(1));
  work.samples = int(call.samples());
  return work;
}

// normalized: sources are normalized coordinates, else pixels of the input.
template <class T, int n>
Frame<T, n> frame_of(const Call& call, bool normalized) {
  Frame<T, n> frame;
  for (int a = 0; a < n; ++a) {
    frame.output[a] = centred_lattice<T>(along(call.size, n, a), call.align_corners);
    frame.source[a] = {1, 0};
    if (!normalized) frame.source[a] = pixel_axis<T>(along(call.input.sizes(), n, a), call.align_corners);
  }
  return frame;
}

// How the kernels take the parameters of a call that computes in T.
template <class T>
Tensor readable_params(const Call& call) {
  return coordinates(call.params, call.kind == Kind::tps ? ScalarType::Double : scalar_type<T>);
}

template <class T>
AffineTransform<T> affine_transform(const Call& call, const Tensor& theta) {
  return {data<T>(theta), frame_of<T, 2>(call, false)};
}

template <class T, int n>
GridTransform<T, n> grid_transform(const Call& call, const Tensor& grid) {
  GridTransform<T, n> transform{data<T>(grid), frame_of<T, n>(call, false), {}};
  for (int a = 0; a < n; ++a) transform.size[a] = int(along(call.size, n, a));
  return transform;
}

// f(transform) with the call's transform; params: its parameters as readable_params gives them. Normalized coordinates
// are never those of a grid.
template <class T, int n, bool kNormalized, class F>
void with_transform(const Call& call, const Tensor& params, F&& f) {
  if (call.kind == Kind::affine) f(AffineTransform<T, n>{data<T>(params), frame_of<T, n>(call, kNormalized)});
  if constexpr (!kNormalized) {
    if (call.kind == Kind::grid) f(grid_transform<T, n>(call, params));
  }
  if constexpr (n == 2) {
    if (call.kind == Kind::homography) f(HomographyTransform<T>{data<T>(params), frame_of<T, n>(call, kNormalized)});
  }
  if constexpr (n > 1) {
    if (call.kind == Kind::tps) {
      const Tensor control_points = coordinates(call.control_points, ScalarType::Double);
      f(TpsTransform<T, n>{data<double>(params), data<double>(control_points), int(control_points.size(0)),
                           frame_of<double, n>(call, kNormalized)});
    }
  }
}

// f(padding mode as an integral constant): of the transforms that are not bound by arithmetic, each mode has a kernel.
template <class Transform, class F>
void with_padding(Padding padding, F&& f) {
  using T = typename Transform::Scalar;
  if constexpr (std::is_same_v<Transform, AffineTransform<T>> || std::is_same_v<Transform, GridTransform<T>>) {
    if (padding == Padding::zeros) f(std::integral_constant<Padding, Padding::zeros>{});
    if (padding == Padding::border) f(std::integral_constant<Padding, Padding::border>{});
    if (padding == Padding::reflection) f(std::integral_constant<Padding, Padding::reflection>{});
  } else {
    f(std::integral_constant<Padding, kAnyPadding>{});
  }
}

// How the kernels access images of this layout. Float64 is for checking: one way for all layouts.
template <class I, bool kFixedChannels, class F>
void with_access(bool channels_last, bool packed, int64_t channels, F&& f) {
  if constexpr (std::is_same_v<I, double>) {
    f(Strided{});
  } else if (packed) {
    f(Packed<I>{});
  } else if (channels_last) {
    f(Strided{});
  } else if constexpr (kFixedChannels) {
    if (channels == 1)
      f(Planar<1>{});
    else if (channels == 3)
      f(Planar<3>{});
    else
      f(Planar<0>{});
  } else {
    f(Planar<0>{});
  }
}

// The gradient to a call's parameters in the making: stored where it arises, or sums a block and then over the blocks.
template <class Transform>
class ParameterGradient {
  using T = typename Transform::Scalar;
  using P = typename Transform::Parameter;

 public:
  // wanted: else there is none.
  ParameterGradient(const Tensor& params, bool wanted, simt::Stream stream)
      : result_(params), wanted_(wanted), stream_(stream), sums_(params.numel()) {
    if (wanted_) result_ = torch::stable::new_empty(params, params.sizes(), scalar_type<P>);
  }
  // Where a launch over all images, or the first of several alike, puts it.
  T* out(dim3 grid, const Work& work) {
    if (!wanted_) return nullptr;
    if constexpr (Transform::kSumsGradient) {
      blocks_ = blocks_of_image(grid, work);
      if (blocks_ > 1 || !std::is_same_v<T, P>) {
        if (work.first == 0) partial_ = torch::stable::new_empty(result_, {sums_ * blocks_}, scalar_type<T>);
        return data<T>(partial_);
      }
    }
    return reinterpret_cast<T*>(result_.data_ptr());
  }
  Tensor result() {
    if (wanted_ && Transform::kSumsGradient && (blocks_ > 1 || !std::is_same_v<T, P>))
      simt::launch(sum_partials_kernel<T, P>, dim3(unsigned(ceil_div(sums_, kThreads / 32))), dim3(kThreads), 0,
                   stream_, data<T>(partial_), data<P>(result_), sums_, blocks_);
    return result_;
  }

 private:
  Tensor result_, partial_;
  bool wanted_;
  simt::Stream stream_;
  int64_t sums_, blocks_ = 0;
};

}  // namespace stn
