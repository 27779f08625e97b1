// Both gradients of tiles of points in one sweep, for images of up to four channels: a tile that is placed adds to the
// sums of its image and to those of its parameters.
#pragma once
#include <deque>

#include "windows.h"

namespace stn::STN_LEVEL {

// Whether a call for both gradients is taken so.
STN_INLINE bool swept(const Problem& p) {
  return windowed(p) && p.mode == Mode::bilinear && p.padding != Padding::reflection &&
         p.transform != Transform::grid && sums_of(p) == Sums::quads && p.width * p.height <= (1 << 16);
}

// Groups of whole images, as many as the second cache holds the sums of, times bands of the image's rows. A task adds
// to its band what all outputs give, and sums up the parameters' gradient of its share of the blocks of output rows.
struct SweptTasks {
  Groups groups;
  int64_t bands;
  STN_INLINE explicit SweptTasks(const Problem& p) : groups(p, p.batch, most_images(p), 1), bands(bands_of(p, groups.count)) {}
  static STN_INLINE int64_t most_images(const Problem& p) {
    return maximum<int64_t>(1, (1 << 18) / (int64_t(sizeof(Quad)) * p.width * p.height));
  }
};

// What a strip's points add to the sums of their image, kept until all are known: at once loads would wait for stores.
struct StripShares {
  static constexpr int kPoints = kStripTiles * 16;
  int count = 0;
  alignas(64) int32_t offset[kPoints];
  Quad weight[kPoints], pixels[kPoints];  // of a single channel with the gradient in the weights

  // A tile with the gradients g of its outputs; to the sums of the rows from first_row on.
  STN_INLINE void put(const WindowTaps<Mode::bilinear>& taps, const F16 (&g)[kQuadChannels], const QuadPasses& sums,
                      int64_t first_row) {
    const I16 column = taps.x.first + taps.x.origin, row = taps.y.first + (taps.y.origin - int(first_row));
    store(offset + count, sums.lattice.offset(column, row));
    const bool single = sums.channels == 1;
    const auto &x = taps.x.weight, &y = taps.y.weight;
    const F16 upper = single ? y[0] * g[0] : y[0], lower = single ? y[1] * g[0] : y[1];
    interleave<4, 16>({x[0] * upper, x[1] * upper, x[0] * lower, x[1] * lower}, (float*)(weight + count));
    if (!single) interleave<4, 16>(g, (float*)(pixels + count));
    count += 16;
  }
  // To the sums: the same point of each tile, then the next, since neighbours would wait for one another.
  STN_SHARED void add(const QuadPasses& sums, float* quads) {
    const int64_t below = 4 * sums.lattice.row, points = count;
    const bool single = sums.channels == 1;
    for (int64_t lane = 0; lane < 16; ++lane) {
      if (single) {
#pragma GCC unroll 4
        for (int64_t i = lane; i < points; i += 16) {
          float* to = quads + 4 * int64_t(offset[i]);
          store(to, load<Quad>(to) + weight[i]);
        }
      } else {
#pragma GCC unroll 4
        for (int64_t i = lane; i < points; i += 16) add_taps(quads + 4 * int64_t(offset[i]), below, weight[i], pixels[i]);
      }
    }
    count = 0;
  }
};

inline void windows_gradients(const Problem& p, int64_t begin, int64_t end) {
  const SweptTasks tasks(p);
  const int64_t size = elements<const Any>(p, p.input.data).size(), bands = tasks.bands, blocks = tasks.groups.blocks;
  const int64_t most_items = tasks.groups.size * p.samples;
  const WindowAhead ahead = next_tile(p, p.channels, most_items, size, p.grad_output);
  ItemStrips items(p, most_items);
  WindowGradients gradients(p, most_items);
  StripShares shares;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t b0 = task / bands * tasks.groups.size, b1 = minimum(b0 + tasks.groups.size, p.batch);
    const int64_t band = task % bands, first_row = p.height * band / bands;
    const int64_t rows = p.height * (band + 1) / bands - first_row;
    std::deque<QuadImage> images;
    for (int64_t b = b0; b < b1; ++b) images.emplace_back(p, rows, true);
    gradients.first_item = b0 * p.samples;
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t top = block * kRowBlock, bottom = block + 1 < blocks ? top + kRowBlock : p.out_height;
      const bool mine = block >= blocks * band / bands && block < blocks * (band + 1) / bands;
      items.over(b0 * p.samples, b1 * p.samples, top, bottom,
                 [&](const Source& source, Strips& strips, StripPoints<Mode::bilinear>& points) STN_LAMBDA {
                   const Strip& strip = strips.strips[0];
                   TileGradients& sums = gradients.strips[0];
                   const int64_t b = source.item / p.samples;
                   const auto image = elements<const Any>(p, p.input.data) + b * p.input.batch;
                   const auto outputs = elements<const Any>(p, p.grad_output.data) +
                                        (source.item * p.grad_output.batch + strip.v * p.grad_output.row);
                   const QuadImage& to = images[size_t(b - b0)];
                   points.place(source, source.item - b0 * p.samples, strip, strips.basis(0));
                   for (int i = 0; i < strip.count; ++i) {
                     WindowTaps<Mode::bilinear> taps = points.taps(i);
                     const int64_t u = strip.u(i), corner = taps.corner(p.input.row);
                     const auto fetch = ahead.of(u, strip.v, corner);
                     const bool whole = strip.fresh_u(i) == 0 && strip.fresh_v == 0;
                     const I16 fresh = fresh_lanes<Square>(strip.fresh_u(i), strip.fresh_v);
                     F16 g[kQuadChannels] = {}, products[2][2] = {};
                     bool outside = false;
                     with_reach(taps, p, [&]<Reach kReach>() STN_LAMBDA {
                       if constexpr (kReach == Reach::outside) {
                         outside = true;
                         return;
                       }
                       in_format(image + corner, outputs + u, [&](auto pixels, auto grad) STN_LAMBDA {
                         for (int64_t c = 0; c < p.channels;
                              ++c, pixels += p.input.channel, grad += p.grad_output.channel) {
                           fetch(pixels, p.input.row, grad, p.grad_output.row);
                           g[c] = load_tile<Square>(grad, p.grad_output.row);
                           if (!whole) g[c] = masked(g[c], fresh);
                           taps.template read<kReach>(pixels, p.input.row, [&](int j, int i, F16 value) STN_LAMBDA {
                             products[j][i] += g[c] * value;
                           });
                         }
                       });
                     });
                     if (!outside) shares.put(taps, g, to.passes, first_row);
                     along_axes(taps, products, sums.x[i], sums.y[i]);
                   }
                   shares.add(to.passes, to.quads.data);
                   if (mine) gradients.add(source, strips, points);
                 });
      for (int64_t item = b0 * p.samples; mine && item < b1 * p.samples; ++item)
        gradients.finish(Source(p, item), block);
    }
    for (int64_t b = b0; b < b1; ++b) {
      images[size_t(b - b0)].write(elements<Any>(p, p.grad_input.data) +
                                   (b * p.grad_input.batch + first_row * p.grad_input.row));
    }
  }
}

}  // namespace stn::STN_LEVEL
