// Rows [first, last) of one image's gradient for some channels, summed in the compute type output by output.
#pragma once
#include "passes.h"

namespace stn::STN_LEVEL {

template <class T>
struct GradientBand {
  using A = Compute<T>;
  static constexpr bool kInPlace = sizeof(T) == sizeof(A);
  const Problem& p;
  int64_t channel, channels, first, last, area;
  T* target;
  Scratch<A> scratch;

  STN_INLINE GradientBand(const Problem& problem, int64_t b, int64_t first_channel, int64_t channel_count,
                          int64_t first_row, int64_t last_row)
      : p(problem),
        channel(first_channel),
        channels(channel_count),
        first(first_row),
        last(last_row),
        area((last - first) * p.width),
        target(static_cast<T*>(p.grad_input.data) + b * p.grad_input.batch + channel * p.grad_input.channel +
               first * p.grad_input.row),
        scratch(kInPlace ? 1 : area * channels) {
    if constexpr (kInPlace) {
      for (int64_t c = 0; c < planes(); ++c)
        __builtin_memset(target + c * p.grad_input.channel, 0, size_t(plane_size()) * sizeof(T));
    }
  }
  STN_INLINE int64_t planes() const { return p.channels_last ? 1 : channels; }
  STN_INLINE int64_t plane_size() const { return p.channels_last ? area * channels : area; }

  // Adds the gradients of the output rows [row_begin, row_end) of one of the image's items.
  STN_INLINE void add(const Source& source, int64_t row_begin, int64_t row_end) {
    const int64_t block = shared_channels(p), stride = kInPlace ? p.grad_input.channel : area;
    A* sums = scratch.data;
    if constexpr (kInPlace) sums = target;
    for (int64_t c = 0; c < channels; c += block) {
      scatter_rows<T>(p, source, row_begin, row_end, channel + c, minimum(block, channels - c), first, last,
                      sums + c * stride, stride);
    }
  }
  STN_INLINE void finish() {
    if constexpr (kInPlace) return;
    for (int64_t c = 0; c < planes(); ++c) {
      T* to = target + c * p.grad_input.channel;
      for (int64_t i = 0; i < plane_size(); ++i) store_one(to + i, scratch.data[c * plane_size() + i]);
    }
  }
};

}  // namespace stn::STN_LEVEL
