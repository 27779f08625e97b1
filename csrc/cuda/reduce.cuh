// Sums in a fixed order: over a warp, over a block, and of the blocks' partial sums.
#pragma once
#include "tiles.cuh"

namespace stn {

constexpr unsigned kAllLanes = 0xffffffffu;

// Adds value over aligned groups of 2^log2_lanes lanes; every lane of the warp calls it.
template <class T>
__device__ __forceinline__ T sum_lanes(T value, int log2_lanes) {
  for (int step = 1 << log2_lanes; step >>= 1;) value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}

// Sums eight numbers over a warp with nine shuffles: halves of the warp exchange halves of the numbers.
// Lane l returns the total of number l / 4.
template <class T>
__device__ __forceinline__ T sum_eight(T (&value)[8]) {
  const int lane = int(threadIdx.x) % 32;
#pragma unroll
  for (int half = 4, step = 16; half; half >>= 1, step >>= 1) {
    const bool upper = lane & step;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const T sent = upper ? value[i] : value[i + half], kept = upper ? value[i + half] : value[i];
      value[i] = kept + __shfl_xor_sync(kAllLanes, sent, step);
    }
  }
  return sum_lanes(value[0], 2);
}

// write(k, the block's sum of value[k]); every thread of the block calls it, once.
template <int N, class T, class F>
__device__ __forceinline__ void sum_block(const T (&value)[N], F&& write) {
  constexpr int kWarps = kThreads / 32, kEights = (N + 7) / 8;
  __shared__ T sums[kWarps][8 * kEights];
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
#pragma unroll
  for (int e = 0; e < kEights; ++e) {
    T eight[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) eight[i] = 8 * e + i < N ? value[8 * e + i < N ? 8 * e + i : 0] : T(0);
    const T sum = sum_eight(eight);
    if (lane % 4 == 0) sums[warp][8 * e + lane / 4] = sum;
  }
  __syncthreads();
  if (threadIdx.x < N) {
    T total = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) total += sums[w][threadIdx.x];
    write(int(threadIdx.x), total);
  }
}

// Blocks of a launch that write partial sums of one image, and where this block's sum k of `count` goes: (images,
// count, blocks).
inline int64_t blocks_of_image(dim3 grid, const Work& work) { return int64_t(grid.x) * grid.y * work.splits; }
__device__ __forceinline__ int64_t partial_index(const Work& work, const Share& share, int count, int k) {
  const int64_t blocks = int64_t(gridDim.x) * gridDim.y;
  return ((share.image * count + k) * work.splits + share.split) * blocks + blockIdx.y * gridDim.x + blockIdx.x;
}

// result[i] = the sum of partial[i][block]: a warp each, in float64 and a fixed order.
template <class T, class R>
__global__ void __launch_bounds__(kThreads)
    sum_partials_kernel(const T* __restrict__ partial, R* __restrict__ result, int64_t count, int64_t blocks) {
  const int64_t i = int64_t(blockIdx.x) * (kThreads / 32) + threadIdx.x / 32;
  if (i >= count) return;  // the whole warp
  double value = 0;
  for (int64_t block = threadIdx.x % 32; block < blocks; block += 32) value += double(partial[i * blocks + block]);
  value = sum_lanes(value, 5);
  if (threadIdx.x % 32 == 0) result[i] = R(value);
}

}  // namespace stn
