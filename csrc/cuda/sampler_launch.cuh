// How the kernels of samplers by taps are chosen and launched.
#pragma once
#include "warp_launch.cuh"

namespace stn {

// Blocks that fit a multiprocessor at once, see Tile: gradients of cubic and trilinear taps keep more than 128
// registers.
constexpr int kSamplerForwardBlocks = 2;
template <Mode kMode, int n>
constexpr int kSamplerBackwardBlocks = (kMode == Mode::bicubic && n > 1) || (kMode == Mode::bilinear && n > 2) ? 1 : 2;

// f(transform, mode as an integral constant) for every sampler but the plain one, which has kernels of its own.
template <class T, class F>
void with_sampler(const Call& call, const Tensor& params, F&& f) {
  with_dimensions(call.n(), [&](auto dimensions) {
    constexpr int n = decltype(dimensions)::value;
    with_transform<T, n, false>(call, params, [&](const auto& transform) {
      if constexpr (n != 2)
        if (call.mode == Mode::bilinear) f(transform, std::integral_constant<Mode, Mode::bilinear>{});
      if (call.mode == Mode::nearest) f(transform, std::integral_constant<Mode, Mode::nearest>{});
      if (call.mode == Mode::bicubic) f(transform, std::integral_constant<Mode, Mode::bicubic>{});
    });
  });
}

// The same at a grid, for the modes that have a second backward.
template <class T, class F>
void with_second(const Call& call, const Tensor& grid, F&& f) {
  with_dimensions(call.n(), [&](auto dimensions) {
    constexpr int n = decltype(dimensions)::value;
    const GridTransform<T, n> transform = grid_transform<T, n>(call, grid);
    if (call.mode == Mode::bilinear) f(transform, std::integral_constant<Mode, Mode::bilinear>{});
    if (call.mode == Mode::nearest) f(transform, std::integral_constant<Mode, Mode::nearest>{});
  });
}

// launch(grid, work) over the points of all images; splittable: whether channels may go to several blocks.
template <int n, class F>
void launch_sampler(const Call& call, bool splittable, F&& launch) {
  Work work = work_of(call);
  share_channels<Strided, n>(work, call.images(), work.out_width, work.out_rows, call.channels_last, splittable);
  launch_tiles<Strided, n>(work, call.images(), work.out_width, work.out_rows, launch);
}

}  // namespace stn
