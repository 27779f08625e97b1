// From the CPAB operators' calls to their kernels, by the type of points and velocities.
#pragma once
#include "cpab.cuh"
#include "cpab.h"
#include "warp.h"

namespace stn {

inline CpabTables tables_of(const CpabCall& call) {
  const int n = int(call.shape.size());
  CpabTables tables{data<int32_t>(call.integers),
                    data<double>(call.reals),
                    int32_t(call.integers.size(0)),
                    n == 1   ? 1
                    : n == 2 ? 4
                             : 5,
                    {}};
  for (int d = 0; d < n; ++d) {
    tables.shape[d] = int32_t(call.shape[d]);
    tables.cells *= tables.shape[d];
  }
  return tables;
}

template <class T, int n>
class CpabLaunch {
 public:
  CpabLaunch(const CpabCall& call, simt::Stream stream)
      : call_(call), stream_(stream), tables_(tables_of(call)), items_(call.items()), vertices_(call.vertices()) {
    const Tensor& p = call.points;
    points_ = {data<T>(p), p.size(p.dim() - 2), call.samples(), p.dim() == 3, 0};
    const int64_t wanted = ceil_div(points_.count * items_, kEnoughBlocks);
    points_.per_block =
        int(ceil_div(std::min<int64_t>(std::max<int64_t>(wanted, 1), 4096), kCpabThreads)) * kCpabThreads;
    blocks_ = ceil_div(points_.count, points_.per_block);
  }

  void forward(const Tensor& output) {
    with_path([&](auto path, auto field) {
      using Path = typename decltype(path)::type;
      over(items_, [&](int64_t first, unsigned now) {
        simt::launch(cpab_forward_kernel<Path, decltype(field), T, n>, dim3(unsigned(blocks_), now), dim3(kCpabThreads),
                     0, stream_, field, points_, data<T>(output), first);
      });
    });
  }

  // grad_points (items, points, n) and grad_velocities; null for what is not wanted.
  void backward(const Tensor& grad_output, const Tensor* grad_points, const Tensor* grad_velocities) {
    with_path([&](auto path, auto field) {
      using Path = typename decltype(path)::type;
      const int regions = call_.steps ? tables_.cells : tables_.regions;
      const int64_t entries = int64_t(regions) * n * (n + 1), sums = items_ * entries;
      const int64_t tables = kCpabWarps * entries * int64_t(sizeof(T));
      const bool shared = kRing + tables <= 64 * 1024;
      const int64_t columns = blocks_ * (shared ? 1 : kCpabWarps);
      Tensor partial;
      if (grad_velocities) partial = torch::stable::new_zeros(call_.velocities, {sums * columns}, scalar_type<T>);
      over(items_, [&](int64_t first, unsigned now) {
        simt::launch(cpab_backward_kernel<Path, decltype(field), T, n>, dim3(unsigned(blocks_), now),
                     dim3(kCpabThreads), size_t(kRing + (shared ? tables : 0)), stream_, field, points_,
                     data<T>(grad_output), grad_points ? data<T>(*grad_points) : nullptr,
                     grad_velocities ? data<T>(partial) : nullptr, regions, shared, first);
      });
      if (!grad_velocities) return;
      const Tensor of_regions =
          torch::stable::new_zeros(call_.velocities, {items_ * tables_.regions * n * (n + 1)}, ScalarType::Double);
      const Tensor total = call_.steps ? torch::stable::new_empty(of_regions, {sums}) : of_regions;
      simt::launch(sum_partials_kernel<T, double>, dim3(unsigned(ceil_div(sums, kThreads / 32))), dim3(kThreads), 0,
                   stream_, data<T>(partial), data<double>(total), sums, columns);
      if (call_.steps) maps_adjoint(items_, data<double>(total), of_regions);
      over(items_, [&](int64_t first, unsigned now) {
        simt::launch(cpab_velocities_kernel<T, n>, dim3(unsigned(ceil_div(vertices_, kCpabThreads)), now),
                     dim3(kCpabThreads), 0, stream_, data<double>(of_regions), data<T>(*grad_velocities), tables_,
                     vertices_, first);
      });
    });
  }

  // jacobian (items, points, n, vertices, n), zeros.
  void jacobian(const Tensor& output) {
    const int64_t blocks = ceil_div(points_.count * n, points_.per_block), units = items_ * n * (n + 1);
    Tensor maps;
    if (call_.steps) {
      maps = torch::stable::new_empty(call_.velocities, {units * tables_.regions * n * (n + 1)}, ScalarType::Double);
      maps_adjoint(units, nullptr, maps);
    }
    with_path([&](auto path, auto field) {
      using Path = typename decltype(path)::type;
      over(items_, [&](int64_t first, unsigned now) {
        simt::launch(cpab_jacobian_kernel<Path, decltype(field), T, n>, dim3(unsigned(blocks), now), dim3(kCpabThreads),
                     size_t(kRing), stream_, field, points_, data<T>(output),
                     call_.steps ? data<double>(maps) : nullptr, vertices_, first);
      });
    });
  }

 private:
  static constexpr int64_t kRing = kCpabThreads * kCpabKept * int64_t(sizeof(CpabVisit<T, n>));

  // From gradients of the cells' maps, or of each of their entries alone if there are none, to those of the regions.
  void maps_adjoint(int64_t count, double* grad_maps, const Tensor& of_regions) {
    over(count, [&](int64_t first, unsigned now) {
      simt::launch(cpab_maps_adjoint_kernel<T, n>, dim3(unsigned(tables_.cells), now), dim3(64), 0, stream_,
                   data<T>(call_.velocities), grad_maps, data<double>(of_regions), tables_, int(call_.steps), vertices_,
                   first);
    });
  }
  // f(type tag of the path, field) with the field prepared for all items.
  template <class F>
  void with_path(F&& f) {
    if (call_.steps) {
      const Tensor maps = torch::stable::new_empty(call_.velocities, {items_ * tables_.cells * n * (n + 1)});
      const CpabMaps<T, n> field{tables_, data<T>(maps), int(call_.steps)};
      prepare_all(cpab_maps_kernel<T, n>, field, items_ * tables_.cells);
      f(std::type_identity<CpabFixedPath<T, n>>{}, field);
    } else {
      const int64_t size = items_ * tables_.regions * kCpabRecord<n>;
      const Tensor records = torch::stable::new_empty(call_.velocities, {2 * size});
      const CpabField<T, n> field{tables_, data<T>(records), data<T>(records) + size};
      prepare_all(cpab_prepare_kernel<T, n>, field, items_ * tables_.regions);
      f(std::type_identity<CpabPath<T, n>>{}, field);
    }
  }
  template <class Kernel, class Field>
  void prepare_all(Kernel kernel, const Field& field, int64_t count) {
    simt::launch(kernel, dim3(unsigned(ceil_div(count, kCpabThreads))), dim3(kCpabThreads), 0, stream_,
                 data<T>(call_.velocities), field, vertices_, count);
  }
  // launch(first, how many) of `count` items, as often as the grid's limit needs.
  template <class F>
  static void over(int64_t count, F&& launch) {
    constexpr int64_t kLimit = 65535;  // of gridDim.y
    for (int64_t first = 0; first < count; first += kLimit) launch(first, unsigned(std::min(kLimit, count - first)));
  }

  const CpabCall& call_;
  simt::Stream stream_;
  CpabTables tables_;
  CpabPoints<T, n> points_;
  int64_t items_, vertices_, blocks_;
};

// each (groups, shared, P, n) -> result (groups, P, n)
template <class T>
void sum_shared(const Tensor& each, const Tensor& result, int64_t shared, simt::Stream stream) {
  const int64_t count = result.numel(), size = result.size(result.dim() - 2) * result.size(result.dim() - 1);
  simt::launch(sum_shared_kernel<T>, dim3(unsigned(ceil_div(count, kCpabThreads))), dim3(kCpabThreads), 0, stream,
               data<T>(each), data<T>(result), shared, size, count);
}

}  // namespace stn
