// The sampling operators between registration and kernels: one call, and its forward and backward by image type.
#pragma once
#include <tuple>
#include <type_traits>

#include "common/portable.h"
#include "tensors.h"

namespace stn {

enum class Kind { affine, grid };

struct Call {
  Kind kind;
  Tensor input;               // (B, C, H, W)
  Tensor params;              // theta (B[, S], 2, 3) or grid (B[, S], Ho, Wo, 2)
  std::vector<int64_t> size;  // of the output: Ho, Wo
  Padding padding;
  bool align_corners;

  bool has_samples() const { return params.dim() == (kind == Kind::affine ? 4 : 5); }
  int64_t samples() const { return has_samples() ? params.size(1) : 1; }
  int64_t images() const { return input.size(0) * samples(); }
  std::vector<int64_t> output_shape() const;
};

struct Needs {
  bool input, params, deterministic;
};

// I: the image's element type. Instantiated in warp_forward_*.cu and warp_backward_*.cu.
template <class I>
Tensor warp_forward(const Call& call);
template <class I>
std::tuple<Tensor, Tensor> warp_backward(const Call& call, const Tensor& grad_output, Needs needs);

template <class T>
constexpr ScalarType scalar_type = std::is_same_v<T, double>      ? ScalarType::Double
                                   : std::is_same_v<T, float>     ? ScalarType::Float
                                   : std::is_same_v<T, c10::Half> ? ScalarType::Half
                                                                  : ScalarType::BFloat16;

// f(T{}) with the type of coordinates and sums: float64 if image or parameters are, else float32.
template <class I, class F>
void with_scalar(const Call& call, F&& f) {
  if constexpr (std::is_same_v<I, double>) {
    f(double{});
  } else if (call.params.scalar_type() == ScalarType::Double) {
    f(double{});
  } else {
    f(float{});
  }
}

template <class F>
void with_padding(Padding padding, F&& f) {
  if (padding == Padding::zeros) f(std::integral_constant<Padding, Padding::zeros>{});
  if (padding == Padding::border) f(std::integral_constant<Padding, Padding::border>{});
  if (padding == Padding::reflection) f(std::integral_constant<Padding, Padding::reflection>{});
}

// How the kernels access images of this layout. Float64 sums are for checking: one way for all layouts.
template <class I, class T, bool kFixedChannels, class F>
void with_access(bool channels_last, bool packed, int64_t channels, F&& f) {
  if constexpr (std::is_same_v<T, double>) {
    f(Strided{});
  } else if (packed) {
    f(Packed<I>{});
  } else if (channels_last) {
    f(Strided{});
  } else if constexpr (kFixedChannels) {
    if (channels == 1)
      f(Planar<1>{});
    else if (channels == 3)
      f(Planar<3>{});
    else
      f(Planar<0>{});
  } else {
    f(Planar<0>{});
  }
}

}  // namespace stn
