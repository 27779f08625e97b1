// Nearest sampling: a point reads one pixel. Any number of dimensions, transform, padding, storage type and stride.
#pragma once
#include "tap_passes.h"

namespace stn::STN_LEVEL {

// Where the pixels of a run of points lie in a region, -1 for those outside.
struct PixelRun {
  static constexpr bool outside = false;
  int64_t offset[kRun];
};

// Has the interface of tap_passes.h: its lists are PixelRuns.
template <class A>
struct NearestSampler {
  const Problem& p;
  LocatePoints<A> locate;
  STN_INLINE NearestSampler(const Problem& problem, bool) : p(problem), locate(point_locator<A>(problem)) {}
  static STN_INLINE int64_t planes(const Problem& problem) { return planes_at_once(problem); }

  template <class Body>
  STN_INLINE void over(const Item& item, int64_t row, int64_t first, int64_t last, const Region& region,
                       Body body) const {
    Points<A> points;
    PixelRun run;
    for (int64_t u = first; u < last; u += kRun) {
      const int64_t count = minimum<int64_t>(kRun, last - u);
      locate(item, row, u, count, points);
      for (int64_t i = 0; i < count; i += kDoubles) store(run.offset + i, offsets(points, i, region));
      body(run, u, 0, int(count));
    }
  }
  STN_INLINE Vec<int64_t, kDoubles> offsets(const Points<A>& points, int64_t i, const Region& region) const {
    using Narrow = Vec<IndexOf<A>, kDoubles>;
    using I = Vec<int64_t, kDoubles>;
    const int last = p.dimensions - 1;
    I offset{}, inside = splat<I>(int64_t(-1));
    for (int a = 0; a <= last; ++a) {
      const I pixel = __builtin_convertvector((load<Narrow>(points.index[a] + i)), I);
      const int64_t begin = a == last ? region.first : 0, end = a == last ? region.last : p.extent(a);
      inside &= (pixel >= begin) & (pixel < end);
      offset += pixel * region.stride[a];
    }
    return inside ? offset : splat<I>(int64_t(-1));
  }
};

// Calls f(point, offset) for the points of a run that read a pixel.
template <class F>
STN_INLINE void each_inside(const PixelRun& run, int64_t count, F f) {
  for (int64_t i = 0; i < count; ++i) {
    if (run.offset[i] >= 0) f(i, run.offset[i]);
  }
}

template <class T>
void copy_pixels(const Problem& p, const PixelRun& run, int64_t count, int64_t at, int64_t out_at, int64_t channels) {
  const T* image = static_cast<const T*>(p.input.data) + at;
  T* out = static_cast<T*>(p.output.data) + out_at;
  if (!lanes_are_points(p)) {
    for (int64_t i = 0; i < count; ++i, out += p.output.column) {
      const bool inside = run.offset[i] >= 0;
      inside ? __builtin_memcpy(out, image + run.offset[i], size_t(channels) * sizeof(T))
             : __builtin_memset(out, 0, size_t(channels) * sizeof(T));
    }
    return;
  }
  const T zero{};
  for (int64_t c = 0; c < channels; ++c, image += p.input.channel, out += p.output.channel) {
    for (int64_t i = 0; i < count; ++i) {
      const T* from = run.offset[i] < 0 ? &zero : image + run.offset[i];
      out[i * p.output.column] = *from;
    }
  }
}

template <class T>
void add_to_pixels(const Problem& p, const PixelRun& run, int64_t count, int64_t grad_at,
                   const Target<Compute<T>>& target) {
  const T* grad = static_cast<const T*>(p.grad_output.data) + grad_at;
  if (!lanes_are_points(p)) {
    each_inside(run, count, [&](int64_t i, int64_t offset) STN_LAMBDA {
      over_channels<T>(target.channels, [&](int64_t c, auto lanes) STN_LAMBDA {
        Compute<T>* pixel = target.origin + offset + c;
        lanes.store(pixel, lanes.load(pixel) + lanes.load(grad + i * p.grad_output.column + c));
      });
    });
    return;
  }
  for (int64_t c = 0; c < target.channels; ++c, grad += p.grad_output.channel) {
    Compute<T>* plane = target.origin + c * target.plane_stride;
    each_inside(run, count, [&](int64_t i, int64_t offset) STN_LAMBDA {
      plane[offset] += load_one(grad + i * p.grad_output.column);
    });
  }
}

// What of the passes depends on the storage type.
template <class A>
struct PixelKernels {
  decltype(&copy_pixels<A>) copy = copy_pixels<A>;
  decltype(&add_to_pixels<A>) add = add_to_pixels<A>;
  STN_INLINE explicit PixelKernels(DType dtype) {
    if constexpr (sizeof(A) == sizeof(float)) {
      if (dtype == DType::bfloat16) copy = copy_pixels<BFloat16>, add = add_to_pixels<BFloat16>;
      if (dtype == DType::float16) copy = copy_pixels<Float16>, add = add_to_pixels<Float16>;
    }
  }
};

template <class A>
void nearest_forward(const Problem& p, int64_t begin, int64_t end) {
  const PixelKernels<A> kernels(p.dtype);
  over_points<NearestSampler<A>>(
      p, begin, end, Region(p, p.input), false, Nothing{},
      [&](const Row& row, const PixelRun& run, int64_t u, int, int count, int64_t channel, int64_t channels)
          STN_LAMBDA {
            kernels.copy(p, run, count, row.item.image * p.input.batch + channel * p.input.channel,
                         row.at(p.output, u) + channel * p.output.channel, channels);
          });
}

template <class A>
void nearest_grad_input(const Problem& p, int64_t begin, int64_t end) {
  const PixelKernels<A> kernels(p.dtype);
  scatter_tasks<A, NearestSampler<A>>(
      p, begin, end, false, TapKernels<A>::of(p.dtype),
      [&](const Row&, const PixelRun& run, int64_t, int, int count, int64_t grad_at, const Target<A>& target)
          STN_LAMBDA { kernels.add(p, run, count, grad_at, target); });
}

}  // namespace stn::STN_LEVEL
