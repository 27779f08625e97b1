// Rows [first, last) of one image's gradient for some channels, summed in the compute type output by output.
#pragma once
#include <optional>

#include "quad_passes.h"
#include "scatter.h"

namespace stn::STN_LEVEL {

// Where outputs add to: the image as it lies, or a buffer. By the call alone, so that the bits do not depend on the
// number of threads.
enum class Sums { image, quads, pixels };

STN_INLINE Sums sums_of(const Problem& p) {
  if (few_quads(p)) return Sums::quads;
  const bool local = p.transform == Transform::affine && p.padding == Padding::zeros;
  const int64_t pixels = (local ? minimum(p.height, 2 * kRowBlock) : p.height) * p.width;
  // A buffer is emptied and added up pixel by pixel, which few outputs are not worth.
  const bool worthwhile = 4 * p.samples * p.item_points() >= p.width * p.height && pixels <= (1 << 18);
  return !p.channels_last && p.channels > kQuadChannels && worthwhile ? Sums::pixels : Sums::image;
}

// Channels that share the points of a task.
STN_INLINE int64_t scattered_channels(const Problem& p) {
  if (sums_of(p) == Sums::pixels) return minimum(PixelBlock<float>::kMost, p.channels);
  return p.channels_last ? p.channels : kChannelBlock;
}

template <class T>
struct GradientBand {
  using A = Compute<T>;
  static constexpr bool kStored = sizeof(T) == sizeof(A);
  const Problem& p;
  const Sums sums;
  const int64_t channel, channels, first, rows;
  const PixelBlock<A> block;
  Elements<T> const target;
  std::optional<QuadImage<T>> quads;
  Scratch<A> scratch;

  STN_INLINE GradientBand(const Problem& problem, int64_t b, int64_t first_channel, int64_t channel_count,
                          int64_t first_row, int64_t last_row)
      : p(problem),
        sums(sums_of(problem)),
        channel(first_channel),
        channels(channel_count),
        first(first_row),
        rows(last_row - first_row),
        block(problem.width, channel_count),
        target(elements<T>(p, p.grad_input.data) + b * p.grad_input.batch + channel * p.grad_input.channel +
               first * p.grad_input.row),
        scratch(buffer_size()) {
    if (sums == Sums::quads) quads.emplace(p, rows, true);
    if (!kStored || sums != Sums::image) return;
    for (int64_t c = 0; c < planes(); ++c)
      __builtin_memset(address(target + c * p.grad_input.channel), 0, size_t(plane_size()) * sizeof(T));
  }
  STN_INLINE int64_t buffer_size() const {
    if (sums == Sums::pixels) return rows * block.row;
    return kStored || sums == Sums::quads ? 1 : planes() * plane_size();
  }
  STN_INLINE int64_t planes() const { return p.channels_last ? 1 : channels; }
  STN_INLINE int64_t plane_size() const { return rows * p.width * (p.channels_last ? channels : 1); }

  // Adds the gradients of the output rows [row_begin, row_end) of one of the image's items.
  void add(const Source& source, int64_t row_begin, int64_t row_end) {
    const Locate<A> place = locator<A>(p);
    for (int64_t v = row_begin; v < row_end; ++v) {
      int64_t begin, end;
      points_near(source, v, first, first + rows, begin, end);
      over_runs<A>(source, place, v, begin, end,
                   [&](const Run<A>& run, int64_t u) STN_LAMBDA { add_run(source.item, v, u, run); });
    }
  }
  STN_SHARED void add_run(int64_t item, int64_t v, int64_t u, const Run<A>& run) {
    Elements<const T> grad = elements<const T>(p, p.grad_output.data) + item * p.grad_output.batch +
                             channel * p.grad_output.channel + v * p.grad_output.row + u * p.grad_output.column;
    if (sums == Sums::quads) {
      RunPlanes values;
      return quads->passes.scatter(row_to_read<T>(p, grad, p.grad_output.channel, run.count, planes_of_run(values)),
                                   run, first, quads->quads.data);
    }
    if (sums == Sums::pixels)
      return pixels_scatter<T>(run, grad, p.grad_output.channel, scratch.data, block, p.width, first, rows);
    int64_t plane = plane_size();
    A* to = scratch.data;
    if constexpr (kStored) to = target, plane = p.grad_input.channel;
    if (p.channels_last) {
      channels_last_scatter<T>(run, grad, p.grad_output.column, to, channels, p.width, p.width * channels, first, rows);
    } else {
      planar_scatter<T>(run, p, grad, channels, to, plane, first, rows);
    }
  }
  STN_SHARED void finish() {
    if (sums == Sums::quads) return quads->write(target);
    if (sums == Sums::pixels) {
      for (int64_t y = 0; y < rows; ++y)
        pixels_to_planes<T>(scratch.data + y * block.row, block, p.width, target + y * p.grad_input.row,
                            p.grad_input.channel);
      return;
    }
    if (kStored) return;
    for (int64_t c = 0; c < planes(); ++c) {
      for (int64_t i = 0; i < plane_size(); ++i)
        store_one(target + c * p.grad_input.channel + i, scratch.data[c * plane_size() + i]);
    }
  }
};

}  // namespace stn::STN_LEVEL
