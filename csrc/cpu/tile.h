// Affine bilinear sampling by tiles: a tile of 16 outputs reads a window of 64 pixels of the input, which lie in four
// registers; every tap is a permute of them, with indices and weights shared by all channels. float32 or half storage,
// planar, 16 lanes: worthwhile where two-source permutes exist (AVX-512).
#pragma once
#include "common/affine.h"
#include "elements.h"
#include "kernels.h"

namespace stn::STN_LEVEL {

using F16 = Vec<float, 16>;
using I16 = Vec<int32_t, 16>;

// Width and height of a tile of outputs and of the window that it reads.
template <int kTileWidth, int kTileHeight, int kWindowWidth, int kWindowHeight>
struct TileShape {
  static constexpr int kWidth = kTileWidth, kHeight = kTileHeight;
  static constexpr int kAcross = kWindowWidth, kDown = kWindowHeight;
  static constexpr int kMostOfPageRows =
      kWindowWidth > kWindowHeight ? 4 : 1;  // channel_block: turned, it reads more rows
  static_assert(kWidth * kHeight == 16 && kAcross * kDown == 64);
};
using Square = TileShape<4, 4, 8, 8>;  // any rotation
using Wide = TileShape<8, 2, 16, 4>;   // nearly level rows: its window's rows are registers, put together from nothing

constexpr int kStrip = 32;             // tiles of a row whose positions are computed ahead
constexpr double kOne = 4294967296.0;  // 1 in 32.32 fixed point

STN_INLINE int64_t fixed(double v) { return int64_t(__builtin_nearbyint(v * kOne)); }

// An affine map of a tile: the position of its lowest corner in fixed point (exact at any image size), and each
// lane's non-negative offset from it.
template <class Shape>
struct TileMap {
  int64_t xu, xv, x0, yu, yv, y0;
  F16 dx, dy;
  float reach_x, reach_y;  // largest offset

  // margin is subtracted from the corner: the first candidate of a gather lies that much below the position.
  STN_INLINE TileMap(const PixelMap<double>& m, double margin_x = 0, double margin_y = 0) {
    constexpr int kU = Shape::kWidth - 1, kV = Shape::kHeight - 1;
    const double low_x = kU * (m.xu < 0 ? m.xu : 0) + kV * (m.xv < 0 ? m.xv : 0);
    const double low_y = kU * (m.yu < 0 ? m.yu : 0) + kV * (m.yv < 0 ? m.yv : 0);
    for (int i = 0; i < 16; ++i) {
      const int u = i % Shape::kWidth, v = i / Shape::kWidth;
      dx[i] = float(m.xu * u + m.xv * v - low_x);
      dy[i] = float(m.yu * u + m.yv * v - low_y);
    }
    xu = fixed(m.xu), xv = fixed(m.xv), x0 = fixed(m.x0 + low_x - margin_x);
    yu = fixed(m.yu), yv = fixed(m.yv), y0 = fixed(m.y0 + low_y - margin_y);
    reach_x = float(kU * __builtin_fabs(m.xu) + kV * __builtin_fabs(m.xv));
    reach_y = float(kU * __builtin_fabs(m.yu) + kV * __builtin_fabs(m.yv));
  }
};

// Whether all points of an output lattice stay where floats count pixels exactly; false for NaN.
STN_INLINE bool representable(const PixelMap<double>& m, int64_t height, int64_t width) {
  const double x = __builtin_fabs(m.x0) + __builtin_fabs(m.xu) * double(width) + __builtin_fabs(m.xv) * double(height);
  const double y = __builtin_fabs(m.y0) + __builtin_fabs(m.yu) * double(width) + __builtin_fabs(m.yv) * double(height);
  return x < 0x1p23 && y < 0x1p23;
}

// Whether the taps of every tile fit in a window; the floors of its points are less than their reach plus one apart.
template <class Shape>
STN_INLINE bool fits_window(const PixelMap<double>& m) {
  constexpr int kU = Shape::kWidth - 1, kV = Shape::kHeight - 1;
  return kU * __builtin_fabs(m.xu) + kV * __builtin_fabs(m.xv) < Shape::kAcross - 2.001 &&
         kU * __builtin_fabs(m.yu) + kV * __builtin_fabs(m.yv) < Shape::kDown - 2.001;
}

STN_INLINE F16 load_rows(const float* p, int64_t stride) {  // two rows of 8
  return joined(load_as<8>(p), load_as<8>(p + stride));
}
template <class H>
STN_INLINE F16 load_rows(HalfElements<H> p, int64_t stride) {
  const auto a = load<Halves<8>>(p.data), b = load<Halves<8>>(p.data + stride);
  const auto both = __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  return widen<16>(p.is_bfloat16, both);
}

// The window whose first pixel is at p. It is read by index = kAcross row + column.
template <class Shape, class Pixels>
struct Window {
  F16 part[4];
  STN_INLINE Window(Pixels p, int64_t stride) {
    unrolled<4>([&](auto k) STN_LAMBDA {
      if constexpr (Shape::kAcross == 16) {
        part[k] = load_as<16>(p + k * stride);
      } else {
        part[k] = load_rows(p + 2 * k * stride, stride);
      }
    });
  }
  STN_INLINE F16 at(I16 index) const {
    const F16 upper = __builtin_shuffle(part[0], part[1], index), lower = __builtin_shuffle(part[2], part[3], index);
    return (index & 32) != 0 ? lower : upper;
  }
  STN_INLINE void two(I16 first, I16 second, F16& a, F16& b) const { a = at(first), b = at(second); }
};
// In half precision it lies in two registers, and one permute finds two pixels for every lane.
template <class Shape, class H>
struct Window<Shape, HalfElements<H>> {
  bool is_bfloat16;
  Halves<32> part[2];
  STN_INLINE Window(HalfElements<H> p, int64_t stride) : is_bfloat16(p.is_bfloat16) {
    for (int k = 0; k < 2; ++k) {
      const auto row = [&](int i) STN_LAMBDA {
        return load<Halves<Shape::kAcross>>((p + (k * Shape::kDown / 2 + i) * stride).data);
      };
      if constexpr (Shape::kDown == 4) {
        part[k] = joined(row(0), row(1));
      } else {
        part[k] = joined(joined(row(0), row(1)), joined(row(2), row(3)));
      }
    }
  }
  STN_INLINE void two(I16 first, I16 second, F16& a, F16& b) const {
    if (is_bfloat16) {  // side by side, so that they are widened where they are
      const auto found = (I16)__builtin_shuffle(part[0], part[1], (Halves<32>)(first | second << 16));
      a = (F16)(found << 16), b = (F16)(found & ~0xffff);
    } else {
      using Words = Vec<uint32_t, 16>;
      const auto index = joined(truncated<16>((Words)first), truncated<16>((Words)second));
      const auto found = __builtin_shuffle(part[0], part[1], index);
      const auto words = (F16)found;
      const auto low = __builtin_shufflevector(words, words, 0, 1, 2, 3, 4, 5, 6, 7);
      const auto high = __builtin_shufflevector(words, words, 8, 9, 10, 11, 12, 13, 14, 15);
      a = widen_float16<16>((Halves<16>)low), b = widen_float16<16>((Halves<16>)high);
    }
  }
  STN_INLINE F16 at(I16 index) const {
    F16 a, b;
    return two(index, index, a, b), a;
  }
};
template <class Shape, class Pixels>
STN_INLINE Window<Shape, Pixels> window_at(Pixels p, int64_t stride) {
  return {p, stride};
}

template <class Shape>
STN_INLINE F16 load_tile(const float* p, int64_t stride) {
  if constexpr (Shape::kWidth == 8) return load_rows(p, stride);
  const auto two = [&](int k) STN_LAMBDA {
    return __builtin_shufflevector(load_as<4>(p + k * stride), load_as<4>(p + (k + 1) * stride), 0, 1, 2, 3, 4, 5, 6,
                                   7);
  };
  return joined(two(0), two(2));
}
template <class Shape, class H>
STN_INLINE F16 load_tile(HalfElements<H> p, int64_t stride) {
  if constexpr (Shape::kWidth == 8) return load_rows(p, stride);
  const auto row = [&](int k) STN_LAMBDA { return load<uint64_t>(p.data + k * stride); };
  return widen<16>(p.is_bfloat16, (Halves<16>)Vec<uint64_t, 4>{row(0), row(1), row(2), row(3)});
}
template <class Shape>
STN_INLINE void store_tile(float* p, int64_t stride, F16 v) {
  if constexpr (Shape::kWidth == 8) {
    store_as<8>(p, __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7));
    store_as<8>(p + stride, __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15));
  } else {
    store_as<4>(p, __builtin_shufflevector(v, v, 0, 1, 2, 3));
    store_as<4>(p + stride, __builtin_shufflevector(v, v, 4, 5, 6, 7));
    store_as<4>(p + 2 * stride, __builtin_shufflevector(v, v, 8, 9, 10, 11));
    store_as<4>(p + 3 * stride, __builtin_shufflevector(v, v, 12, 13, 14, 15));
  }
}
template <class Shape>
STN_INLINE void store_tile(HalfElements<Half> p, int64_t stride, F16 v) {
  using Row = Vec<uint64_t, Shape::kWidth / 4>;
  const auto halves = narrow_sampled<16>(p.is_bfloat16, v);
  for (int k = 0; k < Shape::kHeight; ++k)
    store((p + k * stride).data, load<Row>((const char*)&halves + k * sizeof(Row)));
}

STN_INLINE int clamped(int v, int low, int high) { return v < low ? low : v > high ? high : v; }

// A tile of the walk below: its place in the lattice, and its corner's source position, integer and fraction.
struct Tile {
  int u, v, x, y;
  float fraction_x, fraction_y;
};

// Fixed point numbers -> integers and fractions.
STN_INLINE void split_fixed(Vec<int64_t, 8> x, int32_t* integer, float* fraction) {
  store(integer, __builtin_convertvector(x >> 32, Vec<int32_t, 8>));
  const auto low = __builtin_convertvector(x, Vec<uint32_t, 8>);
  store(fraction, __builtin_convertvector(low, Vec<float, 8>) * 0x1p-32f);
}

// Walks the tiles of rows [row_begin, row_end) in strips, channel blocks outside the rows of a strip, so that the lines
// of a block stay in the cache. The last tile of a row or column is moved inside and overlaps its neighbour: fresh(u,
// v) tells from where on it is new. body(tile, first fresh u, first fresh v, first channel, channels).
template <class Shape, class Body>
STN_INLINE void walk_tiles(const TileMap<Shape>& map, int64_t width, int64_t row_begin, int64_t row_end,
                           int64_t channels, int64_t channel_block, Body body) {
  using Fixed = Vec<int64_t, 8>;
  constexpr int kWidth = Shape::kWidth, kHeight = Shape::kHeight, N = 8;
  const int columns = int((width + kWidth - 1) / kWidth);
  for (int first = 0; first < columns; first += kStrip) {
    const int count = columns - first < kStrip ? columns - first : kStrip;
    int u[kStrip];
    int64_t along_x[kStrip], along_y[kStrip];  // of each tile's corner, but for its row
    for (int i = 0; i < (count + N - 1) / N * N; ++i) {
      const int start = (first + i) * kWidth;
      u[i] = start < int(width) - kWidth ? start : int(width) - kWidth;
      along_x[i] = map.x0 + map.xu * u[i], along_y[i] = map.y0 + map.yu * u[i];
    }
    for (int64_t c = 0; c < channels; c += channel_block) {
      const int64_t block = channels - c < channel_block ? channels - c : channel_block;
      for (int64_t row = row_begin; row < row_end; row += kHeight) {
        const int v = int(row < row_end - kHeight ? row : row_end - kHeight);
        int32_t x[kStrip], y[kStrip];
        float fraction_x[kStrip], fraction_y[kStrip];
        for (int i = 0; i < count; i += N) {
          split_fixed(load<Fixed>(along_x + i) + map.xv * v, x + i, fraction_x + i);
          split_fixed(load<Fixed>(along_y + i) + map.yv * v, y + i, fraction_y + i);
        }
        for (int i = 0; i < count; ++i) {
          body(Tile{u[i], v, x[i], y[i], fraction_x[i], fraction_y[i]}, (first + i) * kWidth, int(row), c, block);
        }
      }
    }
  }
}

// The bilinear taps of a tile within its window.
template <class Shape, bool kInterior>
struct TileTaps {
  I16 i00, i01, i10, i11;
  I16 m00, m01, m10, m11;  // inside the image; unused in the interior
  F16 fx, fy;
  F16 slope_x, slope_y;  // 0 where border padding clamps

  STN_INLINE TileTaps(const TileMap<Shape>& map, const Tile& t, int window_x, int window_y, Padding padding, int height,
                      int width) {
    F16 x = map.dx + t.fraction_x, y = map.dy + t.fraction_y;  // relative to (t.x, t.y), not negative
    slope_x = slope_y = splat<F16>(1.f);
    if (!kInterior && padding == Padding::border) {
      slope_x = clamp_axis(x, float(-t.x), float(width - 1 - t.x));
      slope_y = clamp_axis(y, float(-t.y), float(height - 1 - t.y));
    }
    const I16 ix = __builtin_convertvector(x, I16), iy = __builtin_convertvector(y, I16);
    fx = x - __builtin_convertvector(ix, F16), fy = y - __builtin_convertvector(iy, F16);
    I16 column = ix + (t.x - window_x), row = iy + (t.y - window_y);
    constexpr int kAcross = Shape::kAcross, kRow = Shape::kDown - 1, kColumn = kAcross - 1;
    if constexpr (kInterior) {
      i00 = row * kAcross + column;
      i01 = i00 + 1, i10 = i00 + kAcross, i11 = i00 + kAcross + 1;
    } else {
      const I16 next_column = column + 1, next_row = row + 1;
      const I16 left = (column & ~kColumn) == 0, right = (next_column & ~kColumn) == 0;
      const I16 top = (row & ~kRow) == 0, bottom = (next_row & ~kRow) == 0;
      m00 = left & top, m01 = right & top, m10 = left & bottom, m11 = right & bottom;
      const I16 upper = (row & kRow) * kAcross, lower = (next_row & kRow) * kAcross;
      i00 = upper + (column & kColumn), i01 = upper + (next_column & kColumn);
      i10 = lower + (column & kColumn), i11 = lower + (next_column & kColumn);
    }
  }
  static STN_INLINE F16 clamp_axis(F16& v, float low, float high) {
    const F16 lows = splat<F16>(low), highs = splat<F16>(high);
    const F16 slope = (v > lows) & (v < highs) ? splat<F16>(1.f) : F16{};
    v = v > lows ? v : lows;
    v = v < highs ? v : highs;
    return slope;
  }
  template <class Pixels>
  STN_INLINE void read(Pixels p, int64_t stride, F16& a, F16& b, F16& c, F16& d) const {
    const auto window = window_at<Shape>(p, stride);
    window.two(i00, i01, a, b), window.two(i10, i11, c, d);
    if constexpr (!kInterior) a = masked(a, m00), b = masked(b, m01), c = masked(c, m10), d = masked(d, m11);
  }
};

// Where the hardware prefetcher cannot follow (blocks of channels, rows of tall tiles): lines to fetch ahead. Those of
// a tile's rows, that far away,
template <class Shape>
struct RowsAhead {
  bool on;
  int64_t read, write;
  // For the tile at (u, v) whose window is `corner` from a plane's beginning.
  STN_INLINE const RowsAhead& of(int64_t, int64_t, int64_t) const { return *this; }
  template <class R, class W>
  STN_INLINE void operator()(R from, int64_t from_stride, W to, int64_t to_stride) const {
    if (!on) return;
    for (int k = 0; k < Shape::kHeight; ++k) {
      __builtin_prefetch(address(from + (read + k * from_stride)), 0, 2);
      __builtin_prefetch(address(to + (write + k * to_stride)), 0, 2);
    }
  }
};
// or, of planes of one width without gaps, a line a tile, its share of them.
template <class Shape>
struct ShareAhead {
  int64_t read, write, width;
  STN_INLINE ShareAhead of(int64_t u, int64_t v, int64_t corner) const {
    return {read + v * width + u * Shape::kHeight - corner, write + u * (Shape::kHeight - 1), width};
  }
  // The same from its own columns.
  STN_INLINE ShareAhead line_of(int64_t u, int64_t v, int64_t corner) const {
    constexpr int64_t kLine = Shape::kWidth * Shape::kHeight;
    const int64_t row = u / Shape::kWidth % Shape::kHeight;
    return {read + (v + row) * width + u / kLine * kLine - corner, write + row * width - u % kLine, width};
  }
  template <class R, class W>
  STN_INLINE void operator()(R from, int64_t, W to, int64_t) const {
    __builtin_prefetch(address(from + read), 0, 2);
    __builtin_prefetch(address(to + write), 0, 2);
  }
};
// Whether a line a tile will do.
STN_INLINE bool has_shares(const Problem& p, int64_t from_row, int64_t to_row) {
  return p.height == p.out_height && p.width == p.out_width && from_row == p.width && to_row == p.width;
}

// How many planes on the next data to touch is: in the next channel block where several are walked, in the next of
// small images, or, if 0, below in the same ones.
STN_INLINE int64_t planes_ahead(const Problem& p, int64_t channels, int64_t block, int64_t from_plane,
                                int64_t to_plane) {
  if (walks_planes(channels, block, from_plane)) return block;
  return p.samples == 1 && small_images(channels, from_plane, to_plane) ? channels : 0;
}
// Its distances.
template <class Shape>
STN_INLINE RowsAhead<Shape> rows_ahead(const Problem& p, const PixelMap<double>& m, int64_t element, int64_t channels,
                                       int64_t block, int64_t from_plane, int64_t from_row, int64_t to_plane,
                                       int64_t to_row) {
  const bool on = leaves_cache(p, element);
  const int64_t planes = planes_ahead(p, channels, block, from_plane, to_plane);
  if (planes > 0) return {on, planes * from_plane, planes * to_plane};
  constexpr int kHeight = Shape::kHeight;
  const int64_t down = int64_t(__builtin_nearbyint(kHeight * m.yv));
  const int64_t across = int64_t(__builtin_nearbyint(kHeight * m.xv));
  return {on, (down + (m.yv > 0 ? Shape::kDown / 2 : 0)) * from_row + across, kHeight * to_row};
}
// Calls body() with what a walk that reads the input fetches ahead. Compiled for each: a choice a tile costs large
// images 5 to 10 %.
template <class Shape, class Body>
STN_INLINE void with_ahead(const Problem& p, const PixelMap<double>& m, int64_t element, int64_t block,
                           int64_t to_plane, int64_t to_row, Body body) {
  const int64_t plane = p.input.channel;
  const auto rows = rows_ahead<Shape>(p, m, element, p.channels, block, plane, p.input.row, to_plane, to_row);
  if (rows.on && planes_ahead(p, p.channels, block, plane, to_plane) > 0 && has_shares(p, p.input.row, to_row))
    return body(ShareAhead<Shape>{rows.read, rows.write, p.width});
  body(rows);
}

}  // namespace stn::STN_LEVEL
