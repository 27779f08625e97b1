// The gradients of the parameters of a homography and of a spline from those of source pixels, tile by tile: in float
// within a few strips of tiles, in double beyond.
#pragma once
#include "parameter_sums.h"
#include "tile_strips.h"

namespace stn::STN_LEVEL {

// dL/d(source pixel) of a strip's points, 0 in lanes that are not fresh.
struct TileGradients {
  F16 x[kStripTiles], y[kStripTiles];
};

using Wide16 = Vec<double, 16>;

struct HomographyTileSums {
  static constexpr int kTiles = 64;  // that float sums take
  F16 sums[9] = {};                  // of each homogeneous coordinate's gradient, and its moments with the tile's place
  Wide16 totals[9] = {};
  int tiles = 0;

  STN_INLINE explicit HomographyTileSums(const Problem&) {}
  void add(const Source& s, const Strip& strip, const HomographyStrip& at, const TileGradients& g) {
    const float scale_x = float(s.x.scale), scale_y = float(s.y.scale), v = float(strip.v);
    const float pixel_x = 1 / scale_x, pixel_y = 1 / scale_y;
    for (int i = 0; i < strip.count; ++i) {
      F16 from_x, from_y;
      at.offsets(i, from_x, from_y);
      const F16 reciprocal = at.depth_ratio(i) * at.reciprocal[i];
      const F16 x = g.x[i] * scale_x * reciprocal, y = g.y[i] * scale_y * reciprocal;
      const F16 w = -(x * (from_x * pixel_x + at.normalized_x[i]) + y * (from_y * pixel_y + at.normalized_y[i]));
      const F16 grad[3] = {x, y, w};
      const float u = float(strip.u(i));
      for (int k = 0; k < 3; ++k) {
        sums[3 * k] += grad[k], sums[3 * k + 1] += grad[k] * u, sums[3 * k + 2] += grad[k] * v;
      }
    }
    tiles += strip.count;
    if (tiles > kTiles - kStripTiles) flush();
  }
  void flush() {
    for (int k = 0; k < 9; ++k) totals[k] += __builtin_convertvector(sums[k], Wide16), sums[k] = F16{};
    tiles = 0;
  }
  void finish(const Source& s, double* out) {
    flush();
    for (int k = 0; k < 3; ++k) {
      double sum = 0, sum_u = 0, sum_v = 0;
      for (int i = 0; i < 16; ++i) {
        const double g = totals[3 * k][i];
        sum += g, sum_u += totals[3 * k + 1][i] + g * (i % kTile), sum_v += totals[3 * k + 2][i] + g * (i / kTile);
      }
      out[3 * k] += s.u.step * (sum_u - s.u.centre * sum), out[3 * k + 1] += s.v.step * (sum_v - s.v.centre * sum);
      out[3 * k + 2] += sum;
    }
  }
};

struct SplineTileSums {
  static constexpr int kStrips = 4;  // that float sums take
  int64_t functions;
  Scratch<float> sums;     // (functions, 2, lanes)
  Scratch<double> totals;  // the same
  int strips = 0;

  STN_INLINE explicit SplineTileSums(const Problem& p)
      : functions(spline_functions(p)), sums(functions * 32 + 1), totals(functions * 32 + 1) {}
  void add(const Strip& strip, const SplineBasis& basis, const TileGradients& g) {
    const auto add_functions = [&](int64_t first, auto count) STN_LAMBDA {
      F16 x[count], y[count];
      float* to = sums.data + 32 * first;
      for (int j = 0; j < count; ++j) x[j] = load<F16>(to + 32 * j), y[j] = load<F16>(to + 32 * j + 16);
      for (int i = 0; i < strip.count; ++i) {
        const float* differences = basis.difference(i, first);
        const F16 gx = g.x[i], gy = g.y[i];
        for (int j = 0; j < count; ++j) {
          const F16 value = load<F16>(differences + 16 * j) + float(basis.middle.data[(first + j) * kStripTiles + i]);
          x[j] += value * gx, y[j] += value * gy;
        }
      }
      for (int j = 0; j < count; ++j) store(to + 32 * j, x[j]), store(to + 32 * j + 16, y[j]);
    };
    int64_t k = 0;
    for (; k + 4 <= functions; k += 4) add_functions(k, std::integral_constant<int, 4>{});
    if (functions - k == 3) add_functions(k, std::integral_constant<int, 3>{});
    if (functions - k == 2) add_functions(k, std::integral_constant<int, 2>{});
    if (functions - k == 1) add_functions(k, std::integral_constant<int, 1>{});
    if (++strips == kStrips) flush();
  }
  void flush() {
    for (int64_t k = 0; k < 32 * functions; k += 16) {
      const Wide16 total = load<Wide16>(totals.data + k) + __builtin_convertvector(load<F16>(sums.data + k), Wide16);
      store(totals.data + k, total), store(sums.data + k, F16{});
    }
    strips = 0;
  }
  void finish(const Source& s, double* out) {
    flush();
    for (int64_t k = 0; k < 2 * functions; ++k) {
      out[k] += (k % 2 ? s.y.scale : s.x.scale) * sum_of_lanes(load<Wide16>(totals.data + 16 * k));
    }
  }
};

}  // namespace stn::STN_LEVEL
