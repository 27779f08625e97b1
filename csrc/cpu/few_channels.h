// Affine bilinear sampling of channels_last images of a few channels, over which lanes would stay empty: what a block
// of pixels touches on the other side is copied into planes of bounded size, which the tiles work on.
#pragma once
#include "interleave.h"
#include "tile_passes.h"

namespace stn::STN_LEVEL {

constexpr int64_t kFewChannels = 4;
constexpr int64_t kBlockColumns = 64;
constexpr int kVectorPixels = 16;        // of a row, that are taken apart at a time
constexpr double kRegionPixels = 16384;  // beyond: strong minification

// A rectangle of pixels.
struct Rectangle {
  int64_t x, y, width, height;
  int64_t area() const { return width * height; }
};

// The pixels at [low, high], with what lies up to one beyond, of an axis of `size`; at least `least` of them if it has.
STN_INLINE void clip(double low, double high, int64_t size, int64_t least, int64_t& first, int64_t& count) {
  const auto clamp = [&](double v) STN_LAMBDA { return v < 0 ? 0 : v > double(size - 1) ? size - 1 : int64_t(v); };
  first = clamp(low - 1);
  count = clamp(high + 2) - first + 1;
  if (count < least) count = minimum(least, size);
  first = minimum(first, size - count);
}

// What the block touches through the map, `around` it, in an image of height x width.
STN_INLINE Rectangle touched(const PixelMap<double>& m, const Rectangle& block, double around_x, double around_y,
                             int64_t height, int64_t width) {
  const double u = double(block.width - 1), v = double(block.height - 1);
  const double x = m.x0 + m.xu * double(block.x) + m.xv * double(block.y);
  const double y = m.y0 + m.yu * double(block.x) + m.yv * double(block.y);
  const auto below = [&](double a, double b) STN_LAMBDA { return (a < 0 ? a * u : 0) + (b < 0 ? b * v : 0); };
  const auto above = [&](double a, double b) STN_LAMBDA { return (a > 0 ? a * u : 0) + (b > 0 ? b * v : 0); };
  Rectangle r;
  clip(x + below(m.xu, m.xv) - around_x, x + above(m.xu, m.xv) + around_x, width, Wide::kAcross, r.x, r.width);
  clip(y + below(m.yu, m.yv) - around_y, y + above(m.yu, m.yv) + around_y, height, Square::kDown, r.y, r.height);
  return r;
}

// The same map between the pixels of two rectangles.
STN_INLINE PixelMap<double> between(const PixelMap<double>& m, const Rectangle& from, const Rectangle& to) {
  PixelMap<double> local = m;
  local.x0 += m.xu * double(from.x) + m.xv * double(from.y) - double(to.x);
  local.y0 += m.yu * double(from.x) + m.yv * double(from.y) - double(to.y);
  return local;
}

// Calls f(number of channels, as a constant).
template <class F>
STN_INLINE void with_few_channels(int64_t channels, F f) {
  channels == 2   ? f(std::integral_constant<int, 2>{})
  : channels == 3 ? f(std::integral_constant<int, 3>{})
                  : f(std::integral_constant<int, 4>{});
}

// Calls f(first column, whether a vector of columns is there) over the columns of a row: vectors, of which the last is
// moved back over its neighbour, or single columns where there is none.
template <class F>
STN_INLINE void over_columns(int64_t width, F f) {
  if (width < kVectorPixels) {
    for (int64_t x = 0; x < width; ++x) f(x, std::false_type{});
    return;
  }
  for (int64_t x = 0; x < width; x += kVectorPixels) f(minimum(x, width - kVectorPixels), std::true_type{});
}

template <class T>
using StoredBits = std::conditional_t<sizeof(T) == 2, uint16_t, T>;

// The channels of the pixels of a row, one beside another, in planes of the compute type; and back.
template <int C, class T>
STN_INLINE void row_to_planes(Elements<const T> pixels, int64_t width, Compute<T>* planes, int64_t plane) {
  over_columns(width, [&](int64_t x, auto whole) STN_LAMBDA {
    const auto from = pixels + x * C;
    if constexpr (!whole) {
      for (int c = 0; c < C; ++c) planes[c * plane + x] = load_one(from + c);
    } else {
      Vec<StoredBits<T>, kVectorPixels> of[C];
      deinterleave<C, kVectorPixels>(stored(from), of);
      for (int c = 0; c < C; ++c) store(planes + c * plane + x, widened<kVectorPixels>(from, of[c]));
    }
  });
}
template <int C, class T>
STN_INLINE void row_from_planes(const Compute<T>* planes, int64_t plane, int64_t width, Elements<T> pixels) {
  using V = Vec<Compute<T>, kVectorPixels>;
  over_columns(width, [&](int64_t x, auto whole) STN_LAMBDA {
    const auto to = pixels + x * C;
    if constexpr (!whole) {
      for (int c = 0; c < C; ++c) store_one(to + c, planes[c * plane + x]);
    } else {
      Vec<StoredBits<T>, kVectorPixels> of[C];
      for (int c = 0; c < C; ++c) of[c] = narrowed<kVectorPixels>(to, load<V>(planes + c * plane + x));
      interleave<C, kVectorPixels>(of, stored(to));
    }
  });
}

// A rectangle of an image's pixels, its channels in planes; and back.
STN_SHARED inline void to_planes(const Problem& p, const Images<const void*>& images, int64_t offset,
                                 const Rectangle& r, float* planes) {
  const auto first = elements<const Any>(p, images.data) + (offset + r.y * images.row + r.x * images.column);
  in_format(first, [&](auto pixels) STN_LAMBDA {
    using T = std::remove_cvref_t<decltype(pixels[0])>;
    with_few_channels(p.channels, [&](auto count) STN_LAMBDA {
      for (int64_t y = 0; y < r.height; ++y, pixels += images.row, planes += r.width)
        row_to_planes<count, T>(pixels, r.width, planes, r.area());
    });
  });
}
STN_SHARED inline void from_planes(const Problem& p, const float* planes, const Rectangle& r,
                                   const Images<void*>& images, int64_t offset) {
  const auto first = elements<Any>(p, images.data) + (offset + r.y * images.row + r.x * images.column);
  in_format(first, [&](auto pixels) STN_LAMBDA {
    using T = std::remove_cvref_t<decltype(pixels[0])>;
    with_few_channels(p.channels, [&](auto count) STN_LAMBDA {
      for (int64_t y = 0; y < r.height; ++y, pixels += images.row, planes += r.width)
        row_from_planes<count, T>(planes, r.area(), r.width, pixels);
    });
  });
}

// Planes of one image as a batch.
template <class Pointer>
STN_INLINE Images<Pointer> planes_of(float* data, const Rectangle& r) {
  return {data, 0, r.area(), r.width, 1};
}

STN_INLINE bool has_few_channels(const Problem& p) {
  return p.channels_last && p.channels > 1 && p.channels <= kFewChannels;
}

// Calls body(block) over the blocks of columns of some rows.
template <class Body>
STN_INLINE void over_blocks(int64_t width, int64_t first, int64_t last, Body body) {
  const int64_t blocks = width < kBlockColumns ? 1 : width / kBlockColumns;
  for (int64_t i = 0; i < blocks; ++i) {
    const int64_t x = i * kBlockColumns;
    body(Rectangle{x, first, (i + 1 < blocks ? x + kBlockColumns : width) - x, last - first});
  }
}

// Whether the blocks of an item can be sampled by tiles.
STN_INLINE bool tiled_in_blocks(const Problem& p, const PixelMap<double>& m, int64_t rows) {
  if (!has_few_channels(p) || !tiled<Square>(p, m)) return false;
  const double u = double(minimum(p.out_width, 2 * kBlockColumns)), v = double(rows);
  return (__builtin_fabs(m.xu) * u + __builtin_fabs(m.xv) * v) * (__builtin_fabs(m.yu) * u + __builtin_fabs(m.yv) * v) <
         kRegionPixels;
}

// Calls body(problem, map, block) for the blocks of output rows [first, last), what they read in planes.
template <class Body>
STN_INLINE void over_sampled_blocks(const Problem& p, int64_t item, const PixelMap<double>& m, int64_t first,
                                    int64_t last, Body body) {
  over_blocks(p.out_width, first, last, [&](const Rectangle& block) STN_LAMBDA {
    const Rectangle source = touched(m, block, 0, 0, p.height, p.width);
    const Scratch<float> planes(source.area() * p.channels, uninitialized);
    to_planes(p, p.input, item / p.samples * p.input.batch, source, planes.data);
    Problem q = p;
    q.batch = q.samples = 1, q.channels_last = false, q.dtype = DType::float32;
    q.width = source.width, q.height = source.height, q.out_width = block.width, q.out_height = block.height;
    q.input = planes_of<const void*>(planes.data, source);
    body(q, between(m, block, source), block);
  });
}

template <class Map>
void few_channels_forward(const Problem& p, int64_t item, const Map& m, int64_t first, int64_t last) {
  over_sampled_blocks(
      p, item, m, first, last, [&](Problem& q, const PixelMap<double>& map, const Rectangle& block) STN_LAMBDA {
        const Scratch<float> planes(block.area() * p.channels, uninitialized);
        q.output = planes_of<void*>(planes.data, block);
        with_tiles(q, map, [&](auto shape) { tile_forward<decltype(shape)>(q, 0, map, 0, block.height); });
        from_planes(p, planes.data, block, p.output, item * p.output.batch);
      });
}

template <class Map>
void few_channels_theta_moments(const Problem& p, int64_t item, const Map& m, int64_t first, int64_t last,
                                double* moments) {
  for (int k = 0; k < 6; ++k) moments[k] = 0;
  over_sampled_blocks(
      p, item, m, first, last, [&](Problem& q, const PixelMap<double>& map, const Rectangle& block) STN_LAMBDA {
        const Scratch<float> planes(block.area() * p.channels, uninitialized);
        to_planes(p, p.grad_output, item * p.grad_output.batch, block, planes.data);
        q.grad_output = planes_of<const void*>(planes.data, block);
        double local[6];
        with_tiles(q, map, [&](auto shape) { tile_theta_moments<decltype(shape)>(q, 0, map, 0, block.height, local); });
        for (int k = 0; k < 6; k += 3) {
          moments[k] += local[k];
          moments[k + 1] += local[k + 1] + double(block.x) * local[k];
          moments[k + 2] += local[k + 2] + double(block.y) * local[k];
        }
      });
}

// Rows [first, last) of one image's gradient; maps(s) is the pixel map of its s-th transformation.
template <class Maps>
void few_channels_gather(const Problem& p, int64_t b, Maps maps, int64_t first, int64_t last) {
  over_blocks(p.width, first, last, [&](const Rectangle& block) STN_LAMBDA {
    const Scratch<float> sums(block.area() * p.channels, uninitialized);
    const Images<Elements<Any>> target{{(char*)sums.data, DType::float32}, 0, block.area(), block.width, 1};
    bool care = false;
    for (int64_t s = 0; s < p.samples; ++s) {
      const PixelMap<double> m = maps(s);
      const Inverse inverse(m);
      const Rectangle source =
          touched(inverse.map, block, inverse.radius_u, inverse.radius_v, p.out_height, p.out_width);
      const Scratch<float> planes(source.area() * p.channels, uninitialized);
      to_planes(p, p.grad_output, (b * p.samples + s) * p.grad_output.batch, source, planes.data);
      Problem q = p;
      q.batch = q.samples = 1, q.channels_last = false, q.dtype = DType::float32;
      q.width = block.width, q.height = block.height, q.out_width = source.width, q.out_height = source.height;
      q.grad_output = planes_of<const void*>(planes.data, source);
      const PixelMap<double> map = between(m, source, block);
      if (tile_gather(q, 0, map, 0, block.height, target, s > 0, care) || care) continue;
      care = true, s = -1;  // from the first on, with care
    }
    from_planes(p, sums.data, block, p.grad_input, b * p.grad_input.batch);
  });
}

}  // namespace stn::STN_LEVEL
