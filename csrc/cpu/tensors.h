// Tensors of the CPU operators: layouts, and what the kernels see of them.
#pragma once
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "huge_pages.h"
#include "images.h"
#include "level.h"

namespace stn {

using torch::stable::Tensor;

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

// Images with n spatial dimensions, as ops/_outputs.py.
inline Tensor empty_images(const Tensor& like, const Shape& size, bool channels_last, size_t n) {
  return channels_last ? empty(like, size, channels_last_strides(size, n)) : empty(like, size);
}

inline Shape shape_of(const Tensor& t) { return {t.sizes().begin(), t.sizes().end()}; }

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

// What input (B, C, *in) and the options say of a call; outputs and parameters are not set.
inline Problem image_problem(const Tensor& input, const Options& options) {
  const ScalarType type = input.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Float || dtype_of(type) != DType::float32,
                  "stn_kernels: the images must be float32, float64, bfloat16 or float16");
  Problem p = problem_of_images(input, options);
  p.has_half_rows = kernels().has_half_rows;
  return p;
}

}  // namespace stn
