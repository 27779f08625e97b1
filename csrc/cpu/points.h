// Where the points of an output row lie in the image, in any number of dimensions: transform, then padding and mode,
// each chosen once a call. (coordinates.h is the same for the two dimensions of bilinear.)
#pragma once
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

// What is the same for all points of one transformed image.
struct Item {
  const Problem& p;
  int64_t item;
  Axis<double> axis[3];               // source pixels by normalized coordinates
  CentredLattice<double> lattice[3];  // output
  double map[3][4];                   // of an affine transform: source pixels by output pixels from the centre

  STN_INLINE Item(const Problem& problem, int64_t number) : p(problem), item(number) {
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
};

// Fills coordinates[axis] with source pixels of points [u0, u0 + count) of a row, and on to a multiple of kDoubles.
using Place = void (*)(const Item&, int64_t row, int64_t u0, int64_t count, double (*coordinates)[kRun]);

template <int n>
void place_affine(const Item& item, int64_t row, int64_t u0, int64_t count, double (*coordinates)[kRun]) {
  Doubles lane;
  for (int i = 0; i < kDoubles; ++i) lane[i] = i;
  lane += double(u0) - item.lattice[0].centre;
  for (int a = 0; a < n; ++a) {
    double base = item.map[a][n];
    for (int b = n - 1; b > 0; --b) base += item.map[a][b] * item.from_centre(b, row);
    for (int64_t i = 0; i < count; i += kDoubles) {
      store(coordinates[a] + i, base + item.map[a][0] * (lane + double(i)));
    }
  }
}

template <class G, int n>
void place_grid(const Item& item, int64_t row, int64_t u0, int64_t count, double (*coordinates)[kRun]) {
  const Problem& p = item.p;
  const G* grid =
      static_cast<const G*>(p.parameters) + ((item.item * p.out_depth * p.out_height + row) * p.out_width + u0) * n;
  for (int a = 0; a < n; ++a) {
    const double scale = item.axis[a].scale, shift = item.axis[a].shift;
    for (int64_t i = 0; i < count; ++i) coordinates[a][i] = scale * double(grid[n * i + a]) + shift;
  }
}

template <class Row>
void place_row(const Item& item, int64_t row, int64_t u0, int64_t count, double (*coordinates)[kRun]) {
  const Source source(item.p, item.item);
  const Row at(source, row);
  for (int64_t i = 0; i < count; i += kDoubles) {
    Doubles x, y;
    at.points(u0 + i, count - i, x, y);
    store(coordinates[0] + i, x), store(coordinates[1] + i, y);
  }
}

STN_INLINE Place placer(const Problem& p) {
  if (p.transform == Transform::homography) return place_row<HomographyRow>;
  if (p.transform == Transform::tps) return place_row<TpsRow>;
  const auto of = [&](auto dimensions) STN_LAMBDA -> Place {
    constexpr int n = dimensions;
    if (p.transform == Transform::affine) return place_affine<n>;
    return p.double_parameters ? place_grid<double, n> : place_grid<float, n>;
  };
  using std::integral_constant;
  if (p.dimensions == 1) return of(integral_constant<int, 1>{});
  return p.dimensions == 2 ? of(integral_constant<int, 2>{}) : of(integral_constant<int, 3>{});
}

// Halves to even.
STN_INLINE Doubles nearest_of(Doubles x) {
  for (int i = 0; i < kDoubles; ++i) x[i] = __builtin_nearbyint(x[i]);
  return x;
}

// One axis of the rule of reference/sampling.py: pixel coordinates -> index, fraction and slope.
template <class T>
using Split = void (*)(const double* x, int64_t count, int size, bool align_corners, IndexOf<T>* index, T* fraction,
                       T* slope);

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

template <class T>
STN_INLINE Split<T> splitter(const Problem& p) {
  const auto of = [&]<Mode kMode>() STN_LAMBDA -> Split<T> {
    if (p.padding == Padding::border) return split_axis<kMode, Padding::border, T>;
    return p.padding == Padding::zeros ? split_axis<kMode, Padding::zeros, T>
                                       : split_axis<kMode, Padding::reflection, T>;
  };
  if (p.mode == Mode::nearest) return of.template operator()<Mode::nearest>();
  return p.mode == Mode::bilinear ? of.template operator()<Mode::bilinear>() : of.template operator()<Mode::bicubic>();
}

}  // namespace stn::STN_LEVEL
