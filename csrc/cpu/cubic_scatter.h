// The image's gradient of bicubic sampling with zeros around it, where its sums stay in the cache: as pixels of a block
// of channels, to which a tap of a point adds at once; of a single channel as the four taps of a row of a point at
// their first pixel, as sums that overlap would wait for each other.
#pragma once
#include "points.h"
#include "quads.h"
#include "tap_list.h"

namespace stn::STN_LEVEL {

constexpr int64_t kCubicMargin = 4, kCubicBlock = 16;

STN_INLINE int64_t cubic_block(const Problem& p) { return p.channels <= kQuadChannels ? kQuadChannels : kCubicBlock; }

STN_INLINE bool in_cubic_sums(const Problem& p) {
  const QuadLattice lattice(p.width, p.height, cubic_block(p), kCubicMargin);
  return p.mode == Mode::bicubic && p.dimensions == 2 && p.padding == Padding::zeros && p.dtype != DType::float64 &&
         !(p.channels_last && p.channels > kQuadChannels) && lattice.size <= (1 << 18) &&
         p.samples * p.item_points() >= p.width * p.height / 4;
}

// Tasks are images by blocks of channels, in bands of input rows only to occupy the threads. A pixel's sum has the
// order of the outputs, whatever the bands.
struct CubicTasks {
  int64_t block, blocks, bands;
  STN_INLINE explicit CubicTasks(const Problem& p)
      : block(minimum(cubic_block(p), p.channels)), blocks((p.channels + block - 1) / block) {
    const int64_t tasks = p.batch * blocks;
    bands = tasks >= p.threads ? 1 : minimum(p.height, (p.threads + tasks - 1) / tasks);
  }
  STN_INLINE int64_t count(const Problem& p) const { return p.batch * blocks * bands; }
};

// kEach: numbers a pixel.
template <int kEach>
struct CubicSums {
  static constexpr int N = kVectorBytes / 4;
  using V = Vec<float, N>;
  using I = Vec<int32_t, N>;
  using Pixel = Vec<float, kEach>;
  using Pixels = Pixel[kRun];
  const QuadLattice lattice;
  const int64_t first, channels;
  Scratch<float> sums;

  STN_INLINE CubicSums(const Problem& p, int64_t first_row, int64_t rows, int64_t channel_count)
      : lattice(p.width, rows, kEach, kCubicMargin), first(first_row), channels(channel_count), sums(lattice.size) {}

  STN_INLINE bool single() const { return kEach == kQuadChannels && channels == 1; }
  // Adds the output's gradient at a run of points, which may end behind.
  STN_SHARED void add(const Points<float>& points, int64_t count, const Planes<const Any>& grad) {
    int32_t offset[kRun];
    Quad weight_x[kRun], weight_y[kRun];
    Pixels pixels;
    for (int64_t i = 0; i < count; i += N) {
      constexpr int32_t kFirst = kFirstTap<Mode::bicubic>;
      const I y = load<I>(points.index[1] + i) + (kFirst - int32_t(first));
      store(offset + i, lattice.offset(load<I>(points.index[0] + i) + kFirst, y));
      V weight[4], slope[4];
      tap_weights<Mode::bicubic>(load<V>(points.fraction[0] + i), weight, slope);
      interleave<4, N>(weight, (float*)(weight_x + i));
      tap_weights<Mode::bicubic>(load<V>(points.fraction[1] + i), weight, slope);
      interleave<4, N>(weight, (float*)(weight_y + i));
    }
    if (!single()) set_pixels(grad, count, pixels);
    asm volatile("" : "+m"(offset), "+m"(weight_x), "+m"(weight_y), "+m"(pixels));  // to be reloaded: as in quads.h
    const auto add = [](float* to, Pixel value) STN_LAMBDA { store(to, load<Pixel>(to) + value); };
    const float* of_single = single_row(grad);
    for (int64_t i = 0; i < count; ++i) {
      float* to = sums.data + kEach * int64_t(offset[i]);
      const Quad x = weight_x[i], y = weight_y[i];
      if (single()) {
        const Quad all = x * of_single[i];
        for (int j = 0; j < 4; ++j, to += 4 * lattice.row) store(to, load<Quad>(to) + y[j] * all);
        continue;
      }
      const Pixel g = pixels[i];
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j, to += kEach * lattice.row) {
        const Quad row = x * y[j];
#pragma GCC unroll 4
        for (int k = 0; k < 4; ++k) add(to + kEach * k, row[k] * g);
      }
    }
  }
  STN_INLINE void set_pixels(const Planes<const Any>& planes, int64_t count, Pixels& pixels) const {
    with_format(planes.data, [&](auto from) STN_LAMBDA {
      for (int64_t begin = 0; begin < count; begin += N) {
        const int64_t i = whole_vector<N>(begin, count);
        for (int64_t c = 0; c < kEach; c += 4) {
          V parts[4] = {};
          for (int64_t k = 0; k < 4 && c + k < channels; ++k)
            parts[k] = load_as<N>(from + ((c + k) * planes.plane + i));
          alignas(64) Quad quads[N];
          interleave<4, N>(parts, (float*)quads);
          for (int l = 0; l < N; ++l) store((float*)(pixels + i + l) + c, quads[l]);
        }
      }
    });
  }
  // Row y of the channels' sums.
  STN_SHARED void get_row(int64_t y, const Planes<Any>& to) const {
    for (int64_t begin = 0; begin < lattice.width; begin += N) {
      const int64_t x = whole_vector<N>(begin, lattice.width);
      if (single()) {
        V sum{}, parts[4];
        for (int k = 0; k < 4; ++k) deinterleave<4, N>(sums.data + lattice.at(x - k, y), parts), sum += parts[k];
        store_sampled<N>(to[0] + x, sum);
        continue;
      }
      for (int64_t c = 0; c < channels; c += 4) {
        V parts[4];
        apart<N>([&](int l) STN_LAMBDA { return load<Quad>(sums.data + lattice.at(x + l, y) + c); }, parts);
        for (int64_t k = 0; k < 4 && c + k < channels; ++k) store_sampled<N>(to[c + k] + x, parts[k]);
      }
    }
  }
};

template <int kEach>
void cubic_grad_input(const Problem& p, int64_t begin, int64_t end) {
  const CubicTasks tasks(p);
  const LocatePoints<float> locate = point_locator<float>(p);
  const int64_t plane = p.width + kVectorBytes / 4;
  const Scratch<float> buffer(kEach * maximum<int64_t>(plane, kRun + kVectorBytes / 4), uninitialized);
  Points<float> points;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t band = task % tasks.bands, c = task / tasks.bands % tasks.blocks * tasks.block,
                  b = task / tasks.bands / tasks.blocks, channels = minimum(tasks.block, p.channels - c);
    const int64_t first = p.height * band / tasks.bands, last = p.height * (band + 1) / tasks.bands;
    CubicSums<kEach> sums(p, first, last - first, channels);
    Problem of = p;
    of.channels = channels;
    for (int64_t s = 0; s < p.samples; ++s) {
      const Item item(p, b * p.samples + s);
      for (int64_t v = 0; v < p.out_height; ++v) {
        const int64_t width = p.row_width(v);
        for (int64_t u = 0; u < width; u += kRun) {
          const int64_t count = minimum<int64_t>(kRun, width - u);
          locate(item, v, u, count, points);
          const auto grad = elements<const Any>(p, p.grad_output.data) + item.item * p.grad_output.batch +
                            c * p.grad_output.channel + v * p.grad_output.row + u * p.grad_output.column;
          sums.add(points, count,
                   row_to_read(of, grad, p.grad_output.channel, count, {buffer.data, kRun + kVectorBytes / 4}));
        }
      }
    }
    const auto image = elements<Any>(p, p.grad_input.data) + b * p.grad_input.batch + c * p.grad_input.channel +
                       first * p.grad_input.row;
    for (int64_t y = 0; y < last - first; ++y) {
      write_row(of, image + y * p.grad_input.row, p.grad_input.channel, p.width, {buffer.data, plane},
                [&](const Planes<Any>& to) STN_LAMBDA { sums.get_row(y, to); });
    }
  }
}

STN_INLINE Work cubic_grad_input(const Problem& p) {
  return {p, CubicTasks(p).count(p),
          cubic_block(p) == kQuadChannels ? cubic_grad_input<kQuadChannels> : cubic_grad_input<kCubicBlock>};
}

}  // namespace stn::STN_LEVEL
