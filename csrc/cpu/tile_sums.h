// The gradients of the parameters of a homography and of a spline from those of source pixels, tile by tile: in float
// within a strip or a few of them, in double beyond.
#pragma once
#include "parameter_sums.h"
#include "quads.h"
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

  HomographyTileSums() = default;
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
  void clear() { *this = HomographyTileSums(); }
};

// Eight vectors -> the sums of their lanes.
STN_INLINE Vec<float, 8> lane_sums(const F16 (&v)[8]) {
  F16 half[4], quarter[2];  // of v[i] and v[i + 4]; of v[i], v[i + 2], v[i + 4] and v[i + 6]
  for (int i = 0; i < 4; ++i) {
    half[i] = __builtin_shufflevector(v[i], v[i + 4], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +
              __builtin_shufflevector(v[i], v[i + 4], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
  }
  for (int i = 0; i < 2; ++i) {
    const F16 a = half[i], b = half[i + 2];
    quarter[i] = __builtin_shufflevector(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27) +
                 __builtin_shufflevector(a, b, 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31);
  }
  const F16 pairs = within_lanes<0, 4, 1, 5>(quarter[0], quarter[1]) + within_lanes<2, 6, 3, 7>(quarter[0], quarter[1]);
  const F16 sums = pairs + within_lanes<2, 3, 0, 1>(pairs, pairs);
  return __builtin_shufflevector(sums, sums, 0, 1, 4, 5, 8, 9, 12, 13);
}

struct SplineTileSums {
  static constexpr int kTogether = 4;  // functions
  int64_t functions;
  Scratch<double> totals;  // (functions / kTogether, 2, kTogether)

  STN_INLINE explicit SplineTileSums(const Problem& p)
      : functions(spline_functions(p)), totals((functions + kSummed) * 2) {}
  void add(const Strip& strip, const SplineBasis& basis, const TileGradients& g) {
    const auto add_functions = [&](int64_t first, auto count) STN_LAMBDA {
      F16 x[count] = {}, y[count] = {};
      for (int i = 0; i < strip.count; ++i) {
        const float *differences = basis.difference(i, first),
                    *middles = basis.near_middle.data + first * kStripTiles + i;
        const F16 gx = g.x[i], gy = g.y[i];
        unrolled<count>([&](auto j) STN_LAMBDA {
          const F16 value = load<F16>(differences + 16 * j) + middles[j * kStripTiles];
          x[j] += value * gx, y[j] += value * gy;
        });
      }
      double* to = totals.data + 2 * first;
      unrolled<count / kTogether>([&](auto part) STN_LAMBDA {
        constexpr int k = part * kTogether;
        const auto sums = lane_sums({x[k], x[k + 1], x[k + 2], x[k + 3], y[k], y[k + 1], y[k + 2], y[k + 3]});
        store(to + 2 * k, load<Vec<double, 8>>(to + 2 * k) + __builtin_convertvector(sums, Vec<double, 8>));
      });
    };
    int64_t k = 0;
    for (; functions - k > kTogether; k += kSummed) add_functions(k, kConstant<kSummed>);
    if (k < functions) add_functions(k, kConstant<kTogether>);
  }
  void clear() { __builtin_memset(totals.data, 0, size_t(functions + kSummed) * 2 * sizeof(double)); }
  void finish(const Source& s, double* out) const {
    for (int64_t k = 0; k < functions; ++k) {
      const double* of = totals.data + k / kTogether * (2 * kTogether) + k % kTogether;
      out[2 * k] += s.x.scale * of[0], out[2 * k + 1] += s.y.scale * of[kTogether];
    }
  }
};

}  // namespace stn::STN_LEVEL
