// The general passes: any transform, padding, storage type and stride, in runs of points of an output row.
#pragma once
#include "channels_last.h"
#include "parameter_sums.h"
#include "planar.h"

namespace stn::STN_LEVEL {

constexpr int64_t kChannelBlock = 8, kSmallPlaneBlock = 32;

// Channels that are read by the same taps before the next points: of small planes the first cache keeps more.
STN_INLINE int64_t shared_channels(const Problem& p) {
  if (p.channels_last) return p.channels;
  return p.height * p.width < 1024 ? kSmallPlaneBlock : kChannelBlock;
}

// Calls body(run, u0) over the runs of points [begin, end) of output row v.
template <class T, class Body>
STN_INLINE void over_runs(const Source& source, Locate<T> locate, int64_t v, int64_t begin, int64_t end, Body body) {
  Run<T> run;
  for (int64_t u = begin; u < end; u += Run<T>::kPoints) {
    locate(source, v, u, minimum<int64_t>(Run<T>::kPoints, end - u), run);
    body(run, u);
  }
}

// Calls body(run, v, u0) over the points of output rows [row_begin, row_end): down before across where the lines that a
// row reads would be evicted before the next one shares them. Those are pixels of channels_last images, rows of
// multiples of 4 KB, or too many, as the image is turned.
template <class T, class Body>
STN_INLINE void over_rows(const Source& source, Locate<T> locate, int64_t row_begin, int64_t row_end, Body body) {
  constexpr double kLines = 1024;  // too many for the first cache
  const Problem& p = source.p;
  const double crossed = __builtin_fabs(source.map.yu) * double(p.out_width);
  const bool down = p.channels_last || p.input.row * int64_t(sizeof(T)) % 4096 == 0 ||
                    crossed * double(minimum(kChannelBlock, p.channels)) > kLines;
  const int64_t across = down ? Run<T>::kPoints : p.out_width;
  for (int64_t begin = 0; begin < p.out_width; begin += across) {
    for (int64_t v = row_begin; v < row_end; ++v) {
      over_runs<T>(source, locate, v, begin, minimum(begin + across, p.row_width(v)),
                   [&](const Run<T>& run, int64_t u) STN_LAMBDA { body(run, v, u); });
    }
  }
}

// Fetches what is read next where the processor does not follow by itself: the same pixels of the next block of
// channels, or those of the same points a few output rows on where planes are large.
class Ahead {
  static constexpr double kRows = 8;
  static constexpr int64_t kStep = 8;  // points: at most half a line
  const Problem& p;
  bool on = false;
  int64_t dx = 0, dy = 0, next_planes = 0;

 public:
  STN_INLINE Ahead(const Source& s, int64_t block, int64_t size) : p(s.p) {
    if (p.transform != Transform::affine || p.channels_last) return;
    if (walks_planes(p.channels, block, p.input.channel)) {
      on = leaves_cache(p, size), next_planes = block;
    } else {
      on = p.height * p.width * size >= 1 << 17, dx = steps(s.map.xv), dy = steps(s.map.yv);
    }
  }
  // For a run of points and some planes of the image.
  template <class T, class Pixels>
  STN_INLINE void fetch_pixels(const Run<T>& run, Pixels image, int64_t channels) const {
    if (!on) return;
    for (int64_t i = kStep - 1; i < run.count; i += kStep) {
      const int64_t x = run.x_index[i] + dx, y = run.y_index[i] + dy;
      if (x < 0 || x >= p.width || y < 0 || y >= p.height) continue;
      auto pixel = image + (next_planes * p.input.channel + y * p.input.row + x);
      for (int64_t k = 0; k < channels; ++k, pixel += p.input.channel) __builtin_prefetch(address(pixel), 0, 2);
    }
  }
  // For `count` points of an output row in the same planes; along a row the processor follows.
  template <class Pixels>
  STN_INLINE void fetch_outputs(Pixels first, int64_t count, int64_t plane, int64_t channels) const {
    if (!on || next_planes == 0) return;
    for (int64_t k = 0; k < channels; ++k) {
      for (int64_t i = 0; i < count; i += 16) __builtin_prefetch(address(first + (k + next_planes) * plane + i), 0, 2);
    }
  }

 private:
  static STN_INLINE int64_t steps(double a_row) {
    return absolute(a_row) < 0x1p20 ? int64_t(__builtin_nearbyint(kRows * a_row)) : 0;
  }
};

template <class T>
void rows_forward(const Problem& p, const Source& source, int64_t row_begin, int64_t row_end) {
  using A = Compute<T>;
  const Locate<A> place = locator<A>(p);
  Elements<const T> image = elements<const T>(p, p.input.data) + source.item / p.samples * p.input.batch;
  Elements<T> output = elements<T>(p, p.output.data) + source.item * p.output.batch;
  const bool channels_last = p.channels_last;
  const int64_t block = shared_channels(p);
  const Ahead ahead(source, block, sizeof(T));
  for (int64_t c = 0; c < p.channels; c += block) {
    const int64_t channels = minimum(block, p.channels - c);
    over_rows<A>(source, place, row_begin, row_end, [&](const Run<A>& run, int64_t v, int64_t u) STN_LAMBDA {
      Elements<const T> in = image + c * p.input.channel;
      Elements<T> out = output + c * p.output.channel + v * p.output.row + u * p.output.column;
      if (channels_last) {
        channels_last_forward<T>(run, p, in, out);
      } else {
        ahead.fetch_pixels(run, in, channels);
        planar_forward<T>(run, p, in, out, channels);
      }
    });
  }
}

// Where dL/d(source pixel) of the points [u, u + count) of output row v goes; zeros follow up to a whole vector.
template <class A>
using TakeGradient = void (*)(void* to, const Source&, int64_t v, int64_t u, int64_t count, const A* grad_x,
                              const A* grad_y);

// Calls take(to, ...) with the gradients of each run of points, summed over some channels. A pointer, so that the
// transforms share one function.
template <class T>
void rows_grad_points(const Problem& p, const Source& source, int64_t row_begin, int64_t row_end, int64_t first_channel,
                      int64_t channels, TakeGradient<Compute<T>> take, void* to) {
  using A = Compute<T>;
  const Locate<A> place = locator<A>(p);
  Elements<const T> image =
      elements<const T>(p, p.input.data) + source.item / p.samples * p.input.batch + first_channel * p.input.channel;
  Elements<const T> grad_output = elements<const T>(p, p.grad_output.data) + source.item * p.grad_output.batch +
                                  first_channel * p.grad_output.channel;
  const bool channels_last = p.channels_last;
  const Ahead ahead(source, shared_channels(p), sizeof(T));
  over_rows<A>(source, place, row_begin, row_end, [&](const Run<A>& run, int64_t v, int64_t u) STN_LAMBDA {
    A grad_x[Run<A>::kPoints], grad_y[Run<A>::kPoints];
    Elements<const T> grad = grad_output + v * p.grad_output.row + u * p.grad_output.column;
    if (channels_last) {
      channels_last_grad_points<T>(run, p, image, grad, grad_x, grad_y);
    } else {
      ahead.fetch_pixels(run, image, channels);
      ahead.fetch_outputs(grad, run.count, p.grad_output.channel, channels);
      planar_grad_points<T>(run, p, image, grad, channels, grad_x, grad_y);
    }
    for (int64_t i = run.count; i % kDoubles != 0; ++i) grad_x[i] = grad_y[i] = 0;
    take(to, source, v, u, run.count, grad_x, grad_y);
  });
}

// The kernels for rows of the storage type of the call.
STN_INLINE auto rows_forward_of(const Problem& p) {
  if constexpr (kHasHalfRows) {
    if (p.dtype != DType::float32) return rows_forward<Half>;
  }
  return rows_forward<float>;
}
STN_INLINE auto rows_grad_points_of(const Problem& p) {
  if constexpr (kHasHalfRows) {
    if (p.dtype != DType::float32) return rows_grad_points<Half>;
  }
  return rows_grad_points<float>;
}

// Adds what some rows give to the gradient of the transform's parameters.
template <class Sums>
void rows_parameter_sums(const Problem& p, const Source& source, int64_t row_begin, int64_t row_end, Sums& total) {
  const auto take = [](void* to, const Source& of, int64_t v, int64_t u, int64_t count, const float* grad_x,
                       const float* grad_y) {
    static_cast<Sums*>(to)->add(of, Cotangents(v, u, count, grad_x, grad_y));
  };
  const int64_t block = shared_channels(p);
  const auto rows = rows_grad_points_of(p);
  for (int64_t c = 0; c < p.channels; c += block)
    rows(p, source, row_begin, row_end, c, minimum(block, p.channels - c), take, &total);
}

// Stores pairs, scaled, of points of a grid of type G.
template <class G, class A>
STN_INLINE void put_pairs(void* grid, const Source& of, int64_t v, int64_t u, int64_t count, const A* x, const A* y,
                          double by_x, double by_y) {
  G* to = static_cast<G*>(grid) + 2 * (of.item * of.p.item_points() + v * of.p.out_width + u);
  const A scale_x = A(by_x), scale_y = A(by_y);
  constexpr int N = kVectorBytes / int(sizeof(A));
  if (sizeof(G) != sizeof(A) || count < N) {
    for (int64_t i = 0; i < count; ++i) to[2 * i] = G(x[i] * scale_x), to[2 * i + 1] = G(y[i] * scale_y);
    return;
  }
  using V = Vec<A, N>;
  for (int64_t first = 0; first < count; first += N) {
    const int64_t i = whole_vector<N>(first, count);
    interleave<2, N>({load<V>(x + i) * scale_x, load<V>(y + i) * scale_y}, (A*)(to + 2 * i));
  }
}
// Takes gradients of source pixels to that of such a grid.
template <class A, class G>
void put_grad_grid(void* to, const Source& of, int64_t v, int64_t u, int64_t count, const A* grad_x, const A* grad_y) {
  put_pairs<G>(to, of, v, u, count, grad_x, grad_y, of.x.scale, of.y.scale);
}

// The points [begin, end) of output row v whose taps may lie in rows [first, last): exact to a point for an affine map,
// all of them for any other.
STN_INLINE void points_near(const Source& s, int64_t v, int64_t first, int64_t last, int64_t& begin, int64_t& end) {
  begin = 0, end = s.p.row_width(v);
  if (s.p.transform != Transform::affine || s.p.padding != Padding::zeros) return;
  const AffineRow row(s, v);
  const double y = row.y - row.yu * row.centre, low = double(first) - 2 - y, high = double(last) + 1 - y, step = row.yu;
  if (step == 0) {
    if (!(low <= 0 && high >= 0)) end = 0;
    return;
  }
  const double a = (step > 0 ? low : high) / step, b = (step > 0 ? high : low) / step, limit = double(end);
  if (!(a < limit && b >= 0)) {  // NaN: nothing is inside
    end = 0;
    return;
  }
  begin = a > 0 ? int64_t(a) : 0;
  end = b < limit - 1 ? int64_t(b) + 1 : end;
}

}  // namespace stn::STN_LEVEL
