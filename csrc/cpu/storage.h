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

// A buffer of whole lines, which aligned vectors do not straddle; zeroed unless it is said otherwise.
template <class A>
struct Scratch {
  static constexpr size_t kLine = 64;
  void* memory;
  A* data;
  explicit Scratch(int64_t count) : Scratch(__builtin_calloc(bytes(count), 1)) {}
  Scratch(int64_t count, Uninitialized) : Scratch(__builtin_malloc(bytes(count))) {}
  ~Scratch() { __builtin_free(memory); }
  Scratch(const Scratch&) = delete;
  Scratch(Scratch&& other) : memory(other.memory), data(other.data) { other.memory = nullptr; }

 private:
  explicit Scratch(void* allocated)
      : memory(allocated), data(reinterpret_cast<A*>((uintptr_t(allocated) + kLine - 1) / kLine * kLine)) {
    static_assert(alignof(A) <= kLine);
    if (!memory) throw std::bad_alloc();
  }
  static size_t bytes(int64_t count) { return (size_t(count) * sizeof(A) + 2 * kLine - 1) / kLine * kLine; }
};

}  // namespace stn::STN_LEVEL
