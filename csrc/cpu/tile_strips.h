// Where the points of 4x4 tiles lie under a homography or a thin-plate spline: the middle of a tile in double, its
// points from there in float, as exact as in double to a few units in the last place of their distance. float32 only.
#pragma once
#include "coordinates.h"
#include "tile.h"

namespace stn::STN_LEVEL {

constexpr int kTile = Square::kWidth, kWindow = Square::kAcross;
constexpr int kStripTiles = 16;
constexpr int kSummed = kVectorBytes < 64 ? 4 : 8;  // tiles or functions at a time, of which registers hold the sums
constexpr double kFarthest = 0x1p22;                // coordinates up to here have fractions in float

// Tiles of the output rows [v, v + kTile) from column first_u on. The last ones of a row and of a block of rows are
// moved inside and overlap their neighbours, fresh from column fresh_u(i) and row fresh_v on.
struct Strip {
  int64_t v, first_u, last_u;
  int fresh_v, count;
  STN_INLINE int64_t u(int i) const { return minimum(first_u + kTile * i, last_u); }
  STN_INLINE int fresh_u(int i) const { return int(first_u + kTile * i - u(i)); }
  STN_INLINE Doubles middles(int i) const {  // of the tiles from i on, in output columns
    const Doubles u = indices_from(i) * double(kTile) + double(first_u), last = splat<Doubles>(double(last_u));
    return minimum(u, last) + 0.5 * (kTile - 1);
  }
  STN_INLINE double middle_row() const { return double(v) + 0.5 * (kTile - 1); }
};

// Each lane's place in a tile, from the middle.
STN_INLINE F16 lane_columns() {
  return F16{-1.5f, -.5f, .5f, 1.5f, -1.5f, -.5f, .5f, 1.5f, -1.5f, -.5f, .5f, 1.5f, -1.5f, -.5f, .5f, 1.5f};
}
STN_INLINE F16 lane_rows() {
  return F16{-1.5f, -1.5f, -1.5f, -1.5f, -.5f, -.5f, -.5f, -.5f, .5f, .5f, .5f, .5f, 1.5f, 1.5f, 1.5f, 1.5f};
}

template <class S>
using PerTile = S[kStripTiles];

STN_INLINE void store_floats(float* to, Doubles v) { store(to, __builtin_convertvector(v, Vec<float, kDoubles>)); }

// One source coordinate of the tiles' middles, in pixels.
struct Middles {
  PerTile<int32_t> pixel;
  PerTile<float> fraction;
  STN_INLINE void set(int i, Doubles x) {
    const Doubles low = floor_of(x);
    store(pixel + i, __builtin_convertvector(low, Vec<int32_t, kDoubles>));
    store_floats(fraction + i, x - low);
  }
  // The points of tile i that lie `offset` from its middle, under zeros or border padding.
  STN_INLINE void points(int i, F16 offset, bool border, int64_t size, I16& index, F16& part, F16& slope) const {
    const int base = pixel[i];
    F16 x = offset + fraction[i];
    slope = splat<F16>(1.f);
    if (border) {
      const F16 first = splat<F16>(float(-base)), last = splat<F16>(float(size - 1 - base));
      slope = masked(slope, (x > first) & (x < last));
      x = minimum(maximum(first, x), last);
    }
    const F16 low = floor_of(x);
    index = __builtin_convertvector(low, I16) + base, part = x - low;
  }
};

// From a tile's middle: source pixel += (xu du + xv dv, yu du + yv dv) / (1 + wu du + wv dv).
struct HomographyStrip {
  Middles x, y;
  PerTile<float> xu, xv, yu, yv, wu, wv;
  PerTile<float> reciprocal, normalized_x, normalized_y;  // 1 / w and the source point of the middle

  // False where float is not exact enough: points near the plane w = 0, far away or far apart.
  bool place(const Source& s, const Strip& strip) {
    const double (&h)[9] = s.matrix;
    const double v = s.v.step * (strip.middle_row() - s.v.centre);
    for (int i = 0; i < strip.count; i += kDoubles) {
      const Doubles u = s.u.step * (strip.middles(i) - s.u.centre);
      const Doubles w = h[6] * u + (h[7] * v + h[8]);
      auto usable = w >= splat<Doubles>(2 * kSmallestDepth);
      const Doubles r = 1 / (usable ? w : splat<Doubles>(1.0));
      const Doubles at_x = (h[0] * u + (h[1] * v + h[2])) * r, at_y = (h[3] * u + (h[4] * v + h[5])) * r;
      const Doubles along = s.u.step * r, down = s.v.step * r;
      const Doubles u_w = h[6] * along, v_w = h[7] * down;
      const Doubles u_x = s.x.scale * (h[0] - at_x * h[6]) * along, v_x = s.x.scale * (h[1] - at_x * h[7]) * down;
      const Doubles u_y = s.y.scale * (h[3] - at_y * h[6]) * along, v_y = s.y.scale * (h[4] - at_y * h[7]) * down;
      const Doubles pixel_x = s.x.scale * at_x + s.x.shift, pixel_y = s.y.scale * at_y + s.y.shift;
      const Doubles far = splat<Doubles>(kFarthest), apart = splat<Doubles>(kWindow);
      usable &= absolute(u_w) + absolute(v_w) < splat<Doubles>(0.25);
      usable &= (absolute(pixel_x) < far) & (absolute(pixel_y) < far);
      usable &= (absolute(u_x) + absolute(v_x) < apart) & (absolute(u_y) + absolute(v_y) < apart);
      if (!all(usable)) return false;  // behind the last tile it repeats
      x.set(i, pixel_x), y.set(i, pixel_y);
      store_floats(xu + i, u_x), store_floats(xv + i, v_x), store_floats(yu + i, u_y), store_floats(yv + i, v_y);
      store_floats(wu + i, u_w), store_floats(wv + i, v_w), store_floats(reciprocal + i, r);
      store_floats(normalized_x + i, at_x), store_floats(normalized_y + i, at_y);
    }
    return true;
  }
  STN_INLINE F16 depth_ratio(int i) const {  // the middle's w by a point's
    return 1.f / (wu[i] * lane_columns() + (wv[i] * lane_rows() + 1.f));
  }
  STN_INLINE void offsets(int i, F16& from_x, F16& from_y) const {
    const F16 u = lane_columns(), v = lane_rows(), ratio = depth_ratio(i);
    from_x = (xu[i] * u + xv[i] * v) * ratio, from_y = (yu[i] * u + yv[i] * v) * ratio;
  }
};

// The functions of a spline: those of its control points, then 1, x and y; with zeros up to whole vectors.
STN_INLINE int64_t spline_functions(const Problem& p) {
  return p.transform == Transform::tps ? p.controls + tps_affine_rows(2) : 0;
}
STN_INLINE int64_t whole_vectors(int64_t floats) { return (floats + 15) / 16 * 16; }

// Their values on a strip's tiles, for all items: at the tiles' middles, and how those at their points differ.
struct SplineBasis {
  static constexpr int64_t kBehind = kSummed - 1;  // functions that may be read besides
  int64_t functions;
  Scratch<double> middle;            // (functions, tiles)
  Scratch<float> near_middle;        // the same, rounded
  Scratch<float> differences, most;  // (tiles, functions, lanes); (functions): the largest absolute one
  int64_t v = -1, first_u = -1;      // of the strip, once it is placed

  STN_INLINE explicit SplineBasis(const Problem& p)
      : functions(spline_functions(p)),
        middle(functions * kStripTiles + 1),
        near_middle((functions + kBehind) * kStripTiles),
        differences((functions * kStripTiles + kBehind) * 16),
        most(whole_vectors(functions) + 1) {}
  STN_INLINE float* difference(int tile, int64_t k) const { return differences.data + (tile * functions + k) * 16; }
  void place(const Problem& p, const Strip& strip) {
    if (v == strip.v && first_u == strip.first_u) return;
    v = strip.v, first_u = strip.first_u;
    const auto lattice_u = centred_lattice<double>(p.out_width, p.align_corners);
    const auto lattice_v = centred_lattice<double>(p.out_height, p.align_corners);
    const double y = lattice_v.step * (strip.middle_row() - lattice_v.centre);
    alignas(64) PerTile<double> x;
    for (int i = 0; i < kStripTiles; i += kDoubles)
      store(x + i, lattice_u.step * (strip.middles(i) - lattice_u.centre));
    const TileLanes lanes(lattice_u.step, lattice_v.step);
    for (int64_t k = 0; k < p.controls; ++k) place_radial(k, strip.count, x, y, p.control_points + 2 * k, lanes);
    place_linear(p.controls, strip.count, [](int) STN_LAMBDA { return 1.0; }, F16{});
    place_linear(p.controls + 1, strip.count, [&](int i) STN_LAMBDA { return x[i]; }, lanes.x);
    place_linear(p.controls + 2, strip.count, [&](int) STN_LAMBDA { return y; }, lanes.y);
    for (int64_t i = 0; i < functions * kStripTiles; i += kDoubles)
      store_floats(near_middle.data + i, load<Doubles>(middle.data + i));
  }

 private:
  // Each lane's place from a tile's middle, in normalized coordinates.
  struct TileLanes {
    F16 x, y;
    Vec<double, 16> exact_x, exact_y;
    STN_INLINE TileLanes(double u, double v)
        : x(lane_columns() * float(u)),
          y(lane_rows() * float(v)),
          exact_x(__builtin_convertvector(lane_columns(), Vec<double, 16>) * u),
          exact_y(__builtin_convertvector(lane_rows(), Vec<double, 16>) * v) {}
  };
  STN_INLINE void set_most(int64_t k, F16 largest) {
    most.data[k] = 0;
    for (int i = 0; i < 16; ++i) most.data[k] = maximum(most.data[k], largest[i]);
  }
  template <class Middle>
  STN_INLINE void place_linear(int64_t k, int count, Middle at, F16 from_middle) {
    for (int i = 0; i < count; ++i) middle.data[k * kStripTiles + i] = at(i), store(difference(i, k), from_middle);
    set_most(k, absolute(from_middle));
  }
  // A function U(s) = s log s of squared distances. From a middle's s to a point's s + d it changes by
  // d log s + (s + d) log((s + d) / s), which is exact in float where d is small beside s.
  STN_INLINE void place_radial(int64_t k, int count, const PerTile<double>& x, double y, const double* control,
                               const TileLanes& lanes) {
    alignas(64) PerTile<double> from_x, squared, logarithm;
    const double from_y = y - control[1];
    for (int i = 0; i < kStripTiles; i += kDoubles) {
      const Doubles dx = load<Doubles>(x + i) - control[0], s = dx * dx + from_y * from_y;
      const Doubles log_s = log_of(maximum(splat<Doubles>(1e-30), s));
      store(from_x + i, dx), store(squared + i, s), store(logarithm + i, log_s);
      store(middle.data + k * kStripTiles + i, s * log_s);
    }
    const F16 down = lanes.y * (float(2 * from_y) + lanes.y);
    F16 largest{};
    for (int i = 0; i < count; ++i) {
      const float s = float(squared[i]);
      const F16 d = lanes.x * (float(2 * from_x[i]) + lanes.x) + down;
      const F16 t = d / (2 * s + d), z = t * t;  // log((s + d) / s) = 2 artanh t
      F16 change =
          d * float(logarithm[i]) + (s + d) * t * ((((2.f / 9 * z + 2.f / 7) * z + 2.f / 5) * z + 2.f / 3) * z + 2.f);
      if (s > 1e30f || !all(absolute(t) < splat<F16>(0.2f))) {
        change = near_control(from_x[i], from_y, lanes, middle.data[k * kStripTiles + i]);
      }
      store(difference(i, k), change);
      largest = maximum(largest, absolute(change));
    }
    set_most(k, largest);
  }
  // The same in double, for tiles close to the control point.
  STN_SHARED F16 near_control(double x, double y, const TileLanes& lanes, double at_middle) const {
    F16 change;
    for (int i = 0; i < 16; i += kDoubles) {
      const Doubles dx = x + load<Doubles>((const double*)&lanes.exact_x + i);
      const Doubles dy = y + load<Doubles>((const double*)&lanes.exact_y + i);
      store_floats((float*)&change + i, radial_function<2>(dx * dx + dy * dy) - at_middle);
    }
    return change;
  }
};

// The coefficients of a group of items, as source pixels.
struct SplineCoefficients {
  int64_t functions, row;
  Scratch<double> exact;  // (items, functions, 2)
  Scratch<float> near;    // (items, 2, row)

  STN_INLINE SplineCoefficients(const Problem& p, int64_t items)
      : functions(spline_functions(p)),
        row(whole_vectors(functions)),
        exact(items * functions * 2 + 1),
        near(items * row * 2 + 1) {}
  void set(const Source& s, int64_t i) {
    const double* c = static_cast<const double*>(s.p.parameters) + s.item * functions * 2;
    for (int64_t k = 0; k < functions; ++k) {
      for (int axis = 0; axis < 2; ++axis) {
        const double value = (axis == 0 ? s.x.scale : s.y.scale) * c[2 * k + axis];
        exact.data[(i * functions + k) * 2 + axis] = value;
        near.data[(2 * i + axis) * row + k] = float(value);
      }
    }
  }
};

struct SplineStrip {
  Middles x, y;
  PerTile<F16> from_x, from_y;  // of each tile's points from its middle

  // False where float is not exact enough: points far away, or offsets of large terms.
  bool place(const Source& s, const Strip& strip, const SplineBasis& shared, const SplineCoefficients& given,
             int64_t item) {
    const float *along_x = given.near.data + 2 * item * given.row, *along_y = along_x + given.row;
    F16 most_x{}, most_y{};  // pixels that the terms may add up to, signs aside
    for (int64_t k = 0; k < given.row; k += 16) {
      const F16 most = load<F16>(shared.most.data + k);
      most_x += absolute(load<F16>(along_x + k)) * most, most_y += absolute(load<F16>(along_y + k)) * most;
    }
    const F16 allowed = splat<F16>(32.f);
    if (!all((most_x < allowed) & (most_y < allowed))) return false;
    const Doubles far = splat<Doubles>(kFarthest);
    const double* c = given.exact.data + item * shared.functions * 2;
    for (int i = 0; i < strip.count; i += kDoubles) {
      Doubles at_x[2] = {}, at_y[2] = {};
      const double* middle = shared.middle.data + i;
      in_two_parts(shared.functions, [&](int64_t k, int part) STN_LAMBDA {
        const Doubles f = load<Doubles>(middle + k * kStripTiles);
        at_x[part] += c[2 * k] * f, at_y[part] += c[2 * k + 1] * f;
      });
      const Doubles pixel_x = at_x[0] + at_x[1] + s.x.shift, pixel_y = at_y[0] + at_y[1] + s.y.shift;
      if (!all((absolute(pixel_x) < far) & (absolute(pixel_y) < far))) return false;
      x.set(i, pixel_x), y.set(i, pixel_y);
    }
    const auto sum_offsets = [&](int i, auto together) STN_LAMBDA {  // of tiles, which share the coefficients
      F16 sum_x[together] = {}, sum_y[together] = {};
      for (int64_t k = 0; k < shared.functions; ++k) {
        const float x = along_x[k], y = along_y[k];
        unrolled<together>([&](auto j) STN_LAMBDA {
          const F16 difference = load<F16>(shared.difference(i + j, k));
          sum_x[j] += x * difference, sum_y[j] += y * difference;
        });
      }
      unrolled<together>([&](auto j) STN_LAMBDA { from_x[i + j] = sum_x[j], from_y[i + j] = sum_y[j]; });
    };
    int i = 0;
    for (; strip.count - i > 4; i += kSummed) sum_offsets(i, kConstant<kSummed>);
    if (i < strip.count) sum_offsets(i, kConstant<4>);
    return true;
  }
};

// The same for any transform and padding, by rows of points.
struct RunStrip {
  Run<float> rows[kTile];
  int64_t first;

  void place(const Source& s, Locate<float> locate, const Strip& strip) {
    first = strip.u(0) / kDoubles * kDoubles;  // where a spline's stored functions begin
    for (int j = 0; j < kTile; ++j) locate(s, strip.v + j, first, strip.u(strip.count - 1) + kTile - first, rows[j]);
  }
  template <class S>
  STN_INLINE F16 tile(const S* row, int64_t u) const {
    return load_tile<Square>(reinterpret_cast<const float*>(row + u - first), sizeof(Run<float>) / sizeof(float));
  }
  STN_INLINE void points(int64_t u, I16& x, F16& x_part, F16& x_slope, I16& y, F16& y_part, F16& y_slope) const {
    x = (I16)tile(rows->x_index, u), y = (I16)tile(rows->y_index, u);
    x_part = tile(rows->x_fraction, u), y_part = tile(rows->y_fraction, u);
    x_slope = tile(rows->x_slope, u), y_slope = tile(rows->y_slope, u);
  }
};

}  // namespace stn::STN_LEVEL
