// Storage types of images: dispatch, and buffers in the compute type.
#pragma once
#include <cstdlib>
#include <new>

#include "elements.h"
#include "kernels.h"

namespace stn::STN_LEVEL {

// Calls f(type tag of the storage type), which is not float64.
template <class F>
STN_INLINE Work with_narrow_storage(DType dtype, F f) {
  return dtype == DType::float32 ? f(float{}) : f(Half{});
}
// The same for the kernels for rows.
template <class F>
STN_INLINE Work with_row_storage(DType dtype, F f) {
  if constexpr (kHasHalfRows) return with_narrow_storage(dtype, f);
  return f(float{});
}
// Calls f(type tag of the storage type).
template <class F>
STN_INLINE Work with_storage(DType dtype, F f) {
  if constexpr (kHasFloat64) {
    if (dtype == DType::float64) return f(double{});
  }
  return with_narrow_storage(dtype, f);
}

// Calls f(type tag of the compute type).
template <class F>
STN_INLINE Work with_compute(DType dtype, F f) {
  if constexpr (kHasFloat64) {
    if (dtype == DType::float64) return f(double{});
  }
  return f(float{});
}

struct Uninitialized {};
constexpr Uninitialized uninitialized;

// A buffer, zeroed unless it is said otherwise.
template <class A>
struct Scratch {
  A* data;
  explicit Scratch(int64_t count) : data(static_cast<A*>(allocated(size_t(count)))) {
    if (!data) throw std::bad_alloc();
  }
  Scratch(int64_t count, Uninitialized) : data(static_cast<A*>(__builtin_malloc(size_t(count) * sizeof(A)))) {
    static_assert(alignof(A) <= alignof(double));
    if (!data) throw std::bad_alloc();
  }
  static void* allocated(size_t count) {
    if constexpr (alignof(A) <= alignof(double)) return __builtin_calloc(count, sizeof(A));
    void* memory = std::aligned_alloc(alignof(A), count * sizeof(A));
    return memory ? __builtin_memset(memory, 0, count * sizeof(A)) : nullptr;
  }
  ~Scratch() { __builtin_free(data); }
  Scratch(const Scratch&) = delete;
  Scratch(Scratch&& other) : data(other.data) { other.data = nullptr; }
};

}  // namespace stn::STN_LEVEL
