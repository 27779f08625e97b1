// One kernel source, two builds: nvcc for the GPU, g++ -DSIMT_HOST for the test runner in tests/simt.
// Kernels are launched by simt::launch only, and declare dynamic shared memory by SIMT_DYNAMIC_SHARED(type, name).
#pragma once

#if defined(__CUDACC__)
#include <cuda_runtime.h>

#include <cstddef>
#include <stdexcept>
#include <string>

// Untyped: `extern __shared__ T x[]` clashes between the instantiations of one template.
#define SIMT_DYNAMIC_SHARED(type, name)                                \
  extern __shared__ __align__(16) unsigned char simt_dynamic_shared[]; \
  type* name = reinterpret_cast<type*>(simt_dynamic_shared)

namespace simt {

using Stream = cudaStream_t;

inline void check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error));
}

template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, Stream stream, A&&... args) {
  constexpr size_t kDefaultLimit = 48 * 1024;
  if (shared_bytes > kDefaultLimit)
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                               int(shared_bytes)));
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<P>(args)...));
}

}  // namespace simt

#elif defined(SIMT_HOST)
#include "simt_host.h"
#else
#error "compile .cu files with nvcc, or with g++ -x c++ -DSIMT_HOST -I tests/simt for the test runner"
#endif
