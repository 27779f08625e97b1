// Sums of what outputs add to an image of many channels, laid out as pixels of a block of channels, so that a point
// adds by whole vectors.
#pragma once
#include "interleave.h"
#include "passes.h"

namespace stn::STN_LEVEL {

// Pixels of a block of channels, filled up to whole vectors.
template <class A>
struct PixelBlock {
  static constexpr int kLanes = kVectorBytes / int(sizeof(A));
  static constexpr int64_t kMost = 64 / int64_t(sizeof(A));  // channels: those of one line
  int64_t channels, stored, row;
  STN_INLINE PixelBlock(int64_t width, int64_t channel_count)
      : channels(channel_count),
        stored((channel_count + kLanes - 1) / kLanes * kLanes),
        row((width | 1) * stored) {}  // an odd number of pixels, so that columns do not share cache sets

  // Calls f(channel, vectors) with the channels [channel, channel + kLanes) of kLanes points as a square.
  template <class F>
  STN_INLINE void squares(F f) const {
    for (int64_t c = 0; c < stored; c += kLanes) f(c, minimum<int64_t>(kLanes, channels - c));
  }
};

// Adds a run's gradients to rows [first_row, first_row + rows) of pixels.
template <class T>
STN_INLINE void pixels_scatter(const Run<Compute<T>>& run, Elements<const T> grad_output, int64_t grad_plane,
                               Compute<T>* pixels, const PixelBlock<Compute<T>>& block, int64_t width,
                               int64_t first_row, int64_t rows) {
  using A = Compute<T>;
  constexpr int N = PixelBlock<A>::kLanes;
  using V = Vec<A, N>;
  alignas(64) A points[Run<A>::kPoints * PixelBlock<A>::kMost];
  block.squares([&](int64_t first, int64_t channels) STN_LAMBDA {
    for (int64_t i = 0; i < run.count; i += N) {
      const int64_t count = run.count - i;
      V square[N];
      for (int c = 0; c < N; ++c) {
        Elements<const T> grad = grad_output + (first + c) * grad_plane + i;
        square[c] = c >= channels ? V{} : count >= N ? load_as<N>(grad) : load_part<N>(grad, count);
      }
      transpose<1>(square);
      for (int k = 0; k < N; ++k) store(points + (i + k) * block.stored + first, square[k]);
    }
  });
  channels_last_scatter<A>(run, points, block.stored, pixels, block.stored, width, block.row, first_row, rows);
}

// The planes of a row of pixels.
template <class T>
STN_INLINE void pixels_to_planes(const Compute<T>* pixels, const PixelBlock<Compute<T>>& block, int64_t width,
                                 Elements<T> to, int64_t plane) {
  using A = Compute<T>;
  constexpr int N = PixelBlock<A>::kLanes;
  using V = Vec<A, N>;
  block.squares([&](int64_t first, int64_t channels) STN_LAMBDA {
    for (int64_t i = 0; i < width; i += N) {
      const int64_t x = whole_vector<N>(i, width), count = width - x;
      V square[N] = {};
      for (int k = 0; k < (count < N ? count : N); ++k) square[k] = load<V>(pixels + (x + k) * block.stored + first);
      transpose<1>(square);
      for (int c = 0; c < channels; ++c) {
        Elements<T> out = to + (first + c) * plane + x;
        count >= N ? store_as<N>(out, square[c]) : store_part<N>(out, square[c], count);
      }
    }
  });
}

}  // namespace stn::STN_LEVEL
