// Kernels with one mistake each, by which the runner itself is tested.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "simt.h"

namespace {

enum Fault : int64_t {
  kNone,
  kEarlyReturn,
  kDivergentBarrier,
  kMissingLane,
  kLaneOutsideMask,
  kBarrierMeetsShuffle,
  kUninitialisedShared,
  kMissingSyncthreads,
  kMissingSyncwarp,
  kNonAtomicSum,
  kGlobalOutOfBounds,
  kDynamicOutOfBounds,
  kStaticOutOfBounds,
};

// Without a fault: out[i] = in[i] + in[63 - i], in blocks of 64 threads; shared memory of 64 floats.
__global__ void planted_kernel(const float* in, float* out, int fault) {
  __shared__ float tile[64];
  SIMT_DYNAMIC_SHARED(float, copy);
  const int t = int(threadIdx.x), partner = 63 - t;
  if (fault == kEarlyReturn && t >= 40) return;
  if (fault == kDivergentBarrier && t >= 32) __syncthreads();
  if (fault == kMissingLane && t != 5) __shfl_xor_sync(~0u, t, 1);
  if (fault == kLaneOutsideMask) __shfl_xor_sync(0xffffu, t, 1);
  if (fault == kBarrierMeetsShuffle) {
    if (t == 0)
      __syncthreads();
    else
      __syncwarp();
  }
  if (fault != kUninitialisedShared) tile[t] = in[t + (fault == kGlobalOutOfBounds)];
  copy[fault == kDynamicOutOfBounds ? t + 1 : t] = 0;
  if (fault == kStaticOutOfBounds) tile[t + 8] = 1;
  if (fault == kMissingSyncwarp) {
    __syncthreads();
    tile[t] += 1;
    out[t] = tile[t ^ 1];
    return;
  }
  if (fault != kMissingSyncthreads) __syncthreads();
  out[t] = tile[t] + tile[partner] + copy[t];
  if (fault == kNonAtomicSum) out[64] += 1;
}

// Everything the words of simt_host.h can do at once, on a block of 48 threads: a full and a partial warp.
__global__ void words_kernel(float* out) {
  const int t = int(threadIdx.x), lane = t % 32;
  float v = float(t);
  v = __shfl_up_sync(~0u, v, 1, 8) + 100 * __shfl_sync(~0u, v, 3, 8);
  if (__any_sync(~0u, lane == 3)) v += 0.5f;
  const unsigned low = __ballot_sync(~0u, lane < 4);
  if (lane < 16) v += __shfl_xor_sync(t < 32 ? 0xffffu : ~0u, v, 1);
  out[t] = v + float(low);
  atomicAdd(out + 48, 1.0f);
  atomicMax(out + 49, float(t));
}

using torch::stable::Tensor;

Tensor planted(const Tensor& in, int64_t fault, int64_t threads, int64_t blocks) {
  Tensor out = torch::stable::new_zeros(in, in.sizes());
  simt::launch(planted_kernel, dim3(unsigned(blocks)), dim3(unsigned(threads)), 64 * sizeof(float), nullptr,
               static_cast<const float*>(in.data_ptr()), static_cast<float*>(out.data_ptr()), int(fault));
  return out;
}

Tensor words(const Tensor& in) {
  Tensor out = torch::stable::new_zeros(in, in.sizes());
  simt::launch(words_kernel, dim3(1), dim3(48), 0, nullptr, static_cast<float*>(out.data_ptr()));
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(stn_planted, m) {
  m.def("planted(Tensor input, int fault, int threads, int blocks) -> Tensor");
  m.def("words(Tensor input) -> Tensor");
}
STABLE_TORCH_LIBRARY_IMPL(stn_planted, CPU, m) {
  m.impl("planted", TORCH_BOX(&planted));
  m.impl("words", TORCH_BOX(&words));
}
