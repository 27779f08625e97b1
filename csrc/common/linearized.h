// Linearized multi-sampling at one point: the weights of its samples and the plane through them, by the rules of
// reference/linearized.py. T: a number or a vector of them, one a point; offsets are in pixels of the input.
#pragma once
#include <limits>

#include "exponential.h"
#include "portable.h"

namespace stn {

enum class Weighting : int { uniform = 0, distance = 1, entropic = 2 };  // the codes of reference.WEIGHTINGS

// What a call samples with, besides the bilinear samples themselves.
struct MultiSampling {
  int64_t samples = 0;
  Weighting weighting = Weighting::uniform;
  double ridge = 0;
  double spread[3];               // of drawn offsets, normalized, x first
  uint64_t seed = 0;              // of the numbers drawn, if no offsets are given
  const void* offsets = nullptr;  // (items, samples, *out, n) normalized
  bool double_offsets = false;    // float64, else float32
};

// Eq. 5 of ESTN: the weight at a distance, where the neighbourhood reaches `half` pixels.
template <class T>
STN_HD T distance_weight(T distance, double half) {
  const double reach = half * std::sqrt(half);
  const T value = (constant<T>(1 + reach) - distance) * constant<T>(1 / reach);
  return maximum(constant<T>(0), value);
}

constexpr int kSinkhornRounds = 8;
template <int n>
constexpr int kPlaces = n == 1   ? 3
                        : n == 2 ? 9
                                 : 27;  // the point, which is the first, and its neighbours

// One sample's row of the kernel of the matching, up to a factor, from its offset in spreads: a product over the axes.
template <int n, class T>
struct MatchingRow {
  T factor[n][3];

  STN_HD MatchingRow(const T (&units)[n], T counts) {
    STN_UNROLL
    for (int a = 0; a < n; ++a) {
      const T bounded = minimum(maximum(constant<T>(-4), units[a]), constant<T>(4));
      const T ahead = exp_of(bounded + bounded), first = a == 0 ? counts : constant<T>(1);
      factor[a][0] = first;
      factor[a][1] = constant<T>(0.36787944117144233) * ahead * first;
      factor[a][2] = constant<T>(0.36787944117144233) / ahead * first;
    }
  }
  STN_HD T operator[](int j) const {
    T product = factor[0][j % 3];
    if constexpr (n > 1) product *= factor[1][j / 3 % 3];
    if constexpr (n > 2) product *= factor[2][j / 9];
    return product;
  }
};
template <int n, class T>
STN_HD void matching_kernel(const T (&units)[n], T counts, T* kernel) {
  const MatchingRow<n, T> row(units, counts);
  for (int j = 0; j < kPlaces<n>; ++j) kernel[j] = row[j];
}

// The matching of one point's samples: kSinkhornRounds times every sample's row is added, then the round ended.
template <int n, class T>
struct Matching {
  static constexpr int M = kPlaces<n>;
  T of_places[M], mass[M], counted, scale;

  STN_HD Matching() {
    STN_UNROLL
    for (int j = 0; j < M; ++j) of_places[j] = constant<T>(1);
    clear();
  }
  // A sample's factor, 0 if it does not count; row[j]: what it has of place j.
  template <class Row>
  STN_HD T of_sample(const Row& row) const {
    T sum = constant<T>(0);
    STN_UNROLL
    for (int j = 0; j < M; ++j) sum += row[j] * of_places[j];
    return inverse(sum);
  }
  template <class Row>
  STN_HD void add(const Row& row, T factor) {
    STN_UNROLL
    for (int j = 0; j < M; ++j) mass[j] += row[j] * factor;
    counted += select(factor > constant<T>(0), constant<T>(1), constant<T>(0));
  }
  // The last round's factors of the places serve the point alone: the samples keep those they had.
  STN_HD void end_round(bool last) {
    if (last) {
      scale = counted * inverse(mass[0]);
    } else {
      STN_UNROLL
      for (int j = 0; j < M; ++j) of_places[j] = inverse(mass[j]);
      clear();
    }
  }
  template <class Row>
  STN_HD T weight(const Row& row) const {
    return of_sample(row) * row[0] * scale;
  }

 private:
  STN_HD void clear() {
    STN_UNROLL
    for (int j = 0; j < M; ++j) mass[j] = constant<T>(0);
    counted = scale = constant<T>(0);
  }
  static STN_HD T inverse(T x) { return select(x > constant<T>(0), constant<T>(1) / x, constant<T>(0)); }
};

// weights[k] of `count` samples with kernels (count, places), of which those count whose row is not 0.
template <int n, class T>
STN_HD void matched_weights(const T* kernel, int64_t count, T* weights) {
  Matching<n, T> matching;
  for (int round = 1; round <= kSinkhornRounds; ++round) {
    for (int64_t k = 0; k < count; ++k) {
      const T* row = kernel + k * kPlaces<n>;
      matching.add(row, matching.of_sample(row));
    }
    matching.end_round(round == kSinkhornRounds);
  }
  for (int64_t k = 0; k < count; ++k) weights[k] = matching.weight(kernel + k * kPlaces<n>);
}

// The least squares of one point: first the mean offset, then its factors, then what solves them.
template <class T, int n>
struct FittedPlane {
  T total, mean[n];  // of the weights and the ridge; of the offsets
  T solvable;        // 1 or 0: without a plane there is no slope and no bias
  T inverse_total;
  T lower[n][n], inverse_pivot[n];  // L D L^T of the offsets' covariance from their mean

  FittedPlane() = default;
  // weighted: sum w d.
  STN_HD FittedPlane(T weight, const T (&weighted)[n], double ridge) : total(weight + constant<T>(ridge)) {
    const T zero = constant<T>(0), one = constant<T>(1);
    solvable = select(total > zero, one, zero);
    inverse_total = select(total > zero, one / total, zero);
    STN_UNROLL
    for (int a = 0; a < n; ++a) mean[a] = weighted[a] * inverse_total;
  }
  // covariance: sum w (d - mean) (d - mean)^T, its lower half; moment: sum w d^2.
  STN_HD void factor(T (&covariance)[n][n], const T (&moment)[n], double ridge) {
    using E = std::remove_cvref_t<decltype(first_of(total))>;
    const T zero = constant<T>(0), one = constant<T>(1), least = constant<T>(64 * std::numeric_limits<E>::epsilon());
    T pivot[n];
    STN_UNROLL
    for (int a = 0; a < n; ++a) {
      STN_UNROLL
      for (int b = 0; b <= a; ++b) {
        T rest = covariance[a][b] + constant<T>(ridge) * (mean[a] * mean[b] + (a == b ? one : zero));
        STN_UNROLL
        for (int c = 0; c < b; ++c) rest -= lower[a][c] * lower[b][c] * pivot[c];
        if (b < a) {
          lower[a][b] = rest * inverse_pivot[b];
        } else {
          const auto above = rest > least * moment[a];
          solvable = select(above, solvable, zero);
          pivot[a] = select(above, rest, one), inverse_pivot[a] = one / pivot[a];
        }
      }
    }
    STN_UNROLL
    for (int a = 0; a < n; ++a) inverse_pivot[a] *= solvable;
    inverse_total *= solvable;
  }
  // Turns sums over samples with values I, w (d - mean) I, into the slope; returns the bias, where `weighted` sums w I.
  template <class V>
  STN_HD V solve(V weighted, V (&slope)[n]) const {
    STN_UNROLL
    for (int a = 0; a < n; ++a) {
      STN_UNROLL
      for (int c = 0; c < a; ++c) slope[a] -= lower[a][c] * slope[c];
    }
    V bias = weighted * inverse_total;
    STN_UNROLL
    for (int a = n; a-- > 0;) {
      slope[a] *= inverse_pivot[a];
      STN_UNROLL
      for (int c = a + 1; c < n; ++c) slope[a] -= lower[c][a] * slope[c];
      bias -= slope[a] * mean[a];
    }
    return bias;
  }
  // The coefficient of one sample's value in the bias.
  STN_HD T bias_of(T weight, const T (&offset)[n]) const {
    T slope[n];
    STN_UNROLL
    for (int a = 0; a < n; ++a) slope[a] = weight * (offset[a] - mean[a]);
    return solve(weight, slope);
  }
  // Calls f with each number that `solve` reads.
  template <class F>
  STN_HD void each(F f) {
    f(inverse_total);
    STN_UNROLL
    for (int a = 0; a < n; ++a) {
      f(mean[a]), f(inverse_pivot[a]);
      STN_UNROLL
      for (int c = 0; c < a; ++c) f(lower[a][c]);
    }
  }
  static constexpr int kNumbers = 1 + 2 * n + n * (n - 1) / 2;

 private:
  static STN_HD auto first_of(T value) {
    if constexpr (std::is_arithmetic_v<T>)
      return value;
    else
      return value[0];
  }
};

}  // namespace stn
