// Transforms and their transposes: where the points of rows lie, and what their cotangents add to the gradient of the
// parameters. Compiled once a level, like kernels.cpp, and under its rules.
#include "parameter_sums.h"
#include "points.h"
#include "volume_spline.h"

namespace stn::STN_LEVEL {
namespace {

template <Padding kPadding, class T>
STN_INLINE void split(Doubles x, int size, bool align_corners, IndexOf<T>* index, T* fraction, T* slope) {
  const Padded<Doubles> padded = pad<kPadding>(x, size, align_corners);
  const Doubles low = floor_of(padded.x);
  store(index,
        __builtin_convertvector(__builtin_convertvector(low, Vec<int32_t, kDoubles>), Vec<IndexOf<T>, kDoubles>));
  store(fraction, __builtin_convertvector(padded.x - low, Vec<T, kDoubles>));
  store(slope, __builtin_convertvector(padded.slope, Vec<T, kDoubles>));
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

// The same for points that the user gives, in float.
template <Padding kPadding, class T>
void locate_given(const Source& s, int64_t v, int64_t u0, int64_t count, Run<T>& run) {
  if constexpr (sizeof(T) == 4) {
    const Axis<float> axis[] = {{float(s.x.scale), float(s.x.shift)}, {float(s.y.scale), float(s.y.shift)}};
    const Placed to[] = {{run.x_index, run.x_fraction, run.x_slope}, {run.y_index, run.y_fraction, run.y_slope}};
    place_grid<Mode::bilinear, kPadding, 2>(s.p, GridRow<float>(s, v).grid + 2 * u0, count, axis, to);
    run.count = count;
    end_run(run);
  }
}

template <int n>
STN_INLINE void source_affine(const Item& item, int64_t row, int64_t u0, int64_t count, double (*x)[kRun]) {
  Doubles lane;
  for (int i = 0; i < kDoubles; ++i) lane[i] = i;
  lane += double(u0) - item.lattice[0].centre;
  for (int a = 0; a < n; ++a) {
    const double base = item.row_base<n>(a, row);
    for (int64_t i = 0; i < count; i += kDoubles) store(x[a] + i, base + item.map[a][0] * (lane + double(i)));
  }
}

template <class G>
STN_INLINE void source_grid(const Item& item, int64_t row, int64_t u0, int64_t count, double (*x)[kRun]) {
  const int n = item.p.dimensions;
  const G* grid = item.grid_at<G>(row, u0);
  for (int a = 0; a < n; ++a) {
    const double scale = item.axis[a].scale, shift = item.axis[a].shift;
    for (int64_t i = 0; i < count; ++i) x[a][i] = scale * double(grid[n * i + a]) + shift;
  }
}

template <class Row>
STN_INLINE void source_row(const Item& item, int64_t row, int64_t u0, int64_t count, double (*x)[kRun]) {
  const Source source(item.p, item.item);
  const Row at(source, row);
  for (int64_t i = 0; i < count; i += kDoubles) {
    Doubles along_x, along_y;
    at.points(u0 + i, count - i, along_x, along_y);
    store(x[0] + i, along_x), store(x[1] + i, along_y);
  }
}

}  // namespace

template <class T>
Locate<T> locator(const Problem& p) {
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
  if (p.transform == Transform::homography) return padded((HomographyRow*)nullptr);
  if (p.transform == Transform::tps) return padded((TpsRow*)nullptr);
  if (sizeof(T) == 4 && placed_in_float(p)) {
    return with_padding(p.padding,
                        []<Padding kPadding>() STN_LAMBDA -> Locate<T> { return locate_given<kPadding, T>; });
  }
  return p.double_parameters ? padded((GridRow<double>*)nullptr) : padded((GridRow<float>*)nullptr);
}

template Locate<float> locator<float>(const Problem&);
#ifndef __AVX512F__
template Locate<double> locator<double>(const Problem&);
#endif

void source_points(const Item& item, int64_t row, int64_t u0, int64_t count, double (*x)[kRun]) {
  const Problem& p = item.p;
  if (p.transform == Transform::affine) {
    with_dimensions(p.dimensions, [&](auto n) STN_LAMBDA { source_affine<n>(item, row, u0, count, x); });
  } else if (p.transform == Transform::homography) {
    source_row<HomographyRow>(item, row, u0, count, x);
  } else if (p.transform == Transform::tps && p.dimensions == 2) {
    source_row<TpsRow>(item, row, u0, count, x);
  } else if (p.transform == Transform::tps) {
    VolumeSpline(p, item.item, row, item.shared).points(u0, count, x);
    for (int a = 0; a < 3; ++a) {
      for (int64_t i = 0; i < count; ++i) x[a][i] = item.axis[a].scale * x[a][i] + item.axis[a].shift;
    }
  } else {
    p.double_parameters ? source_grid<double>(item, row, u0, count, x) : source_grid<float>(item, row, u0, count, x);
  }
  for (int a = 0; a < p.dimensions; ++a) {
    for (int64_t i = count; i < (count + 15) / 16 * 16; ++i) x[a][i] = x[a][count - 1];
  }
}

void HomographySums::add(const Source& source, const Cotangents& g) {
  const HomographyRow row(source, g.v);
  for (int64_t i = 0; i < g.count; ++i) {
    Doubles x, grad[3];
    const Projected<Doubles> p = row.projected(g.u + i * kDoubles, x);
    project_vjp(p, row.to_x.scale * g.x[i], row.to_y.scale * g.y[i], grad);
    for (int k = 0; k < 3; ++k) {
      sums[3 * k] += grad[k] * x, sums[3 * k + 1] += grad[k] * row.y, sums[3 * k + 2] += grad[k];
    }
  }
}

void TpsSums::add(const Source& source, const Cotangents& g) {
  const TpsRow row(source, g.v);
  const auto add_function = [&](int64_t k, auto value_at) STN_LAMBDA {
    double* target = sums.data + 2 * k * kDoubles;
    Doubles sum_x = load<Doubles>(target), sum_y = load<Doubles>(target + kDoubles);
    for (int64_t i = 0; i < g.count; ++i) {
      const Doubles value = value_at(g.u + i * kDoubles);
      sum_x += value * g.x[i], sum_y += value * g.y[i];
    }
    store(target, sum_x), store(target + kDoubles, sum_y);
  };
  for (int64_t k = 0; k < row.count; ++k)
    add_function(k, [&](int64_t u) STN_LAMBDA { return row.basis(u, row.columns(u), k); });
  add_function(row.count, [](int64_t) STN_LAMBDA { return splat<Doubles>(1.0); });
  add_function(row.count + 1, [&](int64_t u) STN_LAMBDA { return row.columns(u); });
  add_function(row.count + 2, [&](int64_t) STN_LAMBDA { return splat<Doubles>(row.y); });
}

void VolumeSpline::points(int64_t u0, int64_t points, double (*x)[kRun]) const {
  const double* affine = coefficients + 3 * count;
  // Of vectors of points that share what is read of a control point.
  const auto place = [&](int64_t i, auto vectors) STN_LAMBDA {
    const int64_t u = u0 + i;
    Doubles sum[vectors][3];
    for (int j = 0; j < vectors; ++j) {
      const Doubles at = columns(u + j * kDoubles);
      for (int a = 0; a < 3; ++a) sum[j][a] = affine[a] + affine[9 + a] * z + affine[6 + a] * y + affine[3 + a] * at;
    }
    with_functions([&](auto value) STN_LAMBDA {
      for (int64_t k = 0; k < count; ++k) {
        for (int j = 0; j < vectors; ++j) {
          const Doubles of = value(k, u + j * kDoubles);
          for (int a = 0; a < 3; ++a) sum[j][a] += coefficients[3 * k + a] * of;
        }
      }
    });
    for (int j = 0; j < vectors; ++j) {
      for (int a = 0; a < 3; ++a) store(x[a] + i + j * kDoubles, sum[j][a]);
    }
    return i + vectors * kDoubles;
  };
  for (int64_t i = 0; i < points;) i = points - i > 2 * kDoubles ? place(i, kConstant<4>) : place(i, kConstant<2>);
}

void VolumeSplineSums::add(const VolumeSpline& spline, int64_t u0, int64_t count, const double (*grads)[kRun]) {
  constexpr int kTogether = 4;  // functions that share what is read of the gradients
  const auto add_functions = [&](int64_t k, auto functions, auto value) STN_LAMBDA {
    Doubles* target = sums.data + 3 * k;
    Doubles sum[functions][3];
    for (int j = 0; j < functions; ++j) {
      for (int a = 0; a < 3; ++a) sum[j][a] = target[3 * j + a];
    }
    for (int64_t i = 0; i < count; i += kDoubles) {
      for (int j = 0; j < functions; ++j) {
        const Doubles of = value(k + j, u0 + i);
        for (int a = 0; a < 3; ++a) sum[j][a] += of * load<Doubles>(grads[a] + i);
      }
    }
    for (int j = 0; j < functions; ++j) {
      for (int a = 0; a < 3; ++a) target[3 * j + a] = sum[j][a];
    }
  };
  constexpr auto one = kConstant<1>;
  spline.with_functions([&](auto value) STN_LAMBDA {
    int64_t k = 0;
    for (; k + kTogether <= spline.count; k += kTogether) add_functions(k, kConstant<kTogether>, value);
    for (; k < spline.count; ++k) add_functions(k, one, value);
  });
  add_functions(spline.count, one, [](int64_t, int64_t) STN_LAMBDA { return splat<Doubles>(1.0); });
  add_functions(spline.count + 1, one, [&](int64_t, int64_t u) STN_LAMBDA { return spline.columns(u); });
  add_functions(spline.count + 2, one, [&](int64_t, int64_t) STN_LAMBDA { return splat<Doubles>(spline.y); });
  add_functions(spline.count + 3, one, [&](int64_t, int64_t) STN_LAMBDA { return splat<Doubles>(spline.z); });
}

}  // namespace stn::STN_LEVEL
