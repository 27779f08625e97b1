// The linear system of a spline applied to the points of many: small dense products in float64.
#pragma once
#include <cstdint>

namespace stn {

// A matrix in float64, or by other strides its transpose.
struct Matrix {
  const double* data;
  int64_t rows, columns, row, column;
  Matrix transposed() const { return {data, columns, rows, column, row}; }
};

// Rows [first, first + count) of the matrix times x (columns, n) -> y (rows, n).
template <int n, int count, class From, class To>
void multiply_rows(const Matrix& matrix, int64_t first, const From* x, To* y) {
  double sums[count][n] = {};  // as many chains of sums
  const double* of = matrix.data + first * matrix.row;
  for (int64_t c = 0; c < matrix.columns; ++c, of += matrix.column) {
#pragma GCC unroll 4
    for (int r = 0; r < count; ++r) {
#pragma GCC unroll 3
      for (int a = 0; a < n; ++a) sums[r][a] += of[r * matrix.row] * double(x[n * c + a]);
    }
  }
  for (int r = 0; r < count; ++r) {
    for (int a = 0; a < n; ++a) y[n * (first + r) + a] = To(sums[r][a]);
  }
}

// The matrix times each of `items` blocks (columns, n) of numbers -> (items, rows, n).
template <int n, class From, class To>
void multiply(const Matrix& matrix, const From* x, To* y, int64_t items) {
  for (int64_t i = 0; i < items; ++i, x += n * matrix.columns, y += n * matrix.rows) {
    int64_t r = 0;
    for (; r + 4 <= matrix.rows; r += 4) multiply_rows<n, 4>(matrix, r, x, y);
    for (; r < matrix.rows; ++r) multiply_rows<n, 1>(matrix, r, x, y);
  }
}

}  // namespace stn
