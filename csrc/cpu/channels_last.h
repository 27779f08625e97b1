// Bilinear sampling of channels_last images: one point at a time, lanes over channels.
#pragma once
#include "coordinates.h"

namespace stn::STN_LEVEL {

// One point: four pixels (top left, top right, bottom left, bottom right), their weights, and which are inside.
template <class A>
struct PixelTaps {
  int64_t offset[4];
  A weight[4];
  bool inside[4], interior, outside;
  A x_slope, y_slope, x, y;

  STN_INLINE PixelTaps(const Run<A>& run, int64_t i, int64_t width, int64_t first_row, int64_t rows, int64_t row_stride,
                       int64_t pixel_stride) {
    const int64_t column = run.x_index[i], row = run.y_index[i] - first_row;
    x = run.x_fraction[i], y = run.y_fraction[i], x_slope = run.x_slope[i], y_slope = run.y_slope[i];
    const bool left = column >= 0 && column < width, right = column >= -1 && column < width - 1;
    const bool top = row >= 0 && row < rows, bottom = row >= -1 && row < rows - 1;
    const int64_t origin = row * row_stride + column * pixel_stride;
    for (int k = 0; k < 4; ++k) {
      offset[k] = origin + (k & 1) * pixel_stride + (k >> 1) * row_stride;
      weight[k] = (k & 1 ? x : 1 - x) * (k & 2 ? y : 1 - y);
      inside[k] = (k & 1 ? right : left) && (k & 2 ? bottom : top);
    }
    interior = left && right && top && bottom;
    outside = !((left || right) && (top || bottom));
  }
};

// Calls f(c, lanes as an integral constant) over channels [0, channels) in vectors, then one by one.
template <class A, class F>
STN_INLINE void over_channels(int64_t channels, F f) {
  constexpr int kWide = kVectorBytes / int(sizeof(A)), kNarrow = 16 / int(sizeof(A));
  int64_t c = 0;
  for (; c + kWide <= channels; c += kWide) f(c, std::integral_constant<int, kWide>{});
  if constexpr (kNarrow < kWide) {
    for (; c + kNarrow <= channels; c += kNarrow) f(c, std::integral_constant<int, kNarrow>{});
  }
  for (; c < channels; ++c) f(c, std::integral_constant<int, 1>{});
}

template <class T>
STN_INLINE void channels_last_forward(const Run<Compute<T>>& run, const Problem& p, const T* image, T* output) {
  using A = Compute<T>;
  for (int64_t i = 0; i < run.count; ++i, output += p.output.column) {
    const PixelTaps<A> t(run, i, p.width, 0, p.height, p.input.row, p.input.column);
    const auto sum = [&](auto interior) STN_LAMBDA {
      over_channels<A>(p.channels, [&](int64_t c, auto lanes) STN_LAMBDA {
        using V = Vec<A, lanes>;
        V value{};
        for (int k = 0; k < 4; ++k) {
          if (interior || t.inside[k]) value += t.weight[k] * load_as<lanes>(image + t.offset[k] + c);
        }
        store_as<lanes>(output + c, value);
      });
    };
    if (t.interior) {
      sum(std::true_type{});
    } else {
      sum(std::false_type{});
    }
  }
}

template <class T>
STN_INLINE void channels_last_grad_points(const Run<Compute<T>>& run, const Problem& p, const T* image,
                                          const T* grad_output, Compute<T>* grad_x, Compute<T>* grad_y) {
  using A = Compute<T>;
  for (int64_t i = 0; i < run.count; ++i, grad_output += p.grad_output.column) {
    const PixelTaps<A> t(run, i, p.width, 0, p.height, p.input.row, p.input.column);
    A sums[4] = {};  // of the output's gradient times each tap
    if (!t.outside) {
      constexpr int kWide = kVectorBytes / int(sizeof(A));
      Vec<A, kWide> wide[4] = {};
      over_channels<A>(p.channels, [&](int64_t c, auto lanes) STN_LAMBDA {
        const auto g = load_as<lanes>(grad_output + c);
        for (int k = 0; k < 4; ++k) {
          if (!t.inside[k]) continue;
          const auto product = g * load_as<lanes>(image + t.offset[k] + c);
          if constexpr (lanes == kWide) {
            wide[k] += product;
          } else {
            for (int l = 0; l < lanes; ++l) sums[k] += product[l];
          }
        }
      });
      for (int k = 0; k < 4; ++k) {
        for (int l = 0; l < kWide; ++l) sums[k] += wide[k][l];
      }
    }
    grad_x[i] = t.x_slope * ((1 - t.y) * (sums[1] - sums[0]) + t.y * (sums[3] - sums[2]));
    grad_y[i] = t.y_slope * ((1 - t.x) * (sums[2] - sums[0]) + t.x * (sums[3] - sums[1]));
  }
}

// Adds a run's gradients to rows [first_row, first_row + rows) of pixels (W, C) in the compute type.
template <class T>
STN_INLINE void channels_last_scatter(const Run<Compute<T>>& run, const Problem& p, const T* grad_output,
                                      Compute<T>* pixels, int64_t first_row, int64_t rows) {
  using A = Compute<T>;
  for (int64_t i = 0; i < run.count; ++i, grad_output += p.grad_output.column) {
    const PixelTaps<A> t(run, i, p.width, first_row, rows, p.width * p.channels, p.channels);
    if (t.outside) continue;
    over_channels<A>(p.channels, [&](int64_t c, auto lanes) STN_LAMBDA {
      const auto g = load_as<lanes>(grad_output + c);
      for (int k = 0; k < 4; ++k) {
        if (!t.inside[k]) continue;
        A* pixel = pixels + t.offset[k] + c;
        store_as<lanes>(pixel, load_as<lanes>(pixel) + t.weight[k] * g);
      }
    });
  }
}

}  // namespace stn::STN_LEVEL
