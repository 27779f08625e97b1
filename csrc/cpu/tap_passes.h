// The passes over lists of taps: any mode, number of dimensions, transform, padding, storage type and stride.
#pragma once
#include <optional>

#include "interleave.h"
#include "parameter_sums.h"
#include "tap_sums.h"
#include "volume_spline.h"

namespace stn::STN_LEVEL {

// Rows of the output are cut into lines, tasks are blocks of lines: a fixed partition.
struct Lines {
  static constexpr int64_t kLine = 2048;
  int64_t rows, per_row, count;
  STN_INLINE explicit Lines(const Problem& p)
      : rows(p.out_depth * p.out_height), per_row((p.out_width + kLine - 1) / kLine), count(rows * per_row) {}
  STN_INLINE int64_t tasks(const Problem& p) const { return p.items() * row_blocks(count); }
};

// Places points and lists their taps. Other samplers (linearized.h, nearest.h) have the same interface.
template <class A, class List = TapList<A>>
struct Sampler {
  static constexpr int N = List::N;
  static constexpr bool kAnyMode = std::is_same_v<List, TapList<A>>;  // else the list knows how to be built
  const Problem& p;
  bool slopes;
  LocatePoints<A> locate;
  BuildTaps<A> build_any = nullptr;
  STN_INLINE Sampler(const Problem& problem, bool with_slopes)
      : p(problem), slopes(with_slopes), locate(point_locator<A>(problem)) {
    if constexpr (kAnyMode) build_any = builder<A>(problem);
  }
  STN_INLINE void build(const Points<A>& points, int64_t i, const Region& region, List& list) const {
    if constexpr (kAnyMode) {
      build_any(p, points, i, region, slopes, list);
    } else {
      list.build(p, points, i, region, slopes);
    }
  }

  static STN_INLINE int64_t planes(const Problem& p) { return planes_at_once(p); }  // that a body takes at a time

  // Calls body(list, point, begin, end) with the taps of the points [point, point + N), of which [begin, end) are new:
  // all N but in rows of fewer, and at the end of a row, where they overlap those before.
  template <class Body>
  STN_INLINE void over(const Item& item, int64_t row, int64_t first, int64_t last, const Region& region,
                       Body body) const {
    Points<A> points;
    List list;
    const int64_t whole = first + (last - first) / N * N;
    for (int64_t u = first; u < last;) {
      const int64_t from = u < whole || whole == first ? u : last - N;  // the rest is moved back over its neighbours
      const int64_t count = minimum<int64_t>(kRun, (u < whole ? whole : last) - from);
      locate(item, row, from, count, points);
      for (int64_t i = 0; i < count; i += N) {
        build(points, i, region, list);
        body(list, from + i, int(u - from), int(minimum<int64_t>(N, count - i)));
      }
      u = from + count;
    }
  }
};

// A row of an item, and where its points lie in images of the output's shape.
struct Row {
  const Item& item;
  int64_t row, y, z;
  STN_INLINE Row(const Item& of, int64_t number)
      : item(of), row(number), y(number % of.p.out_height), z(number / of.p.out_height) {}
  template <class Pointer>
  STN_INLINE int64_t at(const Images<Pointer>& images, int64_t u) const {
    return item.item * images.batch + y * images.row + z * images.slice + u * images.column;
  }
};

struct Nothing {
  STN_INLINE void operator()(const Row&, int64_t, bool) const {}
};

// Calls body(row, list, point, begin, end, channel, channels) for all points of tasks [begin, end), some channels after
// others, and end_line(row, task, whether it is the task's last) after each line.
template <class S, class Line, class Body>
STN_INLINE void over_points(const Problem& p, int64_t begin, int64_t end, const Region& region, bool slopes,
                            Line end_line, Body body) {
  const S sampler(p, slopes);
  const Lines lines(p);
  const int64_t step = S::planes(p);
  constexpr bool kInTurn = std::is_same_v<Line, Nothing>;
  SharedRows shared(p, kInTurn);
  const auto take = [&](int64_t task, int64_t number, int64_t first, int64_t last) STN_LAMBDA {
    const Item item(p, number, shared.rows());
    for (int64_t channel = 0; channel < p.channels; channel += step) {
      const int64_t channels = minimum(step, p.channels - channel);
      for (int64_t line = first; line < last; ++line) {
        const Row row(item, line / lines.per_row);
        const int64_t u = line % lines.per_row * Lines::kLine;
        sampler.over(item, row.row, u, minimum(u + Lines::kLine, p.row_width(row.row)), region,
                     [&](const auto& list, int64_t point, int from, int to)
                         STN_LAMBDA { body(row, list, point, from, to, channel, channels); });
        end_line(row, task, line + 1 == last && channel + step >= p.channels);
      }
    }
  };
  over_row_blocks(begin, end, lines.count, take, shared.items, kInTurn);
}

template <class A>
void taps_forward(const Problem& p, int64_t begin, int64_t end) {
  const Region region(p, p.input);
  const auto kernels = TapKernels<A>::of(p.dtype);
  over_points<Sampler<A>>(
      p, begin, end, region, false, Nothing{},
      [&](const Row& row, const TapList<A>& list, int64_t u, int, int count, int64_t channel, int64_t channels)
          STN_LAMBDA {
            const int64_t at = row.item.image * p.input.batch + channel * p.input.channel;
            const int64_t out_at = row.at(p.output, u) + channel * p.output.channel;
            if (!lanes_are_points(p)) {
              for (int i = 0; i < count; ++i) {
                kernels.store_channels(p, PointTaps<A>(list, list.weight, i), at, out_at + i * p.output.column);
              }
              return;
            }
            typename TapList<A>::V sums[kPlanes] = {};
            if (!list.outside) kernels.add_values(p, list, region, p.input.data, at, list.weight, channels, sums);
            kernels.store_values(p, out_at, channels, count, sums);
          });
}

// What is done with dL/d(source pixel), by axis, of some channels of the points [u + from, u + to) of a row; and at the
// end of each line, perhaps the last of its task. Pointers, so that all share one pass.
template <class A>
using PixelGradient = typename TapList<A>::V[3];
template <class A>
struct TakeGradients {
  void* state;
  void (*take)(void* state, const Row&, int64_t u, int from, int to, bool first_channels, const PixelGradient<A>&);
  void (*end_line)(void* state, const Row&, int64_t task, bool last) = nullptr;
  bool zeros = false;  // whether points outside are taken too
};

// set(row, list, point, count, channel, channels, gradient) works them out, for lists of which some points are inside.
template <class A, class S, class Set>
STN_INLINE void over_gradients(const Problem& p, int64_t begin, int64_t end, const Region& region,
                               const TakeGradients<A>& to, Set set) {
  const auto end_line = [&](const Row& row, int64_t task, bool last) STN_LAMBDA {
    if (to.end_line) to.end_line(to.state, row, task, last);
  };
  over_points<S>(p, begin, end, region, true, end_line,
                 [&](const Row& row, const auto& list, int64_t u, int from, int count, int64_t channel,
                     int64_t channels) STN_LAMBDA {
                   if (list.outside && !to.zeros) return;
                   PixelGradient<A> gradient = {};
                   if (!list.outside) set(row, list, u, count, channel, channels, gradient);
                   to.take(to.state, row, u, from, count, channel == 0, gradient);
                 });
}

template <class A>
void taps_gradients(const Problem& p, int64_t begin, int64_t end, const TakeGradients<A>& to) {
  const Region region(p, p.input);
  const auto kernels = TapKernels<A>::of(p.dtype);
  over_gradients<A, Sampler<A>>(
      p, begin, end, region, to,
      [&](const Row& row, const TapList<A>& list, int64_t u, int count, int64_t channel, int64_t channels,
          PixelGradient<A>& gradient) STN_LAMBDA {
        typename TapList<A>::V dots[TapList<A>::kMost];
        kernels.set_dots(p, list, region, p.input.data, row.item.image * p.input.batch + channel * p.input.channel,
                         row.at(p.grad_output, u) + channel * p.grad_output.channel, count, channels, dots);
        contract<A>(list, p.dimensions, dots, gradient);
      });
}

// Stores the gradient of points [begin, end), or adds it to that of other channels.
template <class G, class A>
void store_grid_gradient(void*, const Row& row, int64_t u, int begin, int end, bool first,
                         const PixelGradient<A>& gradient) {
  const Item& item = row.item;
  const Problem& p = item.p;
  const int n = p.dimensions;
  G* to = static_cast<G*>(p.grad_grid) + (item.item * p.item_points() + row.row * p.out_width + u) * n;
  constexpr int N = TapList<A>::N;
  if constexpr (std::is_same_v<G, float> && std::is_same_v<A, float>) {
    if (first && n > 1 && end - begin == N) {
      using V = typename TapList<A>::V;
      const auto scaled = [&](int a) STN_LAMBDA -> V { return gradient[a] * float(item.axis[a].scale); };
      return n == 2 ? interleave<2, N>({scaled(0), scaled(1)}, to)
                    : interleave<3, N>({scaled(0), scaled(1), scaled(2)}, to);
    }
  }
  for (int a = 0; a < n; ++a) {
    const A scale = A(item.axis[a].scale);
    for (int i = begin; i < end; ++i) {
      const G value = G(gradient[a][i] * scale);
      to[i * n + a] = first ? value : to[i * n + a] + value;
    }
  }
}

// A pass over the points of a call, taps_gradients or another.
template <class A>
using GradientPass = void(const Problem&, int64_t begin, int64_t end, const TakeGradients<A>&);

template <class A, GradientPass<A> kPass>
void taps_grad_grid(const Problem& p, int64_t begin, int64_t end) {
  const auto take = p.double_parameters ? store_grid_gradient<double, A> : store_grid_gradient<float, A>;
  kPass(p, begin, end, {nullptr, take, nullptr, true});
}

// Sums of a task: its n (n + 1) entries of dL/dtheta.
template <class A>
struct ThetaSums {
  static constexpr int N = TapList<A>::N;
  using Wide = Vec<double, N>;
  Wide sum[3] = {}, moment[3] = {}, totals[3][4] = {};  // of a row; of a task, by entry of theta

  static void take(void* state, const Row& row, int64_t u, int from, int to, bool, const PixelGradient<A>& gradient) {
    using I = typename TapList<A>::I;
    auto& sums = *static_cast<ThetaSums*>(state);
    Wide lane;
    I number;
    for (int i = 0; i < N; ++i) lane[i] = i, number[i] = IndexOf<A>(i);
    const Wide at = lane + (double(u) - row.item.lattice[0].centre);
    const I fresh = (number >= splat<I>(IndexOf<A>(from))) & (number < splat<I>(IndexOf<A>(to)));
    for (int a = 0; a < row.item.p.dimensions; ++a) {
      const Wide g = __builtin_convertvector(masked(gradient[a], fresh), Wide);
      sums.sum[a] += g, sums.moment[a] += g * at;
    }
  }
  static void end_line(void* state, const Row& row, int64_t task, bool last) {
    auto& [sum, moment, totals] = *static_cast<ThetaSums*>(state);
    const Item& item = row.item;
    const int n = item.p.dimensions;
    for (int a = 0; a < n; ++a) {
      totals[a][0] += item.lattice[0].step * moment[a];
      for (int b = 1; b < n; ++b) totals[a][b] += item.lattice[b].step * item.from_centre(b, row.row) * sum[a];
      totals[a][n] += sum[a];
      sum[a] = moment[a] = Wide{};
    }
    if (!last) return;
    for (int a = 0; a < n; ++a) {
      for (int b = 0; b <= n; ++b) {
        double total = 0;
        for (int i = 0; i < N; ++i) total += totals[a][b][i];
        item.p.sums[(task * n + a) * (n + 1) + b] = item.axis[a].scale * total;
        totals[a][b] = Wide{};
      }
    }
  }
};

template <class A, GradientPass<A> kPass>
void taps_theta_sums(const Problem& p, int64_t begin, int64_t end) {
  ThetaSums<A> sums;
  kPass(p, begin, end, {&sums, sums.take, sums.end_line});
}

// The same of a transform in two dimensions that is neither affine nor a grid.
template <class A, class Sums>
struct TransformSums {
  std::optional<Source> source;
  std::optional<Sums> total;  // of a task

  STN_INLINE void begin(const Row& row) {
    if (!total) source.emplace(row.item.p, row.item.item), total.emplace(row.item.p);
  }
  static void take(void* state, const Row& row, int64_t u, int from, int to, bool, const PixelGradient<A>& gradient) {
    constexpr int N = TapList<A>::N, kWhole = N > kDoubles ? N : kDoubles;
    auto& sums = *static_cast<TransformSums*>(state);
    sums.begin(row);
    A grad_x[kWhole] = {}, grad_y[kWhole] = {};
    for (int i = from; i < to; ++i) grad_x[i] = gradient[0][i], grad_y[i] = gradient[1][i];
    sums.total->add(*sums.source, Cotangents(row.row, u, to, grad_x, grad_y));
  }
  static void end_line(void* state, const Row& row, int64_t task, bool last) {
    if (!last) return;
    auto& sums = *static_cast<TransformSums*>(state);
    sums.begin(row);
    const Problem& p = row.item.p;
    sums.total->finish(*sums.source, p.sums + task * p.parameter_count());
    sums.total.reset();
  }
};

template <class A, class Sums>
void taps_parameter_sums(const Problem& p, int64_t begin, int64_t end) {
  TransformSums<A, Sums> sums;
  taps_gradients<A>(p, begin, end, {&sums, sums.take, sums.end_line});
}

// The same of a spline in three dimensions, a run of a row at a time.
template <class A>
struct SplineSums {
  std::optional<VolumeSplineSums> total;  // of a task
  int64_t first = 0, count = 0;           // of the run
  double grads[3][kRun] = {};

  STN_INLINE void add_run(const Row& row) {
    const Item& item = row.item;
    if (!total) total.emplace(item.p);
    if (count == 0) return;
    total->add(VolumeSpline(item.p, item.item, row.row, item.shared), first, count, grads);
    count = 0;
    __builtin_memset(grads, 0, sizeof grads);
  }
  static void take(void* state, const Row& row, int64_t u, int from, int to, bool, const PixelGradient<A>& gradient) {
    auto& sums = *static_cast<SplineSums*>(state);
    if (sums.count > 0 && u + to - sums.first > kRun) sums.add_run(row);
    if (sums.count == 0) sums.first = u + from;
    for (int a = 0; a < 3; ++a) {
      for (int i = from; i < to; ++i) sums.grads[a][u + i - sums.first] = double(gradient[a][i]);
    }
    sums.count = u + to - sums.first;
  }
  static void end_line(void* state, const Row& row, int64_t task, bool last) {
    auto& sums = *static_cast<SplineSums*>(state);
    sums.add_run(row);
    if (!last) return;
    sums.total->finish(row.item.p.sums + task * row.item.p.parameter_count());
    sums.total.reset();
  }
};

template <class A, GradientPass<A> kPass>
void taps_spline_sums(const Problem& p, int64_t begin, int64_t end) {
  SplineSums<A> sums;
  kPass(p, begin, end, {&sums, sums.take, sums.end_line});
}

// Slices of the image along its last axis: whole images, cut into bands only to occupy the threads. A pixel's sum has
// the order of the outputs either way, so that the bits do not depend on the bands.
struct Bands {
  int64_t slices, area, block, blocks, count;
  STN_INLINE explicit Bands(const Problem& p)
      : slices(p.extent(p.dimensions - 1)),
        area(p.width * p.height * p.depth / slices),
        block(p.channels_last ? p.channels : planes_at_once(p)),
        blocks((p.channels + block - 1) / block) {
    const int64_t tasks = p.batch * blocks;
    count = tasks >= p.threads ? 1 : minimum(slices, (p.threads + tasks - 1) / tasks);
  }
};

// Calls scatter(row, list, u, from, to, grad, target) for what the outputs of image b give to the slices
// [region.first, region.last), with which `target` starts.
template <class A, class S, class Scatter>
STN_INLINE void scatter_image(const S& sampler, const Problem& p, int64_t b, int64_t channel, const Region& region,
                              Target<A> target, Scatter scatter) {
  target.origin -= region.first * region.stride[p.dimensions - 1];
  for (int64_t number = b * p.samples; number < (b + 1) * p.samples; ++number) {
    const Item item(p, number);
    for (int64_t r = 0; r < p.out_depth * p.out_height; ++r) {
      const Row row(item, r);
      sampler.over(item, r, 0, p.row_width(r), region, [&](const auto& list, int64_t u, int from, int to) STN_LAMBDA {
        if (list.outside) return;
        scatter(row, list, u, from, to, channel * p.grad_output.channel + row.at(p.grad_output, u), target);
      });
      if constexpr (requires { scatter.end_row(target); }) scatter.end_row(target);
    }
  }
}

template <class A, class S, class Scatter>
STN_INLINE void scatter_tasks(const Problem& p, int64_t begin, int64_t end, bool slopes, const TapKernels<A>& kernels,
                              Scatter scatter) {
  const Bands bands(p);
  const S sampler(p, slopes);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t band = task % bands.count, c = task / bands.count % bands.blocks * bands.block,
                  b = task / bands.count / bands.blocks, channels = minimum(bands.block, p.channels - c);
    Region region(p, p.grad_input);
    region.first = bands.slices * band / bands.count, region.last = bands.slices * (band + 1) / bands.count;
    const int64_t area = (region.last - region.first) * bands.area;
    const int64_t at =
        b * p.grad_input.batch + c * p.grad_input.channel + region.first * region.stride[p.dimensions - 1];
    const int64_t planes = p.channels_last ? 1 : channels, size = p.channels_last ? area * channels : area;
    const auto scatter_to = [&](A* origin, int64_t plane_stride) {
      const Target<A> target{origin, p.channels_last ? 1 : plane_stride, channels};
      scatter_image<A>(sampler, p, b, c, region, target, scatter);
    };
    if (kernels.direct) {
      A* image = static_cast<A*>(p.grad_input.data) + at;
      for (int64_t k = 0; k < planes; ++k)
        __builtin_memset(image + k * p.grad_input.channel, 0, size_t(size) * sizeof(A));
      scatter_to(image, p.grad_input.channel);
    } else {
      const Scratch<A> sums(area * channels);
      scatter_to(sums.data, area);
      for (int64_t k = 0; k < planes; ++k)
        kernels.store_all(p, sums.data + k * size, size, p.grad_input.data, at + k * p.grad_input.channel);
    }
  }
}

template <class A>
struct ScatterTaps {
  const Problem& p;
  const TapKernels<A> kernels;
  PairRun<A>* run;  // null if lists are scattered one by one
  // What is put off does not depend on the region, so that a pixel's sum has one order.
  STN_INLINE void operator()(const Row&, const TapList<A>& list, int64_t u, int from, int to, int64_t grad_at,
                             const Target<A>& target) const {
    if (run && u / kRun != run->number) end_row(target), run->number = u / kRun;
    if (run && to - from == TapList<A>::N) return kernels.put_off(p, list, grad_at, target.channels, *run);
    if (run) end_row(target);
    kernels.scatter(p, list, list.weight, grad_at, target, from, to);
  }
  STN_INLINE void end_row(const Target<A>& target) const {
    if (run && run->lists > 0) run->add_to(target);
  }
};

template <class A>
void taps_grad_input(const Problem& p, int64_t begin, int64_t end) {
  const auto kernels = TapKernels<A>::of(p.dtype);
  PairRun<A> run;
  scatter_tasks<A, Sampler<A>>(p, begin, end, false, kernels,
                               ScatterTaps<A>{p, kernels, run.possible(p) ? &run : nullptr});
}

// Adds what the outputs of the only image give to slices [first, last) of grad_input, which is of the compute type.
template <class A, class S, class Scatter>
STN_INLINE void add_to_slices(const Problem& p, int64_t first, int64_t last, const Scatter& scatter) {
  Region region(p, p.grad_input);
  region.first = first, region.last = last;
  const S sampler(p, false);
  const int64_t block = Bands(p).block, plane_stride = p.channels_last ? 1 : p.grad_input.channel;
  for (int64_t c = 0; c < p.channels; c += block) {
    A* sums = static_cast<A*>(p.grad_input.data) + c * p.grad_input.channel + first * region.stride[p.dimensions - 1];
    const Target<A> target{sums, plane_stride, minimum(block, p.channels - c)};
    scatter_image<A>(sampler, p, 0, c, region, target, scatter);
  }
}

template <class A>
void taps_add_grad_input(const Problem& p, int64_t first, int64_t last) {
  PairRun<A> run;
  add_to_slices<A, Sampler<A>>(p, first, last,
                               ScatterTaps<A>{p, TapKernels<A>::of(p.dtype), run.possible(p) ? &run : nullptr});
}

}  // namespace stn::STN_LEVEL
