// Bilinear sampling of small planar images of many channels: as many channels of a pixel as a vector has lanes lie side
// by side, with zeros around the image, so that a tap is one load, whatever the transform, and nothing is masked.
// Points are placed once for all blocks of channels.
#pragma once
#include "quad_passes.h"

namespace stn::STN_LEVEL {

constexpr int kBlockLanes = kVectorBytes / 4;
using BlockPixel = Vec<float, kBlockLanes>;

// The points of one row block of an item, which follow `at` others.
struct BlockPart {
  int64_t item, block, first, last, at, count;
};

// What is placed at once: row blocks of an image's items, counted through its samples, of as many points as the second
// cache keeps.
struct BlockParts {
  static constexpr int64_t kMost = 1 << 13;
  const Problem& p;
  int64_t each;  // of an item
  STN_INLINE explicit BlockParts(const Problem& problem) : p(problem), each(row_blocks(problem.out_height)) {}
  STN_INLINE int64_t count() const { return p.samples * each; }
  // Of the image's i-th part, but for `at`.
  STN_INLINE BlockPart part(int64_t b, int64_t i) const {
    const int64_t block = i % each, first = block * kRowBlock,
                  last = block + 1 < each ? first + kRowBlock : p.out_height;
    return {b * p.samples + i / each,
            block,
            first,
            last,
            0,
            minimum(last * p.out_width, p.item_points()) - first * p.out_width};
  }
  STN_INLINE int64_t most_points() const {
    return maximum(kMost, (p.out_height - (each - 1) * kRowBlock) * p.out_width);
  }
  STN_INLINE bool all_at_once() const { return count() == 1 || p.samples * p.item_points() <= kMost; }
  // Calls body(first, end) for those of [begin, end) that are placed at once.
  template <class Body>
  STN_INLINE void over_groups(int64_t b, int64_t begin, int64_t end, Body body) const {
    int64_t points = 0, first = begin;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t more = part(b, i).count;
      if (i > first && points + more > kMost) body(first, i), first = i, points = 0;
      points += more;
    }
    if (first < end) body(first, end);
  }
  template <class Body>
  STN_INLINE void over(int64_t b, int64_t begin, int64_t end, Body body) const {
    int64_t at = 0;
    for (int64_t i = begin; i < end; ++i) {
      BlockPart one = part(b, i);
      one.at = at, at += one.count;
      body(one);
    }
  }
};

// Where points lie, in elements of a block's lattice, and their weights.
struct BlockPoints {
  static constexpr int N = kBlockLanes;
  using V = BlockPixel;
  using I = Vec<int32_t, N>;
  const QuadLattice& lattice;
  Scratch<int32_t> offset;
  Scratch<float> weight;            // four a point: of the taps, or 1 - fx, fx, 1 - fy, fy
  Scratch<float> slope_x, slope_y;  // of the padding

  STN_INLINE BlockPoints(const QuadLattice& l, int64_t count, bool gradients)
      : lattice(l),
        offset(count + Run<float>::kPoints, uninitialized),
        weight(4 * (count + Run<float>::kPoints), uninitialized),
        slope_x(gradients ? count + Run<float>::kPoints : 1, uninitialized),
        slope_y(gradients ? count + Run<float>::kPoints : 1, uninitialized) {}

  // Places the points of a part; `placed` are the runs of its rows, if they are.
  template <bool kGradients>
  STN_SHARED void place(const Problem& p, const BlockPart& part, const Run<float>* placed) const {
    int64_t at = part.at;
    const auto add = [&](const Run<float>& run) STN_LAMBDA {
      for (int64_t i = 0; i < run.count; i += N) {
        store(offset.data + at + i,
              lattice.offset(load<I>(run.x_index + i), load<I>(run.y_index + i)) * int32_t(lattice.each));
        const QuadPasses::Fractions f(run, i);
        float* to = weight.data + 4 * (at + i);
        if constexpr (kGradients) {
          interleave<4, N>({f.gx, f.fx, f.gy, f.fy}, to);
          store(slope_x.data + at + i, load<V>(run.x_slope + i));
          store(slope_y.data + at + i, load<V>(run.y_slope + i));
        } else {
          interleave<4, N>({f.gx * f.gy, f.fx * f.gy, f.gx * f.fy, f.fx * f.fy}, to);
        }
      }
      at += run.count;
    };
    if (placed) {
      for (const int64_t end = at + part.count; at < end;) add(*placed++);
      return;
    }
    const Source source(p, part.item);
    const Locate<float> locate = locator<float>(p);
    for (int64_t v = part.first; v < part.last; ++v) {
      over_runs<float>(source, locate, v, 0, p.row_width(v),
                       [&](const Run<float>& run, int64_t) STN_LAMBDA { add(run); });
    }
  }
};

// The channels of a block in planes: those beyond `count` are read as zeros and not written.
template <class T>
struct BlockPlanes {
  static constexpr int N = kBlockLanes;
  Elements<T> first;
  int64_t plane;
  int count;

  // Pixels [i, i + N), all their channels in a vector.
  STN_INLINE void read(int64_t i, BlockPixel (&square)[N]) const {
    with_format(first, [&](auto from) STN_LAMBDA {
      if (count == N) {
#pragma GCC unroll 16
        for (int k = 0; k < N; ++k) square[k] = load_as<N>(from + (k * plane + i));
      } else {
        for (int k = 0; k < N; ++k) square[k] = k < count ? load_as<N>(from + (k * plane + i)) : BlockPixel{};
      }
    });
    transpose<1>(square);
  }
  STN_INLINE void write(int64_t i, BlockPixel (&square)[N]) const {
    transpose<1>(square);
    with_format(first, [&](auto to) STN_LAMBDA {
      if (count == N) {
#pragma GCC unroll 16
        for (int k = 0; k < N; ++k) store_sampled<N>(to + (k * plane + i), square[k]);
      } else {
        for (int k = 0; k < count; ++k) store_sampled<N>(to + (k * plane + i), square[k]);
      }
    });
  }
};

// Planes are short streams, of which a block has as many as lanes: what they read and write next is fetched, a line a
// vector.
struct BlockAhead {
  const char* first;
  int64_t plane, step;  // in bytes, from plane to plane and from pixel to pixel; 0: nothing is fetched
  STN_INLINE void operator()(int k, int64_t i) const { __builtin_prefetch(first + (k * plane + i * step), 0, 2); }
};

// Calls body(i, over_pixels) for the squares of an image's pixels, each of N from the i-th on, the last one moved back;
// over_pixels(each) calls each(k, where pixel i + k lies).
template <class Body>
STN_INLINE void over_squares(const QuadLattice& lattice, float* pixels, Body body) {
  constexpr int N = kBlockLanes;
  const int64_t count = lattice.width * lattice.rows;
  for (int64_t first = 0; first < count; first += N) {
    const int64_t i = whole_vector<N>(first, count);
    int64_t x = i % lattice.width;
    float* to = pixels + lattice.at(x, i / lattice.width);
    body(i, [&](auto each) STN_LAMBDA {
#pragma GCC unroll 16
      for (int k = 0; k < N; ++k) {
        each(k, to);
        to += N, ++x;
        if (x == lattice.width) x = 0, to += (lattice.row - lattice.width) * N;
      }
    });
  }
}

template <class T>
STN_SHARED void fill_block(const BlockPlanes<const T>& planes, const QuadLattice& lattice, float* pixels,
                           const BlockAhead& ahead) {
  over_squares(lattice, pixels, [&](int64_t i, auto over_pixels) STN_LAMBDA {
    BlockPixel square[kBlockLanes];
    planes.read(i, square);
    over_pixels([&](int k, float* to) STN_LAMBDA { store(to, square[k]), ahead(k, i); });
  });
}
// The other way round.
template <class T>
STN_SHARED void empty_block(const BlockPlanes<T>& planes, const QuadLattice& lattice, float* pixels) {
  over_squares(lattice, pixels, [&](int64_t i, auto over_pixels) STN_LAMBDA {
    BlockPixel square[kBlockLanes];
    over_pixels([&](int k, float* from) STN_LAMBDA { square[k] = load<BlockPixel>(from); });
    planes.write(i, square);
  });
}

// `count` points from the at-th on.
template <class T>
STN_SHARED void block_forward(const BlockPoints& points, int64_t at, int64_t count, const float* pixels,
                              const BlockPlanes<T>& to, const BlockAhead& ahead) {
  constexpr int N = kBlockLanes;
  const int64_t below = points.lattice.row * N;
  for (int64_t first = 0; first < count; first += N) {
    const int64_t i = whole_vector<N>(first, count);
    const int32_t* offset = points.offset.data + at + i;
    const float* weight = points.weight.data + 4 * (at + i);
    BlockPixel square[N];
#pragma GCC unroll 16
    for (int k = 0; k < N; ++k) {
      const float *from = pixels + offset[k], *w = weight + 4 * k;
      square[k] = load<BlockPixel>(from) * w[0] + load<BlockPixel>(from + N) * w[1];
      square[k] += load<BlockPixel>(from + below) * w[2];
      square[k] += load<BlockPixel>(from + below + N) * w[3];
      ahead(k, i);
    }
    to.write(i, square);
  }
}

// Lanes of two kinds in turn, kStep of each: sums of those of a, and of b.
template <int kStep, class V>
STN_INLINE V folded_pair(V a, V b) {
  exchange<kStep>(a, b, std::make_integer_sequence<int, kBlockLanes>{});
  return a + b;
}
// Lane k of the result is the sum of the lanes of row k, of which rows[k] has those of rows k and k + kRows.
template <int kRows>
STN_INLINE BlockPixel sum_of_rows(BlockPixel (&rows)[kBlockLanes / 2]) {
  if constexpr (kRows > 1) {
#pragma GCC unroll 8
    for (int i = 0; i < kRows / 2; ++i) rows[i] = folded_pair<kRows / 2>(rows[i], rows[i + kRows / 2]);
    return sum_of_rows<kRows / 2>(rows);
  }
  return rows[0];
}

// Calls body(i, fresh, offset, weight, g) for squares of `count` points from the at-th on, each of N from the i-th of
// them: the last one is moved back, fresh from its fresh-th point on. g: the gradient of the output, point by point.
template <class T, class Body>
STN_INLINE void over_gradients(const BlockPoints& points, int64_t at, int64_t count, const BlockPlanes<const T>& grad,
                               Body body) {
  constexpr int N = kBlockLanes;
  for (int64_t first = 0; first < count; first += N) {
    const int64_t i = whole_vector<N>(first, count);
    BlockPixel square[N];
    grad.read(i, square);
    alignas(64) float g[N * N];
#pragma GCC unroll 16
    for (int k = 0; k < N; ++k) store(g + k * N, square[k]);
    body(i, first - i, points.offset.data + at + i, points.weight.data + 4 * (at + i), g);
  }
}

// Adds the gradients of `count` points from the at-th on, but for the padding's slopes, to theirs in grad_x and grad_y,
// or sets them where the block is the first.
template <class T>
STN_SHARED void block_grad_points(const BlockPoints& points, int64_t at, int64_t count, const float* pixels,
                                  const BlockPlanes<const T>& grad, bool is_first, float* grad_x, float* grad_y,
                                  const BlockAhead& ahead) {
  constexpr int N = kBlockLanes;
  using V = BlockPixel;
  const int64_t below = points.lattice.row * N;
  over_gradients<T>(
      points, at, count, grad,
      [&](int64_t i, int64_t fresh, const int32_t* offset, const float* weight, const float* g) STN_LAMBDA {
        V x[N / 2], y[N / 2];  // of points k and k + N / 2
        const auto products = [&](int k, V& along_x, V& along_y) STN_LAMBDA {
          ahead(k, i);
          const float *from = pixels + offset[k], *w = weight + 4 * k;
          const V a = load<V>(from), b = load<V>(from + N), c = load<V>(from + below), d = load<V>(from + below + N),
                  value = load<V>(g + k * N);
          along_x = value * ((b - a) * w[2] + (d - c) * w[3]), along_y = value * ((c - a) * w[0] + (d - b) * w[1]);
        };
#pragma GCC unroll 8
        for (int k = 0; k < N / 2; ++k) {
          V first_x, first_y, second_x, second_y;
          products(k, first_x, first_y), products(k + N / 2, second_x, second_y);
          x[k] = folded_pair<N / 2>(first_x, second_x), y[k] = folded_pair<N / 2>(first_y, second_y);
        }
        const auto add = [&](float* to, V sum) STN_LAMBDA {
          if (is_first) return store(to, sum);
          Vec<int32_t, N> lane;
          for (int k = 0; k < N; ++k) lane[k] = k;
          store(to, load<V>(to) + masked(sum, lane >= int32_t(fresh)));
        };
        add(grad_x + i, sum_of_rows<N / 2>(x)), add(grad_y + i, sum_of_rows<N / 2>(y));
      });
}

// Adds them to the sums of the image's gradient.
template <class T>
STN_SHARED void block_scatter(const BlockPoints& points, int64_t at, int64_t count, const BlockPlanes<const T>& grad,
                              float* sums, const BlockAhead& results, const BlockAhead& ahead) {
  constexpr int N = kBlockLanes;
  using V = BlockPixel;
  const auto add = [](float* to, V value) STN_LAMBDA { store(to, load<V>(to) + value); };
  const int64_t below = points.lattice.row * N;
  over_gradients<T>(points, at, count, grad,
                    [&](int64_t i, int64_t fresh, const int32_t* offset, const float* weight, const float* g)
                        STN_LAMBDA {
#pragma GCC unroll 16
                          for (int k = 0; k < N; ++k) results(k, i);
                          for (int64_t k = fresh; k < N; ++k) {
                            ahead(int(k), i);
                            const float* w = weight + 4 * k;
                            float* to = sums + offset[k];
                            const V value = load<V>(g + k * N), top = value * w[2], bottom = value * w[3];
                            add(to, top * w[0]), add(to + N, top * w[1]);
                            add(to + below, bottom * w[0]), add(to + below + N, bottom * w[1]);
                          }
                        });
}

}  // namespace stn::STN_LEVEL
