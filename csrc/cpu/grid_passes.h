// A transform of the output lattice alone: normalized coordinates, and their sums against a gradient.
#pragma once
#include "parameter_sums.h"

namespace stn::STN_LEVEL {

// Calls body(task, item, first row, last row) for the tasks [begin, end) of items x row blocks.
// items: if not 0, so many are taken side by side, block by block; or row by row if a task may be cut.
template <class Body>
STN_INLINE void over_row_blocks(int64_t begin, int64_t end, int64_t rows, Body body, int64_t items = 0,
                                bool cut = false) {
  const int64_t blocks = row_blocks(rows);
  for (int64_t turn = begin, together; turn < end; turn += together) {
    const int64_t item = items ? turn % items : turn / blocks, block = items ? turn / items : turn % blocks;
    together = items ? minimum(items - item, end - turn) : 1;
    const int64_t last = block + 1 < blocks ? (block + 1) * kRowBlock : rows;
    for (int64_t row = block * kRowBlock, next; row < last; row = next) {
      next = items && cut ? row + 1 : last;
      for (int64_t i = item; i < item + together; ++i) body(i * blocks + block, i, row, next);
    }
  }
}

// Normalized coordinates of the output's pixels; rows count through y, then z.
template <int n>
struct OutputLattice {
  CentredLattice<double> axis[n];
  int64_t height;
  STN_INLINE explicit OutputLattice(const Problem& p) : height(p.out_height) {
    for (int b = 0; b < n; ++b) axis[b] = centred_lattice<double>(p.out_extent(b), p.align_corners);
  }
  STN_INLINE double at(int b, int64_t row) const { return axis[b].at(int(b == 1 ? row % height : row / height)); }
};

template <class G, int n>
void rows_affine_grid(const Problem& p, int64_t item, int64_t row_begin, int64_t row_end) {
  const G* theta = static_cast<const G*>(p.parameters) + n * (n + 1) * item;
  const OutputLattice<n> lattice(p);
  const auto x = lattice.axis[0];
  const int width = int(p.out_width);
  for (int64_t row = row_begin; row < row_end; ++row) {
    G* grid = static_cast<G*>(p.grid) + n * p.out_width * (item * p.out_depth * p.out_height + row);
    double base[n], slope[n];
    for (int a = 0; a < n; ++a) {
      const G* line = theta + a * (n + 1);
      slope[a] = double(line[0]), base[a] = double(line[n]);
      for (int b = n - 1; b > 0; --b) base[a] += double(line[b]) * lattice.at(b, row);
    }
    for (int u = 0; u < width; ++u) {
      for (int a = 0; a < n; ++a) grid[n * u + a] = G(base[a] + slope[a] * x.at(u));
    }
  }
}

// sums (n (n + 1), as theta) = dL/d(theta) of some rows.
template <class G, int n>
void rows_affine_grid_sums(const Problem& p, int64_t item, int64_t row_begin, int64_t row_end, double* sums) {
  const OutputLattice<n> lattice(p);
  const auto x = lattice.axis[0];
  Doubles totals[n][n + 1] = {}, lane;
  for (int i = 0; i < kDoubles; ++i) lane[i] = i - x.centre;
  for (int64_t row = row_begin; row < row_end; ++row) {
    const G* grad = static_cast<const G*>(p.grad_grid) + n * p.out_width * (item * p.out_depth * p.out_height + row);
    for (int64_t u = 0; u < p.out_width; u += kDoubles) {
      Doubles g[n] = {};
      if constexpr (n == 2) {
        load_points(grad + 2 * u, p.out_width - u, g[0], g[1]);
      } else {
        const int64_t count = minimum<int64_t>(kDoubles, p.out_width - u);
        for (int64_t i = 0; i < count; ++i) {
          for (int a = 0; a < n; ++a) g[a][i] = double(grad[n * (u + i) + a]);
        }
      }
      const Doubles column = x.step * (lane + double(u));
      for (int a = 0; a < n; ++a) {
        totals[a][0] += g[a] * column, totals[a][n] += g[a];
        for (int b = 1; b < n; ++b) totals[a][b] += g[a] * lattice.at(b, row);
      }
    }
  }
  for (int k = 0; k < n * (n + 1); ++k) {
    sums[k] = 0;
    for (int i = 0; i < kDoubles; ++i) sums[k] += totals[k / (n + 1)][k % (n + 1)][i];
  }
}

// Calls f(coordinates as they are stored), of a row of an item's points.
template <class Void, class F>
STN_INLINE void with_points(const Problem& p, Void* grid, int64_t item, int64_t row, F f) {
  const int64_t at = 2 * p.out_width * (item * p.out_height + row);
  const auto as = [&]<class G>(G*) STN_LAMBDA {
    return static_cast<std::conditional_t<std::is_const_v<Void>, const G, G>*>(grid) + at;
  };
  if constexpr (kHasFloat64) {
    if (p.double_grid) return f(as((double*)nullptr));
  }
  f(as((float*)nullptr));
}

// The same in two dimensions for any other transform.
template <class Row>
void rows_grid(const Source& source, int64_t row_begin, int64_t row_end) {
  const Problem& p = source.p;
  for (int64_t v = row_begin; v < row_end; ++v) {
    const Row row(source, v);
    for (int64_t u = 0; u < p.out_width; u += kDoubles) {
      Doubles x, y;
      row.points(u, p.out_width - u, x, y);
      const int64_t count = minimum<int64_t>(kDoubles, p.out_width - u);
      with_points(p, p.grid, source.item, v, [&]<class G>(G* grid) STN_LAMBDA {
        for (int64_t i = 0; i < count; ++i) grid[2 * (u + i)] = G(x[i]), grid[2 * (u + i) + 1] = G(y[i]);
      });
    }
  }
}

template <class Sums>
void rows_grid_sums(const Source& source, int64_t row_begin, int64_t row_end, Sums& total) {
  constexpr int64_t kPoints = Run<double>::kPoints;
  const Problem& p = source.p;
  for (int64_t v = row_begin; v < row_end; ++v) {
    for (int64_t u = 0; u < p.out_width; u += kPoints) {
      const int64_t count = minimum<int64_t>(kPoints, p.out_width - u);
      double grad_x[kPoints], grad_y[kPoints];
      with_points(p, (const void*)p.grad_grid, source.item, v, [&](const auto* grad) STN_LAMBDA {
        for (int64_t i = 0; i < count; i += kDoubles) {
          Doubles x, y;
          load_points(grad + 2 * (u + i), count - i, x, y);
          store(grad_x + i, x), store(grad_y + i, y);
        }
      });
      total.add(source, Cotangents(v, u, count, grad_x, grad_y));
    }
  }
}

}  // namespace stn::STN_LEVEL
