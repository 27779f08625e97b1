// Sums of what outputs add to an image of many channels, laid out as pixels of a block of channels, so that a point
// adds by whole vectors.
#pragma once
#include "interleave.h"
#include "passes.h"
#include "planes.h"

namespace stn::STN_LEVEL {

// Pixels of a block of channels, filled up to whole vectors.
struct PixelBlock {
  static constexpr int N = kVectorBytes / 4;
  static constexpr int64_t kMost = 16;  // channels: those of one line
  using V = Vec<float, N>;
  int64_t channels, stored, row;
  STN_INLINE PixelBlock(int64_t width, int64_t channel_count)
      : channels(channel_count),
        stored((channel_count + N - 1) / N * N),
        row((width | 1) * stored) {}  // an odd number of pixels, so that columns do not share cache sets

  // Calls f(channel, how many, i) for squares of the channels from one on of N points from i on.
  template <class F>
  STN_INLINE void squares(int64_t count, F f) const {
    for (int64_t c = 0; c < stored; c += N) {
      for (int64_t i = 0; i < count; i += N) f(c, minimum<int64_t>(N, channels - c), whole_vector<N>(i, count));
    }
  }
};

// Adds a run's gradients to rows [first_row, first_row + rows) of pixels.
STN_INLINE void pixels_scatter(const Run<float>& run, Planes<const Any> grad_output, float* pixels,
                               const PixelBlock& block, int64_t width, int64_t first_row, int64_t rows) {
  using V = PixelBlock::V;
  alignas(64) float points[Run<float>::kPoints * PixelBlock::kMost];
  block.squares(run.count, [&](int64_t first, int64_t channels, int64_t i) STN_LAMBDA {
    V square[PixelBlock::N] = {};
    for (int c = 0; c < channels; ++c) square[c] = load_as<PixelBlock::N>(grad_output[first + c] + i);
    transpose<1>(square);
    for (int k = 0; k < PixelBlock::N; ++k) store(points + (i + k) * block.stored + first, square[k]);
  });
  channels_last_scatter(run, points, block.stored, pixels, block.stored, width, block.row, first_row, rows);
}

// The planes of a row of pixels.
STN_INLINE void pixels_to_planes(const float* pixels, const PixelBlock& block, int64_t width, Planes<Any> to) {
  using V = PixelBlock::V;
  block.squares(width, [&](int64_t first, int64_t channels, int64_t x) STN_LAMBDA {
    V square[PixelBlock::N] = {};
    for (int64_t k = 0; k < minimum<int64_t>(PixelBlock::N, width - x); ++k)
      square[k] = load<V>(pixels + (x + k) * block.stored + first);
    transpose<1>(square);
    for (int c = 0; c < channels; ++c) store_sampled<PixelBlock::N>(to[first + c] + x, square[c]);
  });
}

}  // namespace stn::STN_LEVEL
