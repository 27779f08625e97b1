// CPAB on points: a thread follows the path of a point; the gradient to the velocities is summed region by region.
#pragma once
#include "cpab_path.cuh"
#include "reduce.cuh"

namespace stn {

constexpr int kCpabThreads = 128, kCpabWarps = kCpabThreads / 32;
constexpr int kCpabKept = 8;  // steps of a path kept for the way back; of the others it is walked again

// The points of a call: (batch, points, n), or (points, n) for all items.
template <class T, int n>
struct CpabPoints {
  const T* at;
  int64_t count, samples;
  bool own;
  int per_block;

  __device__ __forceinline__ void load(int64_t item, int64_t i, T (&x)[n]) const {
    const T* from = at + ((own ? item / samples : 0) * count + i) * n;
    for (int d = 0; d < n; ++d) x[d] = from[d];
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

// output (items, points, n)
template <class Path, class Field, class T, int n>
__global__ void __launch_bounds__(kCpabThreads, kCpabForwardBlocks<T>)
    cpab_forward_kernel(Field field, CpabPoints<T, n> points, T* __restrict__ output, int64_t first_item) {
  const int64_t item = first_item + blockIdx.y, first = int64_t(blockIdx.x) * points.per_block;
  const int64_t last = minimum(first + points.per_block, points.count);
  for (int64_t i = first + threadIdx.x; i < last; i += kCpabThreads) {
    T x[n];
    points.load(item, i, x);
    Path path(field, item, x);
    CpabVisit<T, n> visit;
    while (path.advance(visit)) {
    }
    path.position(x);
    T* to = output + (item * points.count + i) * n;
    for (int d = 0; d < n; ++d) to[d] = x[d] / T(field.tables.shape[d]);
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

// Walks the path of point i and takes its steps back, the last first: back(path, visit, active) for all lanes of a warp
// at once. `kept` has room for the latest steps of every thread; to those before the path is walked again.
template <class Path, class Field, class T, int n, class Back>
__device__ __forceinline__ void walk_back(const Field& field, const CpabPoints<T, n>& points, int64_t item, int64_t i,
                                          bool there, CpabVisit<T, n>* kept, Back&& back) {
  int steps = 0, chunk = -1, chunks = 1;
#pragma unroll 1
  while (true) {
    T start[n] = {};
    if (there) points.load(item, i, start);
    Path path(field, item, start);
    const int end = chunk < 0 ? 0x7fffffff : (chunk + 1) * kCpabKept;
    const bool walks = there && (chunk < 0 || (end < steps && chunk < (steps - 1) / kCpabKept));
    CpabVisit<T, n> visit;
    while (walks && path.steps < end && path.advance(visit)) kept[(path.steps - 1) % kCpabKept * kCpabThreads] = visit;
    if (chunk < 0) {
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

// grad_points (items, points, n) and partial sums (items, regions, n, n + 1, columns): a column a block if its warps'
// sums have room in shared memory, else zeros, a column a warp. Null for what is not wanted.
template <class Path, class Field, class T, int n>
__global__ void __launch_bounds__(kCpabThreads, kCpabBackwardBlocks<T>)
    cpab_backward_kernel(Field field, CpabPoints<T, n> points, const T* __restrict__ grad_output,
                         T* __restrict__ grad_points, T* __restrict__ partial, int regions, bool shared_sums,
                         int64_t first_item) {
  using Visit = CpabVisit<T, n>;
  SIMT_DYNAMIC_SHARED(Visit, visits);
  const int warp = int(threadIdx.x) / 32, entries = regions * n * (n + 1);
  const int64_t item = first_item + blockIdx.y, first = int64_t(blockIdx.x) * points.per_block;
  const int64_t last = minimum(first + points.per_block, points.count);
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
  for (int64_t begin = first; begin < last; begin += kCpabThreads) {
    const int64_t i = begin + threadIdx.x;
    const bool there = i < last;
    T lambda[n] = {};
    if (there) {
      const T* from = grad_output + (item * points.count + i) * n;
      for (int d = 0; d < n; ++d) lambda[d] = from[d] / T(field.tables.shape[d]);
    }
    walk_back<Path>(field, points, item, i, there, kept, [&](const Path& path, const Visit& visit, bool active) {
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
                         const double* __restrict__ maps, int64_t vertices, int64_t first_item) {
  using Visit = CpabVisit<T, n>;
  constexpr int kEntries = n * (n + 1);
  SIMT_DYNAMIC_SHARED(Visit, visits);
  const int64_t item = first_item + blockIdx.y, first = int64_t(blockIdx.x) * points.per_block;
  const int64_t last = minimum(first + points.per_block, points.count * n);
#pragma unroll 1
  for (int64_t begin = first; begin < last; begin += kCpabThreads) {
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
    walk_back<Path>(field, points, item, row / n, row < last, visits + threadIdx.x, back);
  }
}

// Of fixed steps: gradients to the cells' maps (items, cells, n, n + 1) -> to [matrix, start] of the regions, the rest
// of which are zeros. A block a cell: the exponential of a 2 (n + 1) square (Van Loan 1978), an entry a thread.
template <class T, int n>
__global__ void __launch_bounds__(64, 4)
    cpab_maps_adjoint_kernel(const T* __restrict__ velocities, const double* __restrict__ grad_maps,
                             double* __restrict__ grad_regions, CpabTables tables, int steps, int64_t vertices,
                             int64_t first_item) {
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
          grad_maps ? grad_maps[((item * tables.cells + cell) * n + i) * m + j] : double(item % (n * m) == i * m + j);
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

// Gradients to [matrix, start] of the regions -> to the velocities (items, vertices, n): a thread a vertex, which looks
// through the regions in order.
template <class T, int n>
__global__ void __launch_bounds__(kCpabThreads)
    cpab_velocities_kernel(const double* __restrict__ grad_regions, T* __restrict__ grad_velocities, CpabTables tables,
                           int64_t vertices, int64_t first_item) {
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
    const double* G = grad_regions + (item * tables.regions + r) * n * m;
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
