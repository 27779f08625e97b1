// The pixel centres of an output as points of the domain: a cube and the place in it, by axis.
#pragma once
#include "cpab_paths.h"

namespace stn::STN_LEVEL {

template <class T, int n>
struct PixelLattice {
  using V = typename Lane<T>::V;
  using I = typename Lane<T>::I;
  static constexpr int N = Lane<T>::N;
  int64_t extent[n];
  Scratch<T> places[n];
  Scratch<IndexOf<T>> cubes[n];

  explicit PixelLattice(const CpabProblem& p) : PixelLattice(p, p.at ? 0 : N, std::make_integer_sequence<int, n>{}) {}

  // Points [i, i + N); those behind the last are some of the domain.
  STN_INLINE void at(int64_t i, I (&cube)[n], V (&place)[n]) const {
    const int64_t width = extent[0], u = i % width, row = i / width;
    cube[0] = load<I>(cubes[0].data + u), place[0] = load<V>(places[0].data + u);
    if constexpr (n > 1) {
      int64_t at[n] = {u, row};
      for (int d = 1; d + 1 < n; ++d) at[d + 1] = at[d] / extent[d], at[d] %= extent[d];
      IndexOf<T> c[n][N];
      T x[n][N];
      for (int l = 0; l < N; ++l) {
        for (int d = 1; d < n; ++d) c[d][l] = cubes[d].data[at[d]], x[d][l] = places[d].data[at[d]];
        ++at[0];
        for (int d = 0; d + 1 < n && at[d] == extent[d]; ++d) at[d] = 0, ++at[d + 1];
        if (at[n - 1] == extent[n - 1]) at[n - 1] = extent[n - 1] - 1;
      }
      for (int d = 1; d < n; ++d) cube[d] = load<I>(c[d]), place[d] = load<V>(x[d]);
    }
  }

 private:
  // The first axis goes on periodically for `more` entries, so that a vector may begin anywhere.
  template <int... d>
  PixelLattice(const CpabProblem& p, int64_t more, std::integer_sequence<int, d...>)
      : extent{p.out_size[d]...},
        places{Scratch<T>(p.at ? 0 : p.out_size[d] + (d == 0 ? more : 0), uninitialized)...},
        cubes{Scratch<IndexOf<T>>(p.at ? 0 : p.out_size[d] + (d == 0 ? more : 0), uninitialized)...} {
    for (int a = 0; a < n && !p.at; ++a) {
      const auto lattice = centred_lattice<double>(extent[a], p.align_corners);
      const double size = p.tables.shape[a];
      for (int64_t i = 0; i < extent[a] + (a == 0 ? more : 0); ++i) {
        const double y = 0.5 * (lattice.at(int(i % extent[a])) + 1) * size;
        const double inside = y > 0 ? (y < size ? y : size) : 0, cube = std::floor(inside < size ? inside : size - 1);
        cubes[a].data[i] = IndexOf<T>(cube), places[a].data[i] = T(inside - cube);
      }
    }
  }
};

// The cell of points of cubes, and their coordinates in it (build_complex of _regions.py: its order of cells and
// slots).
template <class T, int n>
STN_INLINE Paths<T, n> paths_from(const CpabTables& tables, const PixelLattice<T, n>& lattice, int64_t i,
                                  int64_t count) {
  using V = typename Lane<T>::V;
  using I = typename Lane<T>::I;
  constexpr int N = Lane<T>::N;
  const V one = splat<V>(T(1));
  Paths<T, n> paths;
  I cube[n], lane;
  V place[n];
  lattice.at(i, cube, place);
  for (int l = 0; l < N; ++l) lane[l] = IndexOf<T>(l);
  paths.rest = masked(one, lane < splat<I>(IndexOf<T>(count < N ? count : N)));
  if constexpr (n == 1) {
    const I odd = (cube[0] & 1) == 1;
    paths.region = cube[0];
    paths.g[0] = odd ? place[0] : one - place[0], paths.g[1] = odd ? one - place[0] : place[0];
  } else if constexpr (n == 2) {
    const I above = place[0] > place[1], beyond = place[0] + place[1] > one;
    const I side = above ? (beyond ? splat<I>(IndexOf<T>(1)) : I{}) : beyond ? splat<I>(IndexOf<T>(2)) : I{} + 3;
    const V x = place[0], y = place[1];
    const V from_side = above ? (beyond ? one - x : y) : beyond ? one - y : x;
    const V along = above ? (beyond ? y : x) : beyond ? one - x : one - y;
    const V last = maximum(V{}, along - from_side), first = maximum(V{}, one - along - from_side);
    const I odd = ((cube[0] + cube[1] + side) & 1) == 1;
    paths.region = 4 * (cube[0] + IndexOf<T>(tables.shape[0]) * cube[1]) + side;
    paths.g[0] = odd ? last : first, paths.g[1] = odd ? first : last, paths.g[2] = from_side + from_side;
  } else {
    IndexOf<T> region[N];
    T g[n + 1][N];
    for (int l = 0; l < N; ++l) {
      double y[n], local[n + 1];
      for (int d = 0; d < n; ++d) y[d] = double(cube[d][l]) + double(place[d][l]);
      region[l] = locate<n>(tables, y, local);
      for (int j = 0; j <= n; ++j) g[j][l] = T(local[j]);
    }
    paths.region = load<I>(region);
    for (int j = 0; j <= n; ++j) paths.g[j] = load<V>(g[j]);
  }
  return paths;
}

}  // namespace stn::STN_LEVEL
