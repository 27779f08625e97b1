// Nearest sampling: a point reads one pixel. Any number of dimensions, transform, padding, storage type and stride.
#pragma once
#include "tap_passes.h"

namespace stn::STN_LEVEL {

// Where the pixels of a run of points lie in a region, and which are inside; the others' offset is 0.
template <class A>
struct PixelRun {
  static constexpr bool outside = false;
  static constexpr int64_t kMost = 4 * kRun;
  bool is_near;  // whether offsets fit 32 bits
  alignas(64) int32_t near[kMost];
  alignas(64) int64_t far[kMost];
  IndexOf<A> inside[kMost];
  // Calls f(offsets).
  template <class F>
  STN_INLINE void with_offsets(F f) const {
    is_near ? f(near) : f(far);
  }
};

// Lists the pixels of a float32 grid's points at once, without a list of places between. The region is small.
using ListPixels = void (*)(const Item&, int64_t row, int64_t u0, int64_t count, const Region&, PixelRun<float>&);
template <Padding kPadding, int n>
void list_grid_pixels(const Item& item, int64_t row, int64_t u0, int64_t count, const Region& region,
                      PixelRun<float>& run) {
  constexpr int W = kVectorBytes / 4;
  using V = Vec<float, W>;
  using I = Vec<int32_t, W>;
  using Unsigned = Vec<uint32_t, W>;
  Axis<float> axis[n];
  Lattice<float> limits[n];
  int32_t first[n], stride[n];
  uint32_t extent[n];
  for (int a = 0; a < n; ++a) {
    axis[a] = {float(item.axis[a].scale), float(item.axis[a].shift)};
    if (kPadding != Padding::reflection) limits[a] = bounds<Mode::nearest, kPadding>(item.p.extent(a));
    first[a] = a + 1 == n ? int32_t(region.first) : 0, stride[a] = int32_t(region.stride[a]);
    extent[a] = uint32_t(a + 1 == n ? region.last - region.first : item.p.extent(a));
  }
  over_coordinates<n>(item.grid_at<float>(row, u0), count, [&](const V(&g)[n], int64_t i) STN_LAMBDA {
    I inside = splat<I>(-1), offset{};
#pragma GCC unroll 3
    for (int a = 0; a < n; ++a) {
      I pixel;
      V fraction, slope;
      if constexpr (kPadding == Padding::reflection) {
        place_mirrored<Mode::nearest>(g[a], axis[a], Mirrors(item.p.extent(a), item.p.align_corners), pixel, fraction,
                                      slope);
      } else {
        place<Mode::nearest>(g[a], axis[a], limits[a], pixel, fraction, slope);
      }
      inside &= (Unsigned)(pixel - first[a]) < extent[a], offset += pixel * stride[a];
    }
    store(run.inside + i, inside);
    store(run.near + i, masked(offset, inside));
  });
  run.is_near = true;
  asm volatile("" : "+m"(run));  // reloading beats extracting lane by lane
}
STN_INLINE ListPixels grid_pixels(const Problem& p) {
  if (!placed_in_float(p)) return nullptr;
  return with_dimensions(p.dimensions, [&](auto n) STN_LAMBDA -> ListPixels {
    return with_padding(p.padding,
                        [&]<Padding kPadding>() STN_LAMBDA -> ListPixels { return list_grid_pixels<kPadding, n>; });
  });
}

// Has the interface of tap_passes.h: its lists are PixelRuns.
template <class A>
struct NearestSampler {
  const Problem& p;
  LocatePoints<A> locate;
  ListPixels list_at_once = nullptr;
  STN_INLINE NearestSampler(const Problem& problem, bool) : p(problem), locate(point_locator<A>(problem)) {
    if constexpr (sizeof(A) == sizeof(float)) list_at_once = grid_pixels(problem);
  }
  static STN_INLINE int64_t planes(const Problem& problem) { return planes_at_once(problem); }

  template <class Body>
  STN_INLINE void over(const Item& item, int64_t row, int64_t first, int64_t last, const Region& region,
                       Body body) const {
    PixelRun<A> run;
    if constexpr (sizeof(A) == sizeof(float)) {
      if (list_at_once && region.small) {
        for (int64_t u = first; u < last; u += run.kMost) {
          const int64_t count = minimum(run.kMost, last - u);
          list_at_once(item, row, u, count, region, run);
          body(run, u, 0, int(count));
        }
        return;
      }
    }
    Points<A> points;
    for (int64_t u = first; u < last; u += kRun) {
      const int64_t count = minimum<int64_t>(kRun, last - u);
      locate(item, row, u, count, points);
      region.small ? list<IndexOf<A>>(points, count, region, run) : list<int64_t>(points, count, region, run);
      body(run, u, 0, int(count));
    }
  }
  template <class Offset>
  STN_INLINE void list(const Points<A>& points, int64_t count, const Region& region, PixelRun<A>& run) const {
    constexpr int N = kLanes<A>;
    using I = Vec<IndexOf<A>, N>;
    using Offsets = Vec<Offset, N>;
    constexpr bool kNear = sizeof(Offset) == sizeof(int32_t);
    const int last = p.dimensions - 1;
    for (int64_t i = 0; i < count; i += N) {
      I inside = splat<I>(IndexOf<A>(-1));
      Offsets offset{};
      for (int a = 0; a <= last; ++a) {
        const I pixel = load<I>(points.index[a] + i);
        const I begin = splat<I>(IndexOf<A>(a == last ? region.first : 0)),
                end = splat<I>(IndexOf<A>(a == last ? region.last : p.extent(a)));
        inside &= (pixel >= begin) & (pixel < end);
        offset += __builtin_convertvector(pixel, Offsets) * Offset(region.stride[a]);
      }
      offset = masked(offset, __builtin_convertvector(inside, Offsets) != 0);
      store(run.inside + i, inside);
      if constexpr (kNear) {
        store(run.near + i, offset);
      } else {
        store(run.far + i, offset);
      }
    }
    run.is_near = kNear;
    asm volatile("" : "+m"(run));  // reloading beats extracting lane by lane
  }
};

template <class T>
void copy_pixels(const Problem& p, const PixelRun<Compute<T>>& run, int64_t count, int64_t at, int64_t out_at,
                 int64_t channels) {
  constexpr int N = kLanes<Compute<T>>;
  Elements<const T> image = elements<const T>(p, p.input.data) + at;
  Elements<T> out = elements<T>(p, p.output.data) + out_at;
  run.with_offsets([&](const auto* offset) STN_LAMBDA {
    if (!lanes_are_points(p)) {
      for (int64_t i = 0; i < count; ++i, out += p.output.column) {
        run.inside[i] ? __builtin_memcpy(address(out), address(image + offset[i]), size_t(channels) * sizeof(T))
                      : __builtin_memset(address(out), 0, size_t(channels) * sizeof(T));
      }
      return;
    }
    for (int64_t c = 0; c < channels; ++c, image += p.input.channel, out += p.output.channel) {
      for (int64_t i = 0; i < count; i += N) {
        const auto inside = load<Vec<IndexOf<Compute<T>>, N>>(run.inside + i);
        store_points_of<N>(out + i * p.output.column, p.output.column, masked(gather<N>(image, offset + i), inside),
                           int(minimum<int64_t>(N, count - i)));
      }
    }
  });
}

template <class T>
void add_to_pixels(const Problem& p, const PixelRun<Compute<T>>& run, int64_t count, int64_t grad_at,
                   const Target<Compute<T>>& target) {
  constexpr int N = kLanes<Compute<T>>;
  Elements<const T> grad = elements<const T>(p, p.grad_output.data) + grad_at;
  run.with_offsets([&](const auto* offset) STN_LAMBDA {
    if (!lanes_are_points(p)) {
      for (int64_t i = 0; i < count; ++i) {
        if (!run.inside[i]) continue;
        over_channels<T>(target.channels, [&](int64_t c, auto lanes) STN_LAMBDA {
          Compute<T>* pixel = target.origin + offset[i] + c;
          lanes.store(pixel, lanes.load(pixel) + lanes.load(grad + i * p.grad_output.column + c));
        });
      }
      return;
    }
    for (int64_t c = 0; c < target.channels; ++c, grad += p.grad_output.channel) {
      Compute<T>* plane = target.origin + c * target.plane_stride;
      const auto add = [&](int64_t i) STN_LAMBDA { plane[offset[i]] += load_one(grad + i * p.grad_output.column); };
      for (int64_t first = 0; first < count; first += N) {
        const int64_t last = minimum<int64_t>(first + N, count);
        if (last - first == N && all(load<Vec<IndexOf<Compute<T>>, N>>(run.inside + first) != 0)) {
#pragma GCC unroll 16
          for (int k = 0; k < N; ++k) add(first + k);
        } else {
          for (int64_t i = first; i < last; ++i) {
            if (run.inside[i]) add(i);
          }
        }
      }
    }
  });
}

// What of the passes depends on the storage type.
template <class A>
struct PixelKernels {
  decltype(&copy_pixels<A>) copy = copy_pixels<A>;
  decltype(&add_to_pixels<A>) add = add_to_pixels<A>;
  STN_INLINE explicit PixelKernels(DType dtype) {
    if constexpr (sizeof(A) == sizeof(float)) {
      if (dtype != DType::float32) copy = copy_pixels<Half>, add = add_to_pixels<Half>;
    }
  }
};

template <class A>
void nearest_forward(const Problem& p, int64_t begin, int64_t end) {
  const PixelKernels<A> kernels(p.dtype);
  over_points<NearestSampler<A>>(
      p, begin, end, Region(p, p.input), false, Nothing{},
      [&](const Row& row, const PixelRun<A>& run, int64_t u, int, int count, int64_t channel, int64_t channels)
          STN_LAMBDA {
            kernels.copy(p, run, count, row.item.image * p.input.batch + channel * p.input.channel,
                         row.at(p.output, u) + channel * p.output.channel, channels);
          });
}

template <class A>
STN_INLINE auto adding_to_pixels(const Problem& p) {
  return [&p, kernels = PixelKernels<A>(p.dtype)](const Row&, const PixelRun<A>& run, int64_t, int, int count,
                                                  int64_t grad_at, const Target<A>& target)
             STN_LAMBDA { kernels.add(p, run, count, grad_at, target); };
}

template <class A>
void nearest_grad_input(const Problem& p, int64_t begin, int64_t end) {
  scatter_tasks<A, NearestSampler<A>>(p, begin, end, false, TapKernels<A>::of(p.dtype), adding_to_pixels<A>(p));
}

template <class A>
void nearest_add_grad_input(const Problem& p, int64_t first, int64_t last) {
  add_to_slices<A, NearestSampler<A>>(p, first, last, adding_to_pixels<A>(p));
}

}  // namespace stn::STN_LEVEL
