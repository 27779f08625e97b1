// The passes over tiles: forward, gradient to theta, and the input's gradient gathered through the inverse map. They
// look at the storage format once a tile, so that placing tiles is compiled once.
#pragma once
#include "taps.h"
#include "tile.h"

namespace stn::STN_LEVEL {

#if defined(__AVX512F__)
constexpr bool kHasTiles = true;
#else
constexpr bool kHasTiles = false;
#endif

// Whether tiles of a shape can sample an item, if its pixels are adjacent.
template <class Shape>
STN_INLINE bool tiled(const Problem& p, const PixelMap<double>& m) {
  return p.padding != Padding::reflection && p.width >= Shape::kAcross && p.height >= Shape::kDown &&
         p.out_width >= Shape::kWidth && p.out_height >= Shape::kHeight &&
         representable(m, p.out_height, p.out_width) && fits_window<Shape>(m);
}

template <class Shape>
STN_INLINE int64_t tile_count(const Problem& p) {
  return (p.out_width + Shape::kWidth - 1) / Shape::kWidth * ((p.out_height + Shape::kHeight - 1) / Shape::kHeight);
}

// Calls body(shape) with the shape of the tiles that sample an item; false where the general path must run.
template <class Body>
STN_INLINE bool with_tiles(const Problem& p, const PixelMap<double>& m, Body body) {
  if (p.input.column != 1) return false;
  // Wide tiles cost less a channel, but overlap more at the edges of small outputs.
  const bool prefer_wide = p.channels > 4 || 16 * tile_count<Wide>(p) <= 17 * tile_count<Square>(p);
  if (prefer_wide && tiled<Wide>(p, m)) return body(Wide{}), true;
  if (tiled<Square>(p, m)) return body(Square{}), true;
  return false;
}

// Calls body(tile taps as TileTaps<interior>, window) or outside() for one tile.
template <class Shape, class Body, class Outside>
STN_INLINE void with_taps(const TileMap<Shape>& map, const Tile& t, const Problem& p, Body body, Outside outside) {
  const int width = int(p.width), height = int(p.height);
  constexpr int kAcross = Shape::kAcross, kDown = Shape::kDown;
  if (p.padding == Padding::zeros && (t.x >= width || t.x < -kAcross || t.y >= height || t.y < -kDown))
    return outside();
  const int window_x = clamped(t.x, 0, width - kAcross), window_y = clamped(t.y, 0, height - kDown);
  const int64_t offset = window_y * p.input.row + window_x;
  if (t.x >= 0 && t.y >= 0 && t.x + int(map.reach_x) + 2 < width && t.y + int(map.reach_y) + 2 < height) {
    body(TileTaps<Shape, true>(map, t, window_x, window_y, p.padding, height, width), offset);
  } else {
    body(TileTaps<Shape, false>(map, t, window_x, window_y, p.padding, height, width), offset);
  }
}

// Lanes of a tile from column u and row v on.
template <class Shape>
STN_INLINE I16 fresh_lanes(int u, int v) {
  const I16 lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return ((lane & (Shape::kWidth - 1)) >= splat<I16>(u)) & (lane >= splat<I16>(v * Shape::kWidth));
}

template <class Shape>
STN_INLINE void store_zeros(Elements<Any> to, int64_t channel, int64_t row, int64_t channels) {
  in_format(to, [&](auto out) STN_LAMBDA {
    for (int64_t c = 0; c < channels; ++c, out += channel) store_tile<Shape>(out, row, F16{});
  });
}

template <class Shape>
void tile_forward(const Problem& p, int64_t item, const PixelMap<double>& m, int64_t row_begin, int64_t row_end) {
  const TileMap<Shape> map(m);
  const auto images = elements<const Any>(p, p.input.data) + item / p.samples * p.input.batch;
  const auto outputs = elements<Any>(p, p.output.data) + item * p.output.batch;
  const int64_t size = images.size(),
                block = channel_block(p.channels, p.input.channel * size, p.input.row * size, Shape::kMostOfPageRows);
  with_ahead<Shape>(p, m, size, block, p.output.channel, p.output.row, [&](const auto& fetch) STN_LAMBDA {
    walk_tiles(map, p.out_width, row_begin, row_end, p.channels, block,
               [&](const Tile& t, int, int, int64_t first, int64_t channels) STN_LAMBDA {
                 const auto output = outputs + (first * p.output.channel + t.v * p.output.row + t.u);
                 const auto sample = [&](const auto& taps, int64_t offset) STN_LAMBDA {
                   const F16 gx = 1.f - taps.fx, gy = 1.f - taps.fy;
                   const F16 w00 = gx * gy, w01 = taps.fx * gy, w10 = gx * taps.fy, w11 = taps.fx * taps.fy;
                   const auto image = images + (first * p.input.channel + offset);
                   const auto ahead = fetch.of(t.u, t.v, offset);
                   with_format(image, output, [&](auto in, auto out) STN_LAMBDA {
                     for (int64_t c = 0; c < channels; ++c, in += p.input.channel, out += p.output.channel) {
                       ahead(in, p.input.row, out, p.output.row);
                       F16 a, b, c10, d;
                       taps.read(in, p.input.row, a, b, c10, d);
                       store_tile<Shape>(out, p.output.row, w00 * a + w01 * b + (w10 * c10 + w11 * d));
                     }
                   });
                 };
                 with_taps(map, t, p, sample,
                           [&]() STN_LAMBDA { store_zeros<Shape>(output, p.output.channel, p.output.row, channels); });
               });
  });
}

// moments = the sums over output pixels of g_x, g_x u, g_x v, g_y, g_y u, g_y v, with g = dL/d(source pixel).
template <class Shape>
void tile_theta_moments(const Problem& p, int64_t item, const PixelMap<double>& m, int64_t row_begin, int64_t row_end,
                        double* moments) {
  const TileMap<Shape> map(m);
  const auto images = elements<const Any>(p, p.input.data) + item / p.samples * p.input.batch;
  const auto grads = elements<const Any>(p, p.grad_output.data) + item * p.grad_output.batch;
  const int64_t size = images.size(),
                block = channel_block(p.channels, p.input.channel * size, p.input.row * size, Shape::kMostOfPageRows);
  // Sums a lane of g_x, g_x u, g_x v and the same of g_y, with (u, v) the tile's place; the lane's own place is added
  // at the end. They go to double every few tiles.
  F16 sums[6] = {};
  Vec<double, 16> totals[6] = {};
  int tiles = 0;
  const auto flush = [&]() STN_LAMBDA {
    for (int k = 0; k < 6; ++k) totals[k] += __builtin_convertvector(sums[k], Vec<double, 16>), sums[k] = F16{};
    tiles = 0;
  };
  const auto ahead = rows_ahead<Shape>(p, m, size, p.channels, block, p.input.channel, p.input.row,
                                       p.grad_output.channel, p.grad_output.row);
  walk_tiles(map, p.out_width, row_begin, row_end, p.channels, block,
             [&](const Tile& t, int fresh_u, int fresh_v, int64_t first, int64_t channels) STN_LAMBDA {
               if (++tiles > 64) flush();
               const auto accumulate = [&](const auto& taps, int64_t offset) STN_LAMBDA {
                 F16 s00{}, s01{}, s10{}, s11{};  // of the output's gradient times each tap
                 in_format(images + (first * p.input.channel + offset),
                           grads + (first * p.grad_output.channel + t.v * p.grad_output.row + t.u),
                           [&](auto in, auto grad) STN_LAMBDA {
                             for (int64_t c = 0; c < channels;
                                  ++c, in += p.input.channel, grad += p.grad_output.channel) {
                               ahead(in, p.input.row, grad, p.grad_output.row);
                               const F16 g = load_tile<Shape>(grad, p.grad_output.row);
                               F16 a, b, c10, d;
                               taps.read(in, p.input.row, a, b, c10, d);
                               s00 += g * a, s01 += g * b, s10 += g * c10, s11 += g * d;
                             }
                           });
                 F16 gx = taps.slope_x * ((s01 - s00) + taps.fy * ((s11 - s10) - (s01 - s00)));
                 F16 gy = taps.slope_y * ((s10 - s00) + taps.fx * ((s11 - s01) - (s10 - s00)));
                 if (t.u != fresh_u || t.v != fresh_v) {
                   const auto fresh = fresh_lanes<Shape>(fresh_u - t.u, fresh_v - t.v);
                   gx = masked(gx, fresh), gy = masked(gy, fresh);
                 }
                 sums[0] += gx, sums[1] += gx * float(t.u), sums[2] += gx * float(t.v);
                 sums[3] += gy, sums[4] += gy * float(t.u), sums[5] += gy * float(t.v);
               };
               with_taps(map, t, p, accumulate, [] STN_LAMBDA {});
             });
  flush();
  for (int k = 0; k < 6; ++k) moments[k] = 0;
  for (int i = 0; i < 16; ++i) {
    for (int k = 0; k < 6; ++k) moments[k] += totals[k][i];
    moments[1] += totals[0][i] * (i % Shape::kWidth), moments[2] += totals[0][i] * (i / Shape::kWidth);
    moments[4] += totals[3][i] * (i % Shape::kWidth), moments[5] += totals[3][i] * (i / Shape::kWidth);
  }
}

// The inverse of a pixel map: which outputs (u, v) read an input pixel. An output reads a pixel where both coordinates
// of its source are closer than one pixel: |u - u(pixel)| < radius_u and |v - v(pixel)| < radius_v.
struct Inverse {
  PixelMap<double> map;
  double radius_u, radius_v;
  STN_INLINE explicit Inverse(const PixelMap<double>& m) {
    const double r = 1 / (m.xu * m.yv - m.xv * m.yu);
    map.xu = m.yv * r, map.xv = -m.xv * r, map.yu = -m.yu * r, map.yv = m.xu * r;
    map.x0 = -(map.xu * m.x0 + map.xv * m.y0), map.y0 = -(map.yu * m.x0 + map.yv * m.y0);
    radius_u = __builtin_fabs(map.xu) + __builtin_fabs(map.xv);
    radius_v = __builtin_fabs(map.yu) + __builtin_fabs(map.yv);
  }
};

// Whether an item's input gradient can be gathered, if pixels are adjacent: at most 3x3 outputs read a pixel; false for
// singular theta.
STN_INLINE bool gathered(const Problem& p, const PixelMap<double>& m, const Inverse& i) {
  return p.padding == Padding::zeros && p.out_width >= Square::kAcross && p.out_height >= Square::kDown &&
         p.width >= Square::kWidth && p.height >= Square::kHeight && i.radius_u < 1.499 && i.radius_v < 1.499 &&
         representable(m, p.out_height, p.out_width) && representable(i.map, p.height, p.width);
}

// min(|distance|, 1).
STN_INLINE F16 within_one(F16 distance) {
#if defined(__AVX512DQ__) && !defined(__clang__)
  return __builtin_ia32_rangeps512_mask(distance, splat<F16>(1.f), 0b1010, F16{}, -1, 4);  // one instruction, not two
#else
  return minimum((F16)((I16)distance & 0x7fffffff), splat<F16>(1.f));
#endif
}
// The weight of an output as far away as this: max(0, 1 - |x|) max(0, 1 - |y|).
STN_INLINE F16 hat(F16 x, F16 y) {
  const F16 along = 1.f - within_one(x);
  return along - along * within_one(y);
}

template <int kCount>
struct Candidates {
  F16 weight[kCount];
  I16 index[kCount];
};

// A sum of weighted candidates that reads nothing under a weight of 0.
template <class Shape, class Pixels, int kCount>
STN_SHARED F16 careful_sum(Pixels from, int64_t stride, Candidates<kCount> all) {
  const auto window = window_at<Shape>(from, stride);
  F16 sum{};
  for (int k = 0; k < kCount; ++k) sum += all.weight[k] * masked(window.at(all.index[k]), all.weight[k] > F16{});
  return sum;
}

// Where the outputs are that may read a pixel: on two or three rows, or columns, of the 3x3 around its pre-image.
struct GatherLines {
  int count;
  bool pairs;    // on every line two neighbours may, else three: along it a coordinate moves by a pixel or more
  bool moved;    // and not always the first two
  bool columns;  // the lines are columns
  bool by_y;     // that coordinate is y

  STN_INLINE GatherLines(const PixelMap<double>& m, const Inverse& inverse) {
    const double xu = __builtin_fabs(m.xu), xv = __builtin_fabs(m.xv), yu = __builtin_fabs(m.yu),
                 yv = __builtin_fabs(m.yv);
    const int rows = inverse.radius_v <= 1 ? 2 : 3, across = inverse.radius_u <= 1 ? 2 : 3;
    const bool in_rows = maximum(xu, yu) >= 1, in_columns = maximum(xv, yv) >= 1;
    pairs = in_rows || in_columns;  // always where two lines will do
    columns = in_columns && (!in_rows || across < rows);
    count = columns ? across : rows;
    moved = rows > 2 || across > 2;
    by_y = pairs && (columns ? yv > xv : yu > xu);
  }
};

// kMoved: a line's pair may begin at the second of the three.
template <int kLines, int kEach, bool kMoved>
bool tile_gather_from(const Problem& p, int64_t item, const PixelMap<double>& m, const Inverse& inverse,
                      const GatherLines& lines, int64_t row_begin, int64_t row_end, const Images<Elements<Any>>& target,
                      bool add, bool care) {
  using Shape = Square;
  constexpr int kTile = Shape::kWidth, kWindow = Shape::kAcross, kBox = 3;
  constexpr double margin = 1e-7;  // an output exactly one pixel away has weight 0: either rounding is right
  const TileMap<Shape> map(inverse.map, inverse.radius_u + margin, inverse.radius_v + margin);
  const auto grads = elements<const Any>(p, p.grad_output.data) + item * p.grad_output.batch;
  const int64_t size = grads.size();
  const int64_t block = channel_block(p.channels, p.grad_output.channel * size, p.grad_output.row * size, 2);
  const auto ahead = rows_ahead<Shape>(p, inverse.map, size, p.channels, block, p.grad_output.channel,
                                       p.grad_output.row, target.channel, target.row);
  const int width = int(p.out_width), height = int(p.out_height);
  const int reach_u = int(map.reach_x) + kBox, reach_v = int(map.reach_y) + kBox;  // of a tile's last candidate
  const float xu = float(m.xu), xv = float(m.xv), yu = float(m.yu), yv = float(m.yv);
  const int64_t fxu = fixed(m.xu), fxv = fixed(m.xv), fx0 = fixed(m.x0), fyu = fixed(m.yu), fyv = fixed(m.yv),
                fy0 = fixed(m.y0);
  constexpr int kCount = kLines * kEach;
  F16 not_finite{};  // NaN where a sum is not finite
  // Steps of the source, x and y, from line to line and from one candidate to the next on a line.
  const double by_line[] = {lines.columns ? m.xu : m.xv, lines.columns ? m.yu : m.yv};
  const double by_each[] = {lines.columns ? m.xv : m.xu, lines.columns ? m.yv : m.yu};
  const int first_axis = lines.by_y;  // the one that tells where a line's pair begins
  float line_step[2][kLines], each_step[2][kEach];
  for (int a = 0; a < 2; ++a) {
    for (int j = 0; j < kLines; ++j) line_step[a][j] = float(j * by_line[first_axis ^ a]);
    for (int k = 0; k < kEach; ++k) each_step[a][k] = float(k * by_each[first_axis ^ a]);
  }
  // A candidate's place in the window: its index, or column + 65536 row, in which all that is outside shows.
  constexpr int kRowBit = 16, kOutside = ~(7 << kRowBit | 7);
  const auto steps = [&](int row, int k) {
    return k / kEach * (lines.columns ? 1 : row) + k % kEach * (lines.columns ? row : 1);
  };
  int index_step[kCount], place_step[kCount];
  for (int k = 0; k < kCount; ++k) index_step[k] = steps(kWindow, k), place_step[k] = steps(1 << kRowBit, k);
  // Read as broadcasts from memory, not taken apart from vectors.
  asm volatile("" : "+m"(line_step), "+m"(each_step), "+m"(index_step), "+m"(place_step));
  F16 lane_x, lane_y;
  for (int i = 0; i < 16; ++i) lane_x[i] = float(i % kTile), lane_y[i] = float(i / kTile);
  walk_tiles(map, p.width, row_begin, row_end, p.channels, block,
             [&](const Tile& t, int fresh_x, int fresh_y, int64_t first, int64_t channels) STN_LAMBDA {
               const auto to = target.data + (first * target.channel + (t.v - row_begin) * target.row + t.u);
               const int u0 = t.x + 1, v0 = t.y + 1;  // first candidate of the tile's lowest corner
               if (u0 >= width || u0 < -kWindow || v0 >= height || v0 < -kWindow) {
                 if (!add) store_zeros<Shape>(to, target.channel, target.row, channels);
                 return;
               }
               const I16 du = __builtin_convertvector(map.dx + t.fraction_x, I16),
                         dv = __builtin_convertvector(map.dy + t.fraction_y, I16);
               const F16 fu = __builtin_convertvector(du, F16), fv = __builtin_convertvector(dv, F16);
               // Distance from the pixel to the first candidate's source, from fixed point so that it is exact far from
               // 0.
               const float base_x = float(fx0 + fxu * u0 + fxv * v0 - (int64_t(t.u) << 32)) * 0x1p-32f;
               const float base_y = float(fy0 + fyu * u0 + fyv * v0 - (int64_t(t.v) << 32)) * 0x1p-32f;
               const F16 distance_x = (base_x - lane_x) + fu * xu + fv * xv,
                         distance_y = (base_y - lane_y) + fu * yu + fv * yv;
               const F16 distance[] = {lines.by_y ? distance_y : distance_x, lines.by_y ? distance_x : distance_y};
               const int window_u = clamped(u0, 0, width - kWindow), window_v = clamped(v0, 0, height - kWindow);
               const auto from = grads + (first * p.grad_output.channel + window_v * p.grad_output.row + window_u);
               Candidates<kCount> all;
               auto& [weight, index] = all;
               I16 away[kLines];  // where a line's pair begins at its second candidate
#pragma GCC unroll 3
               for (int j = 0; j < kLines; ++j) {
                 F16 along = distance[0], across = distance[1];
                 if (j > 0) along += line_step[0][j], across += line_step[1][j];
                 if constexpr (kMoved) {
                   away[j] = (F16)((I16)along & 0x7fffffff) >= splat<F16>(1.f);
                   along = away[j] ? along + each_step[0][1] : along;
                   across = away[j] ? across + each_step[1][1] : across;
                 }
                 weight[j * kEach] = hat(along, across);
#pragma GCC unroll 2
                 for (int k = 1; k < kEach; ++k)
                   weight[j * kEach + k] = hat(along + each_step[0][k], across + each_step[1][k]);
               }
               const I16 column = du + (u0 - window_u), row = dv + (v0 - window_v);
               const auto place = [&](I16 corner, const int* step, int k) STN_LAMBDA {
                 const I16 at = corner + step[k];
                 if constexpr (kMoved) return away[k / kEach] ? at + step[1] : at;
                 return at;
               };
               if (u0 >= 0 && v0 >= 0 && u0 + reach_u < width && v0 + reach_v < height) {
#pragma GCC unroll 9
                 for (int k = 0; k < kCount; ++k) index[k] = place(row * kWindow + column, index_step, k);
               } else {
#pragma GCC unroll 9
                 for (int k = 0; k < kCount; ++k) {
                   const I16 at = place((row << kRowBit) + column, place_step, k);
                   weight[k] = masked(weight[k], (at & kOutside) == 0);
                   index[k] = (at | at >> (kRowBit - 3)) & (kWindow * kWindow - 1);
                 }
               }
               in_format(from, to, [&](auto in, auto out) STN_LAMBDA {
                 const auto each_channel = [&](auto gather) STN_LAMBDA {
                   for (int64_t c = 0; c < channels; ++c, in += p.grad_output.channel, out += target.channel) {
                     ahead(in, p.grad_output.row, out, target.row);
                     F16 sum = gather();
                     not_finite += sum * 0.f;
                     if (add) {
                       int u = fresh_x - t.u, v = fresh_y - t.v;
                       asm volatile("" : "+r"(u), "+r"(v));  // else the lanes are found for every tile
                       sum = load_tile<Shape>(out, target.row) + masked(sum, fresh_lanes<Shape>(u, v));
                     }
                     store_tile<Shape>(out, target.row, sum);
                   }
                 };
                 if (care)
                   return each_channel([&]() STN_LAMBDA { return careful_sum<Shape>(in, p.grad_output.row, all); });
                 each_channel([&]() STN_LAMBDA {
                   const auto window = window_at<Shape>(in, p.grad_output.row);
                   F16 even{}, odd{};
#pragma GCC unroll 4
                   for (int k = 0; k + 1 < kCount; k += 2) {
                     F16 a, b;
                     window.two(index[k], index[k + 1], a, b);
                     even += weight[k] * a, odd += weight[k + 1] * b;
                   }
                   if constexpr (kCount % 2) even += weight[kCount - 1] * window.at(index[kCount - 1]);
                   return even + odd;
                 });
               });
             });
  return all(not_finite == not_finite);
}

// Input gradient of rows [row_begin, row_end): each pixel sums the outputs that may read it.
// With add it is added to what is there. Returns false where something is not finite: then a weight of 0 may have met
// an Inf or NaN, and all has to be done again with care, which reads nothing under a weight of 0.
STN_INLINE bool tile_gather(const Problem& p, int64_t item, const PixelMap<double>& m, int64_t row_begin,
                            int64_t row_end, const Images<Elements<Any>>& target, bool add, bool care) {
  const Inverse inverse(m);
  const GatherLines lines(m, inverse);
  const auto run = lines.count == 3 ? lines.pairs ? tile_gather_from<3, 2, true> : tile_gather_from<3, 3, false>
                   : lines.moved    ? tile_gather_from<2, 2, true>
                                    : tile_gather_from<2, 2, false>;
  return run(p, item, m, inverse, lines, row_begin, row_end, target, add, care);
}

}  // namespace stn::STN_LEVEL
