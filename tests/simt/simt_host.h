// The words of CUDA that csrc/cuda uses, for g++: a block's threads are fibers, run by scheduler.cpp.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))
#ifdef __SANITIZE_ADDRESS__
#define __shared__ static  // ASan puts red zones around statics, not around thread_locals
#else
#define __shared__ static thread_local  // so that the scheduler finds all of it: the library's TLS block
#endif
#define SIMT_DYNAMIC_SHARED(type, name) type* name = static_cast<type*>(simt::dynamic_shared())
#define SIMT_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

struct uint3 {
  unsigned x = 0, y = 0, z = 0;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace simt {

using Stream = void*;

enum Meeting { kShuffle, kShuffleUp, kShuffleDown, kShuffleXor, kVote, kSyncwarp };

// What scheduler.cpp and races.cpp offer to the words below.
void run(dim3 grid, dim3 block, size_t shared_bytes, const std::function<void()>& thread);
void* dynamic_shared();
int lane();
void barrier(const char* file, int line);
// Waits for all lanes of the mask; returns their 32 values, valid until the lane's next meeting.
const uint64_t* meet(Meeting kind, unsigned mask, uint64_t value, const char* file, int line);
void touch_atomic(const void* address, size_t bytes, const void* pc);

template <class... P, class... A>
void launch(void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, Stream, A&&... args) {
  const std::tuple<P...> parameters(static_cast<P>(args)...);
  run(grid, block, shared_bytes, [&] { std::apply(kernel, parameters); });
}

template <class T>
T shuffle(Meeting kind, unsigned mask, T value, int source, int width, const char* file, int line) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  const uint64_t* all = meet(kind, mask, bits, file, line);
  const int first = lane() & ~(width - 1);
  if (source < first || source >= first + width) source = lane();  // outside the segment: the own value
  bits = (mask >> source & 1) ? all[source] : ~uint64_t(0);        // from a lane not in the mask: undefined, so NaN
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

template <class T, class F>
__attribute__((no_sanitize_thread, noinline)) T atomic(T* address, F update) {
  touch_atomic(address, sizeof(T), __builtin_return_address(0));
  const T old = *address;
  *address = update(old);
  return old;
}

}  // namespace simt

inline void __syncthreads(SIMT_SITE) { simt::barrier(file, line); }
inline void __syncwarp(unsigned mask = ~0u, SIMT_SITE) { simt::meet(simt::kSyncwarp, mask, 0, file, line); }

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, SIMT_SITE) {
  const int from = (simt::lane() & ~(width - 1)) + (source & (width - 1));
  return simt::shuffle(simt::kShuffle, mask, value, from, width, file, line);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, SIMT_SITE) {
  return simt::shuffle(simt::kShuffleUp, mask, value, simt::lane() - int(delta), width, file, line);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, SIMT_SITE) {
  return simt::shuffle(simt::kShuffleDown, mask, value, simt::lane() + int(delta), width, file, line);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, SIMT_SITE) {
  return simt::shuffle(simt::kShuffleXor, mask, value, simt::lane() ^ bits, width, file, line);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, SIMT_SITE) {
  const uint64_t* all = simt::meet(simt::kVote, mask, predicate != 0, file, line);
  unsigned votes = 0;
  for (int i = 0; i < 32; ++i)
    if ((mask >> i & 1) && all[i]) votes |= 1u << i;
  return votes;
}
inline int __any_sync(unsigned mask, int predicate, SIMT_SITE) {
  return __ballot_sync(mask, predicate, file, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, SIMT_SITE) {
  return __ballot_sync(mask, predicate, file, line) == mask;
}

inline int __ffs(int bits) { return __builtin_ffs(bits); }
template <class T>
T __ldg(const T* address) {
  return *address;
}
template <class T>  // as in CUDA, the pointer alone decides T
T atomicAdd(T* address, std::type_identity_t<T> value) {
  return simt::atomic(address, [value](T old) { return old + value; });
}
inline void atomicAdd(float4* address, float4 value) {  // atomic an element, as in CUDA
  atomicAdd(&address->x, value.x);
  atomicAdd(&address->y, value.y);
  atomicAdd(&address->z, value.z);
  atomicAdd(&address->w, value.w);
}
template <class T>
T atomicMax(T* address, std::type_identity_t<T> value) {
  return simt::atomic(address, [value](T old) { return old < value ? value : old; });
}
inline long long __double2ll_rn(double value) { return std::llrint(value); }
inline double __longlong_as_double(long long bits) {
  double value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
inline long long __double_as_longlong(double value) {
  long long bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}
