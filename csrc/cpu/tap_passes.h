// The passes over lists of taps: any mode, number of dimensions, transform, padding, storage type and stride.
#pragma once
#include "parameter_sums.h"
#include "tap_sums.h"

namespace stn::STN_LEVEL {

constexpr int64_t kPlanes = 8;  // channels that share a list of taps

// Rows of the output are cut into lines, tasks are blocks of lines: a fixed partition.
struct Lines {
  static constexpr int64_t kLine = 2048;
  int64_t rows, per_row, count;
  STN_INLINE explicit Lines(const Problem& p)
      : rows(p.out_depth * p.out_height), per_row((p.out_width + kLine - 1) / kLine), count(rows * per_row) {}
  STN_INLINE int64_t tasks(const Problem& p) const { return p.items() * row_blocks(count); }
};

// Places points and lists their taps.
template <class T>
struct Sampler {
  using A = Compute<T>;
  static constexpr int N = TapList<A>::N;
  const Problem& p;
  Place place;
  Split<A> split;
  BuildTaps<A> build;
  STN_INLINE explicit Sampler(const Problem& problem)
      : p(problem), place(placer(problem)), split(splitter<A>(problem)), build(builder<A>(problem)) {}

  // Calls body(list, point, count) for the points [first, last) of a row, N or fewer at a time.
  template <class Body>
  STN_INLINE void over(const Item& item, int64_t row, int64_t first, int64_t last, const Window& window,
                       Body body) const {
    double coordinates[3][kRun];
    Points<A> points;
    TapList<A> list;
    for (int64_t u = first; u < last; u += kRun) {
      const int64_t count = minimum<int64_t>(kRun, last - u);
      place(item, row, u, count, coordinates);
      for (int a = 0; a < p.dimensions; ++a) {
        for (int64_t i = count; i % 8 != 0; ++i) coordinates[a][i] = coordinates[a][count - 1];  // keeps the interior
        split(coordinates[a], count, int(p.extent(a)), p.align_corners, points.index[a], points.fraction[a],
              points.slope[a]);
      }
      for (int64_t i = 0; i < count; i += N) {
        build(p, points, i, window, list);
        body(list, u + i, minimum<int64_t>(N, count - i));
      }
    }
  }
};

// Calls body(task, item number, first line, last line) for tasks [begin, end).
template <class Body>
STN_INLINE void over_line_blocks(const Lines& lines, int64_t begin, int64_t end, Body body) {
  const int64_t blocks = row_blocks(lines.count);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t item = task / blocks, block = task % blocks, first = block * kRowBlock;
    body(task, item, first, block + 1 < blocks ? first + kRowBlock : lines.count);
  }
}

// Where point u of a row lies in an image of the output's shape, in elements.
template <class Pointer>
STN_INLINE int64_t output_offset(const Problem& p, const Images<Pointer>& images, int64_t item, int64_t row,
                                 int64_t u) {
  return item * images.batch + row % p.out_height * images.row + row / p.out_height * images.slice + u * images.column;
}

// Calls body(item, row, list, point, count) for all points of tasks [begin, end).
template <class T, class Line, class Body>
STN_INLINE void over_points(const Problem& p, int64_t begin, int64_t end, const Window& window, Line end_line,
                            Body body) {
  const Sampler<T> sampler(p);
  const Lines lines(p);
  over_line_blocks(lines, begin, end, [&](int64_t task, int64_t number, int64_t first, int64_t last) STN_LAMBDA {
    const Item item(p, number);
    for (int64_t line = first; line < last; ++line) {
      const int64_t row = line / lines.per_row, u = line % lines.per_row * Lines::kLine;
      sampler.over(item, row, u, minimum(u + Lines::kLine, p.out_width), window,
                   [&](const auto& list, int64_t point, int64_t count)
                       STN_LAMBDA { body(item, row, list, point, count); });
      end_line(item, row, task, line + 1 == last);
    }
  });
}

struct Nothing {
  STN_INLINE void operator()(const Item&, int64_t, int64_t, bool) const {}
};

template <class T>
void taps_forward(const Problem& p, int64_t begin, int64_t end) {
  using A = Compute<T>;
  constexpr int N = TapList<A>::N;
  const Window window(p, p.input);
  over_points<T>(p, begin, end, window, Nothing{},
                 [&](const Item& item, int64_t row, const TapList<A>& list, int64_t u, int64_t count) STN_LAMBDA {
                   const T* image = static_cast<const T*>(p.input.data) + item.item / p.samples * p.input.batch;
                   T* out = static_cast<T*>(p.output.data) + output_offset(p, p.output, item.item, row, u);
                   if (p.channels_last) {
                     for (int64_t i = 0; i < count; ++i, out += p.output.column) {
                       channels_sum<T>(PointTaps<A>(list, list.weight, i), image, out, p.channels);
                     }
                     return;
                   }
                   const auto planes = [&](auto pairs) STN_LAMBDA {
                     for (int64_t c = 0; c < p.channels; ++c, image += p.input.channel, out += p.output.channel) {
                       const auto value = weighted_sum<pairs, T>(list, image, list.weight);
                       count == N ? store_as<N>(out, value) : store_part<N>(out, value, count);
                     }
                   };
                   in_pairs<T>(list, p.input.column) ? planes(std::true_type{}) : planes(std::false_type{});
                 });
}

// dots[t] of N points: the output's gradient times each tap, summed over channels. grad points at the first point.
template <class T>
STN_INLINE void tap_dots(const Problem& p, const TapList<Compute<T>>& list, const T* image,
                         const Images<const void*>& from, const T* grad, int64_t count,
                         typename TapList<Compute<T>>::V* dots) {
  using A = Compute<T>;
  using V = typename TapList<A>::V;
  constexpr int N = TapList<A>::N;
  for (int t = 0; t < list.taps; ++t) dots[t] = V{};
  if (list.outside) return;
  if (p.channels_last) {
    for (int64_t i = 0; i < count; ++i, grad += p.grad_output.column) {
      channels_dots<T>(PointTaps<A>(list, list.weight, i), image, grad, p.channels, i, dots);
    }
    return;
  }
  for (int64_t c = 0; c < p.channels; c += kPlanes) {
    const int64_t channels = minimum(kPlanes, p.channels - c);
    V g[kPlanes];
    for (int64_t k = 0; k < channels; ++k) {
      const T* from_plane = grad + (c + k) * p.grad_output.channel;
      g[k] = count == N ? load_as<N>(from_plane) : load_part<N>(from_plane, count);
    }
    const auto add = [&](auto pairs) STN_LAMBDA {
      add_dots<pairs, T>(list, image + c * from.channel, from.channel, g, channels, dots);
    };
    in_pairs<T>(list, from.column) ? add(std::true_type{}) : add(std::false_type{});
  }
}

// dL/d(source pixel) of N points by axis.
template <class T>
STN_INLINE void point_gradient(const Item& item, const TapList<Compute<T>>& list, int64_t row, int64_t u, int64_t count,
                               typename TapList<Compute<T>>::V (&gradient)[3]) {
  const Problem& p = item.p;
  typename TapList<Compute<T>>::V dots[TapList<Compute<T>>::kMost];
  const T* image = static_cast<const T*>(p.input.data) + item.item / p.samples * p.input.batch;
  const T* grad = static_cast<const T*>(p.grad_output.data) + output_offset(p, p.grad_output, item.item, row, u);
  tap_dots<T>(p, list, image, p.input, grad, count, dots);
  contract<Compute<T>>(list, p.dimensions, dots, gradient);
}

template <class A>
STN_INLINE void store_grid_gradient(const Item& item, int64_t row, int64_t u, int64_t count,
                                    const typename TapList<A>::V (&gradient)[3]) {
  const Problem& p = item.p;
  const int n = p.dimensions;
  const int64_t point = (item.item * p.out_depth * p.out_height + row) * p.out_width + u;
  for (int a = 0; a < n; ++a) {
    for (int64_t i = 0; i < count; ++i) {
      const double value = double(gradient[a][i]) * item.axis[a].scale;
      if (p.double_parameters) {
        static_cast<double*>(p.grad_grid)[(point + i) * n + a] = value;
      } else {
        static_cast<float*>(p.grad_grid)[(point + i) * n + a] = float(value);
      }
    }
  }
}

template <class T>
void taps_grad_grid(const Problem& p, int64_t begin, int64_t end) {
  using A = Compute<T>;
  over_points<T>(p, begin, end, Window(p, p.input), Nothing{},
                 [&](const Item& item, int64_t row, const TapList<A>& list, int64_t u, int64_t count) STN_LAMBDA {
                   typename TapList<A>::V gradient[3];
                   point_gradient<T>(item, list, row, u, count, gradient);
                   store_grid_gradient<A>(item, row, u, count, gradient);
                 });
}

// Sums of a task: its n (n + 1) entries of dL/dtheta.
template <class T>
void taps_theta_sums(const Problem& p, int64_t begin, int64_t end) {
  using A = Compute<T>;
  constexpr int N = TapList<A>::N;
  using V = typename TapList<A>::V;
  using Wide = Vec<double, N>;
  const int n = p.dimensions;
  Wide lane, sum[3] = {}, moment[3] = {}, totals[3][4] = {};  // of a row; of a task, by entry of theta
  for (int i = 0; i < N; ++i) lane[i] = i;
  const auto end_line = [&](const Item& item, int64_t row, int64_t task, bool last) STN_LAMBDA {
    for (int a = 0; a < n; ++a) {
      totals[a][0] += item.lattice[0].step * moment[a];
      for (int b = 1; b < n; ++b) totals[a][b] += item.lattice[b].step * item.from_centre(b, row) * sum[a];
      totals[a][n] += sum[a];
      sum[a] = moment[a] = Wide{};
    }
    if (!last) return;
    for (int a = 0; a < n; ++a) {
      for (int b = 0; b <= n; ++b) {
        double total = 0;
        for (int i = 0; i < N; ++i) total += totals[a][b][i];
        p.sums[(task * n + a) * (n + 1) + b] = item.axis[a].scale * total;
        totals[a][b] = Wide{};
      }
    }
  };
  over_points<T>(p, begin, end, Window(p, p.input), end_line,
                 [&](const Item& item, int64_t row, const TapList<A>& list, int64_t u, int64_t count) STN_LAMBDA {
                   if (list.outside) return;
                   V gradient[3];
                   point_gradient<T>(item, list, row, u, count, gradient);
                   const Wide at = lane + (double(u) - item.lattice[0].centre);
                   for (int a = 0; a < n; ++a) {
                     const Wide g = __builtin_convertvector(gradient[a], Wide);
                     sum[a] += g, moment[a] += g * at;
                   }
                 });
}

// The same of a transform in two dimensions that is neither affine nor a grid.
template <class T, class Sums>
void taps_parameter_sums(const Problem& p, int64_t begin, int64_t end) {
  using A = Compute<T>;
  constexpr int N = TapList<A>::N, kWhole = N > kDoubles ? N : kDoubles;
  const Window window(p, p.input);
  const Sampler<T> sampler(p);
  const Lines lines(p);
  over_line_blocks(lines, begin, end, [&](int64_t task, int64_t number, int64_t first, int64_t last) STN_LAMBDA {
    const Item item(p, number);
    const Source source(p, number);
    Sums total(p);
    for (int64_t line = first; line < last; ++line) {
      const int64_t row = line / lines.per_row, u = line % lines.per_row * Lines::kLine;
      sampler.over(item, row, u, minimum(u + Lines::kLine, p.out_width), window,
                   [&](const TapList<A>& list, int64_t point, int64_t count) STN_LAMBDA {
                     if (list.outside) return;
                     typename TapList<A>::V gradient[3];
                     point_gradient<T>(item, list, row, point, count, gradient);
                     A grad_x[kWhole] = {}, grad_y[kWhole] = {};
                     for (int64_t i = 0; i < count; ++i) grad_x[i] = gradient[0][i], grad_y[i] = gradient[1][i];
                     total.add(source, Cotangents(row, point, count, grad_x, grad_y));
                   });
    }
    total.finish(source, p.sums + task * p.parameter_count());
  });
}

// Slices of the image along its last axis: whole images, cut into bands only to occupy the threads. A pixel's sum has
// the order of the outputs either way, so that the bits do not depend on the bands.
struct Bands {
  int64_t slices, area, block, blocks, count;
  STN_INLINE explicit Bands(const Problem& p)
      : slices(p.extent(p.dimensions - 1)),
        area(p.width * p.height * p.depth / slices),
        block(p.channels_last ? p.channels : minimum(kPlanes, p.channels)),
        blocks((p.channels + block - 1) / block) {
    const int64_t tasks = p.batch * blocks;
    count = tasks >= p.threads ? 1 : minimum(slices, (p.threads + tasks - 1) / tasks);
  }
};

// Adds what the outputs of image b give to slices [window.first, window.last): `sums` starts with the first of them, in
// planes or in pixels of the compute type. weights(list, item, row, u, count) gives the taps' weights.
template <class T, class Weights>
STN_INLINE void scatter_image(const Problem& p, int64_t b, int64_t channel, int64_t channels, const Window& window,
                              Compute<T>* sums, int64_t plane_stride, Weights weights) {
  using A = Compute<T>;
  constexpr int N = TapList<A>::N;
  const Sampler<T> sampler(p);
  A* origin = sums - window.first * window.stride[p.dimensions - 1];
  for (int64_t number = b * p.samples; number < (b + 1) * p.samples; ++number) {
    const Item item(p, number);
    for (int64_t row = 0; row < p.out_depth * p.out_height; ++row) {
      sampler.over(item, row, 0, p.out_width, window, [&](const TapList<A>& list, int64_t u, int64_t count) STN_LAMBDA {
        if (list.outside) return;
        const auto* weight = weights(list, item, row, u, count);
        const T* grad = static_cast<const T*>(p.grad_output.data) + channel * p.grad_output.channel +
                        output_offset(p, p.grad_output, number, row, u);
        if (p.channels_last) {
          for (int64_t i = 0; i < count; ++i, grad += p.grad_output.column) {
            channels_scatter<T>(PointTaps<A>(list, weight, i), grad, origin, channels);
          }
          return;
        }
        A* plane = origin;
        for (int64_t k = 0; k < channels; ++k, grad += p.grad_output.channel, plane += plane_stride) {
          scatter_plane<A>(list, plane, count == N ? load_as<N>(grad) : load_part<N>(grad, count), weight, count);
        }
      });
    }
  }
}

template <class T, class Weights>
STN_INLINE void scatter_tasks(const Problem& p, int64_t begin, int64_t end, Weights weights) {
  using A = Compute<T>;
  const Bands bands(p);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t band = task % bands.count, c = task / bands.count % bands.blocks * bands.block,
                  b = task / bands.count / bands.blocks, channels = minimum(bands.block, p.channels - c);
    Window window(p, p.grad_input);
    window.first = bands.slices * band / bands.count, window.last = bands.slices * (band + 1) / bands.count;
    const int64_t area = (window.last - window.first) * bands.area;
    T* target = static_cast<T*>(p.grad_input.data) + b * p.grad_input.batch + c * p.grad_input.channel +
                window.first * window.stride[p.dimensions - 1];
    const int64_t planes = p.channels_last ? 1 : channels, size = p.channels_last ? area * channels : area;
    if constexpr (sizeof(T) == sizeof(A)) {
      for (int64_t k = 0; k < planes; ++k)
        __builtin_memset(target + k * p.grad_input.channel, 0, size_t(size) * sizeof(T));
      scatter_image<T>(p, b, c, channels, window, target, p.grad_input.channel, weights);
    } else {
      const Scratch<A> sums(area * channels);
      scatter_image<T>(p, b, c, channels, window, sums.data, area, weights);
      for (int64_t k = 0; k < planes; ++k)
        for (int64_t i = 0; i < size; ++i) store_one(target + k * p.grad_input.channel + i, sums.data[k * size + i]);
    }
  }
}

template <class T>
void taps_grad_input(const Problem& p, int64_t begin, int64_t end) {
  scatter_tasks<T>(p, begin, end,
                   [](const auto& list, const Item&, int64_t, int64_t, int64_t) STN_LAMBDA { return list.weight; });
}

}  // namespace stn::STN_LEVEL
