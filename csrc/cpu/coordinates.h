// Source coordinates of a run of output points: transform, padding, split into pixel index and fraction.
#pragma once
#include "common/affine.h"
#include "kernels.h"
#include "simd.h"

namespace stn::STN_LEVEL {

template <class T>
using IndexOf = typename std::conditional<sizeof(T) == 8, int64_t, int32_t>::type;  // lanes as wide as T's

// Up to kPoints points of one output row: x = x_index + x_fraction, and d x / d (pixel coordinate before padding).
template <class T>
struct Run {
  static constexpr int kPoints = 64;
  int64_t count;
  IndexOf<T> x_index[kPoints], y_index[kPoints];
  T x_fraction[kPoints], y_fraction[kPoints], x_slope[kPoints], y_slope[kPoints];
};

// One transformed image: its source pixel coordinates before padding, always in double.
struct Source {
  const Problem& p;
  int64_t item;
  CentredMap<double> map{};  // of an affine transform
  CentredLattice<double> u{}, v{};

  STN_INLINE Source(const Problem& problem, int64_t n) : p(problem), item(n) {
    if (p.transform != Transform::affine) return;
    u = centred_lattice<double>(p.out_width, p.align_corners),
    v = centred_lattice<double>(p.out_height, p.align_corners);
    const auto x = pixel_axis<double>(p.width, p.align_corners), y = pixel_axis<double>(p.height, p.align_corners);
    map = p.double_parameters ? centred_map(static_cast<const double*>(p.parameters) + 6 * n, x, y, u.step, v.step)
                              : centred_map(static_cast<const float*>(p.parameters) + 6 * n, x, y, u.step, v.step);
  }
  // The same map from the output's first pixel.
  STN_INLINE PixelMap<double> pixels() const {
    return {map.xu, map.xv, map.x0 - map.xu * u.centre - map.xv * v.centre,
            map.yu, map.yv, map.y0 - map.yu * u.centre - map.yv * v.centre};
  }
};

struct AffineRow {
  double x, y, xu, yu, centre;
  STN_INLINE AffineRow(const Source& s, int64_t v)
      : x(s.map.xv * s.v.from_centre(int(v)) + s.map.x0),
        y(s.map.yv * s.v.from_centre(int(v)) + s.map.y0),
        xu(s.map.xu),
        yu(s.map.yu),
        centre(s.u.centre) {}
  STN_INLINE void points(int64_t u, int64_t, Doubles& source_x, Doubles& source_y) const {
    Doubles index;
    for (int i = 0; i < kDoubles; ++i) index[i] = i;
    index += double(u) - centre;
    source_x = x + xu * index, source_y = y + yu * index;
  }
};

// The next kDoubles (x, y) pairs, of which only some may be there; zeros follow.
template <class G>
STN_INLINE void load_points(const G* pairs, int64_t available, Doubles& x, Doubles& y) {
  using Pairs = Vec<G, 2 * kDoubles>;
  Pairs both{};
  if (available >= kDoubles) {
    both = load<Pairs>(pairs);
  } else {
    for (int64_t i = 0; i < 2 * available; ++i) both[i] = pairs[i];
  }
  for (int i = 0; i < kDoubles; ++i) x[i] = double(both[2 * i]), y[i] = double(both[2 * i + 1]);
}

template <class G>
struct GridRow {
  const G* grid;
  Axis<double> x, y;
  STN_INLINE GridRow(const Source& s, int64_t v)
      : grid(static_cast<const G*>(s.p.parameters) + 2 * s.p.out_width * (s.item * s.p.out_height + v)),
        x(pixel_axis<double>(s.p.width, s.p.align_corners)),
        y(pixel_axis<double>(s.p.height, s.p.align_corners)) {}
  STN_INLINE void points(int64_t u, int64_t available, Doubles& source_x, Doubles& source_y) const {
    Doubles gx, gy;
    load_points(grid + 2 * u, available, gx, gy);
    source_x = x.scale * gx + x.shift, source_y = y.scale * gy + y.shift;
  }
};

template <Padding kPadding, class T>
STN_INLINE void split(Doubles x, int size, bool align_corners, IndexOf<T>* index, T* fraction, T* slope) {
  const Padded<Doubles> padded = pad<kPadding>(x, size, align_corners);
  const Doubles low = floor_of(padded.x);
  store(index,
        __builtin_convertvector(__builtin_convertvector(low, Vec<int32_t, kDoubles>), Vec<IndexOf<T>, kDoubles>));
  store(fraction, __builtin_convertvector(padded.x - low, Vec<T, kDoubles>));
  store(slope, __builtin_convertvector(padded.slope, Vec<T, kDoubles>));
}

// Follows the points of a run by points outside, up to a multiple of 16.
template <class T>
STN_INLINE void end_run(Run<T>& run) {
  for (int64_t i = run.count; i % 16 != 0; ++i) {
    run.x_index[i] = run.y_index[i] = -2;
    run.x_fraction[i] = run.y_fraction[i] = run.x_slope[i] = run.y_slope[i] = 0;
  }
}

// Fills run with points [u0, u0 + count) of output row v.
template <class Row, Padding kPadding, class T>
void locate(const Source& s, int64_t v, int64_t u0, int64_t count, Run<T>& run) {
  const Row row(s, v);
  const int width = int(s.p.width), height = int(s.p.height);
  const bool align = s.p.align_corners;
  run.count = count;
  for (int64_t i = 0; i < count; i += kDoubles) {
    Doubles x, y;
    row.points(u0 + i, count - i, x, y);
    split<kPadding>(x, width, align, run.x_index + i, run.x_fraction + i, run.x_slope + i);
    split<kPadding>(y, height, align, run.y_index + i, run.y_fraction + i, run.y_slope + i);
  }
  end_run(run);
}

// The same for an affine row whose coordinates stay small under zeros padding: exact bases every few points and float
// offsets between them, no clamps.
template <class T>
void locate_near(const Source& s, int64_t v, int64_t u0, int64_t count, Run<T>& run) {
  constexpr int N = kVectorBytes < 32 ? 4 : 8;
  const AffineRow row(s, v);
  const double reach = row.centre, limit = 0x1p23;
  const bool near =
      absolute(row.x) + absolute(row.xu) * reach < limit && absolute(row.y) + absolute(row.yu) * reach < limit;
  if (sizeof(T) == 8 || !near) return locate<AffineRow, Padding::zeros, T>(s, v, u0, count, run);
  using V = Vec<float, N>;
  using I = Vec<int32_t, N>;
  V lane;
  for (int i = 0; i < N; ++i) lane[i] = float(i);
  const V one = splat<V>(1.f), step_x = lane * float(row.xu), step_y = lane * float(row.yu);
  const auto place = [](double base, V step, void* index, void* fraction) STN_LAMBDA {
    const double low = __builtin_floor(base);
    const V x = step + float(base - low), floor = floor_of(x);
    store(index, __builtin_convertvector(floor, I) + int32_t(low));
    store(fraction, x - floor);
  };
  run.count = count;
  for (int64_t i = 0; i < count; i += N) {
    const double u = double(u0 + i) - row.centre;
    place(row.x + row.xu * u, step_x, run.x_index + i, run.x_fraction + i);
    place(row.y + row.yu * u, step_y, run.y_index + i, run.y_fraction + i);
    store(run.x_slope + i, one), store(run.y_slope + i, one);
  }
  end_run(run);
}

template <class T>
using Locate = void (*)(const Source&, int64_t v, int64_t u0, int64_t count, Run<T>&);

// The one function that places points for this problem: transforms and paddings end here, samplers never see them.
template <class T>
STN_INLINE Locate<T> locator(const Problem& p) {
  const auto padded = [&]<class Row>(Row*) STN_LAMBDA -> Locate<T> {
    switch (p.padding) {
      case Padding::border:
        return locate<Row, Padding::border, T>;
      case Padding::reflection:
        return locate<Row, Padding::reflection, T>;
      default:
        return locate<Row, Padding::zeros, T>;
    }
  };
  if (p.transform == Transform::affine && p.padding == Padding::zeros) return locate_near<T>;
  if (p.transform == Transform::affine) return padded((AffineRow*)nullptr);
  return p.double_parameters ? padded((GridRow<double>*)nullptr) : padded((GridRow<float>*)nullptr);
}

}  // namespace stn::STN_LEVEL
