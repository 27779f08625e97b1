// Sums in a fixed order: over a warp, over a block, and of the blocks' partial sums.
#pragma once
#include "tiles.cuh"

namespace stn {

constexpr unsigned kAllLanes = 0xffffffffu;
constexpr int kSums = 6;  // numbers summed together: the entries of an affine matrix

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

// Writes the block's six sums to partial[block][6]; every thread of the block calls it, once.
template <class T>
__device__ __forceinline__ void sum_block(const T (&value)[kSums], T* partial) {
  constexpr int kWarps = kThreads / 32;
  __shared__ T sums[kWarps][8];
  const int lane = int(threadIdx.x) % 32, warp = int(threadIdx.x) / 32;
  T all[8] = {value[0], value[1], value[2], value[3], value[4], value[5], 0, 0};
  const T sum = sum_eight(all);
  if (lane % 4 == 0) sums[warp][lane / 4] = sum;
  __syncthreads();
  if (threadIdx.x < kSums) {
    T total = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) total += sums[w][threadIdx.x];
    partial[threadIdx.x] = total;
  }
}

// Blocks of a launch that write partial sums of one image, and which of them this block is.
inline int64_t blocks_of_image(dim3 grid, const Work& work) { return int64_t(grid.x) * grid.y * work.splits; }
__device__ __forceinline__ int64_t partial_index(const Work& work, const Share& share) {
  const int64_t blocks = int64_t(gridDim.x) * gridDim.y;
  return (share.image * work.splits + share.split) * blocks + blockIdx.y * gridDim.x + blockIdx.x;
}

// result[n][k] = row_scale[k / 3] * the sum of partial[n][block][k]: one warp an image, in float64 and a fixed order.
template <class T>
__global__ void __launch_bounds__(32)
    sum_partials_kernel(const T* __restrict__ partial, T* __restrict__ result, int64_t blocks, T x_scale, T y_scale) {
  const T* of_image = partial + blockIdx.x * blocks * kSums;
  double value[8] = {};
  for (int64_t block = threadIdx.x; block < blocks; block += 32)
#pragma unroll
    for (int k = 0; k < kSums; ++k) value[k] += double(of_image[block * kSums + k]);
  const double sum = sum_eight(value);
  const int k = int(threadIdx.x) / 4;
  if (threadIdx.x % 4 == 0 && k < kSums) result[blockIdx.x * kSums + k] = T(sum * double(k < 3 ? x_scale : y_scale));
}

}  // namespace stn
