// One point carried along a velocity that is affine in every region of space (stn_kernels/_regions.py, whose terms are
// used here): where it leaves a region, where it goes, and the transposes. Written for a scalar or a vector of points.
//
// In a region the coordinates g follow a linear equation; x stands for g_1 ... g_n, and dx/dt = M x + s. As M^n is a
// combination of I ... M^(n-1) (Cayley and Hamilton), so is the flow: with v = M x + s,
//   x(t) = x + a_0(t) v + a_1(t) M v + ... + a_(n-1)(t) M^(n-1) v.
#pragma once
#include "portable.h"

namespace stn {

constexpr int kCpabSegments = 1024;  // of one path; then the rest of its time is taken in kCpabRestSteps fixed steps
constexpr int kCpabRestSteps = 50;

template <class V>
struct ElementOf {
  using type = V;
};
template <class V>
  requires requires(V v) { v[0]; }
struct ElementOf<V> {
  using type = std::remove_cvref_t<decltype(V{}[0])>;
};
template <class V>
using Element = typename ElementOf<V>::type;

// Steps are at most 1 / |M|, so that this many terms of a power series leave less than a rounding.
template <class T>
constexpr int kCpabTerms = sizeof(T) == 8 ? 19 : 10;
// A face is found, and a path may dip behind one, to this part of a cell.
template <class T>
constexpr double kCpabTolerance = sizeof(T) == 8 ? 1e-14 : 2e-7;

// The tables of a tessellation, a row a region.
struct CpabTables {
  const int32_t* integers;  // crossing (n + 1), support (n + 1)^2
  const double* reals;      // weights (n + 1)^2, g (n + 1)^2, share n, origin n, axes n^2
  int32_t regions, cells;
  int32_t shape[3];
};

template <int n>
struct CpabRegion {
  static constexpr int m = n + 1, kIntegers = m + m * m, kReals = 2 * m * m + 2 * n + n * n;
  const int32_t *crossing, *support;
  const double *weights, *g, *share, *origin, *axes;

  STN_HD CpabRegion(const CpabTables& t, int64_t region)
      : crossing(t.integers + kIntegers * region),
        support(crossing + m),
        weights(t.reals + kReals * region),
        g(weights + m * m),
        share(g + m * m),
        origin(share + n),
        axes(origin + n) {}
  STN_HD double coordinate(int slot, const double* y) const {
    double value = g[slot * m + n];
    for (int d = 0; d < n; ++d) value += g[slot * m + d] * y[d];
    return value;
  }
};

// A crossing code: the region beyond, the slot by which it is entered, whether coordinates have to be computed anew.
STN_HD int crossing_region(int code) { return code >> 3; }
STN_HD int crossing_slot(int code) { return code >> 1 & 3; }
STN_HD bool crossing_changes(int code) { return code & 1; }

// What a step in a region needs. The order of the members is that of the records in memory.
template <class V, int n>
struct CpabMotion {
  V matrix[n * n], start[n];  // dx/dt = matrix x + start
  V first[n + 1];             // dg_0/dt = first . g
  V powers[n];                // M^n = sum powers[l] M^l
  V limit;                    // the longest step: 1 / |M|
  V remainder[n];             // bounds of a face's fourth derivative / 144, by the components of its first
  V share[n];                 // g_0 = 1 - share . (g_1 ... g_n)
};
// The same region for the transposes, in lattice units from the vertex of slot 0.
template <class V, int n>
struct CpabPlace {
  V matrix[n * n], start[n];  // dy/dt = matrix (y - origin) + start
  V axes[n * n], origin[n];   // y = origin + axes x
  V powers[n];
};
template <int n>
constexpr int kCpabRecord = n < 3 ? 16 : 32;  // elements of a record, in each of the two
static_assert(sizeof(CpabMotion<float, 2>) <= kCpabRecord<2> * 4 && sizeof(CpabMotion<float, 3>) <= kCpabRecord<3> * 4);

// The velocities of a region's columns, in lattice units: those of its vertices, derivatives along its directions.
template <int n, class P>
STN_HD void column_velocities(const CpabTables& t, const CpabRegion<n>& region, const P* velocities,
                              double (&columns)[n + 1][n]) {
  constexpr int m = n + 1;
  for (int j = 0; j < m; ++j) {
    for (int d = 0; d < n; ++d) {
      double sum = 0;
      for (int i = 0; i < m; ++i) {
        sum += region.weights[j * m + i] * double(velocities[int64_t(region.support[j * m + i]) * n + d]);
      }
      columns[j][d] = sum * t.shape[d];
    }
  }
}

// powers of the characteristic polynomial: M^n = sum powers[l] M^l.
template <int n>
STN_HD void characteristic(const double (&M)[n * n], double (&powers)[n]) {
  if constexpr (n == 1) {
    powers[0] = M[0];
  } else if constexpr (n == 2) {
    powers[0] = M[1] * M[2] - M[0] * M[3], powers[1] = M[0] + M[3];
  } else {
    const double a = M[4] * M[8] - M[5] * M[7], b = M[3] * M[8] - M[5] * M[6], c = M[3] * M[7] - M[4] * M[6];
    powers[0] = M[0] * a - M[1] * b + M[2] * c;
    powers[1] = -(M[0] * M[4] - M[1] * M[3] + M[0] * M[8] - M[2] * M[6] + a);
    powers[2] = M[0] + M[4] + M[8];
  }
}

// Prepares a region of one image. Signs at a face agree exactly on its two sides: the same products, negated.
template <int n, class T, class P>
STN_HD void prepare(const CpabTables& t, int64_t number, const P* velocities, CpabMotion<T, n>& motion,
                    CpabPlace<T, n>& place) {
  constexpr int m = n + 1;
  const CpabRegion<n> region(t, number);
  double columns[m][n], M[n * n] = {}, powers[n];
  column_velocities(t, region, velocities, columns);
  for (int i = 0; i < m; ++i) {
    double row[m];
    for (int j = 0; j < m; ++j) {
      row[j] = 0;
      for (int d = 0; d < n; ++d) row[j] += region.g[i * m + d] * columns[j][d];
    }
    for (int j = 0; j < m; ++j) {
      if (i == 0) {
        motion.first[j] = T(row[j]);
      } else if (j == 0) {
        motion.start[i - 1] = T(row[0]);
      } else {
        motion.matrix[(i - 1) * n + j - 1] = T(row[j] - region.share[j - 1] * row[0]);
      }
    }
  }
  double norm = 0;
  for (int r = 0; r < n; ++r) {
    for (int c = 0; c < n; ++c) {
      for (int j = 0; j < m; ++j) M[r * n + c] += columns[j][r] * region.g[j * m + c];
      norm += M[r * n + c] * M[r * n + c];
      place.matrix[r * n + c] = T(M[r * n + c]), place.axes[r * n + c] = T(region.axes[r * n + c]);
    }
    place.start[r] = T(columns[0][r]), place.origin[r] = T(region.origin[r]);
  }
  characteristic<n>(M, powers);
  norm = std::sqrt(norm);
  const double limit = norm > 0 ? 1 / norm : 1e30, step = limit < 1 ? limit : 1;
  motion.limit = T(norm < 1e30 ? limit : NAN);  // a field with an Inf or a NaN moves points to NaN
  // M^(3 + j) = sum of coefficients of I ... M^(n-1); with step^j / j! they bound the flow's third derivatives.
  double power[n] = {1}, bound[n] = {}, weight = 1;
  for (int k = 0; k < kCpabTerms<double>; ++k) {
    if (k > 3) weight *= step / (k - 3);
    for (int l = 0; k >= 3 && l < n; ++l) bound[l] += weight * std::fabs(power[l]);
    const double last = power[n - 1];
    for (int l = n - 1; l > 0; --l) power[l] = power[l - 1] + powers[l] * last;
    power[0] = powers[0] * last;
  }
  for (int l = 0; l < n; ++l) {
    motion.powers[l] = place.powers[l] = T(powers[l]), motion.remainder[l] = T(bound[l] / 144);
    motion.share[l] = T(region.share[l]);
  }
}

// Gradient of `prepare` to the velocities, times what acts on them: G = [dL/dmatrix, dL/dstart] of CpabPlace.
template <int n, class Add>
STN_HD void prepare_adjoint(const CpabTables& t, int64_t number, const double* G, Add add) {
  constexpr int m = n + 1;
  const CpabRegion<n> region(t, number);
  double columns[m][n];
  for (int d = 0; d < n; ++d) columns[0][d] = G[d * m + n];
  for (int j = 1; j < m; ++j) {
    for (int d = 0; d < n; ++d) {
      columns[j][d] = 0;
      for (int c = 0; c < n; ++c) columns[j][d] += G[d * m + c] * region.g[j * m + c];
      columns[0][d] -= region.share[j - 1] * columns[j][d];
    }
  }
  for (int j = 0; j < m; ++j) {
    for (int i = 0; i < m; ++i) {
      const double weight = region.weights[j * m + i];
      if (weight == 0) continue;
      for (int d = 0; d < n; ++d) {
        add(int64_t(region.support[j * m + i]) * n + d, weight * t.shape[d] * columns[j][d]);
      }
    }
  }
}

// The region of a lattice point and its coordinates there: from the nearest cube's first cell across violated faces.
template <int n>
STN_HD int32_t locate(const CpabTables& t, const double* y, double (&g)[n + 1]) {
  int32_t cube = 0;
  for (int d = n - 1; d >= 0; --d) {
    const double last = t.shape[d] - 1, at = std::floor(y[d]);
    cube = cube * t.shape[d] + int32_t(at > 0 ? (at < last ? at : last) : 0);
  }
  int32_t number = cube * (n == 1 ? 1 : n == 2 ? 4 : 5);
  for (int step = 0;; ++step) {
    const CpabRegion<n> region(t, number);
    int least = 0;
    double lowest = 0;
    for (int j = 0; j <= n; ++j) {
      g[j] = region.coordinate(j, y);
      if (g[j] < lowest) least = j, lowest = g[j];
    }
    if (!(lowest < 0) || region.crossing[least] < 0 || step == 4 * n + 4) break;
    number = crossing_region(region.crossing[least]);
  }
  for (int j = 0; j <= n; ++j) g[j] = g[j] < 0 ? 0 : g[j];
  return number;
}

// The series a_l(t) of one region.
template <class V, int n>
struct CpabSeries {
  static constexpr int K = kCpabTerms<Element<V>>;
  V c[n][K];

  STN_HD explicit CpabSeries(const V (&powers)[n]) {
    V power[n];
    for (int l = 0; l < n; ++l) power[l] = constant<V>(l == 0 ? 1 : 0);
    double factorial = 1;
#pragma GCC unroll 20
    for (int k = 0; k < K; ++k) {
      factorial *= k + 1;
      for (int l = 0; l < n; ++l) c[l][k] = power[l] * constant<V>(1 / factorial);
      const V last = power[n - 1];
      for (int l = n - 1; l > 0; --l) power[l] = power[l - 1] + powers[l] * last;
      power[0] = powers[0] * last;
    }
  }
  STN_HD void at(V t, V (&a)[n]) const {
    for (int l = 0; l < n; ++l) {
      V sum = c[l][K - 1];
#pragma GCC unroll 20
      for (int k = K - 2; k >= 0; --k) sum = sum * t + c[l][k];
      a[l] = sum * t;
    }
  }
};
#if defined(__CUDACC__) || defined(SIMT_HOST)
// On a GPU float64's coefficients have no room in registers: computed each time.
template <int n>
struct CpabSeries<double, n> {
  static constexpr int K = kCpabTerms<double>;
  double powers[n];

  STN_HD explicit CpabSeries(const double (&given)[n]) {
    for (int l = 0; l < n; ++l) powers[l] = given[l];
  }
  STN_HD void at(double t, double (&a)[n]) const {
    double power[n], weight = t;
    for (int l = 0; l < n; ++l) power[l] = l == 0, a[l] = 0;
#pragma unroll 4
    for (int k = 0; k < K; ++k) {
      for (int l = 0; l < n; ++l) a[l] += weight * power[l];
      const double last = power[n - 1];
      for (int l = n - 1; l > 0; --l) power[l] = power[l - 1] + powers[l] * last;
      power[0] = powers[0] * last;
      weight *= t * (1.0 / (k + 2));
    }
  }
};
#endif

// da_l/dt, from a_l.
template <class V, int n>
STN_HD void series_slopes(const V (&powers)[n], const V (&a)[n], V (&slope)[n]) {
  slope[0] = constant<V>(1) + powers[0] * a[n - 1];
  for (int l = 1; l < n; ++l) slope[l] = a[l - 1] + powers[l] * a[n - 1];
}

// One step of a path in its region: as far as the region reaches, or `limit`, or the time that is left.
template <class V, int n>
struct CpabStep {
  V time, g[n + 1];                   // how long, and the coordinates at the end
  decltype(V{} < V{}) leaves[n + 1];  // through which face, at most one of them
};

// derivatives[0] = dg/dt, derivatives[l] = M^l of it.
template <class V, int n>
STN_HD void derivatives_of(const CpabMotion<V, n>& motion, const V (&g)[n + 1], V (&derivatives)[n][n + 1]) {
  for (int i = 0; i < n; ++i) {
    V sum = motion.start[i];
    for (int j = 0; j < n; ++j) sum += motion.matrix[i * n + j] * g[j + 1];
    derivatives[0][i + 1] = sum;
  }
  for (int l = 0; l < n; ++l) {
    const V* x = l == 0 ? g : derivatives[l - 1];
    V first = motion.first[n] * x[n];
    for (int j = n - 1; j >= 0; --j) first += motion.first[j] * x[j];
    derivatives[l][0] = first;
    for (int i = 0; l > 0 && i < n; ++i) {
      V sum = motion.matrix[i * n] * x[1];
      for (int j = 1; j < n; ++j) sum += motion.matrix[i * n + j] * x[j + 1];
      derivatives[l][i + 1] = sum;
    }
  }
}

template <class V, int n>
STN_HD V along(V start, const V (&a)[n], const V (&derivatives)[n][n + 1], int j) {
  for (int l = 0; l < n; ++l) start += a[l] * derivatives[l][j];
  return start;
}

// There is one coordinate more than needed, and in strong fields and far outside the domain roundings would take it
// from the others exponentially: the largest one follows the others, where that costs no digit.
template <class V, int n>
STN_HD void settle(const CpabMotion<V, n>& motion, V (&g)[n + 1]) {
  V excess = g[0] - constant<V>(1), largest = g[0], share = constant<V>(1);
  for (int j = 0; j < n; ++j) {
    const V part = motion.share[j] * g[j + 1];
    excess += part;
    share = select(absolute(part) > largest, motion.share[j], share), largest = maximum(largest, absolute(part));
  }
  auto free = largest == largest;
  for (int j = n; j > 0; --j) {
    const auto it = free & (absolute(motion.share[j - 1] * g[j]) == largest);
    g[j] = select(it, maximum(constant<V>(0), g[j] - excess / share), g[j]), free = free & !it;
  }
  g[0] = select(free, maximum(constant<V>(0), g[0] - excess), g[0]);
}

// any(mask): whether a lane is set. entered[j]: whether the path came in through face j.
//
// A face behind which the path is at the end of the step is crossed before: there is a root, found by Newton's method
// kept in its bracket. A face in front of it may have been crossed twice; the Bernstein coefficients of the cubic
// through both ends, less what the fourth derivative can add, tell that it was not. Where they do not, half the step.
template <class V, int n, class Mask, class Any>
STN_HD CpabStep<V, n> step(const CpabMotion<V, n>& motion, const V (&g)[n + 1], const Mask (&entered)[n + 1],
                           Mask active, V rest, Any any) {
  using T = Element<V>;
  constexpr int m = n + 1;
  constexpr bool kDouble = sizeof(T) == 8;
  constexpr int kTries = kDouble ? 60 : 30;
  const V zero = constant<V>(0), half = constant<V>(0.5), tolerance = constant<V>(kCpabTolerance<T>);
  V derivatives[n][m], a[n], slope[n];
  derivatives_of(motion, g, derivatives);
  const CpabSeries<V, n> series(motion.powers);

  // Rounding may see a path along the face it came in through leave on both sides: let it pass that far behind.
  V speed = zero, extent = zero, slack[m];  // extent: 1 inside the domain, where roundings are that of 1
  for (int j = 0; j < m; ++j) speed += absolute(derivatives[0][j]), extent += absolute(g[j]);
  CpabStep<V, n> result;
  Mask open = active;  // not settled yet
  for (int j = 0; j < m; ++j) {
    result.leaves[j] = open & (g[j] <= zero) & (derivatives[0][j] < zero) & !entered[j];
    open = open & !result.leaves[j];
  }
  result.time = select(open, minimum(rest, motion.limit), zero);
  for (int j = 0; j < m; ++j) {
    const V allowed = constant<V>(-4) * tolerance * (extent + speed * result.time);
    slack[j] = select(entered[j] & (derivatives[0][j] < zero), allowed, zero);
  }
  series.at(result.time, a);
  for (int round = 0; round < 60; ++round) {
    V end[m];
    Mask behind = active & !active;
    for (int j = 0; j < m; ++j) {
      end[j] = along(g[j], a, derivatives, j);
      behind = behind | (open & (end[j] < slack[j]) & !result.leaves[j]);
    }
    if (any(behind)) {
      // The face that the chord meets first; the others are looked at again from its root.
      V from = zero, to = -tolerance, d[n], guess = constant<V>(2);
      for (int l = 0; l < n; ++l) d[l] = zero;
      Mask which[m];
      for (int j = 0; j < m; ++j) {
        const V chord = g[j] / (g[j] - end[j]);
        which[j] = behind & (end[j] < slack[j]) & !result.leaves[j] & (chord < guess);
        guess = select(which[j], chord, guess), from = select(which[j], g[j], from), to = select(which[j], end[j], to);
        for (int l = 0; l < n; ++l) d[l] = select(which[j], derivatives[l][j], d[l]);
        for (int k = 0; k < j; ++k) which[k] = which[k] & !which[j];
      }
      V low = zero, high = result.time, at = high * guess, last[n];
      // The parabola through both ends with the slope at the first is a far better guess, and cheap to solve: from the
      // end if the path first goes away from the face, which it may have started on.
      const V bend = to - from - d[0] * high;
      V s = select(d[0] > zero, constant<V>(1), guess);
      for (int k = 0; k < 2; ++k) {
        s = s - (from + s * (d[0] * high + s * bend)) / (d[0] * high + constant<V>(2) * s * bend);
      }
      at = select((s > zero) & (s < constant<V>(1)), s * high, select(d[0] > zero, high, at));
      Mask todo = behind;
      for (int l = 0; l < n; ++l) last[l] = a[l];
      for (int k = 0; k < kTries; ++k) {
        series.at(at, last);
        series_slopes(motion.powers, last, slope);
        V value = from, rate = zero;
        for (int l = 0; l < n; ++l) value += last[l] * d[l], rate += slope[l] * d[l];
        low = select(todo & (value > zero), at, low), high = select(todo & !(value > zero), at, high);
        const V next = at - value / rate;
        const V inside = select((next > low) & (next < high), next, half * (low + high));
        todo = todo & (absolute(value) > half * tolerance) &
               (absolute(inside - at) > constant<V>(kDouble ? 2e-16 : 1e-7) * at);
        if (!any(todo) || k + 1 == kTries) break;
        at = select(todo, inside, at);
      }
      result.time = select(behind, at, result.time);
      for (int l = 0; l < n; ++l) a[l] = select(behind, last[l], a[l]);
      for (int j = 0; j < m; ++j) result.leaves[j] = (result.leaves[j] & !behind) | which[j];
      continue;
    }
    const V t = result.time, t2 = t * t;
    series_slopes(motion.powers, a, slope);
    Mask unsure = active & !active;
    for (int j = 0; j < m; ++j) {
      V end_slope = zero, bound = zero;
      for (int l = 0; l < n; ++l) {
        end_slope += slope[l] * derivatives[l][j], bound += motion.remainder[l] * absolute(derivatives[l][j]);
      }
      const V quarter = constant<V>(0.25) * t, first = g[j] + quarter * derivatives[0][j];
      const V third = end[j] - quarter * end_slope;
      const V middle =
          half * (g[j] + end[j]) + t * constant<V>(1.0 / 6) * (derivatives[0][j] - end_slope) - t2 * t2 * bound;
      unsure = unsure | (minimum(minimum(first, third), middle) < slack[j] - tolerance * extent);
    }
    unsure = unsure & open;
    open = unsure;
    if (!any(unsure)) break;
    result.time = select(unsure, half * result.time, result.time);
    V shorter[n];
    series.at(result.time, shorter);
    for (int l = 0; l < n; ++l) a[l] = select(unsure, shorter[l], a[l]);
    for (int j = 0; j < m; ++j) result.leaves[j] = result.leaves[j] & !unsure;
  }
  for (int j = 0; j < m; ++j) {
    // The face is met exactly, and no rounding leaves a point behind another.
    result.g[j] = select(result.leaves[j], zero, maximum(zero, along(g[j], a, derivatives, j)));
  }
  if (any((extent > constant<V>(1.5)) | (motion.limit < constant<V>(0.2)))) settle(motion, result.g);
  return result;
}

// The transpose of a step of length t from lattice offset u: pulls lambda back and gives G = dL/d[matrix, start].
template <class V, int n>
STN_HD void step_adjoint(const CpabPlace<V, n>& place, const V (&u)[n], V t, V (&lambda)[n], V (&G)[n][n + 1]) {
  constexpr int K = kCpabTerms<Element<V>> + (n == 3 ? 1 : 0), kSums = 2 * n - 1;
  // h_k: complete homogeneous sums of M's eigenvalues; r_k of each of them twice. U_m = sum t^(k+1)/(k+1)! h_(k-m),
  // R_m = sum t^(k+2)/(k+2)! r_(k-m).
  V h[n], r[kSums], U[n], R[kSums];
  for (int l = 0; l < n; ++l) h[l] = constant<V>(l == 0 ? 1 : 0), U[l] = constant<V>(0);
  for (int l = 0; l < kSums; ++l) r[l] = constant<V>(l == 0 ? 1 : 0), R[l] = constant<V>(0);
  V weight = t;
#pragma GCC unroll 20
  for (int k = 0; k < K; ++k) {
    const V next_weight = weight * t * constant<V>(1.0 / (k + 2));
    for (int l = 0; l < n; ++l) U[l] += weight * h[l];
    for (int l = 0; l < kSums; ++l) R[l] += next_weight * r[l];
    V next = place.powers[n - 1] * h[0], doubled = place.powers[n - 1] * r[0];
    for (int l = 1; l < n; ++l) {
      next += place.powers[n - 1 - l] * h[l];
      doubled += place.powers[n - 1 - l] * r[l];
    }
    for (int l = n - 1; l > 0; --l) h[l] = h[l - 1];
    h[0] = next;
    for (int l = kSums - 1; l > 0; --l) r[l] = r[l - 1];
    r[0] = doubled + next;
    weight = next_weight;
  }
  // a_l = sum of U's with the polynomial's coefficients, as J_ij of R's.
  const V two = constant<V>(2);
  V a[n], J[n][n], slope[n];
  if constexpr (n == 1) {
    a[0] = U[0], J[0][0] = R[0];
  } else if constexpr (n == 2) {
    const V p = place.powers[1];
    a[1] = U[1], a[0] = U[0] - p * U[1];
    J[1][1] = R[2], J[0][1] = J[1][0] = R[1] - p * R[2], J[0][0] = R[0] - two * p * R[1] + p * p * R[2];
  } else {
    const V p = place.powers[2], q = -place.powers[1];
    a[2] = U[2], a[1] = U[1] - p * U[2], a[0] = U[0] - p * U[1] + q * U[2];
    J[2][2] = R[4], J[1][2] = J[2][1] = R[3] - p * R[4], J[0][2] = J[2][0] = R[2] - p * R[3] + q * R[4];
    J[1][1] = R[2] - two * p * R[3] + p * p * R[4];
    J[0][1] = J[1][0] = R[1] - two * p * R[2] + (p * p + q) * R[3] - p * q * R[4];
    J[0][0] = R[0] - two * p * R[1] + (p * p + two * q) * R[2] - two * p * q * R[3] + q * q * R[4];
  }
  series_slopes(place.powers, a, slope);
  V v[n][n], k[n][n];  // M^l v and (M^T)^l lambda
  for (int i = 0; i < n; ++i) {
    v[0][i] = place.start[i], k[0][i] = lambda[i];
    for (int j = 0; j < n; ++j) v[0][i] += place.matrix[i * n + j] * u[j];
  }
  for (int l = 1; l < n; ++l) {
    for (int i = 0; i < n; ++i) {
      v[l][i] = place.matrix[i * n] * v[l - 1][0], k[l][i] = place.matrix[i] * k[l - 1][0];
      for (int j = 1; j < n; ++j) {
        v[l][i] += place.matrix[i * n + j] * v[l - 1][j], k[l][i] += place.matrix[j * n + i] * k[l - 1][j];
      }
    }
  }
  for (int i = 0; i < n; ++i) {
    V total = a[0] * k[0][i], back = slope[0] * k[0][i];
    for (int l = 1; l < n; ++l) total += a[l] * k[l][i], back += slope[l] * k[l][i];
    for (int j = 0; j < n; ++j) G[i][j] = total * u[j];
    G[i][n] = total, lambda[i] = back;
  }
  for (int l = 0; l < n; ++l) {
    for (int j = 0; j < n; ++j) {
      V y = J[l][0] * v[0][j];
      for (int q = 1; q < n; ++q) y += J[l][q] * v[q][j];
      for (int i = 0; i < n; ++i) G[i][j] += k[l][i] * y;
    }
  }
}

}  // namespace stn
