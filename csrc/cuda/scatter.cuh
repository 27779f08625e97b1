// Where the gradient to the input is scattered to: nowhere, float atomics, or order-independent fixed-point atomics.
#pragma once
#include "reduce.cuh"

namespace stn {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
constexpr bool kVectorAtomics = false;
#else
constexpr bool kVectorAtomics = true;  // of float4
#endif

struct NoScatter {
  static constexpr bool kActive = false;
  struct Adder {};
  __device__ __forceinline__ Adder adder() const { return {}; }
};

template <class T>
struct AtomicScatter {
  static constexpr bool kActive = true;
  T* data;  // zeroed, shaped and stored as the gradient

  struct Adder {
    T* data;
    template <int N>
    __device__ __forceinline__ void operator()(int64_t offset, T weight, const T (&value)[N]) const {
      if constexpr (kVectorAtomics && N % 4 == 0 && sizeof(T) == 4) {
#pragma unroll
        for (int i = 0; i < N; i += 4)
          atomicAdd(
              reinterpret_cast<float4*>(data + offset + i),
              make_float4(weight * value[i], weight * value[i + 1], weight * value[i + 2], weight * value[i + 3]));
      } else {
#pragma unroll
        for (int i = 0; i < N; ++i) atomicAdd(data + offset + i, weight * value[i]);
      }
    }
  };
  __device__ __forceinline__ Adder adder() const { return {data}; }
};

using FixedPoint = unsigned long long;  // what CUDA has 64-bit atomics for; two's complement

__device__ __forceinline__ double power_of_two(int exponent) {
  return __longlong_as_double((long long)(exponent + 1023) << 52);
}

// The scale of a fixed-point sum of up to 2^log2_terms terms no larger than `largest` (the bits of a float64).
struct FixedScale {
  int exponent;
  bool finite;
  __device__ __forceinline__ FixedScale(FixedPoint largest, int log2_terms) {
    const int biased = int(largest >> 52);
    finite = biased < 2047;
    // largest < 2^(biased - 1022), so that the scaled sum stays below 2^62. The limits keep both powers normal.
    exponent = maximum(-1022, minimum(1022, 62 - log2_terms - (biased - 1022)));
  }
};

// A gradient that is not finite makes all of the result NaN: fixed point has no infinities.
template <class T>
struct FixedScatter {
  static constexpr bool kActive = true;
  FixedPoint* data;           // zeroed, shaped and stored as the gradient
  const FixedPoint* largest;  // of the terms, see FixedScale
  int log2_terms;

  struct Adder {
    FixedPoint* data;
    double scale;
    bool finite;
    template <int N>
    __device__ __forceinline__ void operator()(int64_t offset, T weight, const T (&value)[N]) const {
      if (!finite) return;
#pragma unroll
      for (int i = 0; i < N; ++i)
        atomicAdd(data + offset + i, FixedPoint(__double2ll_rn(double(weight * value[i]) * scale)));
    }
  };
  __device__ __forceinline__ Adder adder() const {
    const FixedScale scale(*largest, log2_terms);
    return {data, power_of_two(scale.exponent), scale.finite};
  }
};

// Any of the three, chosen at run time.
template <class T>
struct AnyScatter {
  AtomicScatter<T> atomic;
  FixedScatter<T> fixed;  // where atomic.data is null
  bool active;

  AnyScatter(const NoScatter&) : atomic{}, fixed{}, active(false) {}
  AnyScatter(const AtomicScatter<T>& scatter) : atomic(scatter), fixed{}, active(true) {}
  AnyScatter(const FixedScatter<T>& scatter) : atomic{}, fixed(scatter), active(true) {}

  struct Adder {
    typename AtomicScatter<T>::Adder atomic;
    typename FixedScatter<T>::Adder fixed;
    __device__ __forceinline__ void operator()(int64_t offset, T weight, const T (&value)[1]) const {
      if (atomic.data)
        atomic(offset, weight, value);
      else
        fixed(offset, weight, value);
    }
  };
  __device__ __forceinline__ Adder adder() const {
    Adder result{atomic.adder(), {}};
    if (active && !atomic.data) result.fixed = fixed.adder();
    return result;
  }
};

// Positive numbers order as their bits do, NaN above all.
__device__ __forceinline__ FixedPoint magnitude_bits(double value) {
  return FixedPoint(__double_as_longlong(fabs(value)));
}
// largest = max(largest, mine) over all threads; every lane of the warp calls it.
__device__ __forceinline__ void keep_largest(FixedPoint mine, FixedPoint* largest) {
  for (int step = 16; step; step >>= 1) mine = maximum(mine, __shfl_xor_sync(kAllLanes, mine, step));
  if (threadIdx.x % 32 == 0) atomicMax(largest, mine);
}

// largest = max(largest, bits of |value[i]| * factor * *times).
template <class I>
__global__ void __launch_bounds__(kThreads)
    largest_magnitude_kernel(const I* __restrict__ value, FixedPoint* __restrict__ largest,
                             const FixedPoint* __restrict__ times, double factor, int64_t count) {
  FixedPoint mine = 0;
  if (times) factor *= __longlong_as_double((long long)(*times));
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < count; i += int64_t(gridDim.x) * kThreads)
    mine = maximum(mine, magnitude_bits(double(value[i]) * factor));
  keep_largest(mine, largest);
}

template <class I>
__global__ void __launch_bounds__(kThreads)
    from_fixed_point_kernel(const FixedPoint* __restrict__ sum, const FixedPoint* __restrict__ largest,
                            I* __restrict__ result, int log2_terms, int64_t count) {
  const FixedScale scale(*largest, log2_terms);
  const double unit = power_of_two(-scale.exponent);
  for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < count; i += int64_t(gridDim.x) * kThreads) {
    const double value = double((long long)(sum[i])) * unit;
    result[i] = I(scale.finite ? value : double(NAN));
  }
}

}  // namespace stn
