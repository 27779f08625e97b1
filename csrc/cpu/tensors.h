// Tensors of the CPU operators: layouts, and what the kernels see of them.
#pragma once
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <vector>

#include "huge_pages.h"
#include "level.h"

namespace stn {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Shape = std::vector<int64_t>;

inline DType dtype_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float:
      return DType::float32;
    case ScalarType::Double:
      return DType::float64;
    case ScalarType::BFloat16:
      return DType::bfloat16;
    case ScalarType::Half:
      return DType::float16;
    default:
      STD_TORCH_CHECK(false, "stn_kernels: the images must be float32, float64, bfloat16 or float16");
  }
}

inline Tensor empty(const Tensor& like, const Shape& size, const Shape& stride) {
  int32_t dtype = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(like.get(), &dtype));
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(int64_t(size.size()), size.data(), stride.data(), dtype,
                                                  aoti_torch_device_type_cpu(), 0, &handle));
  const Tensor result(handle);
  prefer_huge_pages(result.mutable_data_ptr(), size_t(result.numel()) * size_t(result.element_size()));
  return result;
}

inline Tensor empty(const Tensor& like, const Shape& size) {
  Shape stride(size.size(), 1);
  for (size_t i = size.size(); i-- > 1;) stride[i - 1] = stride[i] * (size[i] > 0 ? size[i] : 1);
  return empty(like, size, stride);
}

// The strides of images (..., C, *size) with n spatial dimensions that are stored (..., *size, C).
inline Shape channels_last_strides(const Shape& size, size_t n) {
  const auto atleast1 = [](int64_t v) { return v > 0 ? v : 1; };
  const size_t c = size.size() - n - 1;
  Shape stride(size.size());
  int64_t next = atleast1(size[c]);
  stride[c] = 1;
  for (size_t i = size.size(); i-- > c + 1; next *= atleast1(size[i])) stride[i] = next;
  for (size_t i = c; i-- > 0; next *= atleast1(size[i])) stride[i] = next;
  return stride;
}

// Images with n spatial dimensions, as ops/_outputs.py.
inline Tensor empty_images(const Tensor& like, const Shape& size, bool channels_last, size_t n) {
  return channels_last ? empty(like, size, channels_last_strides(size, n)) : empty(like, size);
}

inline Shape shape_of(const Tensor& t) { return {t.sizes().begin(), t.sizes().end()}; }

inline bool is_channels_last(const Tensor& t) {
  int64_t pixel = t.size(1);
  if (pixel <= 1 || t.stride(1) != 1) return false;
  for (int64_t i = t.dim(); i-- > 2; pixel *= t.size(i)) {
    if (t.stride(i) != pixel) return false;
  }
  return true;
}

// (..., C, *size) as a batch of images; a sample dimension is folded into the batch (its stride fits by construction).
template <class Pointer>
Images<Pointer> images(const Tensor& t, int n) {
  const int64_t last = t.dim() - 1;
  return {static_cast<Pointer>(t.mutable_data_ptr()),
          t.stride(last - n - 1),
          t.stride(last - n),
          n > 1 ? t.stride(last - 1) : 0,
          t.stride(last),
          n > 2 ? t.stride(last - 2) : 0};
}

inline Tensor dense(const Tensor& t) {
  return t.is_contiguous() ? t : torch::stable::contiguous(t);
}  // saves a dispatch

inline Tensor float_parameters(const Tensor& t) {
  const ScalarType type = t.scalar_type();
  const Tensor wide =
      type == ScalarType::Double || type == ScalarType::Float ? t : torch::stable::to(t, ScalarType::Float);
  return dense(wide);
}

// grad_output in the layout of the output, copied only if it has another.
inline Tensor with_layout(const Tensor& grad, bool channels_last, int n) {
  if (!channels_last) return dense(grad);
  const Shape stride = channels_last_strides(shape_of(grad), size_t(n));
  bool same = true;
  for (int64_t i = 0; i < grad.dim(); ++i) same &= grad.stride(i) == stride[size_t(i)] || grad.size(i) == 1;
  if (same) return grad;
  Tensor copy = empty(grad, shape_of(grad), stride);
  torch::stable::copy_(copy, grad);
  return copy;
}

struct Options {
  int64_t mode, padding;
  bool align_corners;
};

// What input (B, C, *in) and the options say of a call; outputs and parameters are not set.
inline Problem image_problem(const Tensor& input, const Options& options) {
  Problem p{};
  const int n = int(input.dim()) - 2;
  p.dimensions = n;
  p.batch = input.size(0), p.channels = input.size(1);
  p.width = input.size(n + 1), p.height = n > 1 ? input.size(n) : 1, p.depth = n > 2 ? input.size(n - 1) : 1;
  p.dtype = dtype_of(input), p.has_half_rows = kernels().has_half_rows;
  p.channels_last = is_channels_last(input);
  p.mode = static_cast<Mode>(options.mode);
  p.padding = static_cast<Padding>(options.padding), p.align_corners = options.align_corners;
  return p;
}

}  // namespace stn
