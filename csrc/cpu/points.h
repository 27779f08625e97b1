// Where the points of an output row lie in the image, in any number of dimensions: transform, padding and mode, each
// chosen once a call. (coordinates.h is the same for the two dimensions of bilinear.)
#pragma once
#include <utility>

#include "common/taps.h"
#include "coordinates.h"

namespace stn::STN_LEVEL {

constexpr int kRun = 64;  // points placed at a time

// Points of one row; axis 0 is x. A pixel coordinate is index + fraction, slope its derivative by the one before
// padding.
template <class T>
struct Points {
  IndexOf<T> index[3][kRun];
  T fraction[3][kRun], slope[3][kRun];
};

struct RadialRows;  // volume_spline.h

// What is the same for all points of one transformed image.
struct Item {
  const Problem& p;
  int64_t item, image;                // of the transformed images, of the inputs
  Axis<double> axis[3];               // source pixels by normalized coordinates
  CentredLattice<double> lattice[3];  // output
  double map[3][4];                   // of an affine transform: source pixels by output pixels from the centre

  RadialRows* shared;  // of a spline in three dimensions; may be null

  STN_INLINE Item(const Problem& problem, int64_t number, RadialRows* rows = nullptr)
      : p(problem), item(number), image(number / problem.samples), shared(rows) {
    const int n = p.dimensions;
    for (int a = 0; a < n; ++a) {
      axis[a] = pixel_axis<double>(p.extent(a), p.align_corners);
      lattice[a] = centred_lattice<double>(p.out_extent(a), p.align_corners);
    }
    if (p.transform != Transform::affine) return;
    for (int a = 0; a < n; ++a) {
      for (int b = 0; b <= n; ++b) {
        const int64_t entry = (item * n + a) * (n + 1) + b;
        const double theta = p.double_parameters ? static_cast<const double*>(p.parameters)[entry]
                                                 : double(static_cast<const float*>(p.parameters)[entry]);
        map[a][b] = axis[a].scale * theta * (b < n ? lattice[b].step : 1) + (b < n ? 0 : axis[a].shift);
      }
    }
  }
  // Rows count through y, then z: the distance of one from the output's centre.
  STN_INLINE double from_centre(int a, int64_t row) const {
    const int64_t height = p.out_extent(1);
    return lattice[a].from_centre(int(a == 1 ? row % height : row / height));
  }
  // Source pixel along axis a of the middle of a row.
  template <int n>
  STN_INLINE double row_base(int a, int64_t row) const {
    double base = map[a][n];
    for (int b = n - 1; b > 0; --b) base += map[a][b] * from_centre(b, row);
    return base;
  }
  // The image this one is sampled from.
  template <class T>
  STN_INLINE const T* input() const {
    return static_cast<const T*>(p.input.data) + image * p.input.batch;
  }
  template <class G>
  STN_INLINE const G* grid_at(int64_t row, int64_t u) const {
    return static_cast<const G*>(p.parameters) + (item * p.item_points() + row * p.out_width + u) * p.dimensions;
  }
};

// Places points [u0, u0 + count) of a row, and others up to a multiple of kVectorBytes / 4.
template <class T>
using LocatePoints = void (*)(const Item&, int64_t row, int64_t u0, int64_t count, Points<T>&);

// Calls f(integral constant) with a number of dimensions, and f.operator()<mode>() with a mode.
template <class F>
STN_INLINE auto with_dimensions(int n, F f) {
  using std::integral_constant;
  if (n == 1) return f(integral_constant<int, 1>{});
  return n == 2 ? f(integral_constant<int, 2>{}) : f(integral_constant<int, 3>{});
}
template <class F>
STN_INLINE auto with_mode(Mode mode, F f) {
  if (mode == Mode::nearest) return f.template operator()<Mode::nearest>();
  return mode == Mode::bilinear ? f.template operator()<Mode::bilinear>() : f.template operator()<Mode::bicubic>();
}

// In double: any transform, type and padding.

// Cubic taps are padded one by one, so the coordinate itself is only kept from being huge.
template <Padding kPadding>
STN_INLINE Padded<Doubles> bounded(Doubles x, int size) {
  Doubles slope = splat<Doubles>(kPadding != Padding::zeros && size == 1 ? 0.0 : 1.0);
  if constexpr (kPadding == Padding::reflection) {
    const auto usable = absolute(x) < splat<Doubles>(0x1p23);
    return {masked(x, usable), masked(slope, usable)};
  } else {
    const Doubles first = splat<Doubles>(-3), last = splat<Doubles>(size + 2);
    return {minimum(maximum(first, x), last), masked(slope, (x > first) & (x < last))};
  }
}

// One axis of the rule of reference/sampling.py: pixel coordinates -> index, fraction and slope.
template <Mode kMode, Padding kPadding, class T>
void split_axis(const double* x, int64_t count, int size, bool align_corners, IndexOf<T>* index, T* fraction,
                T* slope) {
  for (int64_t i = 0; i < count; i += kDoubles) {
    const Doubles at = load<Doubles>(x + i);
    Padded<Doubles> padded;
    if constexpr (kMode == Mode::bicubic) {
      padded = bounded<kPadding>(at, size);
    } else {
      padded = pad<kPadding>(at, size, align_corners);
    }
    const Doubles low = kMode == Mode::nearest ? nearest_of(padded.x) : floor_of(padded.x);
    store(index + i,
          __builtin_convertvector(__builtin_convertvector(low, Vec<int32_t, kDoubles>), Vec<IndexOf<T>, kDoubles>));
    if constexpr (kMode == Mode::nearest) continue;
    store(fraction + i, __builtin_convertvector(padded.x - low, Vec<T, kDoubles>));
    store(slope + i, __builtin_convertvector(padded.slope, Vec<T, kDoubles>));
  }
}

// Source pixels, before padding, of the points [u0, u0 + count) of a row; the last one repeats up to a multiple of 16.
void source_points(const Item& item, int64_t row, int64_t u0, int64_t count, double (*x)[kRun]);

template <Mode kMode, class T>
STN_INLINE auto splitter(Padding padding) {
  if (padding == Padding::zeros) return split_axis<kMode, Padding::zeros, T>;
  return padding == Padding::border ? split_axis<kMode, Padding::border, T> : split_axis<kMode, Padding::reflection, T>;
}

template <class T>
void locate_in_double(const Item& item, int64_t row, int64_t u0, int64_t count, Points<T>& points) {
  const Problem& p = item.p;
  double x[3][kRun];
  source_points(item, row, u0, count, x);
  const auto split = with_mode(p.mode, [&]<Mode kMode>() STN_LAMBDA { return splitter<kMode, T>(p.padding); });
  for (int a = 0; a < p.dimensions; ++a) {
    split(x[a], (count + 15) / 16 * 16, int(p.extent(a)), p.align_corners, points.index[a], points.fraction[a],
          points.slope[a]);
  }
}

// In float, where that is as exact: float32 grids, and near affine rows with zeros or border.

template <Mode kMode, Padding kPadding, int n>
void locate_grid(const Item& item, int64_t row, int64_t u0, int64_t count, Points<float>& points) {
  Axis<float> axis[n];
  Placed to[n];
  for (int a = 0; a < n; ++a) {
    axis[a] = {float(item.axis[a].scale), float(item.axis[a].shift)};
    to[a] = {points.index[a], points.fraction[a], points.slope[a]};
  }
  place_grid<kMode, kPadding, n>(item.p, item.grid_at<float>(row, u0), count, axis, to);
}

template <Mode kMode, Padding kPadding, int n>
void locate_affine(const Item& item, int64_t row, int64_t u0, int64_t count, Points<float>& points) {
  constexpr int W = kVectorBytes / 4, kStarts = kRun / W > kDoubles ? kRun / W : kDoubles;
  using V = Vec<float, W>;
  using I = Vec<int32_t, W>;
  double base[n];
  bool near = true;
  for (int a = 0; a < n; ++a) {
    base[a] = item.row_base<n>(a, row);
    near &= absolute(base[a]) + absolute(item.map[a][0]) * double(item.p.out_width + kRun) < 0x1p22;
  }
  if (!near) return locate_in_double<float>(item, row, u0, count, points);
  V lane;
  for (int i = 0; i < W; ++i) lane[i] = float(i);
  for (int a = 0; a < n; ++a) {
    // Every W points start at a pixel, even for the halves of nearest, and so far from it.
    int32_t origin[kStarts];
    float from_origin[kStarts];
    for (int i = 0; i < kStarts; i += kDoubles) {
      const Doubles point = indices_from(i) * double(W) + (double(u0) - item.lattice[0].centre);
      const Doubles start = base[a] + item.map[a][0] * point, low = 2 * floor_of(0.5 * start);
      store(origin + i, __builtin_convertvector(low, Vec<int32_t, kDoubles>));
      store(from_origin + i, __builtin_convertvector(start - low, Vec<float, kDoubles>));
    }
    const float step = float(item.map[a][0]);
    const auto limits = bounds<kMode, kPadding>(item.p.extent(a));
    for (int64_t i = 0; i < count; i += W) {
      const int32_t pixel = origin[i / W];
      V x = lane * step + from_origin[i / W], slope = splat<V>(1.f);
      if constexpr (kPadding == Padding::border) {
        const V first = splat<V>(limits.first - float(pixel)), last = splat<V>(limits.step - float(pixel));
        slope = masked(slope, (x > first) & (x < last));
        x = minimum(maximum(first, x), last);
      }
      const V low = kMode == Mode::nearest ? nearest_of(x) : floor_of(x);
      store(points.index[a] + i, __builtin_convertvector(low, I) + pixel);
      if constexpr (kMode != Mode::nearest) store(points.fraction[a] + i, x - low), store(points.slope[a] + i, slope);
    }
  }
}

template <class T>
STN_INLINE LocatePoints<T> point_locator(const Problem& p) {
  if constexpr (sizeof(T) == 4) {
    bool affine = p.transform == Transform::affine && p.padding != Padding::reflection;
    for (int a = 0; a < p.dimensions; ++a) affine &= p.extent(a) > 1;  // one pixel has rules of its own
    if (affine || placed_in_float(p)) {
      return with_mode(p.mode, [&]<Mode kMode>() STN_LAMBDA {
        return with_dimensions(p.dimensions, [&](auto n) STN_LAMBDA -> LocatePoints<T> {
          if (affine)
            return p.padding == Padding::zeros ? locate_affine<kMode, Padding::zeros, n>
                                               : locate_affine<kMode, Padding::border, n>;
          return with_padding(p.padding, [&]<Padding kPadding>() STN_LAMBDA -> LocatePoints<T> {
            return locate_grid<kMode, kPadding, n>;
          });
        });
      });
    }
  }
  return locate_in_double<T>;
}

}  // namespace stn::STN_LEVEL
