// Bilinear sampling of small images of up to four channels: the image, or the sums of its gradient, as quads of numbers
// a pixel, so that one load reads what one point needs there. A quad holds the channels of a pixel; of a single channel
// the four taps of the points between the pixel and those right of and below it. Zeros around the image are what points
// outside read, or where they add, so that nothing is masked.
#pragma once
#include "few_channels.h"
#include "passes.h"

namespace stn::STN_LEVEL {

constexpr int64_t kQuadChannels = 4;

template <class A>
using Quad = Vec<A, 4>;
template <class A>
using RunPlanes = A[kQuadChannels][Run<A>::kPoints];  // values of a run's points

// Some rows of an image with a margin of two pixels; offsets in elements.
struct QuadLattice {
  static constexpr int64_t kMargin = 2;
  int64_t width, rows, row, size;
  STN_INLINE QuadLattice(int64_t image_width, int64_t image_rows)
      : width(image_width),
        rows(image_rows),
        row(4 * (width + 2 * kMargin)),
        size(row * (rows + 2 * kMargin) + kVectorBytes) {}  // a vector may end behind
  STN_INLINE int64_t at(int64_t x, int64_t y) const { return (y + kMargin) * row + 4 * (x + kMargin); }
};

// Where the quads of a run's points lie, and the weights of their taps and the weights' derivatives by x and y.
template <class A>
struct QuadTaps {
  static constexpr int N = kLanes<A>;
  using V = Vec<A, N>;
  using I = Vec<IndexOf<A>, N>;
  IndexOf<A> offset[Run<A>::kPoints];
  RunPlanes<A> weight, along_x, along_y;

  STN_INLINE void set(const Run<A>& run, const QuadLattice& lattice, int64_t first_row, bool slopes) {
    constexpr IndexOf<A> kMargin = IndexOf<A>(QuadLattice::kMargin);
    const auto inside = [](I at, int64_t size) STN_LAMBDA {
      return minimum(maximum(at, splat<I>(-kMargin)), splat<I>(IndexOf<A>(size))) + kMargin;
    };
    for (int64_t i = 0; i < run.count; i += N) {
      const I x = inside(load<I>(run.x_index + i), lattice.width);
      const I y = inside(load<I>(run.y_index + i) - IndexOf<A>(first_row), lattice.rows);
      store(offset + i, y * IndexOf<A>(lattice.row) + 4 * x);
      const V fx = load<V>(run.x_fraction + i), fy = load<V>(run.y_fraction + i), gx = 1 - fx, gy = 1 - fy;
      store(weight[0] + i, gx * gy), store(weight[1] + i, fx * gy);
      store(weight[2] + i, gx * fy), store(weight[3] + i, fx * fy);
      if (!slopes) continue;
      const V sx = load<V>(run.x_slope + i), sy = load<V>(run.y_slope + i);
      store(along_x[0] + i, -sx * gy), store(along_x[1] + i, sx * gy);
      store(along_x[2] + i, -sx * fy), store(along_x[3] + i, sx * fy);
      store(along_y[0] + i, -sy * gx), store(along_y[1] + i, -sy * fx);
      store(along_y[2] + i, sy * gx), store(along_y[3] + i, sy * fx);
    }
    asm volatile("" : "+m"(offset));  // reloading beats extracting lane by lane
  }
};

// N quads in registers -> their first, second, third and fourth elements.
template <class A, int N>
STN_INLINE void apart(const Quad<A> (&quads)[N], Vec<A, N> (&to)[4]) {
  if constexpr (N == 4) {
    for (int k = 0; k < 4; ++k) to[k] = quads[k];
    transpose<1>(to);
  } else {
    Vec<A, N> rows[4];
    for (int k = 0; k < 4; ++k)
      rows[k] = __builtin_shufflevector(quads[2 * k], quads[2 * k + 1], 0, 1, 2, 3, 4, 5, 6, 7);
    separate(rows, to);
  }
}

// The passes over a run of points; N at a time, of which the last may be outside.
template <class A>
struct QuadPasses {
  static constexpr int N = kLanes<A>;
  using V = Vec<A, N>;
  using Taps = QuadTaps<A>;
  const QuadLattice lattice;
  const int64_t channels;

  STN_INLINE int64_t step(int tap) const { return tap % 2 * 4 + tap / 2 * lattice.row; }
  static STN_INLINE V load_weight(const RunPlanes<A>& weight, int tap, int64_t i) { return load<V>(weight[tap] + i); }
  // The four taps of N points of a single channel.
  static STN_INLINE void read(const A* quads, const Taps& taps, int64_t i, V (&to)[4]) {
    Quad<A> quad[N];
#pragma GCC unroll 8
    for (int l = 0; l < N; ++l) quad[l] = load<Quad<A>>(quads + taps.offset[i + l]);
    apart<A, N>(quad, to);
  }

  STN_SHARED void forward(const A* image, const Taps& taps, int64_t count, RunPlanes<A>& out) const {
    for (int64_t i = 0; i < count; i += N) {
      V values[4];
      if (channels == 1) {
        read(image, taps, i, values);
        for (int t = 0; t < 4; ++t) values[t] *= load_weight(taps.weight, t, i);
        store(out[0] + i, (values[0] + values[1]) + (values[2] + values[3]));
        continue;
      }
      Quad<A> sum[N];
#pragma GCC unroll 8
      for (int l = 0; l < N; ++l) {
        const A* at = image + taps.offset[i + l];
        sum[l] = taps.weight[0][i + l] * load<Quad<A>>(at);
        for (int t = 1; t < 4; ++t) sum[l] += taps.weight[t][i + l] * load<Quad<A>>(at + step(t));
      }
      apart<A, N>(sum, values);
      for (int c = 0; c < 4; ++c) store(out[c] + i, values[c]);
    }
  }

  // dL/d(pixel coordinate before padding) of each point, from the output's gradient.
  STN_SHARED void grad_points(const A* image, const Taps& taps, int64_t count, const RunPlanes<A>& grad, A* grad_x,
                              A* grad_y) const {
    for (int64_t i = 0; i < count; i += N) {
      V values[4], x, y;
      if (channels == 1) {
        read(image, taps, i, values);
        x = y = V{};
        for (int t = 0; t < 4; ++t) {
          x += values[t] * load_weight(taps.along_x, t, i), y += values[t] * load_weight(taps.along_y, t, i);
        }
        const V g = load<V>(grad[0] + i);
        store(grad_x + i, x * g), store(grad_y + i, y * g);
        continue;
      }
      alignas(64) A pixels[4 * N];
      together(grad, i, pixels);
      Quad<A> along_x[N], along_y[N];
#pragma GCC unroll 8
      for (int l = 0; l < N; ++l) {
        const A* at = image + taps.offset[i + l];
        along_x[l] = along_y[l] = Quad<A>{};
        for (int t = 0; t < 4; ++t) {
          const auto value = load<Quad<A>>(at + step(t));
          along_x[l] += taps.along_x[t][i + l] * value, along_y[l] += taps.along_y[t][i + l] * value;
        }
        const auto g = load<Quad<A>>(pixels + 4 * l);
        along_x[l] *= g, along_y[l] *= g;
      }
      apart<A, N>(along_x, values);
      store(grad_x + i, (values[0] + values[1]) + (values[2] + values[3]));
      apart<A, N>(along_y, values);
      store(grad_y + i, (values[0] + values[1]) + (values[2] + values[3]));
    }
  }

  // Adds the output's gradient to the image's.
  STN_SHARED void scatter(const RunPlanes<A>& grad, const Taps& taps, int64_t count, A* sums) const {
    const auto add = [](A* to, Quad<A> value) STN_LAMBDA { store(to, load<Quad<A>>(to) + value); };
    for (int64_t i = 0; i < count; i += N) {
      alignas(64) A quads[4 * N];
      if (channels == 1) {
        V parts[4];
        const V g = load<V>(grad[0] + i);
        for (int t = 0; t < 4; ++t) parts[t] = load_weight(taps.weight, t, i) * g;
        interleave<4, N>(parts, quads);
      } else {
        together(grad, i, quads);
      }
#pragma GCC unroll 8
      for (int l = 0; l < N; ++l) {
        A* at = sums + taps.offset[i + l];
        const auto value = load<Quad<A>>(quads + 4 * l);
        if (channels == 1) {
          add(at, value);
        } else {
          for (int t = 0; t < 4; ++t) add(at + step(t), taps.weight[t][i + l] * value);
        }
      }
    }
  }
  STN_INLINE void together(const RunPlanes<A>& planes, int64_t i, A* pixels) const {
    V parts[4] = {};
    for (int c = 0; c < channels; ++c) parts[c] = load<V>(planes[c] + i);
    interleave<4, N>(parts, pixels);
    asm volatile("" : "+m"(*(A(*)[4 * N]) pixels));
  }

  // Quads of an image's rows: planes of the compute type, with zeros behind.
  STN_SHARED void set_row(const A* planes, int64_t plane, int64_t y, A* quads) const {
    clear_margin(-QuadLattice::kMargin, y, quads);
    for (int64_t x = 0; x < lattice.width; x += N) {
      V parts[4] = {};
      for (int c = 0; c < channels; ++c) parts[c] = load<V>(planes + c * plane + x);
      interleave<4, N>(parts, quads + lattice.at(x, y));
    }
    clear_margin(lattice.width, y, quads);
  }
  STN_INLINE void clear_margin(int64_t x, int64_t y, A* quads) const {
    for (int64_t i = 0; i < QuadLattice::kMargin; ++i) store(quads + lattice.at(x + i, y), Quad<A>{});
  }
  // Of a single channel: the cells between two of its rows, both with zeros around.
  STN_SHARED void set_cells(const A* upper, const A* lower, int64_t y, A* quads) const {
    clear_margin(-QuadLattice::kMargin, y, quads);
    for (int64_t x = -1; x < lattice.width; x += N) {
      const V parts[] = {load<V>(upper + x), load<V>(upper + x + 1), load<V>(lower + x), load<V>(lower + x + 1)};
      interleave<4, N>(parts, quads + lattice.at(x, y));
    }
    clear_margin(lattice.width, y, quads);
  }
  // The other way round: planes of a row of sums.
  STN_SHARED void add_row(const A* quads, int64_t y, A* planes, int64_t plane) const {
    for (int64_t x = 0; x < lattice.width; x += N) {
      V parts[4];
      deinterleave<4, N>(quads + lattice.at(x, y), parts);
      for (int c = 0; c < channels; ++c) store(planes + c * plane + x, parts[c]);
    }
  }
  // Of a single channel: what row y's cells give to that row goes to `row`, with `below` of the row before, which
  // becomes what they give to the next.
  STN_SHARED void add_cells(const A* quads, int64_t y, A* row, A* below) const {
    for (int64_t x = 0; x < lattice.width; x += N) {
      V at[4], before[4];
      deinterleave<4, N>(quads + lattice.at(x, y), at), deinterleave<4, N>(quads + lattice.at(x - 1, y), before);
      store(row + x, (at[0] + before[1]) + load<V>(below + x));
      store(below + x, at[2] + before[3]);
    }
  }
};

// `count` points or pixels in planes of the compute type, and back.
template <class T>
STN_SHARED void load_planes(const Problem& p, Elements<const T> from, int64_t channel, int64_t count, Compute<T>* to,
                            int64_t plane) {
  constexpr int N = kLanes<Compute<T>>;
  if (p.channels_last && p.channels > 1) {
    with_few_channels(p.channels, [&](auto c) STN_LAMBDA { row_to_planes<c, T>(from, count, to, plane); });
    return;
  }
  for (int64_t c = 0; c < p.channels; ++c, from += channel, to += plane) {
    if (count < N) {
      for (int64_t i = 0; i < count; ++i) to[i] = load_one(from + i);
      continue;
    }
    for (int64_t first = 0; first < count; first += N) {
      const int64_t i = whole_vector<N>(first, count);
      store(to + i, load_as<N>(from + i));
    }
  }
}
template <class T>
STN_SHARED void store_planes(const Problem& p, const Compute<T>* from, int64_t plane, int64_t count, Elements<T> to,
                             int64_t channel) {
  using V = Vec<Compute<T>, kLanes<Compute<T>>>;
  constexpr int N = kLanes<Compute<T>>;
  if (p.channels_last && p.channels > 1) {
    with_few_channels(p.channels, [&](auto c) STN_LAMBDA { row_from_planes<c, T>(from, plane, count, to); });
    return;
  }
  for (int64_t c = 0; c < p.channels; ++c, from += plane, to += channel) {
    if (count < N) {
      for (int64_t i = 0; i < count; ++i) store_one(to + i, from[i]);
      continue;
    }
    for (int64_t first = 0; first < count; first += N) {
      const int64_t i = whole_vector<N>(first, count);
      store_as<N>(to + i, load<V>(from + i));
    }
  }
}

// An image, or the sums of its gradient's rows from the first one on, as quads.
template <class T>
struct QuadImage {
  using A = Compute<T>;
  static constexpr int64_t kLead = kVectorBytes / int64_t(sizeof(A));  // numbers before a row, and behind
  const Problem& p;
  const QuadPasses<A> passes;
  const int64_t plane;
  Scratch<A> quads, rows;  // rows: of planes, at hand for a while, as what was just stored is loaded otherwise then

  // sums: zeros before; else to be read.
  STN_INLINE QuadImage(const Problem& problem, int64_t row_count, bool sums)
      : p(problem),
        passes{QuadLattice(problem.width, row_count), problem.channels},
        plane(problem.width + 2 * kLead),
        quads(sums ? Scratch<A>(passes.lattice.size) : Scratch<A>(passes.lattice.size, uninitialized)),
        rows(2 * kQuadChannels * plane) {}
  STN_INLINE A* row(int64_t i) const { return rows.data + i * plane + kLead; }

  void read(Elements<const T> image) {
    const int64_t count = passes.lattice.rows, margin = QuadLattice::kMargin;
    A *first = quads.data + passes.lattice.at(-margin, p.channels == 1 ? -1 : 0),
      *last = quads.data + passes.lattice.at(-margin, count);
    __builtin_memset(quads.data, 0, size_t(first - quads.data) * sizeof(A));
    __builtin_memset(last, 0, size_t(quads.data + passes.lattice.size - last) * sizeof(A));
    const auto load = [&](int64_t y, A* to) STN_LAMBDA {
      if (y < count) return load_planes<T>(p, image + y * p.input.row, p.input.channel, p.width, to, plane);
      __builtin_memset(to, 0, size_t(p.width) * sizeof(A));
    };
    if (p.channels == 1) {
      load(0, row(1));
      for (int64_t y = -1; y < count; ++y) {
        load(y + 2, row((y + 3) % 3));
        passes.set_cells(row((y + 1) % 3), row((y + 2) % 3), y, quads.data);
      }
      return;
    }
    load(0, row(0));
    for (int64_t y = 0; y < count; ++y) {
      if (y + 1 < count) load(y + 1, row((y + 1) % 2 * kQuadChannels));
      passes.set_row(row(y % 2 * kQuadChannels), plane, y, quads.data);
    }
  }
  void write(Elements<T> image) {
    const auto store = [&](int64_t y) STN_LAMBDA {
      if (y >= 0)
        store_planes<T>(p, row(y % 2 * kQuadChannels), plane, p.width, image + y * p.grad_input.row,
                        p.grad_input.channel);
    };
    const int64_t count = passes.lattice.rows;
    if (p.channels == 1) passes.add_cells(quads.data, -1, row(0), row(1));
    for (int64_t y = 0; y < count; ++y) {
      A* to = row(y % 2 * kQuadChannels);
      p.channels == 1 ? passes.add_cells(quads.data, y, to, row(1)) : passes.add_row(quads.data, y, to, plane);
      store(y - 1);
    }
    store(count - 1);
  }
};

// Whether quads are worth their filling and emptying and stay in the cache.
STN_INLINE bool few_quads(const Problem& p) {
  return p.channels <= kQuadChannels && 4 * p.samples * p.item_points() >= p.width * p.height &&
         p.width * p.height <= (1 << 16);
}
STN_INLINE bool in_quads(const Problem& p) { return p.in_rows() && p.transform == Transform::grid && few_quads(p); }

// Tasks are images, in bands only to occupy the threads: of output rows, of those of all samples; and of input rows.
struct QuadTasks {
  int64_t bands, rows;
  STN_INLINE explicit QuadTasks(const Problem& p)
      : bands(p.batch >= p.threads ? 1 : (p.threads + p.batch - 1) / p.batch), rows(p.samples * p.out_height) {
    bands = minimum(bands, minimum(p.height, rows));
  }
  STN_INLINE int64_t count(const Problem& p) const { return p.batch * bands; }
};

// Calls body(source, v, u, run, whether the point's row is the band's) for the points of an image.
template <class A, class Body>
STN_INLINE void over_image_points(const Problem& p, int64_t b, int64_t first, int64_t last, Body body) {
  const Locate<A> place = locator<A>(p);
  for (int64_t s = first / p.out_height; s * p.out_height < last; ++s) {
    const Source source(p, b * p.samples + s);
    const int64_t begin = maximum<int64_t>(0, first - s * p.out_height),
                  end = minimum(p.out_height, last - s * p.out_height);
    for (int64_t v = begin; v < end; ++v) {
      over_runs<A>(source, place, v, 0, p.row_width(v),
                   [&](const Run<A>& run, int64_t u) STN_LAMBDA { body(source, v, u, run); });
    }
  }
}

template <class T>
void quads_forward(const Problem& p, int64_t begin, int64_t end) {
  using A = Compute<T>;
  const QuadTasks tasks(p);
  QuadTaps<A> taps;
  RunPlanes<A> values;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t b = task / tasks.bands, band = task % tasks.bands;
    QuadImage<T> image(p, p.height, false);
    image.read(elements<const T>(p, p.input.data) + b * p.input.batch);
    over_image_points<A>(p, b, tasks.rows * band / tasks.bands, tasks.rows * (band + 1) / tasks.bands,
                         [&](const Source& source, int64_t v, int64_t u, const Run<A>& run) STN_LAMBDA {
                           taps.set(run, image.passes.lattice, 0, false);
                           image.passes.forward(image.quads.data, taps, run.count, values);
                           store_planes<T>(p, values[0], Run<A>::kPoints, run.count,
                                           elements<T>(p, p.output.data) + source.item * p.output.batch +
                                               v * p.output.row + u * p.output.column,
                                           p.output.channel);
                         });
  }
}

// The gradients of the image, of the grid, or of both, of which each is null where it is not asked for.
template <class T>
void quads_backward(const Problem& p, int64_t begin, int64_t end) {
  using A = Compute<T>;
  const QuadTasks tasks(p);
  QuadTaps<A> taps;
  RunPlanes<A> grad;
  A grad_x[Run<A>::kPoints], grad_y[Run<A>::kPoints];
  for (int64_t task = begin; task < end; ++task) {
    const int64_t b = task / tasks.bands, band = task % tasks.bands;
    const int64_t first = p.height * band / tasks.bands, last = p.height * (band + 1) / tasks.bands;
    const int64_t top = tasks.rows * band / tasks.bands, bottom = tasks.rows * (band + 1) / tasks.bands;
    QuadImage<T> image(p, p.grad_grid ? p.height : 0, false), sums(p, p.grad_input.data ? last - first : 0, true);
    if (p.grad_grid) image.read(elements<const T>(p, p.input.data) + b * p.input.batch);
    over_image_points<A>(p, b, p.grad_input.data ? 0 : top, p.grad_input.data ? tasks.rows : bottom,
                         [&](const Source& source, int64_t v, int64_t u, const Run<A>& run) STN_LAMBDA {
                           const int64_t row = source.item % p.samples * p.out_height + v;
                           load_planes<T>(p,
                                          elements<const T>(p, p.grad_output.data) + source.item * p.grad_output.batch +
                                              v * p.grad_output.row + u * p.grad_output.column,
                                          p.grad_output.channel, run.count, grad[0], Run<A>::kPoints);
                           const bool mine = p.grad_grid && row >= top && row < bottom;
                           if (mine) {
                             taps.set(run, image.passes.lattice, 0, true);
                             image.passes.grad_points(image.quads.data, taps, run.count, grad, grad_x, grad_y);
                             p.double_parameters
                                 ? put_grad_grid<A, double>(p.grad_grid, source, v, u, run.count, grad_x, grad_y)
                                 : put_grad_grid<A, float>(p.grad_grid, source, v, u, run.count, grad_x, grad_y);
                           }
                           if (!p.grad_input.data) return;
                           if (!mine || tasks.bands > 1) taps.set(run, sums.passes.lattice, first, false);
                           sums.passes.scatter(grad, taps, run.count, sums.quads.data);
                         });
    if (p.grad_input.data)
      sums.write(elements<T>(p, p.grad_input.data) + b * p.grad_input.batch + first * p.grad_input.row);
  }
}

}  // namespace stn::STN_LEVEL
