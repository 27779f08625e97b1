// The taps of one point in any mode and number of dimensions: K^n of them, as rows of K along x. The rules of
// reference/sampling.py.
#pragma once
#include "common/taps.h"
#include "transform.cuh"

namespace stn {

// Along one axis: which pixels, which of them exist, with which weight and its derivative by the pixel coordinate.
template <class T, int K>
struct AxisTaps {
  int index[K];
  bool inside[K];
  T weight[K], slope[K];

  // Tap k, which need not be known at compile time, as the only one.
  __device__ __forceinline__ AxisTaps<T, 1> operator[](int k) const {
    AxisTaps<T, 1> one = {{index[0]}, {inside[0]}, {weight[0]}, {slope[0]}};
#pragma unroll
    for (int i = 1; i < K; ++i) {
      one.index[0] = k == i ? index[i] : one.index[0];
      one.inside[0] = k == i ? inside[i] : one.inside[0];
      one.weight[0] = k == i ? weight[i] : one.weight[0];
      one.slope[0] = k == i ? slope[i] : one.slope[0];
    }
    return one;
  }
};

// x: a pixel coordinate of an axis of `size` pixels.
template <Mode kMode, class T>
__device__ __forceinline__ AxisTaps<T, kTaps<kMode>> axis_taps(const Work& work, T x, int size) {
  constexpr int K = kTaps<kMode>;
  AxisTaps<T, K> taps;
  T slope;
  if constexpr (kMode == Mode::bicubic) {
    const bool reflects = work.padding == Padding::reflection;
    const T low = reflects ? T(-8388608) : T(-3), high = reflects ? T(8388608) : T(size + 2);
    const bool known = x > low && x < high;
    // Every tap of a point further out is the same; of the only pixel all are, and the slope is exactly 0.
    slope = known && (size > 1 || work.padding == Padding::zeros) ? T(1) : T(0);
    x = known ? x : reflects ? T(0) : minimum(maximum(low, x), high);
  } else {
    const Padded<T> padded = pad_by<kAnyPadding>(work, x, size);
    x = padded.x, slope = padded.slope;
  }
  const T low = kMode == Mode::nearest ? std::rint(x) : std::floor(x);
  tap_weights<kMode>(x - low, taps.weight, taps.slope);
#pragma unroll
  for (int k = 0; k < K; ++k) {
    int index = int(low) + kFirstTap<kMode> + k;
    if (kMode == Mode::bicubic && work.padding != Padding::zeros)
      index = int(pad_by<kAnyPadding>(work, T(index), size).x);
    taps.index[k] = index;
    taps.inside[k] = unsigned(index) < unsigned(size);
    taps.slope[k] *= slope;
  }
  return taps;
}

// A row of taps along x: where it starts in the image, whether it exists, the product of its weights along the other
// axes, and the derivatives of that product along y, along z and along both.
template <class T>
struct TapRow {
  int64_t offset;
  bool inside;
  T weight, slope[2], both;
};

// kFew: whether registers are few: then cubic rows are always a loop.
template <class T, Mode kMode, int n, bool kFew = false>
struct PointTaps {
  static constexpr int K = kTaps<kMode>;
  AxisTaps<T, K> axis[n];

  __device__ __forceinline__ PointTaps(const Work& work, const Source<T, n>& source) {
    const int size[3] = {work.width, work.height, work.depth};
#pragma unroll
    for (int a = 0; a < n; ++a) axis[a] = axis_taps<kMode>(work, source.at[a], size[a]);
  }

  // visit(row) for every row of taps. Sixteen cubic rows would be a thousand instructions, and float64 ones want all
  // registers: a loop over the slices, and of cubic float64 taps over their rows.
  template <class F>
  __device__ __forceinline__ void rows(const Strides& strides, F&& visit) const {
    if constexpr (n == 1) {
      visit(TapRow<T>{0, true, T(1), {T(0), T(0)}, T(0)});
    } else if constexpr (n == 2) {
      slice(strides, AxisTaps<T, 1>{{0}, {true}, {T(1)}, {T(0)}}, visit);
    } else if constexpr (K == 4 || sizeof(T) == 8) {
#pragma unroll 1
      for (int k = 0; k < K; ++k) slice(strides, axis[2][k], visit);
    } else {
#pragma unroll
      for (int k = 0; k < K; ++k) slice(strides, axis[2][k], visit);
    }
  }

  // What one channel has at the point; pixel(offset in the plane, exists): a number of the channel.
  template <class GetPixel>
  __device__ __forceinline__ T interpolate(const Strides& strides, GetPixel&& pixel) const {
    T value = 0;
    rows(strides, [&](const TapRow<T>& r) {
      T sum = 0;
#pragma unroll
      for (int k = 0; k < K; ++k)
        sum += axis[0].weight[k] * pixel(r.offset + offset(strides, k), r.inside && axis[0].inside[k]);
      value += r.weight * sum;
    });
    return value;
  }
  // The transpose: adds `value`, a gradient to what the channel has at the point, to a plane that begins at `plane`.
  template <class Add>
  __device__ __forceinline__ void spread(const Strides& strides, int64_t plane, T value, const Add& add) const {
    const T one[1] = {value};
    rows(strides, [&](const TapRow<T>& r) {
#pragma unroll
      for (int k = 0; k < K; ++k)
        if (r.inside && axis[0].inside[k])
          add(plane + r.offset + offset(strides, k), r.weight * axis[0].weight[k], one);
    });
  }
  // The same to the point: adds to `grad`.
  template <class GetPixel>
  __device__ __forceinline__ void pull(const Strides& strides, T value, GetPixel&& pixel, Source<T, n>& grad) const {
    rows(strides, [&](const TapRow<T>& r) {
      T sum = 0, slope = 0;
#pragma unroll
      for (int k = 0; k < K; ++k) {
        const T here = pixel(r.offset + offset(strides, k), r.inside && axis[0].inside[k]);
        sum += axis[0].weight[k] * here;
        slope += axis[0].slope[k] * here;
      }
      grad.at[0] += value * (r.weight * slope);
#pragma unroll
      for (int a = 1; a < n; ++a) grad.at[a] += value * (r.slope[a - 1] * sum);
    });
  }

  // Where tap k of a row lies from its start.
  __device__ __forceinline__ int64_t offset(const Strides& strides, int k) const {
    return int64_t(axis[0].index[k]) * strides.pixel;
  }

 private:
  template <class F>
  __device__ __forceinline__ void slice(const Strides& strides, const AxisTaps<T, 1>& z, F&& visit) const {
    const AxisTaps<T, K>& rows = axis[n > 1 ? 1 : 0];
    const auto row = [&](const AxisTaps<T, 1>& y) {
      visit(TapRow<T>{z.index[0] * strides.slice + int64_t(y.index[0]) * strides.row,
                      bool(z.inside[0] & y.inside[0]),
                      y.weight[0] * z.weight[0],
                      {y.slope[0] * z.weight[0], y.weight[0] * z.slope[0]},
                      y.slope[0] * z.slope[0]});
    };
    if constexpr (K == 4 && (kFew || (n == 3 && sizeof(T) == 8))) {
#pragma unroll 1
      for (int k = 0; k < K; ++k) row(rows[k]);
    } else {
#pragma unroll
      for (int k = 0; k < K; ++k) row(rows[k]);
    }
  }
};

// A number of a plane, for PointTaps.
template <class T, class I>
struct PlanePixel {
  const I* __restrict__ plane;
  __device__ __forceinline__ T operator()(int64_t at, bool exists) const {
    T value[1];
    load(plane + at, exists, value);
    return value[0];
  }
};

// An output pixel by its column and its row among those of all slices.
template <int n>
__device__ __forceinline__ Pixel<n> pixel_at(const Work& work, int column, int row) {
  if constexpr (n == 1) return {{column}};
  if constexpr (n == 2) return {{column, row}};
  if constexpr (n == 3) return {{column, row % work.out_height, row / work.out_height}};
}

template <int n>
__device__ __forceinline__ int64_t offset(const Strides& strides, const Pixel<n>& pixel) {
  int64_t at = int64_t(pixel.at[0]) * strides.pixel;
  if constexpr (n > 1) at += int64_t(pixel.at[1]) * strides.row;
  if constexpr (n > 2) at += pixel.at[2] * strides.slice;
  return at;
}

}  // namespace stn
