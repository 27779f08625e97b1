// Tiles of 4x4 points that lie anywhere, read through the windows of tile.h where a tile's taps fit in one, else one by
// one: bilinear at any transform that is not affine, and every mode at a float32 grid. float32 or half storage, planar.
#pragma once
#include <optional>

#include "item_groups.h"
#include "points.h"
#include "tap_sums.h"
#include "tile_passes.h"
#include "tile_sums.h"

namespace stn::STN_LEVEL {

// Whether the points of a grid are placed tile by tile.
STN_INLINE bool placed_in_tiles(const Problem& p) { return placed_in_float(p) && p.padding != Padding::reflection; }

// Whether a call is read so.
STN_INLINE bool windowed(const Problem& p) {
  const bool near = p.transform != Transform::grid && p.padding != Padding::reflection;
  const bool worthwhile = near || p.channels >= 8;  // else placing row by row and regrouping takes longer than it saves
  if (p.mode == Mode::nearest && p.channels < 8) return false;  // a pixel a point: placing tiles takes longer
  const bool placed =
      placed_in_tiles(p) || (p.mode == Mode::bilinear && p.transform != Transform::affine && worthwhile);
  return p.dimensions == 2 && placed && p.dtype != DType::float64 && !p.channels_last && p.input.column == 1 &&
         p.width >= kWindow && p.height >= kWindow && p.out_width >= kTile && p.out_height >= kTile &&
         Region(p, p.input).small;
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

  STN_INLINE WindowAxis(I16 pixel, F16 fraction, F16 along, int64_t size, int middle) {
    if constexpr (kMode != Mode::nearest) {
      tap_weights<kMode>(fraction, weight, slope);
      unrolled<K>([&](auto k) STN_LAMBDA { slope[k] *= along; });
    }
    origin = clamped(middle + (kFirstTap<kMode> - kWindow / 2), 0, int(size) - kWindow);
    first = pixel + (kFirstTap<kMode> - origin);
  }
  // Lists the taps; returns which lanes read a pixel.
  STN_INLINE I16 list_taps(const Problem& p, int64_t size) {
    I16 some{};
    unrolled<K>([&](auto k) STN_LAMBDA {
      I16 pixel = first + (origin + k);
      if constexpr (kMode == Mode::bicubic) pixel = padded_tap(pixel, p, size);
      inside[k] = (I16)((Unsigned)pixel < uint32_t(size));
      tap[k] = masked(pixel - origin, inside[k]), some |= inside[k];
    });
    if constexpr (K == 2) {
      const I16 low = splat<I16>(-origin), high = low + int32_t(size - 2);
      pair = minimum(maximum(first, low), high), behind = first > pair, before = first < pair;
    }
    return some;
  }
  STN_INLINE Unsigned farthest() const {
    Unsigned most{};
    unrolled<K>([&](auto k) STN_LAMBDA { most = maximum(most, (Unsigned)tap[k]); });
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
  STN_INLINE int64_t corner(int64_t stride) const { return y.origin * stride + x.origin; }  // of the window
  // Calls f(row, column, value) for the K x K taps in a plane, if any is inside; plane begins at the window.
  template <Reach kReach, class Pixels, class F>
  STN_INLINE void read(Pixels plane, int64_t stride, F f) const {
    if constexpr (kReach == Reach::outside) return;
    if constexpr (kReach == Reach::anywhere && kMode == Mode::bilinear) {
      unrolled<2>([&](auto j) STN_LAMBDA {
        alignas(64) int64_t offset[16];
        store_offsets(y.tap[j] * int32_t(stride) + x.pair, offset);
        Vec<float, 8> near[2], next[2];
        unrolled<2>([&](auto k) STN_LAMBDA { load_pairs<8>(plane, offset + 8 * k, near[k], next[k]); });
        const F16 a = joined(near[0], near[1]), b = joined(next[0], next[1]);
        f(j, kConstant<0>, masked(x.behind ? b : a, y.inside[j] & x.inside[0]));
        f(j, kConstant<1>, masked(x.before ? a : b, y.inside[j] & x.inside[1]));
      });
    } else if constexpr (kReach == Reach::anywhere) {
      over_taps([&](auto j, auto i) STN_LAMBDA {
        alignas(64) int64_t offset[16];
        store_offsets(y.tap[j] * int32_t(stride) + x.tap[i], offset);
        f(j, i, masked(gather<16>(plane, offset), y.inside[j] & x.inside[i]));
      });
    } else {
      const auto window = window_at<Square>(plane, stride);
      const I16 corner = y.first * kWindow + x.first;
      constexpr bool kInterior = kReach == Reach::interior;
      const auto index = [&](auto j, auto i) STN_LAMBDA {
        return kInterior ? corner + (kWindow * j + i) : y.tap[j] * kWindow + x.tap[i];
      };
      const auto put = [&](auto j, auto i, F16 value)
                           STN_LAMBDA { f(j, i, kInterior ? value : masked(value, y.inside[j] & x.inside[i])); };
      over_taps([&](auto j, auto i) STN_LAMBDA {
        if constexpr (K == 1) {
          put(j, i, window.at(index(j, i)));
        } else if constexpr (i % 2 == 0) {
          constexpr auto next = kConstant<i + 1>;
          F16 a, b;
          window.two(index(j, i), index(j, next), a, b);
          put(j, i, a), put(j, next, b);
        }
      });
    }
  }

 private:
  template <class F>
  static STN_INLINE void over_taps(F f) {  // f(row, column)
    unrolled<K>([&](auto j) STN_LAMBDA { unrolled<K>([&](auto i) STN_LAMBDA { f(j, i); }); });
  }
};

// Calls f.template operator()<reach>() with that of a tile, whose taps are listed where they have to be.
template <Mode kMode, class F>
STN_INLINE void with_reach(WindowTaps<kMode>& taps, const Problem& p, F f) {
  switch (taps.reach(p)) {
    case Reach::interior:
      return f.template operator()<Reach::interior>();
    case Reach::window:
      return f.template operator()<Reach::window>();
    case Reach::anywhere:
      return f.template operator()<Reach::anywhere>();
    case Reach::outside:
      return f.template operator()<Reach::outside>();
  }
}

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

struct TilePoints {
  I16 index_x, index_y;
  F16 part_x, part_y, slope_x, slope_y;
};

// Where the points of a strip of tiles lie in one item's image.
template <Mode kMode>
struct StripPoints {
  enum class By { grid, homography, spline, rows };
  const Problem& p;
  Axis<float> to_x, to_y;
  Lattice<float> limits_x, limits_y;
  By by = By::grid;
  Strip strip;
  const float* grid;  // of the item
  const Locate<float> locate;
  HomographyStrip homography;
  SplineCoefficients coefficients;
  SplineStrip spline;
  RunStrip runs;

  STN_INLINE StripPoints(const Problem& problem, int64_t items)
      : p(problem),
        to_x(axis(0)),
        to_y(axis(1)),
        limits_x(limits(0)),
        limits_y(limits(1)),
        locate(locator<float>(problem)),
        coefficients(problem, items) {}
  STN_INLINE Axis<float> axis(int a) const {
    const auto exact = pixel_axis<double>(p.extent(a), p.align_corners);
    return {float(exact.scale), float(exact.shift)};
  }
  STN_INLINE Lattice<float> limits(int a) const {
    return p.padding == Padding::zeros ? bounds<kMode, Padding::zeros>(p.extent(a))
                                       : bounds<kMode, Padding::border>(p.extent(a));
  }
  // item: which of the group; basis: of a spline on that strip.
  void place(const Source& source, int64_t item, const Strip& next, const SplineBasis& basis) {
    strip = next;
    if (kMode != Mode::bilinear || placed_in_tiles(p)) {
      grid = static_cast<const float*>(p.parameters) + 2 * source.item * p.item_points();
      return;
    }
    const bool exact = p.padding == Padding::reflection;
    if (p.transform == Transform::homography && !exact && homography.place(source, strip)) {
      by = By::homography;
    } else if (p.transform == Transform::tps && !exact && spline.place(source, strip, basis, coefficients, item)) {
      by = By::spline;
    } else {
      by = By::rows;
      runs.place(source, locate, strip);
    }
  }
  STN_INLINE WindowTaps<kMode> taps(int tile) const {
    const TilePoints at = points(tile);
    // The middle of the taps: of opposite corners, or the pixel after the tile's middle, which is known.
    const auto middle = [](I16 pixel) STN_LAMBDA { return (pixel[0] + pixel[15] + kTaps<kMode>) >> 1; };
    int x, y;
    if (by == By::spline) {
      x = spline.x.pixel[tile] + 1, y = spline.y.pixel[tile] + 1;
    } else if (by == By::homography) {
      x = homography.x.pixel[tile] + 1, y = homography.y.pixel[tile] + 1;
    } else {
      x = middle(at.index_x), y = middle(at.index_y);
    }
    return {{at.index_x, at.part_x, at.slope_x, p.width, x}, {at.index_y, at.part_y, at.slope_y, p.height, y}};
  }
  STN_INLINE TilePoints points(int tile) const {
    const int64_t u = strip.u(tile);
    TilePoints at;
    if (by == By::grid) {
      F16 x, y;
      load_pairs_of_tile(grid + 2 * (strip.v * p.out_width + u), 2 * p.out_width, x, y);
      STN_LEVEL::place<kMode>(x, to_x, limits_x, at.index_x, at.part_x, at.slope_x);
      STN_LEVEL::place<kMode>(y, to_y, limits_y, at.index_y, at.part_y, at.slope_y);
    } else if (by == By::rows) {
      runs.points(u, at.index_x, at.part_x, at.slope_x, at.index_y, at.part_y, at.slope_y);
    } else {
      const bool border = p.padding == Padding::border;
      if (by == By::homography) {
        F16 x, y;
        homography.offsets(tile, x, y);
        homography.x.points(tile, x, border, p.width, at.index_x, at.part_x, at.slope_x);
        homography.y.points(tile, y, border, p.height, at.index_y, at.part_y, at.slope_y);
      } else {
        spline.x.points(tile, spline.from_x[tile], border, p.width, at.index_x, at.part_x, at.slope_x);
        spline.y.points(tile, spline.from_y[tile], border, p.height, at.index_y, at.part_y, at.slope_y);
      }
    }
    return at;
  }
  // The strip as one run of each of its rows.
  void to_runs(Run<float>* const (&rows)[kTile], int64_t width) const {
    for (int i = 0; i < strip.count; ++i) {
      const TilePoints at = points(i);
      const int64_t to = strip.u(i) - strip.first_u;
      const auto put = [&](auto values, auto array) STN_LAMBDA {
        alignas(64) decltype(values) from = values;
        for (int row = 0; row < kTile; ++row)
          __builtin_memcpy(rows[row]->*array + to, (const char*)&from + 16 * row, 16);
      };
      put(at.index_x, &Run<float>::x_index), put(at.index_y, &Run<float>::y_index);
      put(at.part_x, &Run<float>::x_fraction), put(at.part_y, &Run<float>::y_fraction);
      put(at.slope_x, &Run<float>::x_slope), put(at.slope_y, &Run<float>::y_slope);
    }
    for (Run<float>* run : rows) run->count = width, end_run(*run);
  }
};

// What a tile fetches ahead: its share of planes, if that has a width, else rows.
struct WindowAhead {
  // Of items that take turns: the second next is fetched, and rows below the strip, since a transformation may reach
  // there. Those above them are fetched with the first strip.
  static constexpr int64_t kItems = 2, kBelow = 3 * kTile;
  RowsAhead<Square> rows;
  ShareAhead<Square> share;
  bool turns;
  int64_t below = 0;  // rows to fetch besides, above those

  // For the strip at row v of an item of [first, last).
  STN_INLINE WindowAhead in_turn(const Problem& p, const Images<const void*>& other, int64_t item, int64_t first,
                                 int64_t last, int64_t v) const {
    if (!turns) return *this;
    const int64_t next = first + (item - first + kItems) % (last - first);
    const int64_t down = next < item + kItems ? kTile : 0;  // it is on the next strip then
    const int64_t images = next / p.samples - item / p.samples;
    const int64_t read = images * p.input.batch + (kBelow + down) * p.input.row;
    const int64_t write = (next - item) * other.batch + down * other.row;
    return {{rows.on, read, write}, {read, write, share.width}, true, v == 0 ? kBelow : 0};
  }
  // For its tile at (u, v) whose window is `corner` from a plane's beginning.
  STN_INLINE WindowAhead of(int64_t u, int64_t v, int64_t corner) const {
    if (!share.width) return *this;
    const bool wide = share.width > kTile * kStripTiles;  // a strip does not read whole rows
    return {rows, wide ? share.line_of(u, v, corner) : share.of(u, v, corner), turns, below};
  }
  template <class R, class W>
  STN_INLINE void operator()(R from, int64_t from_stride, W to, int64_t to_stride) const {
    if (!share.width) return rows(from, from_stride, to, to_stride);
    share(from, from_stride, to, to_stride);
    for (int64_t row = kTile; row <= below; row += kTile)
      __builtin_prefetch(address(from + (share.read - row * share.width)), 0, 2);
  }
};

// A tile of one item: its window in the first of the channels to do, where its first point is on the other side,
// whether these channels are the item's first, which strip's which tile it is and what to fetch meanwhile.
struct WindowTile {
  Elements<const Any> window;
  int64_t other, channels;
  bool first;
  int strip, index;
  WindowAhead ahead;
};

// Strips of one block of rows that take turns with the blocks of channels, so that the lines of a block stay in the
// cache and the next one's are fetched.
struct Strips {
  static constexpr int kMost = 16;
  static constexpr int64_t kAcross = kTile * kStripTiles, kBasesRoom = 1 << 19;  // bytes
  Strip strips[kMost];
  int count = 0;
  // Of all strips of the output where they come again and, beside few channels, stay near; else of those at hand.
  std::vector<SplineBasis> bases;
  int64_t most, down = 0;  // strips at hand at most; strips of a column, if of all
  int64_t bases_at[kMost] = {};

  // again: whether the same strips come for other items.
  STN_INLINE Strips(const Problem& p, int64_t channels, bool again) {
    const bool spline = p.transform == Transform::tps;
    const int64_t fit = kBasesRoom / basis_bytes(p);
    most = p.channels <= channels ? 1 : spline ? maximum<int64_t>(1, minimum<int64_t>(kMost, fit)) : kMost;
    if (again && all_near(p)) down = rows_of(p);
    for (int64_t i = 0; i < (down ? all_of(p) : spline ? most : 1); ++i) bases.emplace_back(p);
  }
  static STN_INLINE int64_t rows_of(const Problem& p) { return (p.out_height + kTile - 1) / kTile; }
  static STN_INLINE int64_t all_of(const Problem& p) { return rows_of(p) * ((p.out_width + kAcross - 1) / kAcross); }
  static STN_INLINE int64_t basis_bytes(const Problem& p) {
    return (p.controls + tps_affine_rows(2)) * kStripTiles * 64;
  }
  // Whether the bases of all strips of the output stay near, beside few channels.
  static STN_INLINE bool all_near(const Problem& p) {
    return p.transform == Transform::tps && p.channels <= kQuadChannels && all_of(p) * basis_bytes(p) <= kBasesRoom;
  }
  STN_INLINE const SplineBasis& basis(int i) const { return bases[size_t(bases_at[i])]; }

  // Calls body() with some strips at a time of output rows [top, bottom).
  template <class Body>
  STN_INLINE void over(const Problem& p, int64_t top, int64_t bottom, Body body) {
    const int64_t width = p.out_width;
    for (int64_t column = 0; column < width; column += kAcross) {
      const int tiles = int(minimum((width - column + kTile - 1) / kTile, int64_t(kStripTiles)));
      for (int64_t row = top; row < bottom; row += kTile) {
        const int64_t v = minimum(row, bottom - kTile);
        strips[count] = {v, column, width - kTile, int(row - v), tiles};
        if (p.transform == Transform::tps && p.padding != Padding::reflection) {
          bases_at[count] = down ? column / kAcross * down + row / kTile : count;
          bases[size_t(bases_at[count])].place(p, strips[count]);
        }
        if (++count == most) body(), count = 0;
      }
      if (count > 0) body(), count = 0;
    }
  }
};

// Where what is read and written next lies from a tile: in the next block of channels, in the next item where a group
// takes turns or images are small, or below.
STN_INLINE WindowAhead next_tile(const Problem& p, int64_t channels, int64_t items, int64_t size,
                                 const Images<const void*>& other) {
  const bool on = leaves_cache(p, size), shares = has_shares(p, p.input.row, other.row);
  const auto ahead = [&](bool by_share, int64_t read, int64_t write, bool turns = false) STN_LAMBDA {
    return WindowAhead{{on, read, write}, {read, write, by_share && shares ? p.width : 0}, turns};
  };
  if (walks_planes(p.channels, channels, p.input.channel))
    return ahead(on, channels * p.input.channel, channels * other.channel);
  // A line a tile: that pays even for calls that fit the cache.
  if (items > 1) return ahead(true, 0, 0, true);
  if (small_images(p.channels, p.input.channel, other.channel))
    return ahead(true, p.samples > 1 ? 0 : p.input.batch, other.batch);
  return ahead(false, (kTile + kWindow / 2) * p.input.row, kTile * other.row);
}

// Calls body.template operator()<reach>(tile, taps) for the tiles and channels of tasks [begin, end) of groups of items
// x row blocks, and between(source, i, points) after all channels of an item's i-th strip at hand; first(items, last
// item) and after(source, block) around each task.
template <Mode kMode, class First, class Body, class Between, class After>
STN_INLINE void over_windows(const Problem& p, int64_t begin, int64_t end, First first, Body body, Between between,
                             After after) {
  const int64_t size = elements<const Any>(p, p.input.data).size();
  const int64_t step = channel_block(p.channels, p.input.channel * size, p.input.row * size, 2);
  const Images<const void*> output{p.output.data, p.output.batch, p.output.channel, p.output.row, 1};
  const Images<const void*> other = p.output.data ? output : p.grad_output;
  const Groups groups(p);
  const WindowAhead ahead = next_tile(p, step, groups.size, size, other);
  StripPoints<kMode> points(p, groups.size);
  Strips strips(p, step, end - begin > groups.blocks);
  TpsBasis stored(p, kTile);
  std::vector<Source> sources;
  groups.over(
      begin, end, [&](int64_t first_item, int64_t last_item, int64_t block, int64_t top, int64_t bottom) STN_LAMBDA {
        sources.clear();
        for (int64_t item = first_item; item < last_item; ++item) {
          sources.emplace_back(p, item, &stored);
          if (p.transform == Transform::tps) points.coefficients.set(sources.back(), item - first_item);
        }
        first(first_item, last_item);
        strips.over(p, top, bottom, [&]() STN_LAMBDA {
          for (const Source& source : sources) {
            const WindowAhead fetches = ahead.in_turn(p, other, source.item, first_item, last_item, strips.strips[0].v);
            for (int64_t channel = 0; channel < p.channels; channel += step) {
              const int64_t channels = minimum(step, p.channels - channel);
              Elements<const Any> image = elements<const Any>(p, p.input.data) +
                                          source.item / p.samples * p.input.batch + channel * p.input.channel;
              for (int s = 0; s < strips.count; ++s) {
                points.place(source, source.item - first_item, strips.strips[s], strips.basis(s));
                const int64_t first = source.item * other.batch + channel * other.channel + points.strip.v * other.row;
                for (int i = 0; i < points.strip.count; ++i) {
                  WindowTaps<kMode> taps = points.taps(i);
                  const int64_t corner = taps.corner(p.input.row), u = points.strip.u(i);
                  const WindowTile tile{
                      image + corner, first + u, channels, channel == 0, s, i, fetches.of(u, points.strip.v, corner)};
                  with_reach(taps, p, [&]<Reach kReach>() STN_LAMBDA { body.template operator()<kReach>(tile, taps); });
                }
              }
            }
            between(source, strips, points);
          }
        });
        for (const Source& source : sources) after(source, block);
      });
}

// What is kept from one group of items to the next.
struct ItemStrips {
  const Problem& p;
  StripPoints<Mode::bilinear> points;
  Strips strips;
  TpsBasis stored;
  std::vector<Source> sources;
  STN_INLINE ItemStrips(const Problem& problem, int64_t most_items)
      : p(problem),
        points(problem, most_items),
        strips(problem, problem.channels, problem.items() > most_items),
        stored(problem, kTile) {}

  // Calls body(source, strips, points) for the strips of the rows [top, bottom), at least a tile's, one at a time, and
  // the items [first, last), which share their functions.
  template <class Body>
  STN_INLINE void over(int64_t first, int64_t last, int64_t top, int64_t bottom, Body body) {
    sources.clear();
    for (int64_t item = first; item < last; ++item) {
      sources.emplace_back(p, item, &stored);
      if (p.transform == Transform::tps) points.coefficients.set(sources.back(), item - first);
    }
    strips.over(p, top, bottom, [&]() STN_LAMBDA {
      for (const Source& source : sources) body(source, strips, points);
    });
  }
};

// Places the points of those rows as runs, row by row of an item after the other; zeros or border padding.
inline void place_runs(ItemStrips& items, int64_t first, int64_t last, int64_t top, int64_t bottom, Run<float>* runs) {
  const Problem& p = items.p;
  constexpr int64_t kPoints = Run<float>::kPoints;
  static_assert(kPoints == kTile * kStripTiles);
  const int64_t per_row = (p.out_width + kPoints - 1) / kPoints;
  items.over(first, last, top, bottom,
             [&](const Source& source, Strips& strips, StripPoints<Mode::bilinear>& points) STN_LAMBDA {
               const Strip& strip = strips.strips[0];
               const int64_t u = strip.first_u, width = minimum(kPoints, p.out_width - u);
               Run<float>* rows[kTile];
               for (int j = 0; j < kTile; ++j)
                 rows[j] = runs + ((source.item - first) * (bottom - top) + strip.v - top + j) * per_row + u / kPoints;
               if (width >= kTile) points.place(source, source.item - first, strip, strips.basis(0));
               if (width >= kTile && points.by != StripPoints<Mode::bilinear>::By::rows) {
                 points.to_runs(rows, width);
               } else {
                 for (int j = 0; j < kTile; ++j) points.locate(source, strip.v + j, u, width, *rows[j]);
               }
             });
}

template <Mode kMode>
void windows_forward(const Problem& p, int64_t begin, int64_t end) {
  constexpr int K = kTaps<kMode>;
  over_windows<kMode>(
      p, begin, end, [](int64_t, int64_t) {},
      [&]<Reach kReach>(const WindowTile& tile, const WindowTaps<kMode>& taps) STN_LAMBDA {
        in_format(tile.window, elements<Any>(p, p.output.data) + tile.other, [&](auto image, auto out) STN_LAMBDA {
          for (int64_t c = 0; c < tile.channels; ++c, image += p.input.channel, out += p.output.channel) {
            tile.ahead(image, p.input.row, out, p.output.row);
            F16 line[K] = {}, sum{};
            taps.template read<kReach>(image, p.input.row, [&](auto j, auto i, F16 value) STN_LAMBDA {
              line[j] = kMode == Mode::nearest ? value : line[j] + taps.x.weight[i] * value;
            });
            unrolled<K>([&](auto j)
                            STN_LAMBDA { sum = kMode == Mode::nearest ? line[j] : sum + taps.y.weight[j] * line[j]; });
            store_tile<Square>(out, p.output.row, sum);
          }
        });
      },
      [](const Source&, const auto&, auto&) {}, [](const Source&, int64_t) {});
}

// What a task sums up for the parameters of one of its items.
template <class TileSums, class RowSums>
struct WindowSums {
  TileSums tiles;
  std::optional<RowSums> rows;  // of strips that are not placed by tiles
  STN_INLINE explicit WindowSums(const Problem& p) : tiles(p) {}

  // Adds a strip that rows have placed.
  void add(const Source& s, const Strip& strip, const RunStrip& runs, const TileGradients& g) {
    if (!rows) rows.emplace(s.p);
    for (int row = 0; row < kTile; ++row) {
      alignas(64) float x[Run<float>::kPoints] = {}, y[Run<float>::kPoints] = {};
      for (int i = 0; i < strip.count; ++i) {
        for (int j = strip.fresh_u(i); j < kTile; ++j) {
          const int64_t at = strip.u(i) + j - runs.first;
          x[at] = g.x[i][row * kTile + j], y[at] = g.y[i][row * kTile + j];
        }
      }
      rows->add(s, Cotangents(strip.v + row, runs.first, runs.rows[row].count, x, y));
    }
  }
  // The sums, to begin anew.
  void finish(const Source& s, double* out) {
    if (rows) rows->finish(s, out), rows.reset();
    tiles.finish(s, out), tiles.clear();
  }
};

// The gradient of the parameters: of a grid, or of the items of a task, `most_items` at most.
struct WindowGradients {
  const Problem& p;
  int64_t first_item = 0;
  TileGradients strips[Strips::kMost];
  std::vector<WindowSums<HomographyTileSums, HomographySums>> homographies;
  std::vector<WindowSums<SplineTileSums, TpsSums>> splines;

  STN_INLINE WindowGradients(const Problem& problem, int64_t most_items) : p(problem) {
    for (int64_t item = 0; item < most_items; ++item) {
      if (p.transform == Transform::homography) homographies.emplace_back(p);
      if (p.transform == Transform::tps) splines.emplace_back(p);
    }
  }
  template <class Points>
  void add(const Source& s, const Strips& all, Points& points) {
    for (int i = 0; i < all.count; ++i) {
      const Strip& strip = all.strips[i];
      TileGradients& g = strips[i];
      if (p.transform == Transform::grid) {
        store(s.item, strip, g);
        continue;
      }
      for (int k = 0; k < strip.count; ++k) {
        const I16 fresh = fresh_lanes<Square>(strip.fresh_u(k), strip.fresh_v);
        g.x[k] = masked(g.x[k], fresh), g.y[k] = masked(g.y[k], fresh);
      }
      const size_t item = size_t(s.item - first_item);
      if (all.count > 1) points.place(s, int64_t(item), strip, all.basis(i));
      if (points.by == Points::By::homography) {
        homographies[item].tiles.add(s, strip, points.homography, g);
      } else if (points.by == Points::By::spline) {
        splines[item].tiles.add(strip, all.basis(i), g);
      } else {
        p.transform == Transform::tps ? splines[item].add(s, strip, points.runs, g)
                                      : homographies[item].add(s, strip, points.runs, g);
      }
    }
  }
  void store(int64_t item, const Strip& strip, const TileGradients& g) const {
    const float scale_x = float(pixel_axis<double>(p.width, p.align_corners).scale);
    const float scale_y = float(pixel_axis<double>(p.height, p.align_corners).scale);
    for (int i = 0; i < strip.count; ++i) {
      const int64_t first = 2 * (item * p.item_points() + strip.v * p.out_width + strip.u(i)), stride = 2 * p.out_width;
      const F16 x = g.x[i] * scale_x, y = g.y[i] * scale_y;
      if (!p.double_parameters) {
        store_pairs_of_tile(static_cast<float*>(p.grad_grid) + first, stride, x, y);
        continue;
      }
      for (int k = 0; k < 16; ++k) {
        double* to = static_cast<double*>(p.grad_grid) + first + k / kTile * stride + 2 * (k % kTile);
        to[0] = x[k], to[1] = y[k];
      }
    }
  }
  void finish(const Source& s, int64_t block) {
    const size_t item = size_t(s.item - first_item);
    double* out = p.sums + (s.item * row_blocks(p.out_height) + block) * p.parameter_count();
    if (p.transform == Transform::homography) homographies[item].finish(s, out);
    if (p.transform == Transform::tps) splines[item].finish(s, out);
  }
};

// The shares of a row block, output rows [top, bottom), at least a tile's, in the sums of the items [first, last), from
// the gradients of their points, item after item.
inline void sum_strips(const Problem& p, int64_t first, int64_t last, int64_t block, int64_t top, int64_t bottom,
                       const float* grad_x, const float* grad_y) {
  WindowGradients gradients(p, last - first);
  gradients.first_item = first;
  ItemStrips items(p, last - first);
  items.over(first, last, top, bottom, [&](const Source& source, Strips& strips, auto& points) STN_LAMBDA {
    const Strip& strip = strips.strips[0];
    TileGradients& tiles = gradients.strips[0];
    points.place(source, source.item - first, strip, strips.basis(0));
    for (int i = 0; i < strip.count; ++i) {
      const int64_t at = (source.item - first) * p.item_points() + strip.v * p.out_width + strip.u(i);
      tiles.x[i] = load_tile<Square>(grad_x + at, p.out_width);
      tiles.y[i] = load_tile<Square>(grad_y + at, p.out_width);
    }
    gradients.add(source, strips, points);
  });
  for (int64_t item = first; item < last; ++item) gradients.finish(Source(p, item), block);
}

// The sums over channels of the output's gradient times each tap of a bilinear tile -> dL/d(source pixel).
STN_INLINE void along_axes(const WindowTaps<Mode::bilinear>& taps, const F16 (&products)[2][2], F16& x, F16& y) {
  x = y = F16{};
  unrolled<2>([&](auto j) STN_LAMBDA {
    x += taps.y.weight[j] * (taps.x.slope[0] * products[j][0] + taps.x.slope[1] * products[j][1]);
    y += taps.y.slope[j] * (taps.x.weight[0] * products[j][0] + taps.x.weight[1] * products[j][1]);
  });
}

template <Mode kMode>
void windows_grad_parameters(const Problem& p, int64_t begin, int64_t end) {
  constexpr int K = kTaps<kMode>;
  WindowGradients gradients(p, Groups(p).size);
  over_windows<kMode>(
      p, begin, end, [&](int64_t first, int64_t) STN_LAMBDA { gradients.first_item = first; },
      [&]<Reach kReach>(const WindowTile& tile, const WindowTaps<kMode>& taps) STN_LAMBDA {
        TileGradients& sums = gradients.strips[tile.strip];
        F16 gx{}, gy{};
        if (!tile.first) gx = sums.x[tile.index], gy = sums.y[tile.index];
        if constexpr (kReach != Reach::outside) {
          F16 products[2][2] = {};  // of a bilinear tile: sums over channels of the output's gradient times each tap
          in_format(
              tile.window, elements<const Any>(p, p.grad_output.data) + tile.other,
              [&](auto image, auto grad) STN_LAMBDA {
                for (int64_t c = 0; c < tile.channels; ++c, image += p.input.channel, grad += p.grad_output.channel) {
                  tile.ahead(image, p.input.row, grad, p.grad_output.row);
                  const F16 g = load_tile<Square>(grad, p.grad_output.row);
                  if constexpr (K == 2) {
                    taps.template read<kReach>(
                        image, p.input.row, [&](auto j, auto i, F16 value) STN_LAMBDA { products[j][i] += g * value; });
                    continue;
                  }
                  F16 line[kTaps<kMode>] = {}, slope[kTaps<kMode>] = {}, along_x{}, along_y{};
                  taps.template read<kReach>(image, p.input.row, [&](auto j, auto i, F16 value) STN_LAMBDA {
                    line[j] += taps.x.weight[i] * value, slope[j] += taps.x.slope[i] * value;
                  });
                  unrolled<K>([&](auto j) STN_LAMBDA {
                    along_x += taps.y.weight[j] * slope[j], along_y += taps.y.slope[j] * line[j];
                  });
                  gx += g * along_x, gy += g * along_y;
                }
              });
          if constexpr (K == 2) {
            F16 x, y;
            along_axes(taps, products, x, y);
            gx += x, gy += y;
          }
        }
        sums.x[tile.index] = gx, sums.y[tile.index] = gy;
      },
      [&](const Source& source, const Strips& strips, auto& points)
          STN_LAMBDA { gradients.add(source, strips, points); },
      [&](const Source& source, int64_t block) STN_LAMBDA { gradients.finish(source, block); });
}

}  // namespace stn::STN_LEVEL
