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

// Groups of whole images, alike in size, times bands of the image's rows: as many as the second cache holds the sums of
// or, where each group places its strips' bases anew, a few MB. A task adds to its band what all outputs give, and sums
// up the parameters' gradient of its share of the blocks of output rows.
struct SweptTasks {
  int64_t batch, groups, bands, blocks;
  STN_INLINE explicit SweptTasks(const Problem& p) : batch(p.batch), blocks(row_blocks(p.out_height)) {
    const int64_t room = Strips::all_near(p) ? 1 << 18 : 1 << 22, sums = int64_t(sizeof(Quad)) * p.width * p.height;
    const int64_t most = p.transform == Transform::tps ? maximum<int64_t>(1, room / sums) : 1;  // that share a basis
    groups = (batch + most - 1) / most;
    groups = minimum(batch, (groups + p.threads - 1) / p.threads * p.threads);
    bands = bands_of(p, groups);
  }
  STN_INLINE int64_t count() const { return groups * bands; }
  STN_INLINE int64_t most_images() const { return (batch + groups - 1) / groups; }
  STN_INLINE int64_t first_image(int64_t group) const { return batch * group / groups; }
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
        for (int64_t i = lane; i < points; i += 16)
          add_taps(quads + 4 * int64_t(offset[i]), below, weight[i], pixels[i]);
      }
    }
    count = 0;
  }
};

// A strip of one item: dL/d(source pixel) of its points, and what they add to the sums of their image's rows from
// first_row on.
STN_INLINE void sweep_strip(const Problem& p, const Source& source, const StripPoints<Mode::bilinear>& points,
                            const WindowAhead& ahead, const QuadImage& image, int64_t first_row, StripShares& shares,
                            TileGradients& at_points) {
  const Strip& strip = points.strip;
  const auto pixels = elements<const Any>(p, p.input.data) + source.item / p.samples * p.input.batch;
  const auto outputs =
      elements<const Any>(p, p.grad_output.data) + (source.item * p.grad_output.batch + strip.v * p.grad_output.row);
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
      in_format(pixels + corner, outputs + u, [&](auto plane, auto grad) STN_LAMBDA {
        unrolled<kQuadChannels>([&](auto c) STN_LAMBDA {
          if (c >= p.channels) return;
          fetch(plane, p.input.row, grad, p.grad_output.row);
          g[c] = load_tile<Square>(grad, p.grad_output.row);
          if (!whole) g[c] = masked(g[c], fresh);
          taps.template read<kReach>(plane, p.input.row,
                                     [&](auto j, auto k, F16 value) STN_LAMBDA { products[j][k] += g[c] * value; });
          plane += p.input.channel, grad += p.grad_output.channel;
        });
      });
    });
    if (!outside) shares.put(taps, g, image.passes, first_row);
    along_axes(taps, products, at_points.x[i], at_points.y[i]);
  }
  shares.add(image.passes, image.quads.data);
}

inline void windows_gradients(const Problem& p, int64_t begin, int64_t end) {
  const SweptTasks tasks(p);
  const int64_t size = elements<const Any>(p, p.input.data).size(), bands = tasks.bands, blocks = tasks.blocks;
  const int64_t most_items = tasks.most_images() * p.samples;
  const WindowAhead ahead = next_tile(p, p.channels, most_items, size, p.grad_output);
  ItemStrips items(p, most_items);
  WindowGradients gradients(p, most_items);
  StripShares shares;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t b0 = tasks.first_image(task / bands), b1 = tasks.first_image(task / bands + 1);
    const int64_t first_item = b0 * p.samples, last_item = b1 * p.samples;
    const int64_t band = task % bands, first_row = p.height * band / bands, last_row = p.height * (band + 1) / bands;
    std::deque<QuadImage> images;
    for (int64_t b = b0; b < b1; ++b) images.emplace_back(p, last_row - first_row, true);
    gradients.first_item = first_item;
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t top = block * kRowBlock, bottom = block + 1 < blocks ? top + kRowBlock : p.out_height;
      const bool mine = block >= blocks * band / bands && block < blocks * (band + 1) / bands;
      items.over(first_item, last_item, top, bottom,
                 [&](const Source& source, Strips& strips, StripPoints<Mode::bilinear>& points) STN_LAMBDA {
                   points.place(source, source.item - first_item, strips.strips[0], strips.basis(0));
                   const WindowAhead fetches =
                       ahead.in_turn(p, p.grad_output, source.item, first_item, last_item, strips.strips[0].v);
                   sweep_strip(p, source, points, fetches, images[size_t(source.item / p.samples - b0)], first_row,
                               shares, gradients.strips[0]);
                   if (mine) gradients.add(source, strips, points);
                 });
      for (int64_t item = first_item; mine && item < last_item; ++item) gradients.finish(Source(p, item), block);
    }
    for (int64_t b = b0; b < b1; ++b) {
      images[size_t(b - b0)].write(elements<Any>(p, p.grad_input.data) +
                                   (b * p.grad_input.batch + first_row * p.grad_input.row));
    }
  }
}

}  // namespace stn::STN_LEVEL
