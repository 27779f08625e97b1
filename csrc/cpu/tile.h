// Affine bilinear sampling by tiles: a 4x4 tile of outputs reads an 8x8 window of the input, which lies in four
// registers; every tap is a permute of them, with indices and weights shared by all channels. float32 or half storage,
// planar, 16 lanes: worthwhile where two-source permutes exist (AVX-512).
#pragma once
#include "common/affine.h"
#include "kernels.h"
#include "simd.h"

namespace stn::STN_LEVEL {

using F16 = Vec<float, 16>;
using I16 = Vec<int32_t, 16>;

constexpr int kTile = 4, kWindow = 8;
constexpr int kStrip = 32;                  // tiles of a row whose positions are computed ahead
constexpr double kReach = kWindow - 2.001;  // how far apart the floors of a tile's points may be, plus one
constexpr double kOne = 4294967296.0;       // 1 in 32.32 fixed point

STN_INLINE int64_t fixed(double v) { return int64_t(__builtin_nearbyint(v * kOne)); }

// An affine map of a 4x4 tile: the position of its lowest corner in fixed point (exact at any image size), and each
// lane's non-negative offset from it.
struct TileMap {
  int64_t xu, xv, x0, yu, yv, y0;
  F16 dx, dy;
  float reach_x, reach_y;  // largest offset

  // margin is subtracted from the corner: the first candidate of a gather lies that much below the position.
  STN_INLINE TileMap(const PixelMap<double>& m, double margin_x = 0, double margin_y = 0) {
    const double low_x = (kTile - 1) * ((m.xu < 0 ? m.xu : 0) + (m.xv < 0 ? m.xv : 0));
    const double low_y = (kTile - 1) * ((m.yu < 0 ? m.yu : 0) + (m.yv < 0 ? m.yv : 0));
    for (int i = 0; i < 16; ++i) {
      dx[i] = float(m.xu * (i % kTile) + m.xv * (i / kTile) - low_x);
      dy[i] = float(m.yu * (i % kTile) + m.yv * (i / kTile) - low_y);
    }
    xu = fixed(m.xu), xv = fixed(m.xv), x0 = fixed(m.x0 + low_x - margin_x);
    yu = fixed(m.yu), yv = fixed(m.yv), y0 = fixed(m.y0 + low_y - margin_y);
    reach_x = float((kTile - 1) * (__builtin_fabs(m.xu) + __builtin_fabs(m.xv)));
    reach_y = float((kTile - 1) * (__builtin_fabs(m.yu) + __builtin_fabs(m.yv)));
  }
};

// Whether all points of an output lattice stay where floats count pixels exactly; false for NaN.
STN_INLINE bool representable(const PixelMap<double>& m, int64_t height, int64_t width) {
  const double x = __builtin_fabs(m.x0) + __builtin_fabs(m.xu) * double(width) + __builtin_fabs(m.xv) * double(height);
  const double y = __builtin_fabs(m.y0) + __builtin_fabs(m.yu) * double(width) + __builtin_fabs(m.yv) * double(height);
  return x < 0x1p23 && y < 0x1p23;
}

// Whether a tile's taps fit in the window.
STN_INLINE bool fits_window(const PixelMap<double>& m) {
  return 3 * (__builtin_fabs(m.xu) + __builtin_fabs(m.xv)) < kReach &&
         3 * (__builtin_fabs(m.yu) + __builtin_fabs(m.yv)) < kReach;
}

template <class T>
STN_INLINE F16 load_rows(const T* p, int64_t stride) {  // two rows of 8
  const auto a = load_as<8>(p), b = load_as<8>(p + stride);
  return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

struct Window {
  F16 rows01, rows23, rows45, rows67;
  template <class T>
  STN_INLINE Window(const T* p, int64_t stride)
      : rows01(load_rows(p, stride)),
        rows23(load_rows(p + 2 * stride, stride)),
        rows45(load_rows(p + 4 * stride, stride)),
        rows67(load_rows(p + 6 * stride, stride)) {}
  STN_INLINE F16 at(I16 index) const {  // index = 8 row + column
    const F16 upper = __builtin_shuffle(rows01, rows23, index), lower = __builtin_shuffle(rows45, rows67, index);
    return (index & 32) != 0 ? lower : upper;
  }
};

template <class T>
STN_INLINE F16 load_tile(const T* p, int64_t stride) {
  const auto top = __builtin_shufflevector(load_as<4>(p), load_as<4>(p + stride), 0, 1, 2, 3, 4, 5, 6, 7);
  const auto bottom =
      __builtin_shufflevector(load_as<4>(p + 2 * stride), load_as<4>(p + 3 * stride), 0, 1, 2, 3, 4, 5, 6, 7);
  return __builtin_shufflevector(top, bottom, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}
template <class T>
STN_INLINE void store_tile(T* p, int64_t stride, F16 v) {
  store_as<4>(p, __builtin_shufflevector(v, v, 0, 1, 2, 3));
  store_as<4>(p + stride, __builtin_shufflevector(v, v, 4, 5, 6, 7));
  store_as<4>(p + 2 * stride, __builtin_shufflevector(v, v, 8, 9, 10, 11));
  store_as<4>(p + 3 * stride, __builtin_shufflevector(v, v, 12, 13, 14, 15));
}

STN_INLINE int clamped(int v, int low, int high) { return v < low ? low : v > high ? high : v; }

// A tile of the walk below: its place in the lattice, and its corner's source position, integer and fraction.
struct Tile {
  int u, v, x, y;
  float fraction_x, fraction_y;
};

// Walks the tiles of rows [row_begin, row_end) in strips, channel blocks outside the rows of a strip, so that the lines
// of a block stay in the cache. The last tile of a row or column is moved inside and overlaps its neighbour: fresh(u,
// v) tells from where on it is new. body(tile, first fresh u, first fresh v, first channel, channels).
template <class Body>
STN_INLINE void walk_tiles(const TileMap& map, int64_t width, int64_t row_begin, int64_t row_end, int64_t channels,
                           int64_t channel_block, Body body) {
  const int columns = int((width + kTile - 1) / kTile);
  for (int first = 0; first < columns; first += kStrip) {
    const int count = columns - first < kStrip ? columns - first : kStrip;
    for (int64_t c = 0; c < channels; c += channel_block) {
      const int64_t block = channels - c < channel_block ? channels - c : channel_block;
      for (int64_t row = row_begin; row < row_end; row += kTile) {
        const int v = int(row < row_end - kTile ? row : row_end - kTile);
        Tile tiles[kStrip];
        for (int i = 0; i < count; ++i) {
          const int start = (first + i) * kTile, u = start < int(width) - kTile ? start : int(width) - kTile;
          const int64_t x = map.x0 + map.xu * u + map.xv * v, y = map.y0 + map.yu * u + map.yv * v;
          tiles[i] = {u, v, int(x >> 32), int(y >> 32), float(uint32_t(x)) * 0x1p-32f, float(uint32_t(y)) * 0x1p-32f};
        }
        for (int i = 0; i < count; ++i) body(tiles[i], (first + i) * kTile, int(row), c, block);
      }
    }
  }
}

// The bilinear taps of a tile within its window.
template <bool kInterior>
struct TileTaps {
  I16 i00, i01, i10, i11;
  I16 m00, m01, m10, m11;  // inside the image; unused in the interior
  F16 fx, fy;
  F16 slope_x, slope_y;  // 0 where border padding clamps

  STN_INLINE TileTaps(const TileMap& map, const Tile& t, int window_x, int window_y, Padding padding, int height,
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
    if constexpr (kInterior) {
      i00 = row * kWindow + column;
      i01 = i00 + 1, i10 = i00 + kWindow, i11 = i00 + kWindow + 1;
    } else {
      const I16 next_column = column + 1, next_row = row + 1;
      const I16 left = (column & ~7) == 0, right = (next_column & ~7) == 0;
      const I16 top = (row & ~7) == 0, bottom = (next_row & ~7) == 0;
      m00 = left & top, m01 = right & top, m10 = left & bottom, m11 = right & bottom;
      i00 = (row & 7) * kWindow + (column & 7), i01 = (row & 7) * kWindow + (next_column & 7);
      i10 = (next_row & 7) * kWindow + (column & 7), i11 = (next_row & 7) * kWindow + (next_column & 7);
    }
  }
  static STN_INLINE F16 clamp_axis(F16& v, float low, float high) {
    const F16 lows = splat<F16>(low), highs = splat<F16>(high);
    const F16 slope = (v > lows) & (v < highs) ? splat<F16>(1.f) : F16{};
    v = v > lows ? v : lows;
    v = v < highs ? v : highs;
    return slope;
  }
  template <class T>
  STN_INLINE void read(const T* p, int64_t stride, F16& a, F16& b, F16& c, F16& d) const {
    const Window window(p, stride);
    a = window.at(i00), b = window.at(i01), c = window.at(i10), d = window.at(i11);
    if constexpr (!kInterior) a = masked(a, m00), b = masked(b, m01), c = masked(c, m10), d = masked(d, m11);
  }
};

// Where the hardware prefetcher cannot follow (blocks of channels, rows of tall tiles): lines to fetch ahead.
struct Prefetch {
  bool on;
  int64_t read, write;
  template <class R, class W>
  STN_INLINE void operator()(const R* from, int64_t from_stride, const W* to, int64_t to_stride) const {
    if (!on) return;
    for (int k = 0; k < 4; ++k) {
      __builtin_prefetch(from + read + k * from_stride, 0, 2);
      __builtin_prefetch(to + write + k * to_stride, 0, 2);
    }
  }
};

// Distances of the next data to touch: the next channel block where several are walked, else the next row of tiles.
template <class T>
STN_INLINE Prefetch prefetch(const Problem& p, const PixelMap<double>& m, int64_t channels, int64_t block,
                             int64_t from_plane, int64_t from_row, int64_t to_plane, int64_t to_row) {
  const int64_t bytes = p.items() * p.channels * p.out_height * p.out_width * 2 * int64_t(sizeof(T));
  if (channels > block && from_plane < 65536) return {bytes > (3 << 19), block * from_plane, block * to_plane};
  const int64_t down = int64_t(__builtin_nearbyint(4 * m.yv)), across = int64_t(__builtin_nearbyint(4 * m.xv));
  return {bytes > (3 << 19), (down + (m.yv > 0 ? 4 : 0)) * from_row + across, 4 * to_row};
}

}  // namespace stn::STN_LEVEL
