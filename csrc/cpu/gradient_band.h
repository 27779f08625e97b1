// Rows [first, last) of one image's gradient for some channels, summed in float32 output by output.
#pragma once
#include <optional>

#include "quad_passes.h"
#include "scatter.h"

namespace stn::STN_LEVEL {

// Where outputs add to: the image as it lies, or a buffer. By the call alone, so that the bits do not depend on the
// number of threads.
enum class Sums { image, quads, pixels };

constexpr int64_t kBandPixels = 1 << 20, kMostBands = 4;  // of quads; every band looks at all outputs

STN_INLINE Sums sums_of(const Problem& p) {
  const bool local = p.transform == Transform::affine && p.padding == Padding::zeros;
  const int64_t image = p.width * p.height;
  const int64_t pixels = local ? minimum(p.height, 2 * kRowBlock) * p.width : image;
  // A buffer is emptied and added up pixel by pixel, which few outputs are not worth.
  const bool worthwhile = 4 * p.samples * p.item_points() >= image;
  // Rows at any angle come to several planes as strangers: 45 degrees at 1024 takes a third of the time in quads.
  const int64_t most = local ? 1 << 16 : p.channels == 1 ? 1 << 18 : kBandPixels * kMostBands;
  if (p.channels <= kQuadChannels && worthwhile && image <= most) return Sums::quads;
  const int64_t few = local && !kHasTiles ? 2 : kQuadChannels;
  const bool near = worthwhile && pixels <= (1 << 18);
  return !p.channels_last && p.channels > few && near ? Sums::pixels : Sums::image;
}

// Into how many bands of rows an image is cut that is summed as a whole: to bound them, and to occupy the threads with
// `images`. A pixel's sum has the order of the outputs whatever the bands.
STN_INLINE int64_t bands_of(const Problem& p, int64_t images) {
  const int64_t least = sums_of(p) == Sums::quads ? (p.width * p.height + kBandPixels - 1) / kBandPixels : 1;
  const int64_t busy = images >= p.threads ? 1 : (p.threads + images - 1) / images;
  return minimum(p.height, maximum(least, busy));
}

// Channels that share the points of a task.
STN_INLINE int64_t scattered_channels(const Problem& p) {
  if (sums_of(p) == Sums::pixels) return minimum(PixelBlock::kMost, p.channels);
  return p.channels_last ? p.channels : kChannelBlock;
}

struct GradientBand {
  const Problem& p;
  const Problem part;  // of these channels alone
  const Sums sums;
  const bool in_place;  // added to the result itself
  const int64_t channel, first, rows;
  const PixelBlock block;
  const Elements<Any> target;
  std::optional<QuadImage> quads;
  Scratch<float> scratch, buffer;  // the sums; rows

  STN_INLINE GradientBand(const Problem& problem, int64_t b, int64_t first_channel, int64_t channel_count,
                          int64_t first_row, int64_t last_row)
      : p(problem),
        part(of_channels(problem, channel_count)),
        sums(sums_of(problem)),
        in_place(sums == Sums::image && p.dtype == DType::float32),
        channel(first_channel),
        first(first_row),
        rows(last_row - first_row),
        block(problem.width, channel_count),
        target(elements<Any>(p, p.grad_input.data) + b * p.grad_input.batch + channel * p.grad_input.channel +
               first * p.grad_input.row),
        scratch(scratch_size()),
        buffer(buffer_size(), uninitialized) {
    if (sums == Sums::quads) quads.emplace(p, rows, true);
    if (!in_place) return;
    for (int64_t c = 0; c < planes(); ++c)
      __builtin_memset(address(target + c * p.grad_input.channel), 0, size_t(plane_size()) * sizeof(float));
  }
  static STN_INLINE Problem of_channels(Problem p, int64_t channels) { return p.channels = channels, p; }
  STN_INLINE int64_t scratch_size() const {
    if (sums == Sums::pixels) return rows * block.row;
    return in_place || sums == Sums::quads ? 1 : planes() * plane_size();
  }
  STN_INLINE int64_t row_size() const { return maximum<int64_t>(p.width + kVectorBytes / 4, Run<float>::kPoints); }
  STN_INLINE int64_t buffer_size() const {
    if (in_place) return 1;
    return part.channels * (p.channels_last && sums == Sums::image ? Run<float>::kPoints : row_size());
  }
  STN_INLINE int64_t planes() const { return p.channels_last ? 1 : part.channels; }
  STN_INLINE int64_t plane_size() const { return rows * p.width * (p.channels_last ? part.channels : 1); }

  // Adds the gradients of the output rows [row_begin, row_end) of one of the image's items.
  void add(const Source& source, int64_t row_begin, int64_t row_end) {
    const Locate<float> place = locator<float>(p);
    for (int64_t v = row_begin; v < row_end; ++v) {
      int64_t begin, end;
      points_near(source, v, first, first + rows, begin, end);
      over_runs<float>(source, place, v, begin, end,
                       [&](const Run<float>& run, int64_t u) STN_LAMBDA { add_run(source.item, v, u, run); });
    }
  }
  // Whether a point of a run may have taps in these rows: of a whole image's it is not asked.
  STN_INLINE bool touches(const Run<float>& run) const {
    if (rows == p.height) return true;
    for (int64_t i = 0; i < run.count; ++i) {
      if (run.y_index[i] >= first - 1 && run.y_index[i] < first + rows) return true;
    }
    return false;
  }
  STN_SHARED void add_run(int64_t item, int64_t v, int64_t u, const Run<float>& run) {
    if (!touches(run)) return;
    const Elements<const Any> from = elements<const Any>(p, p.grad_output.data) + item * p.grad_output.batch +
                                     channel * p.grad_output.channel + v * p.grad_output.row + u * p.grad_output.column;
    if (sums != Sums::image) {
      const auto grad = row_to_read(part, from, p.grad_output.channel, run.count, {buffer.data, row_size()});
      if (sums == Sums::quads)
        return quads->passes.scatter({quads->passes, grad, run.count}, run, first, quads->quads.data);
      return pixels_scatter(run, grad, scratch.data, block, p.width, first, rows);
    }
    float* to = in_place ? target.as<float>() : scratch.data;
    if (p.channels_last) {
      if (!in_place) load_rows(from, 0, 1, run.count * part.channels, {buffer.data, 1});
      return channels_last_scatter(run, in_place ? from.as<float>() : buffer.data, part.channels, to, part.channels,
                                   p.width, p.width * part.channels, first, rows);
    }
    if (in_place)
      return planar_scatter(run, from.as<float>(), p.grad_output.channel, part.channels, to, p.grad_input.channel,
                            p.width, first, rows);
    load_planes(part, from, p.grad_output.channel, run.count, {buffer.data, row_size()});
    planar_scatter(run, buffer.data, row_size(), part.channels, to, plane_size(), p.width, first, rows);
  }
  STN_SHARED void finish() {
    if (sums == Sums::quads) return quads->write(target);
    if (sums == Sums::pixels) {
      for (int64_t y = 0; y < rows; ++y) {
        write_row(part, target + y * p.grad_input.row, p.grad_input.channel, p.width, {buffer.data, row_size()},
                  [&](const Planes<Any>& to)
                      STN_LAMBDA { pixels_to_planes(scratch.data + y * block.row, block, p.width, to); });
      }
      return;
    }
    if (in_place) return;
    store_rows({scratch.data, plane_size()}, planes(), plane_size(), target, p.grad_input.channel);
  }
};

}  // namespace stn::STN_LEVEL
