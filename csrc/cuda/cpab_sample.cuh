// CPAB on images: a thread follows the path of an output pixel, then samples the image where it ends; and back.
#pragma once
#include "cpab.cuh"
#include "scatter.cuh"
#include "taps.cuh"
#include "warp.h"

namespace stn {

// Image elements of a type known at run time only: beside a path the choice costs nothing, and each type of its own
// would be all kernels once more. Computed in float64 images are float64.
template <class T>
struct AnyImages {
  void* data;
  ScalarType type;
  Strides strides;

  // f(pointer to the elements)
  template <class F>
  __device__ __forceinline__ void with_data(F&& f) const {
    if constexpr (sizeof(T) == 8) {
      f(static_cast<double*>(data));
    } else {
      if (type == ScalarType::Float) f(static_cast<float*>(data));
      if (type == ScalarType::Half) f(static_cast<c10::Half*>(data));
      if (type == ScalarType::BFloat16) f(static_cast<c10::BFloat16*>(data));
    }
  }
  __device__ __forceinline__ T load(int64_t at, bool exists) const {
    T value = 0;
    with_data([&](const auto* elements) {
      if (exists) value = T(elements[at]);
    });
    return value;
  }
  __device__ __forceinline__ void store(int64_t at, T value) const {
    with_data([&]<class I>(I* elements) { elements[at] = I(value); });
  }
  // Of the plane that begins at `plane`, for PointTaps.
  __device__ __forceinline__ auto pixels(int64_t plane) const {
    return [this, plane](int64_t at, bool exists) { return load(plane + at, exists); };
  }
};

// f(mode as an integral constant)
template <class F>
__device__ __forceinline__ void with_mode(Mode mode, F&& f) {
  if (mode == Mode::bilinear) f(std::integral_constant<Mode, Mode::bilinear>{});
  if (mode == Mode::nearest) f(std::integral_constant<Mode, Mode::nearest>{});
  if (mode == Mode::bicubic) f(std::integral_constant<Mode, Mode::bicubic>{});
}

// The pixel centres of an output, for cpab.cuh. A warp's are a tile of 8 x 4 of them, that its paths are alike.
template <class T_, int n_>
struct CpabPixels {
  using T = T_;
  static constexpr int n = n_;
  static constexpr int kWidth = n == 1 ? 32 : 8, kHeight = 32 / kWidth;
  Frame<T, n> frame;
  int width, height, rows;  // of the output; rows: of all slices
  int across;               // tiles
  int64_t count;            // of the points of all tiles

  __device__ __forceinline__ int column(int64_t i) const { return int(i / 32) % across * kWidth + int(i) % kWidth; }
  __device__ __forceinline__ int row(int64_t i) const { return int(i / 32) / across * kHeight + int(i) % 32 / kWidth; }
  __device__ __forceinline__ bool exists(int64_t i) const { return column(i) < width && row(i) < rows; }
  __device__ __forceinline__ Pixel<n> place(int64_t i) const {
    if constexpr (n == 1) return {{column(i)}};
    if constexpr (n == 2) return {{column(i), row(i)}};
    if constexpr (n == 3) return {{column(i), row(i) % height, row(i) / height}};
  }
  __device__ __forceinline__ void load(int64_t, int64_t i, T (&x)[n]) const {
    frame.point(place(i), x);
    for (int d = 0; d < n; ++d) x[d] = (x[d] + 1) / 2;
  }
};

// What becomes of the pixels' images: images read there, or the gradients of that.
template <class T, int n>
struct CpabImages {
  AnyImages<T> input, output;  // output: or its gradient
  const T* affine;             // (items, n, n + 1), applied to normalized coordinates; or null
  Axis<T> axis[n];             // of the input
  Work work;
  Mode mode;
  AnyScatter<T> scatter;  // of the gradient to the input
  Strides scattered;
  bool need_points, need_affine;  // whether there are gradients to where an image is read, and to the matrices

  // y: in units of the domain; x: those in normalized coordinates.
  __device__ __forceinline__ Source<T, n> source(int64_t item, const T (&y)[n], T (&x)[n]) const {
    const T* matrix = affine + item * (n * (n + 1));
    Source<T, n> s;
    for (int d = 0; d < n; ++d) x[d] = 2 * y[d] - 1;
    for (int a = 0; a < n; ++a) {
      T value = affine ? matrix[a * (n + 1) + n] : x[a];
      for (int b = 0; affine && b < n; ++b) value += matrix[a * (n + 1) + b] * x[b];
      s.at[a] = axis[a].scale * value + axis[a].shift;
    }
    return s;
  }

  __device__ __forceinline__ void put(int64_t item, const Pixel<n>& pixel, const T (&y)[n]) const {
    T x[n];
    const Source<T, n> s = source(item, y, x);
    const int64_t from = input_image(work, item) * input.strides.image;
    const int64_t to = item * output.strides.image + offset(output.strides, pixel);
    with_mode(mode, [&](auto constant) {
      const PointTaps<T, decltype(constant)::value, n, true> taps(work, s);
#pragma unroll 1
      for (int c = 0; c < work.channels; ++c)
        output.store(to + c * output.strides.channel,
                     taps.interpolate(input.strides, input.pixels(from + c * input.strides.channel)));
    });
  }

  template <class Add>
  __device__ __forceinline__ void cotangent(int64_t item, const Pixel<n>& pixel, const T (&y)[n], bool exists,
                                            T (&lambda)[n], const Add& add_to_affine) const {
    T x[n];
    const Source<T, n> s = source(item, y, x);
    const int64_t image = input_image(work, item), from = image * input.strides.image;
    const int64_t at = item * output.strides.image + offset(output.strides, pixel);
    const auto add = scatter.adder();
    Source<T, n> grad = {};
    with_mode(mode, [&](auto constant) {
      constexpr Mode kMode = decltype(constant)::value;
      if (!exists) return;
      const PointTaps<T, kMode, n, true> taps(work, s);
#pragma unroll 1
      for (int c = 0; c < work.channels; ++c) {
        const T value = output.load(at + c * output.strides.channel, true);
        if (scatter.active) taps.spread(scattered, image * scattered.image + c * scattered.channel, value, add);
        if (kMode != Mode::nearest && need_points)
          taps.pull(input.strides, value, input.pixels(from + c * input.strides.channel), grad);
      }
    });
    T G[n][n + 1];
    const T* matrix = affine + item * (n * (n + 1));
    for (int a = 0; a < n; ++a) {
      grad.at[a] *= axis[a].scale;
      for (int b = 0; b < n; ++b) G[a][b] = grad.at[a] * x[b];
      G[a][n] = grad.at[a];
    }
    for (int b = 0; b < n; ++b) {
      T back = affine ? T(0) : grad.at[b];
      for (int a = 0; affine && a < n; ++a) back += matrix[a * (n + 1) + b] * grad.at[a];
      lambda[b] = 2 * back;
    }
    if (need_affine) add_to_affine(exists, G);
  }
};

}  // namespace stn
