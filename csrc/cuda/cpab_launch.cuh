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

// The points of a call; its tensors are contiguous.
template <class T, int n>
CpabPoints<T, n> given_points(const CpabCall& call) {
  const Tensor& p = call.points;
  return {data<T>(p), p.size(p.dim() - 2), call.samples(), p.dim() == 3};
}

// velocities: contiguous, of the type of the points.
template <class Points>
class CpabLaunch {
  using T = typename Points::T;
  static constexpr int n = Points::n;

 public:
  CpabLaunch(const CpabCall& call, const Points& points, simt::Stream stream)
      : call_(call),
        points_(points),
        stream_(stream),
        tables_(tables_of(call)),
        items_(call.items()),
        vertices_(call.vertices()) {
    const int64_t wanted = std::clamp<int64_t>(ceil_div(points.count * items_, kEnoughBlocks), 1, 4096);
    per_block_ = int(ceil_div(wanted, kCpabThreads)) * kCpabThreads;
    blocks_ = ceil_div(points.count, per_block_);
  }

  template <class Ends>
  void forward(const Ends& ends) {
    with_path([&](auto path, auto field) {
      using Path = typename decltype(path)::type;
      over(items_, [&](int64_t first, unsigned now) {
        simt::launch(cpab_forward_kernel<Path, decltype(field), Points, Ends>, dim3(unsigned(blocks_), now),
                     dim3(kCpabThreads), 0, stream_, field, points_, ends, per_block_, first);
      });
    });
  }

  // Sums (items, rows, n, n + 1) in float64: of the gradients to the regions or, of fixed steps, to the cells' maps if
  // `pulls`, then to what has no region if `more`; undefined for neither. grad_points (items, points, n) or null.
  template <class Ends>
  Tensor backward(const Ends& ends, T* grad_points, bool pulls, bool more) {
    Tensor total;
    with_path([&](auto path, auto field) {
      using Path = typename decltype(path)::type;
      const int64_t rows = sum_rows(pulls, more), entries = rows * n * (n + 1), sums = items_ * entries;
      const int64_t tables = kCpabWarps * entries * int64_t(sizeof(T));
      const bool shared = kRing + tables <= 64 * 1024;
      const int64_t columns = blocks_ * (shared ? 1 : kCpabWarps);
      Tensor partial;
      if (sums) partial = torch::stable::new_zeros(call_.velocities, {sums * columns}, scalar_type<T>);
      over(items_, [&](int64_t first, unsigned now) {
        simt::launch(cpab_backward_kernel<Path, decltype(field), Points, Ends>, dim3(unsigned(blocks_), now),
                     dim3(kCpabThreads), size_t(kRing + (shared ? tables : 0)), stream_, field, points_, ends,
                     grad_points, sums ? data<T>(partial) : nullptr, int(rows), shared, pulls || grad_points,
                     per_block_, first);
      });
      if (!sums) return;
      total = torch::stable::new_empty(call_.velocities, {items_, rows, n, n + 1}, ScalarType::Double);
      simt::launch(sum_partials_kernel<T, double>, dim3(unsigned(ceil_div(sums, kThreads / 32))), dim3(kThreads), 0,
                   stream_, data<T>(partial), data<double>(total), sums, columns);
    });
    return total;
  }

  // From the sums of `backward` to the gradient of the velocities.
  void to_velocities(Tensor sums, const Tensor& grad_velocities) {
    if (call_.steps) {
      const Tensor of_regions = torch::stable::new_zeros(sums, {items_, tables_.regions, n, n + 1}, ScalarType::Double);
      maps_adjoint(items_, &sums, of_regions);
      sums = of_regions;
    }
    over(items_, [&](int64_t first, unsigned now) {
      simt::launch(cpab_velocities_kernel<T, n>, dim3(unsigned(ceil_div(vertices_, kCpabThreads)), now),
                   dim3(kCpabThreads), 0, stream_, data<double>(sums), data<T>(grad_velocities), tables_,
                   int(sums.size(1)), vertices_, first);
    });
  }

  // jacobian (items, points, n, vertices, n), zeros.
  void jacobian(const Tensor& output) {
    const int64_t blocks = ceil_div(points_.count * n, per_block_), units = items_ * n * (n + 1);
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
                     call_.steps ? data<double>(maps) : nullptr, vertices_, per_block_, first);
      });
    });
  }

 private:
  static constexpr int64_t kRing = kCpabThreads * kCpabKept * int64_t(sizeof(CpabVisit<T, n>));

  int64_t sum_rows(bool pulls, bool more) const {
    const int64_t regions = call_.steps ? tables_.cells : tables_.regions;
    return (pulls ? regions : 0) + more;
  }
  // From gradients of the cells' maps, or of each of their entries alone if there are none, to those of the regions.
  void maps_adjoint(int64_t count, const Tensor* grad_maps, const Tensor& of_regions) {
    over(count, [&](int64_t first, unsigned now) {
      simt::launch(cpab_maps_adjoint_kernel<T, n>, dim3(unsigned(tables_.cells), now), dim3(64), 0, stream_,
                   data<T>(call_.velocities), grad_maps ? data<double>(*grad_maps) : nullptr, data<double>(of_regions),
                   tables_, grad_maps ? int(grad_maps->size(1)) : 0, int(call_.steps), vertices_, first);
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
  Points points_;
  simt::Stream stream_;
  CpabTables tables_;
  int64_t items_, vertices_, blocks_;
  int per_block_;
};

// each (groups, shared, P, n) -> result (groups, P, n)
template <class T>
void sum_shared(const Tensor& each, const Tensor& result, int64_t shared, simt::Stream stream) {
  const int64_t count = result.numel(), size = result.size(result.dim() - 2) * result.size(result.dim() - 1);
  simt::launch(sum_shared_kernel<T>, dim3(unsigned(ceil_div(count, kCpabThreads))), dim3(kCpabThreads), 0, stream,
               data<T>(each), data<T>(result), shared, size, count);
}

}  // namespace stn
