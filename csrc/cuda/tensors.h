// Tensors of the stable ABI on the host side: layouts, readable copies, fresh results, the stream.
#pragma once
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <vector>

#include "memory.cuh"

#if defined(__CUDACC__)
#include <torch/csrc/stable/accelerator.h>
#endif

namespace stn {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kLargestExtent = int64_t(1) << 30;  // coordinates and strides inside an image are int32

// The device and stream that a call's kernels run on.
#if defined(__CUDACC__)
struct Device {
  torch::stable::accelerator::DeviceGuard guard;
  simt::Stream stream;
  explicit Device(const Tensor& tensor) : guard(tensor.get_device_index()) {
    void* current = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &current));
    stream = static_cast<simt::Stream>(current);
  }
};
#else
struct Device {
  simt::Stream stream = nullptr;
  explicit Device(const Tensor&) {}
};
#endif

template <class T>
T* data(const Tensor& tensor) {
  return static_cast<T*>(tensor.data_ptr());
}

inline std::vector<int64_t> shape_of(const Tensor& tensor) { return {tensor.sizes().begin(), tensor.sizes().end()}; }

inline bool is_aligned(const Tensor& tensor, size_t bytes) {
  return reinterpret_cast<uintptr_t>(tensor.data_ptr()) % bytes == 0;
}

// Contiguous, of the given type, and aligned for pairs.
inline Tensor coordinates(const Tensor& tensor, ScalarType dtype) {
  const Tensor converted = tensor.scalar_type() == dtype ? tensor : torch::stable::to(tensor, dtype);
  const Tensor result = torch::stable::contiguous(converted);
  return is_aligned(result, 2 * result.element_size()) ? result : torch::stable::clone(result);
}

// images (..., C, *in) with n spatial dimensions <-> (..., *in, C).
inline Tensor pixels_before_channels(Tensor images, int n) {
  for (int64_t a = -n - 1; a < -1; ++a) images = torch::stable::transpose(images, a, a + 1);
  return images;
}
inline Tensor channels_before_pixels(Tensor images, int n) {
  for (int64_t a = -1; a > -n - 1; --a) images = torch::stable::transpose(images, a, a - 1);
  return images;
}

// Whether the pixels of (..., C, *in) are stored channel by channel inside a dense pixel: ops/_outputs.py.
inline bool is_channels_last(const Tensor& images, int n) {
  const int64_t channel = images.dim() - n - 1;
  int64_t pixel = images.size(channel);
  if (pixel <= 1 || images.stride(channel) != 1) return false;
  for (int64_t a = images.dim() - 1; a > channel; --a) {
    if (images.stride(a) != pixel) return false;
    pixel *= images.size(a);
  }
  return true;
}

inline Tensor new_images(const Tensor& like, std::vector<int64_t> shape, bool channels_last, ScalarType dtype, int n,
                         bool zeros = false) {
  if (channels_last) std::rotate(shape.end() - n - 1, shape.end() - n, shape.end());
  const Tensor images =
      zeros ? torch::stable::new_zeros(like, shape, dtype) : torch::stable::new_empty(like, shape, dtype);
  return channels_last ? channels_before_pixels(images, n) : images;
}

// images (B[, S], C, *in) in a layout that the kernels read: itself where possible, else a copy.
inline Tensor readable(const Tensor& images, bool channels_last, int n, bool dense = false) {
  const bool one_batch = images.dim() == n + 2 || images.size(0) <= 1 || images.size(1) <= 1 ||
                         images.stride(0) == images.size(1) * images.stride(1);
  if (channels_last) {
    if (is_channels_last(images, n) && one_batch && !dense) return images;
    return channels_before_pixels(torch::stable::contiguous(pixels_before_channels(images, n)), n);
  }
  const int64_t last = images.dim() - 1;
  const bool steps =
      n != 2 ? images.stride(last) <= kLargestExtent : images.size(last) == 1 || images.stride(last) == 1;
  const bool read = steps && (n == 1 || images.stride(last - 1) <= kLargestExtent);
  return read && one_batch && !dense ? images : torch::stable::contiguous(images);
}

inline Strides strides_of(const Tensor& images, int n) {
  const int64_t last = images.dim() - 1, channel = last - n;
  const int64_t image = channel == 2 && images.size(1) > 1 ? images.stride(1) : images.stride(0);
  // A single image's stride may be anything: with S = 1 images are B apart, with B = 1 they are S apart.
  return {image, images.stride(channel), int(n > 1 ? images.stride(last - 1) : 0), int(images.stride(last)),
          n > 2 ? images.stride(last - 2) : 0};
}

// Whether channels can be read and written 16 bytes at a time, in two dimensions.
inline bool is_packed(const Tensor& images) {
  const int64_t bytes = int64_t(images.element_size());
  return is_channels_last(images, 2) && is_aligned(images, 16) && images.size(images.dim() - 3) * bytes % 16 == 0 &&
         strides_of(images, 2).image * bytes % 16 == 0;
}

}  // namespace stn
