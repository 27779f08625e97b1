// Small images, or the sums of their gradients, as a few numbers a pixel with a margin around, so that one load reads,
// or one store adds, what a point needs there; and rows of planes, from which they are filled.
#pragma once
#include "planes.h"

namespace stn::STN_LEVEL {

constexpr int64_t kQuadChannels = 4;
using Quad = Vec<float, 4>;
using TwoQuads = Vec<float, 8>;
using RunPlanes = float[kQuadChannels][Run<float>::kPoints];  // values of a run's points
// Some rows of an image with a margin around them.
struct QuadLattice {
  static constexpr int64_t kMargin = 2;          // of two taps an axis
  int64_t width, rows, each, margin, row, size;  // each: numbers a pixel; row: pixels of it
  STN_INLINE QuadLattice(int64_t image_width, int64_t image_rows, int64_t numbers, int64_t around = kMargin)
      : width(image_width),
        rows(image_rows),
        each(numbers),
        margin(around),
        row(width + 2 * margin),
        size(each * row * (rows + 2 * margin) + kVectorBytes) {}  // a vector may end behind
  STN_INLINE int64_t at(int64_t x, int64_t y) const { return each * ((y + margin) * row + x + margin); }
  // In pixels, of those x and y that are moved into the margin.
  template <class I>
  STN_INLINE I offset(I x, I y) const {
    const auto inside = [&](I at, int64_t end) STN_LAMBDA {
      return minimum(maximum(at, splat<I>(int32_t(-margin))), splat<I>(int32_t(end))) + int32_t(margin);
    };
    return inside(y, rows) * int32_t(row) + inside(x, width);
  }
};

// Elements i... of each 128 bits of two vectors, those of b from 4 on.
template <int... i, class V, size_t... lane>
STN_INLINE V within_lanes(V a, V b, std::index_sequence<lane...>) {
  constexpr int N = sizeof...(lane), of[] = {i...};
  return __builtin_shufflevector(a, b, (int(lane) / 4 * 4 + of[lane % 4] + (of[lane % 4] < 4 ? 0 : N - 4))...);
}
template <int i, int j, int k, int l, class V>
STN_INLINE V within_lanes(V a, V b) {
  return within_lanes<i, j, k, l>(a, b, std::make_index_sequence<sizeof(V) / 4>{});
}

STN_INLINE Quad lower(TwoQuads v) { return __builtin_shufflevector(v, v, 0, 1, 2, 3); }
STN_INLINE Quad upper(TwoQuads v) { return __builtin_shufflevector(v, v, 4, 5, 6, 7); }

// The quads of as many points as a vector has lanes -> their first, second, third and fourth numbers.
template <int N, class At>
STN_INLINE void apart(At quad, Vec<float, N> (&to)[4]) {
  using Two = Vec<double, 2>;  // as doubles these are inserted by one instruction
  const auto one = [&](int i) STN_LAMBDA { return (Two)quad(i); };
  const auto two = [&](int i) STN_LAMBDA { return __builtin_shufflevector(one(i), one(i + 4), 0, 1, 2, 3); };
  Vec<float, N> rows[4];  // of every fourth point, so that the transpose stays within 128 bits
#pragma GCC unroll 4
  for (int k = 0; k < 4; ++k) {
    if constexpr (N == 4) {
      rows[k] = quad(k);
    } else if constexpr (N == 8) {
      rows[k] = (Vec<float, N>)two(k);
    } else {
      rows[k] = (Vec<float, N>)__builtin_shufflevector(two(k), two(k + 8), 0, 1, 2, 3, 4, 5, 6, 7);
    }
  }
  const auto a = within_lanes<0, 4, 1, 5>(rows[0], rows[1]), b = within_lanes<0, 4, 1, 5>(rows[2], rows[3]);
  const auto c = within_lanes<2, 6, 3, 7>(rows[0], rows[1]), d = within_lanes<2, 6, 3, 7>(rows[2], rows[3]);
  to[0] = within_lanes<0, 1, 4, 5>(a, b), to[1] = within_lanes<2, 3, 6, 7>(a, b);
  to[2] = within_lanes<0, 1, 4, 5>(c, d), to[3] = within_lanes<2, 3, 6, 7>(c, d);
}

// Whether what is held of a single channel are the halves it is stored in, two in a word.
STN_INLINE bool is_half(DType format) { return format == DType::bfloat16 || format == DType::float16; }
// Words of N pixels in a row of halves, as the lower ones, and in another.
template <int N>
STN_INLINE Vec<uint32_t, N> half_words(const uint16_t* lower, const uint16_t* upper) {
  return extended<N>(load<Halves<N>>(lower)) | extended<N>(load<Halves<N>>(upper)) << 16;
}
// Words -> their lower and upper halves, as floats.
template <int N>
STN_INLINE void widen_words(DType format, Vec<float, N> words, Vec<float, N>& lower, Vec<float, N>& upper) {
  widen_pairs<N>(format == DType::bfloat16, (Vec<uint32_t, N>)words, lower, upper);
}

// The same of pairs, given as doubles.
template <int N, class At>
STN_INLINE void apart_pairs(At pair, Vec<float, N> (&to)[2]) {
  const auto one = [&](int i) STN_LAMBDA { return Vec<double, 2>{pair(i), pair(i + 1)}; };
  const auto two = [&](int i) STN_LAMBDA { return __builtin_shufflevector(one(i), one(i + 4), 0, 1, 2, 3); };
  Vec<float, N> rows[2];  // of every second two points, so that what follows stays within 128 bits
#pragma GCC unroll 2
  for (int k = 0; k < 2; ++k) {
    if constexpr (N == 4) {
      rows[k] = (Vec<float, N>)one(2 * k);
    } else if constexpr (N == 8) {
      rows[k] = (Vec<float, N>)two(2 * k);
    } else {
      rows[k] = (Vec<float, N>)__builtin_shufflevector(two(2 * k), two(2 * k + 8), 0, 1, 2, 3, 4, 5, 6, 7);
    }
  }
  to[0] = within_lanes<0, 2, 4, 6>(rows[0], rows[1]), to[1] = within_lanes<1, 3, 5, 7>(rows[0], rows[1]);
}

// The four taps of a point, weighted: of its left and its right pixels, `below` numbers apart from those under them.
STN_INLINE TwoQuads weighted_taps(const float* from, int64_t below, Quad w) {
  return __builtin_shufflevector(w, w, 0, 0, 0, 0, 1, 1, 1, 1) * load<TwoQuads>(from) +
         __builtin_shufflevector(w, w, 2, 2, 2, 2, 3, 3, 3, 3) * load<TwoQuads>(from + below);
}
// The sums of neighbours in a and in b, those of each 128 bits of a before those of b.
STN_INLINE TwoQuads pairwise_sums(TwoQuads a, TwoQuads b) {
  return within_lanes<0, 2, 4, 6>(a, b) + within_lanes<1, 3, 5, 7>(a, b);
}
// The taps times g, summed over two channels each.
STN_INLINE TwoQuads tap_products(const float* from, int64_t below, Quad g) {
  const TwoQuads both = __builtin_shufflevector(g, g, 0, 1, 2, 3, 0, 1, 2, 3);
  return pairwise_sums(both * load<TwoQuads>(from), both * load<TwoQuads>(from + below));
}
// The taps += weights times g.
STN_INLINE void add_taps(float* to, int64_t below, Quad w, Quad g) {
  const auto add = [](float* pixel, Quad value) STN_LAMBDA { store(pixel, load<Quad>(pixel) + value); };
  add(to, __builtin_shufflevector(w, w, 0, 0, 0, 0) * g), add(to + 4, __builtin_shufflevector(w, w, 1, 1, 1, 1) * g);
  to += below;
  add(to, __builtin_shufflevector(w, w, 2, 2, 2, 2) * g), add(to + 4, __builtin_shufflevector(w, w, 3, 3, 3, 3) * g);
}
// The channels of a row of pixels or points from planes to quads, N at a time, and back. A call, so that quads are
// reloaded, not extracted lane by lane.
template <int N>
STN_SHARED void quads_from_planes(const Planes<const Any>& planes, int64_t channels, int64_t count, float* quads) {
  with_format(planes.data, [&](auto from) STN_LAMBDA {
    for (int64_t first = 0; first < count; first += N) {
      const int64_t i = whole_vector<N>(first, count);
      Vec<float, N> parts[4] = {};
      for (int c = 0; c < channels; ++c) parts[c] = load_as<N>(from + (c * planes.plane + i));
      interleave<4, N>(parts, quads + 4 * i);
    }
  });
}
template <int N>
STN_INLINE void store_channels(const Vec<float, N> (&values)[4], int64_t channels, const Planes<Any>& planes,
                               int64_t i) {
  with_format(planes.data, [&](auto to) STN_LAMBDA {
    for (int c = 0; c < channels; ++c) store_sampled<N>(to + (c * planes.plane + i), values[c]);
  });
}
template <int N>
STN_INLINE void quads_to_planes(const float* quads, int64_t channels, int64_t count, const Planes<Any>& planes) {
  for (int64_t first = 0; first < count; first += N) {
    const int64_t i = whole_vector<N>(first, count);
    Vec<float, N> parts[4];
    deinterleave<4, N>(quads + 4 * i, parts);
    store_channels<N>(parts, channels, planes, i);
  }
}

STN_INLINE Planes<float> planes_of_run(RunPlanes& planes) { return {planes[0], Run<float>::kPoints}; }

}  // namespace stn::STN_LEVEL
