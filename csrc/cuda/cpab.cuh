// CPAB on points: a thread follows the path of a point; the gradient to the velocities is summed region by region.
#pragma once
#include "cpab_path.cuh"
#include "reduce.cuh"

namespace stn {

constexpr int kCpabThreads = 128, kCpabWarps = kCpabThreads / 32;
constexpr int kCpabKept = 8;  // steps of a path kept for the way back; of the others it is walked again

// What kernels on paths are made of: Points, where paths begin, and Ends, what becomes of where they end.
//   Points: load(item, i, x) of point i, unless it does not exist; place(i): how its Ends find it.
//   Ends: put(item, place, y) takes the image y of a point; the backward asks cotangent(item, place, y, exists, ...).
// Of cpab_transform: points (batch, points, n), or (points, n) for all items.
template <class T_, int n_>
struct CpabPoints {
  using T = T_;
  static constexpr int n = n_;
  const T* at;
  int64_t count, samples;
  bool own;

  __device__ __forceinline__ bool exists(int64_t i) const { return i < count; }
  __device__ __forceinline__ int64_t place(int64_t i) const { return i; }
  __device__ __forceinline__ void load(int64_t item, int64_t i, T (&x)[n]) const {
    const T* from = at + ((own ? item / samples : 0) * count + i) * n;
    for (int d = 0; d < n; ++d) x[d] = from[d];
  }
};

// Of cpab_transform: output or grad_output (items, points, n), the other one null.
template <class T, int n>
struct CpabOutput {
  T* output;
  const T* grad_output;
  int64_t count;

  __device__ __forceinline__ void put(int64_t item, int64_t i, const T (&y)[n]) const {
    for (int d = 0; d < n; ++d) output[(item * count + i) * n + d] = y[d];
  }
  // add: adds what belongs to this thread to sums that have no region.
  template <class Add>
  __device__ __forceinline__ void cotangent(int64_t item, int64_t i, const T (&)[n], bool exists, T (&lambda)[n],
                                            const Add&) const {
    for (int d = 0; exists && d < n; ++d) lambda[d] = grad_output[(item * count + i) * n + d];
  }
};

// Prepares the regions of all items for exact paths.
template <class T, int n>
__global__ void __launch_bounds__(kCpabThreads)
    cpab_prepare_kernel(const T* __restrict__ velocities, CpabField<T, n> field, int64_t vertices, int64_t count) {
  const int64_t i = int64_t(blockIdx.x) * kCpabThreads + threadIdx.x;
  if (i >= count) return;
  constexpr int kRecord = CpabField<T, n>::kRecord;
  prepare<n>(field.tables, i % field.tables.regions, velocities + i / field.tables.regions * vertices * n,
             *reinterpret_cast<CpabMotion<T, n>*>(field.motions + i * kRecord),
             *reinterpret_cast<CpabPlace<T, n>*>(field.places + i * kRecord));
}

// The same for fixed steps: the maps of the cells.
template <class T, int n>
__global__ void __launch_bounds__(kCpabThreads)
    cpab_maps_kernel(const T* __restrict__ velocities, CpabMaps<T, n> field, int64_t vertices, int64_t count) {
  const int64_t i = int64_t(blockIdx.x) * kCpabThreads + threadIdx.x;
  if (i >= count) return;
  double A[n][n + 1], E[n][n + 1];
  generator<n>(field.tables, i % field.tables.cells, velocities + i / field.tables.cells * vertices * n, A);
  affine_exponential<n>(A, 1.0 / field.steps, E);
  for (int r = 0; r < n; ++r)
    for (int c = 0; c <= n; ++c) field.maps[(i * n + r) * (n + 1) + c] = T(E[r][c]);
}

// Blocks that fit a multiprocessor at once, a bound on registers: those that ptxas takes without spilling.
template <class T>
constexpr int kCpabForwardBlocks = sizeof(T) == 8 ? 2 : 4;
template <class T>
constexpr int kCpabBackwardBlocks = sizeof(T) == 8 ? 1 : 3;

// A block's points of an item: [first, last).
struct CpabShare {
  int64_t item, first, last;
  __device__ __forceinline__ CpabShare(int64_t first_item, int per_block, int64_t count)
      : item(first_item + blockIdx.y),
        first(int64_t(blockIdx.x) * per_block),
        last(minimum(first + per_block, count)) {}
};

template <class Path, class Field, class Points, class Ends>
__global__ void __launch_bounds__(kCpabThreads, kCpabForwardBlocks<typename Points::T>)
    cpab_forward_kernel(Field field, Points points, Ends ends, int per_block, int64_t first_item) {
  using T = typename Points::T;
  constexpr int n = Points::n;
  const CpabShare share(first_item, per_block, points.count);
#pragma unroll 1
  for (int64_t i = share.first + threadIdx.x; i < share.last; i += kCpabThreads) {
    if (!points.exists(i)) continue;
    T y[n];
    points.load(share.item, i, y);
    Path path(field, share.item, y);
    CpabVisit<T, n> visit;
    while (path.advance(visit)) {
    }
    path.image(y);
    ends.put(share.item, points.place(i), y);
  }
}

// Adds G of every active lane to its region's sums: a warp sum for each region among them, in the order of the lanes.
// Entry e is always added by the same lane.
template <int n, class T>
__device__ __forceinline__ void add_by_region(bool active, int region, const T (&G)[n][n + 1], T* sums, int64_t pitch) {
  constexpr int kEntries = n * (n + 1);
  const int lane = int(threadIdx.x) % 32;
  unsigned left = __ballot_sync(kAllLanes, active);
  while (left) {
    const int chosen = __shfl_sync(kAllLanes, region, __ffs(int(left)) - 1);
    const bool mine = active && region == chosen;
#pragma unroll
    for (int e = 0; e < kEntries; e += 8) {
      T eight[8];
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        const int entry = e + k < kEntries ? e + k : 0;
        eight[k] = mine && e + k < kEntries ? G[entry / (n + 1)][entry % (n + 1)] : T(0);
      }
      const T sum = sum_eight(eight);
      if (lane % 4 == 0 && e + lane / 4 < kEntries) sums[(int64_t(chosen) * kEntries + e + lane / 4) * pitch] += sum;
    }
    left &= ~__ballot_sync(kAllLanes, mine);
  }
}

// The largest of a warp.
__device__ __forceinline__ int largest_of(int value) {
  for (int step = 16; step; step >>= 1) value = maximum(value, __shfl_xor_sync(kAllLanes, value, step));
  return value;
}

// Walks the path of point i, tells arrive(path), then takes its steps back, the last first: back(path, visit, active).
// Both are called for all lanes of a warp at once; arrive returns whether any way back is wanted. `kept` has room for
// the latest steps of every thread; to those before the path is walked again.
template <class Path, class Field, class Points, class Visit, class Arrive, class Back>
__device__ __forceinline__ void walk_back(const Field& field, const Points& points, int64_t item, int64_t i, bool there,
                                          Visit* kept, Arrive&& arrive, Back&& back) {
  int steps = 0, chunk = -1, chunks = 1;
#pragma unroll 1
  while (true) {
    typename Points::T start[Points::n] = {};
    if (there) points.load(item, i, start);
    Path path(field, item, start);
    const int end = chunk < 0 ? 0x7fffffff : (chunk + 1) * kCpabKept;
    const bool walks = there && (chunk < 0 || (end < steps && chunk < (steps - 1) / kCpabKept));
    Visit visit;
    while (walks && path.steps < end && path.advance(visit)) kept[(path.steps - 1) % kCpabKept * kCpabThreads] = visit;
    if (chunk < 0) {
      if (!arrive(path)) break;
      steps = there ? path.steps : 0;
      chunks = (largest_of(steps) + kCpabKept - 1) / kCpabKept;
      chunk = chunks;
    } else {
#pragma unroll 1
      for (int k = kCpabKept - 1; k >= 0; --k) {
        const bool active = chunk * kCpabKept + k < steps;
        if (!__any_sync(kAllLanes, active)) continue;
        if (active) visit = kept[k * kCpabThreads];
        back(path, visit, active);
      }
    }
    if (--chunk < 0) break;
  }
}

// grad_points (items, points, n) and partial sums (items, rows, n, n + 1, columns), where a row is a region or the one
// behind them, for what has no region: a column a block if its warps' sums have room in shared memory, else zeros, a
// column a warp. Null for what is not wanted. pulls: whether cotangents are taken back along the paths.
template <class Path, class Field, class Points, class Ends>
__global__ void __launch_bounds__(kCpabThreads, kCpabBackwardBlocks<typename Points::T>)
    cpab_backward_kernel(Field field, Points points, Ends ends, typename Points::T* __restrict__ grad_points,
                         typename Points::T* __restrict__ partial, int rows, bool shared_sums, bool pulls,
                         int per_block, int64_t first_item) {
  using T = typename Points::T;
  constexpr int n = Points::n;
  using Visit = CpabVisit<T, n>;
  SIMT_DYNAMIC_SHARED(Visit, visits);
  const int warp = int(threadIdx.x) / 32, entries = rows * n * (n + 1);
  const CpabShare share(first_item, per_block, points.count);
  const int64_t item = share.item;
  T* tables = reinterpret_cast<T*>(visits + kCpabThreads * kCpabKept);
  const int64_t columns = int64_t(gridDim.x) * (shared_sums ? 1 : kCpabWarps);
  T* sums = partial;
  if (partial && shared_sums) {
    sums = tables + warp * entries;
    for (int k = int(threadIdx.x); k < kCpabWarps * entries; k += kCpabThreads) tables[k] = 0;
    __syncthreads();
  } else if (partial) {
    sums = partial + item * entries * columns + int64_t(blockIdx.x) * kCpabWarps + warp;
  }
  const int64_t pitch = shared_sums ? 1 : columns;
  Visit* kept = visits + threadIdx.x;
#pragma unroll 1
  for (int64_t begin = share.first; begin < share.last; begin += kCpabThreads) {
    const int64_t i = begin + threadIdx.x;
    const bool there = i < share.last && points.exists(i);
    T lambda[n] = {};
    const auto arrive = [&](const Path& path) {
      T y[n];
      path.image(y);
      ends.cotangent(item, points.place(i), y, there, lambda, [&](bool mine, const T(&G)[n][n + 1]) {
        if (partial) add_by_region<n>(mine, rows - 1, G, sums, pitch);
      });
      for (int d = 0; d < n; ++d) lambda[d] /= T(field.tables.shape[d]);
      return pulls;
    };
    walk_back<Path>(field, points, item, i, there, kept, arrive,
                    [&](const Path& path, const Visit& visit, bool active) {
                      T G[n][n + 1] = {};
                      if (active) pull_back(path, visit, lambda, G);
                      if (partial) add_by_region<n>(active, visit.region, G, sums, pitch);
                    });
    if (grad_points && there) {
      T start[n], *to = grad_points + (item * points.count + i) * n;
      points.load(item, i, start);
      const bool bounded = field.tables.regions == field.tables.cells;
      for (int d = 0; d < n; ++d) {
        const bool clamped = bounded && (start[d] < 0 || start[d] > 1);
        to[d] = clamped ? T(0) : lambda[d] * T(field.tables.shape[d]);
      }
    }
  }
  if (!partial || !shared_sums) return;
  __syncthreads();
  for (int k = int(threadIdx.x); k < entries; k += kCpabThreads) {
    T total = 0;
    for (int w = 0; w < kCpabWarps; ++w) total += tables[w * entries + k];
    partial[(item * entries + k) * columns + blockIdx.x] = total;
  }
}

// jacobian (items, points, n, vertices, n), zeros before: a thread a row, which no other touches. maps: of fixed steps,
// what cpab_maps_adjoint_kernel gives for every entry of a map (items, n (n + 1), regions, n, n + 1); else null.
template <class Path, class Field, class T, int n>
__global__ void __launch_bounds__(kCpabThreads, kCpabForwardBlocks<T> / 2)
    cpab_jacobian_kernel(Field field, CpabPoints<T, n> points, T* __restrict__ jacobian,
                         const double* __restrict__ maps, int64_t vertices, int per_block, int64_t first_item) {
  using Visit = CpabVisit<T, n>;
  constexpr int kEntries = n * (n + 1);
  SIMT_DYNAMIC_SHARED(Visit, visits);
  const CpabShare share(first_item, per_block, points.count * n);
  const int64_t item = share.item;
#pragma unroll 1
  for (int64_t begin = share.first; begin < share.last; begin += kCpabThreads) {
    const int64_t row = begin + threadIdx.x;
    T* to = jacobian + (item * points.count * n + row) * vertices * n;
    T lambda[n];
    for (int d = 0; d < n; ++d) lambda[d] = T(row % n == d) / T(field.tables.shape[d]);
    const auto back = [&](const Path& path, const Visit& visit, bool active) {
      if (!active) return;
      T G[n][n + 1] = {};
      pull_back(path, visit, lambda, G);
      double of_region[kEntries];
#pragma unroll
      for (int k = 0; k < kEntries; ++k) of_region[k] = maps ? 0 : double(G[k / (n + 1)][k % (n + 1)]);
#pragma unroll
      for (int e = 0; maps && e < kEntries; ++e) {
        const double* by = maps + ((item * kEntries + e) * path.field.tables.regions + visit.region) * kEntries;
#pragma unroll
        for (int k = 0; k < kEntries; ++k) of_region[k] += double(G[e / (n + 1)][e % (n + 1)]) * by[k];
      }
      prepare_adjoint<n>(path.field.tables, visit.region, of_region,
                         [&](int64_t k, double value) { to[k] += T(value); });
    };
    const auto arrive = [](const Path&) { return true; };
    walk_back<Path>(field, points, item, row / n, row < share.last, visits + threadIdx.x, arrive, back);
  }
}

// Of fixed steps: gradients to the cells' maps (items, rows, n, n + 1) -> to [matrix, start] of the regions, the rest
// of which are zeros. A block a cell: the exponential of a 2 (n + 1) square (Van Loan 1978), an entry a thread.
template <class T, int n>
__global__ void __launch_bounds__(64, 4)
    cpab_maps_adjoint_kernel(const T* __restrict__ velocities, const double* __restrict__ grad_maps,
                             double* __restrict__ grad_regions, CpabTables tables, int rows, int steps,
                             int64_t vertices, int64_t first_item) {
  constexpr int m = n + 1, k = 2 * m;
  __shared__ double block[k][k], term[k][k], sum[k][k];
  const int64_t item = first_item + blockIdx.y;
  const int cell = int(blockIdx.x), thread = int(threadIdx.x), r = thread / k, c = thread % k;
  const bool there = thread < k * k;
  double A[n][m];
  generator<n>(tables, cell, velocities + (grad_maps ? item : item / (n * m)) * vertices * n, A);
  double entry = 0, norm = 0;
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < m; ++j) {
      const double given =
          grad_maps ? grad_maps[((item * rows + cell) * n + i) * m + j] : double(item % (n * m) == i * m + j);
      const double a = A[i][j] / steps, g = given / steps;
      if ((r == j && c == i) || (r == m + j && c == m + i)) entry = a;
      if (r == i && c == m + j) entry = g;
      norm += 2 * a * a + g * g;
    }
  }
  double scale = 1;
  int squarings = 0;
  for (norm = sqrt(norm); norm > 0.5 && squarings < 1000; norm *= 0.5, scale *= 0.5) ++squarings;
  const auto product = [&](const double (&a)[k][k], const double (&b)[k][k]) {
    double total = 0;
    for (int l = 0; there && l < k; ++l) total += a[r][l] * b[l][c];
    return total;
  };
  if (there) {
    block[r][c] = entry;
    term[r][c] = sum[r][c] = r == c;
  }
  __syncthreads();
#pragma unroll 1
  for (int order = 1; order <= 16; ++order) {
    const double next = product(term, block) * (scale / order);
    __syncthreads();
    if (there) term[r][c] = next, sum[r][c] += next;
    __syncthreads();
  }
#pragma unroll 1
  for (; squarings > 0; --squarings) {
    const double next = product(sum, sum);
    __syncthreads();
    if (there) sum[r][c] = next;
    __syncthreads();
  }
  if (thread >= n * m) return;
  const int i = thread / m, j = thread % m;
  const CpabRegion<n> region(tables, cell);
  const double value = sum[i][m + j] - (j < n ? sum[i][m + n] * region.origin[j < n ? j : 0] : 0);
  grad_regions[((item * tables.regions + cell) * n + i) * m + j] = value;
}

// Gradients to [matrix, start] of the regions, among `rows` of them -> to the velocities (items, vertices, n): a thread
// a vertex, which looks through the regions in order.
template <class T, int n>
__global__ void __launch_bounds__(kCpabThreads)
    cpab_velocities_kernel(const double* __restrict__ grad_regions, T* __restrict__ grad_velocities, CpabTables tables,
                           int rows, int64_t vertices, int64_t first_item) {
  constexpr int m = n + 1;
  const int64_t vertex = int64_t(blockIdx.x) * kCpabThreads + threadIdx.x, item = first_item + blockIdx.y;
  if (vertex >= vertices) return;
  double total[n] = {};
#pragma unroll 1
  for (int r = 0; r < tables.regions; ++r) {
    const CpabRegion<n> region(tables, r);
    bool touches = false;
    for (int k = 0; k < m * m; ++k) touches = touches || (region.support[k] == vertex && region.weights[k] != 0);
    if (!touches) continue;
    const double* G = grad_regions + (item * rows + r) * n * m;
    prepare_adjoint<n>(tables, r, G, [&](int64_t k, double value) {
      for (int d = 0; d < n; ++d) total[d] += k == vertex * n + d ? value : 0;
    });
  }
  for (int d = 0; d < n; ++d) grad_velocities[(item * vertices + vertex) * n + d] = T(total[d]);
}

// result[i] = the sum over `shared` items that have the points in common: (groups, shared, size) -> (groups, size).
template <class T>
__global__ void __launch_bounds__(kCpabThreads)
    sum_shared_kernel(const T* __restrict__ each, T* __restrict__ result, int64_t shared, int64_t size, int64_t count) {
  const int64_t i = int64_t(blockIdx.x) * kCpabThreads + threadIdx.x;
  if (i >= count) return;
  double total = 0;
  for (int64_t s = 0; s < shared; ++s) total += double(each[(i / size * shared + s) * size + i % size]);
  result[i] = T(total);
}

}  // namespace stn
