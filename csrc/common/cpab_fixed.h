// Fixed steps of a piecewise-affine velocity: exponentials of its generators, and the cell of a point.
#pragma once
#include "cpab.h"

namespace stn {

template <int k>
STN_HD void multiply(const double (&a)[k][k], const double (&b)[k][k], double factor, double (&result)[k][k]) {
  for (int i = 0; i < k; ++i) {
    for (int j = 0; j < k; ++j) {
      double total = 0;
      for (int l = 0; l < k; ++l) total += a[i][l] * b[l][j];
      result[i][j] = total * factor;
    }
  }
}

// expm of a k x k matrix by Taylor's series of a part of it, squared again; in place.
template <int k>
STN_HD void matrix_exponential(double (&A)[k][k]) {
  double norm = 0, scale = 1, term[k][k] = {}, sum[k][k] = {}, next[k][k];
  for (int i = 0; i < k; ++i) {
    for (int j = 0; j < k; ++j) norm += A[i][j] * A[i][j];
    term[i][i] = sum[i][i] = 1;
  }
  int squarings = 0;
  for (norm = std::sqrt(norm); norm > 0.5 && squarings < 1000; norm *= 0.5, scale *= 0.5) ++squarings;
  for (int order = 1; order <= 16; ++order) {
    multiply(term, A, scale / order, next);
    for (int i = 0; i < k; ++i) {
      for (int j = 0; j < k; ++j) term[i][j] = next[i][j], sum[i][j] += next[i][j];
    }
  }
  for (; squarings > 0; --squarings) {
    multiply(sum, sum, 1, next);
    for (int i = 0; i < k; ++i) {
      for (int j = 0; j < k; ++j) sum[i][j] = next[i][j];
    }
  }
  for (int i = 0; i < k; ++i) {
    for (int j = 0; j < k; ++j) A[i][j] = sum[i][j];
  }
}

// The generator [M b] of a region on lattice coordinates.
template <int n, class P>
STN_HD void generator(const CpabTables& t, int64_t number, const P* velocities, double (&A)[n][n + 1]) {
  const CpabRegion<n> region(t, number);
  double columns[n + 1][n];
  column_velocities(t, region, velocities, columns);
  for (int i = 0; i < n; ++i) {
    for (int c = 0; c <= n; ++c) {
      A[i][c] = 0;
      for (int j = 0; j <= n; ++j) A[i][c] += columns[j][i] * region.g[j * (n + 1) + c];
    }
  }
}

// y -> E (y, 1) after a time.
template <int n>
STN_HD void affine_exponential(const double (&A)[n][n + 1], double time, double (&E)[n][n + 1]) {
  double square[n + 1][n + 1] = {};
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j <= n; ++j) square[i][j] = A[i][j] * time;
  }
  matrix_exponential(square);
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j <= n; ++j) E[i][j] = square[i][j];
  }
}

// Gradient to A of a gradient to E: a block of a larger exponential (Van Loan 1978).
template <int n>
STN_HD void affine_exponential_adjoint(const double (&A)[n][n + 1], double time, const double (&grad_E)[n][n + 1],
                                       double (&grad_A)[n][n + 1]) {
  constexpr int m = n + 1;
  double block[2 * m][2 * m] = {};
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < m; ++j) {
      block[j][i] = block[m + j][m + i] = A[i][j] * time;
      block[i][m + j] = grad_E[i][j] * time;
    }
  }
  matrix_exponential(block);
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < m; ++j) grad_A[i][j] = block[i][m + j];
  }
}

// The cell of a lattice point, ties as libcpab's; outside the domain that of the nearest square or cube. A whole number
// in the type of the point, of which there may be a vector.
template <int n, class V>
STN_HD V cell_number(const int32_t (&shape)[3], const V (&y)[n]) {
  const V zero = constant<V>(0), one = constant<V>(1);
  V u[n], number = zero, odd = zero;
  for (int d = n - 1; d >= 0; --d) {
    const V last = constant<V>(shape[d] - 1), floor = floor_of(y[d]);
    const V cube = select(floor > zero, select(floor < last, floor, last), zero);
    u[d] = y[d] - cube;
    number = number * constant<V>(shape[d]) + cube, odd += cube;
  }
  if constexpr (n == 1) {
    return number;
  } else if constexpr (n == 2) {
    const auto above = u[0] > u[1], beyond = u[0] + u[1] > one;
    const V right = select(beyond, one, zero), left = select(beyond, constant<V>(2), constant<V>(3));
    return constant<V>(4) * number + select(above, right, left);
  } else {
    odd -= constant<V>(2) * floor_of(constant<V>(0.5) * odd);
    for (int d = 0; d < n; ++d) u[d] = select(u[d] < zero, zero, select(u[d] > one, one, u[d]));
    const V x = select(odd > zero, u[1], u[0]), v = select(odd > zero, one - u[0], u[1]), z = u[2];
    V t = select(x - v - z >= zero, constant<V>(4), zero);
    t = select(v - x - z >= zero, constant<V>(3), t);
    t = select(x + v + z - constant<V>(2) >= zero, constant<V>(2), t);
    t = select(z - x - v >= zero, one, t);
    return constant<V>(5) * number + t;
  }
}
template <int n, class T>
STN_HD int32_t cell_of(const int32_t (&shape)[3], const T (&y)[n]) {
  return int32_t(cell_number<n>(shape, y));
}

}  // namespace stn
