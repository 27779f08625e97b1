// Tiles of 4x4 points that lie anywhere: a grid that the user gives, read through the windows of tile.h where a tile's
// taps fit in one, else one by one. float32 or half storage, planar.
#pragma once
#include "points.h"
#include "tap_sums.h"
#include "tile_passes.h"

namespace stn::STN_LEVEL {

constexpr int kTile = Square::kWidth, kWindow = Square::kAcross;

// Whether a call is read so.
STN_INLINE bool windowed(const Problem& p) {
  return kHasTiles && p.dimensions == 2 && placed_in_float(p) && p.dtype != DType::float64 && !p.channels_last &&
         p.input.column == 1 && p.width >= kWindow && p.height >= kWindow && p.out_width >= kTile &&
         p.out_height >= kTile && Region(p, p.input).small;
}

// The taps of a tile are read from its window where all are inside, where some are outside the image, or one by one.
enum class Reach { interior, window, anywhere, outside };

// One axis of a tile.
template <Mode kMode>
struct WindowAxis {
  static constexpr int K = kTaps<kMode>;
  using Unsigned = Vec<uint32_t, 16>;
  int origin;                // of the window
  I16 first;                 // first tap, before padding, from the origin on
  F16 weight[K], slope[K];   // slope: the weight's derivative by the coordinate before padding
  I16 tap[K], inside[K];     // but in the interior: each tap, 0 for one that is not inside the image
  I16 pair, behind, before;  // two taps moved inside: the second is the first one's pixel, or the first the second's

  STN_INLINE WindowAxis(F16 g, Axis<float> axis, Lattice<float> limits, int64_t size) {
    F16 fraction, along;
    I16 pixel;
    place<kMode>(g, axis, limits, pixel, fraction, along);
    if constexpr (kMode != Mode::nearest) {
      tap_weights<kMode>(fraction, weight, slope);
      for (int k = 0; k < K; ++k) slope[k] *= along;
    }
    // Its middle is that of the tile's corners.
    const int a = pixel[0], b = pixel[3], c = pixel[12], d = pixel[15];
    const int low = minimum(minimum(a, b), minimum(c, d)), high = maximum(maximum(a, b), maximum(c, d));
    origin = clamped(((low + high + K) >> 1) + kFirstTap<kMode> - kWindow / 2, 0, int(size) - kWindow);
    first = pixel + (kFirstTap<kMode> - origin);
  }
  // Lists the taps; returns which lanes read a pixel.
  STN_INLINE I16 list_taps(const Problem& p, int64_t size) {
    I16 some{};
    for (int k = 0; k < K; ++k) {
      I16 pixel = first + (origin + k);
      if constexpr (kMode == Mode::bicubic) pixel = padded_tap(pixel, p, size);
      inside[k] = (I16)((Unsigned)pixel < uint32_t(size));
      tap[k] = masked(pixel - origin, inside[k]), some |= inside[k];
    }
    if constexpr (K == 2) {
      const I16 low = splat<I16>(-origin), high = low + int32_t(size - 2);
      pair = minimum(maximum(first, low), high), behind = first > pair, before = first < pair;
    }
    return some;
  }
  STN_INLINE Unsigned farthest() const {
    Unsigned most{};
    for (int k = 0; k < K; ++k) most = maximum(most, (Unsigned)tap[k]);
    return most;
  }
};

STN_INLINE void store_offsets(I16 offsets, int64_t* to) {
  store(to, __builtin_convertvector(offsets, Vec<int64_t, 16>));
  asm volatile("" : "+m"(*(int64_t (*)[16])to));  // reloading beats extracting lane by lane
}

template <Mode kMode>
struct WindowTaps {
  static constexpr int K = kTaps<kMode>;
  using Unsigned = typename WindowAxis<kMode>::Unsigned;
  WindowAxis<kMode> x, y;

  // Lists the taps where they have to be.
  STN_INLINE Reach reach(const Problem& p) {
    if (all(maximum((Unsigned)x.first, (Unsigned)y.first) <= uint32_t(kWindow - K))) return Reach::interior;
    if (all((x.list_taps(p, p.width) & y.list_taps(p, p.height)) == 0)) return Reach::outside;
    return all(maximum(x.farthest(), y.farthest()) < uint32_t(kWindow)) ? Reach::window : Reach::anywhere;
  }
  // Calls f(row, column, value) for the K x K taps in a plane, if any is inside.
  template <Reach kReach, class T, class F>
  STN_INLINE void read(const T* plane, int64_t stride, F f) const {
    if constexpr (kReach == Reach::outside) return;
    plane += y.origin * stride + x.origin;
    if constexpr (kReach == Reach::anywhere && kMode == Mode::bilinear) {
      for (int j = 0; j < 2; ++j) {
        alignas(64) int64_t offset[16];
        store_offsets(y.tap[j] * int32_t(stride) + x.pair, offset);
        Vec<float, 8> near[2], next[2];
        for (int k = 0; k < 2; ++k) load_pairs<T, 8>(plane, offset + 8 * k, near[k], next[k]);
        const F16 a = joined(near[0], near[1]), b = joined(next[0], next[1]);
        f(j, 0, masked(x.behind ? b : a, y.inside[j] & x.inside[0]));
        f(j, 1, masked(x.before ? a : b, y.inside[j] & x.inside[1]));
      }
    } else if constexpr (kReach == Reach::anywhere) {
      for (int j = 0; j < K; ++j) {
        for (int i = 0; i < K; ++i) {
          alignas(64) int64_t offset[16];
          store_offsets(y.tap[j] * int32_t(stride) + x.tap[i], offset);
          f(j, i, masked(gather<16>(plane, offset), y.inside[j] & x.inside[i]));
        }
      }
    } else {
      const Window<Square> window(plane, stride);
      const I16 corner = y.first * kWindow + x.first;
#pragma GCC unroll 4
      for (int j = 0; j < K; ++j) {
#pragma GCC unroll 4
        for (int i = 0; i < K; ++i) {
          if constexpr (kReach == Reach::interior) {
            f(j, i, window.at(corner + (kWindow * j + i)));
          } else {
            f(j, i, masked(window.at(y.tap[j] * kWindow + x.tap[i]), y.inside[j] & x.inside[i]));
          }
        }
      }
    }
  }
};

// The coordinates x and y of a tile's points, from rows of pairs.
STN_INLINE void load_pairs_of_tile(const float* pairs, int64_t stride, F16& x, F16& y) {
  const F16 upper = load_rows(pairs, stride), lower = load_rows(pairs + 2 * stride, stride);
  x = __builtin_shufflevector(upper, lower, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  y = __builtin_shufflevector(upper, lower, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}
STN_INLINE void store_pairs_of_tile(float* pairs, int64_t stride, F16 x, F16 y) {
  const F16 upper = __builtin_shufflevector(x, y, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  const F16 lower = __builtin_shufflevector(x, y, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  const F16 both[] = {upper, lower};
  for (int row = 0; row < kTile; ++row) {
    __builtin_memcpy(pairs + row * stride, (const char*)both + 32 * row, 32);
  }
}

// A tile of one item: its first point, which of its lanes no tile before had, and the channels to do.
struct WindowTile {
  int64_t item, u, v, channel, channels;
  I16 fresh;
};

// Calls body.template operator()<reach>(tile, taps) for the tiles of tasks [begin, end) of items x row blocks.
template <class T, Mode kMode, class Body>
STN_INLINE void over_windows(const Problem& p, int64_t begin, int64_t end, Body body) {
  const auto axis = [&](int a) STN_LAMBDA {
    const auto exact = pixel_axis<double>(p.extent(a), p.align_corners);
    return Axis<float>{float(exact.scale), float(exact.shift)};
  };
  const auto limits = [&](int a) STN_LAMBDA {
    return p.padding == Padding::zeros ? bounds<kMode, Padding::zeros>(p.extent(a))
                                       : bounds<kMode, Padding::border>(p.extent(a));
  };
  const Axis<float> to_x = axis(0), to_y = axis(1);
  const Lattice<float> limits_x = limits(0), limits_y = limits(1);
  const int64_t width = p.out_width, blocks = row_blocks(p.out_height);
  const int64_t step = channel_block(p.channels, p.input.channel * sizeof(T), p.input.row * sizeof(T));
  for (int64_t task = begin; task < end; ++task) {
    const int64_t item = task / blocks, block = task % blocks, first = block * kRowBlock;
    const int64_t last = block + 1 < blocks ? first + kRowBlock : p.out_height;
    const float* grid = static_cast<const float*>(p.parameters) + 2 * item * p.item_points();
    for (int64_t channel = 0; channel < p.channels; channel += step) {
      for (int64_t row = first; row < last; row += kTile) {
        const int64_t v = minimum(row, last - kTile);
        for (int64_t column = 0; column < width; column += kTile) {
          const int64_t u = minimum(column, width - kTile);
          F16 x, y;
          load_pairs_of_tile(grid + 2 * (v * width + u), 2 * width, x, y);
          WindowTaps<kMode> taps{{x, to_x, limits_x, p.width}, {y, to_y, limits_y, p.height}};
          const WindowTile tile{item,
                                u,
                                v,
                                channel,
                                minimum(step, p.channels - channel),
                                fresh_lanes<Square>(int(column - u), int(row - v))};
          const auto run = [&]<Reach kReach>() STN_LAMBDA { body.template operator()<kReach>(tile, taps); };
          switch (taps.reach(p)) {
            case Reach::interior:
              run.template operator()<Reach::interior>();
              break;
            case Reach::window:
              run.template operator()<Reach::window>();
              break;
            case Reach::anywhere:
              run.template operator()<Reach::anywhere>();
              break;
            case Reach::outside:
              run.template operator()<Reach::outside>();
          }
        }
      }
    }
  }
}

template <class T, Mode kMode>
void windows_forward(const Problem& p, int64_t begin, int64_t end) {
  constexpr int K = kTaps<kMode>;
  over_windows<T, kMode>(
      p, begin, end, [&]<Reach kReach>(const WindowTile& tile, const WindowTaps<kMode>& taps) STN_LAMBDA {
        const T* image = static_cast<const T*>(p.input.data) + tile.item / p.samples * p.input.batch +
                         tile.channel * p.input.channel;
        T* out = static_cast<T*>(p.output.data) + tile.item * p.output.batch + tile.channel * p.output.channel +
                 tile.v * p.output.row + tile.u;
        for (int64_t c = 0; c < tile.channels; ++c, image += p.input.channel, out += p.output.channel) {
          F16 line[K] = {}, sum{};
          taps.template read<kReach>(image, p.input.row, [&](int j, int i, F16 value) STN_LAMBDA {
            line[j] = kMode == Mode::nearest ? value : line[j] + taps.x.weight[i] * value;
          });
          for (int j = 0; j < K; ++j) sum = kMode == Mode::nearest ? line[j] : sum + taps.y.weight[j] * line[j];
          store_tile<Square>(out, p.output.row, sum);
        }
      });
}

template <class T, Mode kMode>
void windows_grad_grid(const Problem& p, int64_t begin, int64_t end) {
  constexpr int K = kTaps<kMode>;
  const float scale_x = float(pixel_axis<double>(p.width, p.align_corners).scale);
  const float scale_y = float(pixel_axis<double>(p.height, p.align_corners).scale);
  over_windows<T, kMode>(
      p, begin, end, [&]<Reach kReach>(const WindowTile& tile, const WindowTaps<kMode>& taps) STN_LAMBDA {
        const T* image = static_cast<const T*>(p.input.data) + tile.item / p.samples * p.input.batch +
                         tile.channel * p.input.channel;
        const T* grad = static_cast<const T*>(p.grad_output.data) + tile.item * p.grad_output.batch +
                        tile.channel * p.grad_output.channel + tile.v * p.grad_output.row + tile.u;
        F16 gx{}, gy{};
        for (int64_t c = 0; c < tile.channels; ++c, image += p.input.channel, grad += p.grad_output.channel) {
          F16 line[K] = {}, slope[K] = {}, along_x{}, along_y{};
          taps.template read<kReach>(image, p.input.row, [&](int j, int i, F16 value) STN_LAMBDA {
            line[j] += taps.x.weight[i] * value, slope[j] += taps.x.slope[i] * value;
          });
          for (int j = 0; j < K; ++j) along_x += taps.y.weight[j] * slope[j], along_y += taps.y.slope[j] * line[j];
          const F16 g = load_tile<Square>(grad, p.grad_output.row);
          gx += g * along_x, gy += g * along_y;
        }
        gx *= scale_x, gy *= scale_y;
        float* to =
            static_cast<float*>(p.grad_grid) + 2 * (tile.item * p.item_points() + tile.v * p.out_width + tile.u);
        if (tile.channel > 0) {
          F16 x, y;
          load_pairs_of_tile(to, 2 * p.out_width, x, y);
          gx = x + masked(gx, tile.fresh), gy = y + masked(gy, tile.fresh);
        }
        store_pairs_of_tile(to, 2 * p.out_width, gx, gy);
      });
}

}  // namespace stn::STN_LEVEL
