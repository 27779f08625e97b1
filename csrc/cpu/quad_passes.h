// Bilinear sampling of small images of up to four channels at points that lie anywhere. Of several channels the numbers
// of a pixel are its channels; of a single one the pixel and the one below, two such pairs being the four taps of a
// point; of a single channel's sums those four taps. Zeros around the image are what points outside read, or where they
// add, so that nothing is masked.
#pragma once
#include "passes.h"
#include "quads.h"

namespace stn::STN_LEVEL {

// The passes over a run of points; N at a time, of which the last may be outside.
struct QuadPasses {
  static constexpr int N = kVectorBytes / 4;
  using V = Vec<float, N>;
  using I = Vec<int32_t, N>;
  const QuadLattice lattice;
  const int64_t channels;
  const DType format = DType::float32;  // of the numbers, of a single channel perhaps halves

  // What is stored for a whole run, to be loaded otherwise later: at once it would have to wait.
  using Offsets = int32_t[Run<float>::kPoints];  // where points' quads lie, in pixels
  using Quads = Quad[Run<float>::kPoints];       // four numbers a point

  STN_INLINE void set_offsets(const Run<float>& run, int64_t first_row, Offsets& offset) const {
    for (int64_t i = 0; i < run.count; i += N)
      store(offset + i, lattice.offset(load<I>(run.x_index + i), load<I>(run.y_index + i) - int32_t(first_row)));
    asm volatile("" : "+m"(offset));  // reloading beats extracting lane by lane
  }
  static STN_INLINE void set_weights(const Run<float>& run, Quads& weight) {
    for (int64_t i = 0; i < run.count; i += N) {
      const Fractions f(run, i);
      interleave<4, N>({f.gx * f.gy, f.fx * f.gy, f.gx * f.fy, f.fx * f.fy}, (float*)(weight + i));
    }
    asm volatile("" : "+m"(weight));  // as above
  }
  // The output's gradient: of a single channel where it lies, of several as pixels.
  struct Gradient {
    const float* single;
    Quads pixels;
    STN_INLINE Gradient(const QuadPasses& passes, const Planes<const Any>& planes, int64_t count)
        : single(single_row(planes)) {
      if (passes.channels > 1) quads_from_planes<N>(planes, passes.channels, count, (float*)pixels);
    }
  };
  // Of N points, and what remains to one.
  struct Fractions {
    V fx, fy, gx, gy;
    STN_INLINE Fractions(const Run<float>& run, int64_t i)
        : fx(load<V>(run.x_fraction + i)), fy(load<V>(run.y_fraction + i)), gx(1 - fx), gy(1 - fy) {}
    // Of taps in the order of read().
    STN_INLINE V value(const V (&taps)[4]) const {
      return gx * (gy * taps[0] + fy * taps[1]) + fx * (gy * taps[2] + fy * taps[3]);
    }
    STN_INLINE V along_x(const V (&taps)[4]) const { return gy * (taps[2] - taps[0]) + fy * (taps[3] - taps[1]); }
    STN_INLINE V along_y(const V (&taps)[4]) const { return gx * (taps[1] - taps[0]) + fx * (taps[3] - taps[2]); }
  };
  // Of a single channel: the taps of N points, those of the pixel and the one below before those right of them.
  STN_INLINE void read(const float* pairs, const int32_t* offset, V (&to)[4]) const {
    if (!is_half(format))
      return apart<N>([&](int l) STN_LAMBDA { return load<Quad>(pairs + 2 * int64_t(offset[l])); }, to);
    V words[2];
    const auto pair = [&](int l) STN_LAMBDA {
      double two;
      __builtin_memcpy(&two, pairs + offset[l], sizeof two);
      return two;
    };
    apart_pairs<N>(pair, words);
    widen_words<N>(format, words[0], to[0], to[1]), widen_words<N>(format, words[1], to[2], to[3]);
  }

  // The same, times the output's gradient and summed over channels: its pixels, or that of a single one.
  STN_INLINE void dots(const float* image, const int32_t* offset, V single, const Quad* pixels, V (&taps)[4]) const {
    if (channels == 1) {
      read(image, offset, taps);
      for (V& tap : taps) tap *= single;
      return;
    }
    const auto of_point = [&](int l) STN_LAMBDA {
      const TwoQuads halves = tap_products(image + 4 * int64_t(offset[l]), 4 * lattice.row, pixels[l]);
      return within_lanes<0, 2, 4, 6>(lower(halves), upper(halves)) +
             within_lanes<1, 3, 5, 7>(lower(halves), upper(halves));
    };
    apart<N>(of_point, taps);
  }

  STN_SHARED void forward(const float* image, const Run<float>& run, const Planes<Any>& out) const {
    Offsets offset;
    set_offsets(run, 0, offset);
    if (channels == 1) {
      for (int64_t first = 0; first < run.count; first += N) {
        const int64_t i = whole_vector<N>(first, run.count);
        const Fractions f(run, i);
        V taps[4];
        read(image, offset + i, taps);
        store_sampled<N>(out[0] + i, f.value(taps));
      }
      return;
    }
    Quads weight;
    set_weights(run, weight);
    for (int64_t first = 0; first < run.count; first += N) {
      const int64_t i = whole_vector<N>(first, run.count);
      const auto sum = [&](int l) STN_LAMBDA {
        const float* from = image + 4 * int64_t(offset[i + l]);
        const TwoQuads both = weighted_taps(from, 4 * lattice.row, weight[i + l]);
        return lower(both) + upper(both);
      };
      V values[4];
      apart<N>(sum, values);
      store_channels<N>(values, channels, out, i);
    }
  }

  // dL/d(pixel coordinate before padding) of each point, from the output's gradient.
  STN_SHARED void grad_points(const float* image, const Run<float>& run, const Gradient& grad, float* grad_x,
                              float* grad_y) const {
    Offsets offset;
    set_offsets(run, 0, offset);
    for (int64_t first = 0; first < run.count; first += N) {
      const int64_t i = whole_vector<N>(first, run.count);
      V taps[4];
      dots(image, offset + i, channels == 1 ? load<V>(grad.single + i) : V{}, grad.pixels + i, taps);
      const Fractions f(run, i);
      store(grad_x + i, f.along_x(taps) * load<V>(run.x_slope + i));
      store(grad_y + i, f.along_y(taps) * load<V>(run.y_slope + i));
    }
  }

  // Adds the output's gradient, times the weights of the taps, to the sums.
  STN_SHARED void add_weighted(const Gradient& grad, const Quads& weight, const Offsets& offset, int64_t count,
                               float* sums) const {
    const auto add = [](float* to, Quad value) STN_LAMBDA { store(to, load<Quad>(to) + value); };
    if (channels == 1) {
#pragma GCC unroll 8
      for (int64_t i = 0; i < count; ++i) add(sums + 4 * int64_t(offset[i]), weight[i] * grad.single[i]);
      return;
    }
#pragma GCC unroll 4
    for (int64_t i = 0; i < count; ++i)
      add_taps(sums + 4 * int64_t(offset[i]), 4 * lattice.row, weight[i], grad.pixels[i]);
  }
  // Adds the output's gradient to the sums of the rows from first_row on.
  STN_SHARED void scatter(const Gradient& grad, const Run<float>& run, int64_t first_row, float* sums) const {
    Offsets offset;
    Quads weight;
    set_offsets(run, first_row, offset), set_weights(run, weight);
    add_weighted(grad, weight, offset, run.count, sums);
  }

  // A row of an image of several channels.
  STN_INLINE void set_row(const Planes<const Any>& planes, int64_t y, float* quads) const {
    clear_margin(-QuadLattice::kMargin, y, quads);
    quads_from_planes<N>(planes, channels, lattice.width, quads + lattice.at(0, y));
    clear_margin(lattice.width, y, quads);
  }
  STN_INLINE void clear_margin(int64_t x, int64_t y, float* quads) const {
    for (int64_t i = 0; i < QuadLattice::kMargin * lattice.each; i += 4) store(quads + lattice.at(x, y) + i, Quad{});
  }
  // Of a single channel: two of its rows.
  template <class T>
  STN_SHARED void set_pairs(const T* upper, const T* lower, int64_t y, float* pairs) const {
    clear_margin(-QuadLattice::kMargin, y, pairs);
    for (int64_t first = 0; first < lattice.width; first += N) {
      const int64_t x = whole_vector<N>(first, lattice.width);
      float* to = pairs + lattice.at(x, y);
      if constexpr (kIs<T, float>) {
        interleave<2, N>({load<V>(upper + x), load<V>(lower + x)}, to);
      } else {
        store(to, half_words<N>(upper + x, lower + x));
      }
    }
    clear_margin(lattice.width, y, pairs);
  }
  // The other way round: planes of a row of sums.
  STN_SHARED void get_row(const float* quads, int64_t y, const Planes<Any>& planes) const {
    quads_to_planes<N>(quads + lattice.at(0, y), channels, lattice.width, planes);
  }
  // Of a single channel: what row y's cells give to that row goes to `row`, with `below` of the row before, which
  // becomes what they give to the next; both may end behind.
  STN_SHARED void add_cells(const float* quads, int64_t y, float* row, float* below) const {
    for (int64_t x = 0; x < lattice.width; x += N) {
      V at[4], before[4];
      deinterleave<4, N>(quads + lattice.at(x, y), at), deinterleave<4, N>(quads + lattice.at(x - 1, y), before);
      store(row + x, (at[0] + before[1]) + load<V>(below + x));
      store(below + x, at[2] + before[3]);
    }
  }
};

// An image, or the sums of its gradient's rows from the first one on, as quads, or as pairs.
struct QuadImage {
  static constexpr int64_t kLead = kVectorBytes / 4;  // numbers before a row, and behind
  static constexpr int64_t kTogether = 8;             // rows of a single channel's sums that a call stores
  const Problem& p;
  const QuadPasses passes;
  const int64_t plane;
  const Scratch<float> quads;  // and the rows
  float* const rows;           // of planes, at hand for a while, as what was just stored is loaded otherwise then

  // sums: zeros before; else to be read.
  STN_INLINE QuadImage(const Problem& problem, int64_t row_count, bool sums)
      : p(problem),
        passes(passes_of(problem, row_count, sums)),
        plane(problem.width + 2 * kLead),
        quads(numbers(sums)),
        rows(quads.data + passes.lattice.size) {
    if (!sums) __builtin_memset(rows, 0, size_t(row_numbers()) * sizeof(float));
  }
  static STN_INLINE QuadPasses passes_of(const Problem& p, int64_t row_count, bool sums) {
    const bool quads = sums || p.channels > 1, stored = !quads && in_planes(p, p.width);
    const DType format = stored ? p.dtype : DType::float32;
    return {QuadLattice(p.width, row_count, quads ? 4 : is_half(format) ? 1 : 2), p.channels, format};
  }
  STN_INLINE int64_t row_numbers() const { return ((p.channels > 1 ? 3 * p.channels : 2 * kTogether) + 1) * plane; }
  STN_INLINE Scratch<float> numbers(bool sums) const {
    const int64_t count = passes.lattice.size + row_numbers();
    return sums ? Scratch<float>(count) : Scratch<float>(count, uninitialized);
  }
  STN_INLINE float* row(int64_t i) const { return rows + i * plane + kLead; }
  STN_INLINE Planes<float> buffer(int64_t i) const { return {row(i), plane}; }

  void read(Elements<const Any> image) {
    const int64_t count = passes.lattice.rows, margin = QuadLattice::kMargin;
    float *first = quads.data + passes.lattice.at(-margin, p.channels == 1 ? -1 : 0),
          *last = quads.data + passes.lattice.at(-margin, count);
    __builtin_memset(quads.data, 0, size_t(first - quads.data) * sizeof(float));
    __builtin_memset(last, 0, size_t(quads.data + passes.lattice.size - last) * sizeof(float));
    if (p.channels > 1) {
      for (int64_t y = 0; y < count; ++y) {
        passes.set_row(row_to_read(p, image + y * p.input.row, p.input.channel, p.width, buffer(y % 3 * p.channels)), y,
                       quads.data);
      }
      return;
    }
    const auto read_pairs = [&]<class T>(const T* zeros, auto row_at) STN_LAMBDA {
      const T* upper = zeros;
      for (int64_t y = 0; y <= count; ++y) {
        const T* here = y < count ? row_at(y) : zeros;
        passes.set_pairs(upper, here, y - 1, quads.data);
        upper = here;
      }
    };
    const float* zeros = row(2 * kTogether);
    if (is_half(passes.format)) {
      read_pairs(reinterpret_cast<const uint16_t*>(zeros),
                 [&](int64_t y) STN_LAMBDA { return (image + y * p.input.row).template as<uint16_t>(); });
    } else {
      read_pairs(zeros, [&](int64_t y) STN_LAMBDA {
        return single_row(row_to_read(p, image + y * p.input.row, p.input.channel, p.width, buffer(y % 2)));
      });
    }
  }
  void write(Elements<Any> image) {
    const int64_t count = passes.lattice.rows, channel = p.grad_input.channel;
    const auto at = [&](int64_t y) STN_LAMBDA { return image + y * p.grad_input.row; };
    if (p.channels > 1) {
      for (int64_t y = 0; y < count; ++y) {
        write_row(p, at(y), channel, p.width, buffer(0),
                  [&](const Planes<Any>& to) STN_LAMBDA { passes.get_row(quads.data, y, to); });
      }
      return;
    }
    float* below = row(2 * kTogether);
    passes.add_cells(quads.data, -1, row(0), below);
    for (int64_t y = 0; y < count; ++y) {
      passes.add_cells(quads.data, y, row(y % (2 * kTogether)), below);
      const int64_t first = y / kTogether * kTogether, some = y + 1 - first;
      if (some == kTogether || y + 1 == count)
        store_rows(buffer(first % (2 * kTogether)), some, p.width, at(first), p.grad_input.row);
    }
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
template <class Body>
STN_INLINE void over_image_points(const Problem& p, int64_t b, int64_t first, int64_t last, Body body) {
  const Locate<float> place = locator<float>(p);
  for (int64_t s = first / p.out_height; s * p.out_height < last; ++s) {
    const Source source(p, b * p.samples + s);
    const int64_t begin = maximum<int64_t>(0, first - s * p.out_height),
                  end = minimum(p.out_height, last - s * p.out_height);
    for (int64_t v = begin; v < end; ++v) {
      over_runs<float>(source, place, v, 0, p.row_width(v),
                       [&](const Run<float>& run, int64_t u) STN_LAMBDA { body(source, v, u, run); });
    }
  }
}

// Images, grids and results are many short streams, each of which the processor has to find anew on every page: what
// they read and write a little later is fetched.
struct QuadFetch {
  static constexpr int64_t kAhead = 256;  // points
  const Problem& p;

  // `count` points or pixels from `first` on.
  STN_INLINE void pixels(Elements<const Any> first, int64_t channel, int64_t count) const {
    const bool together = p.channels_last && p.channels > 1;
    const int64_t size = first.size();
    for (int64_t c = 0; c < (together ? 1 : p.channels); ++c)
      lines(first.data + c * channel * size, (together ? count * p.channels : count) * size);
  }
  static STN_INLINE void lines(const void* first, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(static_cast<const char*>(first) + i, 0, 2);
  }
  // Of a grid or its gradient, from a point of a row on.
  STN_INLINE void pairs(const void* grid, const Source& s, int64_t v, int64_t u, int64_t count) const {
    const int64_t pair = p.double_parameters ? 16 : 8;
    lines(static_cast<const char*>(grid) + pair * (s.item * p.item_points() + v * p.out_width + u + kAhead),
          pair * count);
  }
  // With a row of an image's points: that row of another image.
  template <class Of>
  STN_INLINE void row(Elements<const Any> image, const Of& of, const Source& s, int64_t v, int64_t u,
                      int64_t count) const {
    if (v < p.height && s.item % p.samples == 0) pixels(image + (v * of.row + u * of.column), of.channel, count);
  }
};

template <class T>
void quads_forward(const Problem& p, int64_t begin, int64_t end) {
  const QuadTasks tasks(p);
  const QuadFetch fetch{p};
  RunPlanes values;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t b = task / tasks.bands, band = task % tasks.bands;
    const auto next = any_elements<T>(p, p.input.data) + (b + 1) * p.input.batch;
    QuadImage image(p, p.height, false);
    image.read(any_elements<T>(p, p.input.data) + b * p.input.batch);
    over_image_points(p, b, tasks.rows * band / tasks.bands, tasks.rows * (band + 1) / tasks.bands,
                      [&](const Source& source, int64_t v, int64_t u, const Run<float>& run) STN_LAMBDA {
                        const auto to = any_elements<T>(p, p.output.data) + source.item * p.output.batch +
                                        v * p.output.row + u * p.output.column;
                        fetch.pixels(to + QuadFetch::kAhead * p.output.column, p.output.channel, run.count);
                        fetch.pairs(p.parameters, source, v, u, run.count);
                        fetch.row(next, p.input, source, v, u, run.count);
                        write_row(p, to, p.output.channel, run.count, planes_of_run(values),
                                  [&](const Planes<Any>& out)
                                      STN_LAMBDA { image.passes.forward(image.quads.data, run, out); });
                      });
  }
}

// The gradients of the image, of the grid, or of both, of which each is null where it is not asked for.
template <class T>
void quads_backward(const Problem& p, int64_t begin, int64_t end) {
  const QuadTasks tasks(p);
  RunPlanes values;
  float grad_x[Run<float>::kPoints], grad_y[Run<float>::kPoints];
  const QuadFetch fetch{p};
  for (int64_t task = begin; task < end; ++task) {
    const int64_t b = task / tasks.bands, band = task % tasks.bands;
    const int64_t first = p.height * band / tasks.bands, last = p.height * (band + 1) / tasks.bands;
    const int64_t top = tasks.rows * band / tasks.bands, bottom = tasks.rows * (band + 1) / tasks.bands;
    QuadImage image(p, p.grad_grid ? p.height : 0, false), sums(p, p.grad_input.data ? last - first : 0, true);
    if (p.grad_grid) image.read(any_elements<T>(p, p.input.data) + b * p.input.batch);
    over_image_points(
        p, b, p.grad_input.data ? 0 : top, p.grad_input.data ? tasks.rows : bottom,
        [&](const Source& source, int64_t v, int64_t u, const Run<float>& run) STN_LAMBDA {
          const int64_t row = source.item % p.samples * p.out_height + v;
          const auto from = any_elements<T>(p, p.grad_output.data) + source.item * p.grad_output.batch +
                            v * p.grad_output.row + u * p.grad_output.column;
          fetch.pixels(from + QuadFetch::kAhead * p.grad_output.column, p.grad_output.channel, run.count);
          fetch.pairs(p.parameters, source, v, u, run.count);
          if (p.grad_grid) {
            fetch.pairs(p.grad_grid, source, v, u, run.count);
            fetch.row(any_elements<T>(p, p.input.data) + (b + 1) * p.input.batch, p.input, source, v, u, run.count);
          }
          if (p.grad_input.data) {
            fetch.row(any_elements<T>(p, p.grad_input.data) + b * p.grad_input.batch, p.grad_input, source, v, u,
                      run.count);
          }
          const QuadPasses::Gradient grad(
              image.passes, row_to_read(p, from, p.grad_output.channel, run.count, planes_of_run(values)), run.count);
          const bool mine = p.grad_grid && row >= top && row < bottom;
          if (mine) {
            image.passes.grad_points(image.quads.data, run, grad, grad_x, grad_y);
            p.double_parameters ? put_grad_grid<float, double>(p.grad_grid, source, v, u, run.count, grad_x, grad_y)
                                : put_grad_grid<float, float>(p.grad_grid, source, v, u, run.count, grad_x, grad_y);
          }
          if (p.grad_input.data) sums.passes.scatter(grad, run, first, sums.quads.data);
        });
    if (p.grad_input.data)
      sums.write(any_elements<T>(p, p.grad_input.data) + b * p.grad_input.batch + first * p.grad_input.row);
  }
}

}  // namespace stn::STN_LEVEL
