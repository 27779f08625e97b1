// Tensors of the stable ABI on the host side: layouts, readable copies, fresh results, the stream.
#pragma once
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

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

inline Tensor pixels_before_channels(const Tensor& images) {  // (..., C, H, W) -> (..., H, W, C)
  return torch::stable::transpose(torch::stable::transpose(images, -3, -2), -2, -1);
}
inline Tensor channels_before_pixels(const Tensor& images) {  // (..., H, W, C) -> (..., C, H, W)
  return torch::stable::transpose(torch::stable::transpose(images, -2, -1), -3, -2);
}

// Whether the pixels of (..., C, H, W) are stored channel by channel inside a dense pixel: ops/_outputs.py.
inline bool is_channels_last(const Tensor& images) {
  const int64_t n = images.dim(), channels = images.size(n - 3);
  return channels > 1 && images.stride(n - 3) == 1 && images.stride(n - 1) == channels &&
         images.stride(n - 2) == channels * images.size(n - 1);
}

inline Tensor new_images(const Tensor& like, std::vector<int64_t> shape, bool channels_last, ScalarType dtype,
                         bool zeros = false) {
  const size_t n = shape.size();
  if (channels_last) {
    const int64_t channels = shape[n - 3];
    shape.erase(shape.end() - 3);
    shape.push_back(channels);
  }
  const Tensor images =
      zeros ? torch::stable::new_zeros(like, shape, dtype) : torch::stable::new_empty(like, shape, dtype);
  return channels_last ? channels_before_pixels(images) : images;
}

// images (B[, S], C, H, W) in a layout that the kernels read: itself where possible, else a copy.
inline Tensor readable(const Tensor& images, bool channels_last, bool dense = false) {
  const int64_t n = images.dim();
  const bool one_batch =
      n == 4 || images.size(0) <= 1 || images.size(1) <= 1 || images.stride(0) == images.size(1) * images.stride(1);
  if (channels_last) {
    if (is_channels_last(images) && one_batch && !dense) return images;
    return channels_before_pixels(torch::stable::contiguous(pixels_before_channels(images)));
  }
  const bool planar = (images.size(n - 1) == 1 || images.stride(n - 1) == 1) && images.stride(n - 2) <= kLargestExtent;
  return planar && one_batch && !dense ? images : torch::stable::contiguous(images);
}

inline Strides strides_of(const Tensor& images) {
  const int64_t n = images.dim();
  const int64_t image = n == 5 && images.size(1) > 1 ? images.stride(1) : images.stride(0);
  // A single image's stride may be anything: with S = 1 images are B apart, with B = 1 they are S apart.
  return {image, images.stride(n - 3), int(images.stride(n - 2)), int(images.stride(n - 1))};
}

// Whether channels can be read and written 16 bytes at a time.
inline bool is_packed(const Tensor& images) {
  const int64_t bytes = int64_t(images.element_size());
  return is_channels_last(images) && is_aligned(images, 16) && images.size(images.dim() - 3) * bytes % 16 == 0 &&
         strides_of(images).image * bytes % 16 == 0;
}

}  // namespace stn
