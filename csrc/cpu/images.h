// What the kernels see of tensors, of the stable ABI or of torch's own: any type with their names.
#pragma once
#include <torch/headeronly/core/ScalarType.h>

#include <vector>

#include "kernels.h"

namespace stn {

using torch::headeronly::ScalarType;
using Shape = std::vector<int64_t>;

struct Options {
  int64_t mode, padding;
  bool align_corners;
};

inline DType dtype_of(ScalarType type) {
  return type == ScalarType::Double     ? DType::float64
         : type == ScalarType::BFloat16 ? DType::bfloat16
         : type == ScalarType::Half     ? DType::float16
                                        : DType::float32;
}

// The strides of images (..., C, *size) with n spatial dimensions that are stored (..., *size, C).
inline Shape channels_last_strides(const Shape& size, size_t n) {
  const auto atleast1 = [](int64_t v) { return v > 0 ? v : 1; };
  const size_t c = size.size() - n - 1;
  Shape stride(size.size());
  stride[c] = 1;
  int64_t next = atleast1(size[c]);
  for (size_t i = size.size(); i-- > c + 1; next *= atleast1(size[i])) stride[i] = next;
  for (size_t i = c; i-- > 0; next *= atleast1(size[i])) stride[i] = next;
  return stride;
}

template <class Tensor>
bool is_channels_last(const Tensor& t) {
  int64_t pixel = t.size(1);
  if (pixel <= 1 || t.stride(1) != 1) return false;
  for (int64_t i = t.dim(); i-- > 2; pixel *= t.size(i)) {
    if (t.stride(i) != pixel) return false;
  }
  return true;
}

// (..., C, *size) as a batch of images; a sample dimension is folded into the batch (its stride fits by construction).
template <class Pointer, class Tensor>
Images<Pointer> images(const Tensor& t, int n) {
  const int64_t last = t.dim() - 1;
  return {static_cast<Pointer>(t.mutable_data_ptr()),
          t.stride(last - n - 1),
          t.stride(last - n),
          n > 1 ? t.stride(last - 1) : 0,
          t.stride(last),
          n > 2 ? t.stride(last - 2) : 0};
}

// What input (B, C, *in) and the options say of a call; outputs and parameters are not set.
template <class Tensor>
Problem problem_of_images(const Tensor& input, const Options& options) {
  Problem p{};
  const int n = int(input.dim()) - 2;
  p.dimensions = n;
  p.batch = input.size(0), p.channels = input.size(1);
  p.width = input.size(n + 1), p.height = n > 1 ? input.size(n) : 1, p.depth = n > 2 ? input.size(n - 1) : 1;
  p.dtype = dtype_of(input.scalar_type());
  p.channels_last = is_channels_last(input);
  p.mode = static_cast<Mode>(options.mode);
  p.padding = static_cast<Padding>(options.padding), p.align_corners = options.align_corners;
  p.input = images<const void*>(input, n);
  return p;
}
inline void set_out_size(Problem& p, const int64_t* size) {
  const int n = p.dimensions;
  p.out_width = size[n - 1];
  p.out_height = n > 1 ? size[n - 2] : 1, p.out_depth = n > 2 ? size[0] : 1;
}

}  // namespace stn
