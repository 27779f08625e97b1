// Trilinear sampling of volumes as quads: of several channels the numbers of a pixel are its channels, and a point's
// eight taps are four pairs of pixels; of a single one they are the pixel, the one below, and those two of the next
// slice: one pair is all taps.
#pragma once
#include "points.h"
#include "quads.h"

namespace stn::STN_LEVEL {

// A box of a volume's pixels, or a part of a signal, with zeros around: a margin before each row, behind which the next
// one's is that of its end, and so of rows and slices.
template <int n>
struct VolumeLattice {
  static constexpr int64_t kMargin = 2, kAside = n > 1 ? kMargin : 0;  // two taps an axis that there is
  int64_t extent[3], step[3], origin[3] = {};                          // by axis, in pixels
  int64_t each = 4;                                                    // numbers a pixel
  STN_INLINE VolumeLattice(int64_t width, int64_t height, int64_t slices)
      : extent{width, height, slices}, step{1, width + kMargin, (width + kMargin) * (height + kAside)} {}
  STN_INLINE int64_t at(int64_t x, int64_t y, int64_t z) const {
    return each * ((z + kAside) * step[2] + (y + kAside) * step[1] + x + kMargin);
  }
  STN_INLINE int64_t size() const {  // vectors may end behind
    return at(extent[0] + kMargin, extent[1] - 1 + kAside, extent[2] - 1 + kAside) + kVectorBytes;
  }
  // Where the quads of a run's points lie, in numbers: of pixels outside in the margin.
  STN_INLINE void set_offsets(const Points<float>& points, int64_t count, int32_t (&offset)[kRun]) const {
    using I = Vec<int32_t, kVectorBytes / 4>;
    for (int64_t i = 0; i < count; i += kVectorBytes / 4) {
      I sum{};
      for (int a = 0; a < n; ++a) {
        const I pixel = load<I>(points.index[a] + i) - int32_t(origin[a]);
        const I inside = minimum(maximum(pixel, splat<I>(int32_t(-kMargin))), splat<I>(int32_t(extent[a])));
        sum += (inside + int32_t(kMargin)) * int32_t(step[a]);
      }
      store(offset + i, int32_t(each) * sum);
    }
    asm volatile("" : "+m"(offset));  // reloading beats extracting lane by lane
  }
};

// The passes over a run of points; N at a time, of which the last may be outside.
struct VolumePasses {
  static constexpr int N = kVectorBytes / 4;
  using V = Vec<float, N>;
  VolumeLattice<3> lattice;
  int64_t channels;
  DType format = DType::float32;  // of the numbers, of a single channel perhaps halves

  // What is stored for a whole run, to be loaded otherwise later: at once it would have to wait.
  using Offsets = int32_t[kRun];
  using Weights = Quad[2][kRun];  // of the taps of the first slice, and of the second; or of the left, and of the right

  // Of N points by axis, and what remains to one. Rows are counted as the numbers of a pixel of a single channel.
  struct Fractions {
    V f[3], g[3];
    STN_INLINE Fractions(const Points<float>& points, int64_t i) {
      for (int a = 0; a < 3; ++a) f[a] = load<V>(points.fraction[a] + i), g[a] = 1 - f[a];
    }
    STN_INLINE V of_row(int r) const { return (r % 2 ? f[1] : g[1]) * (r / 2 ? f[2] : g[2]); }
    STN_INLINE V between(V left, V right) const { return g[0] * left + f[0] * right; }
    STN_INLINE V of_rows(const V (&row)[4]) const {
      return g[2] * (g[1] * row[0] + f[1] * row[1]) + f[2] * (g[1] * row[2] + f[1] * row[3]);
    }
  };
  static STN_INLINE void set_weights(const Points<float>& points, int64_t count, Weights& weight) {
    for (int64_t i = 0; i < count; i += N) {
      const Fractions w(points, i);
      for (int z = 0; z < 2; ++z) {
        const V above = w.of_row(2 * z), below = w.of_row(2 * z + 1);
        interleave<4, N>({w.g[0] * above, w.f[0] * above, w.g[0] * below, w.f[0] * below}, (float*)(weight[z] + i));
      }
    }
    asm volatile("" : "+m"(weight));  // as offsets
  }

  // Of a single channel: the taps of N points by row.
  STN_INLINE void read(const float* volume, const int32_t* offset, V (&left)[4], V (&right)[4]) const {
    if (!is_half(format)) {
      apart<N>([&](int l) STN_LAMBDA { return load<Quad>(volume + offset[l]); }, left);
      return apart<N>([&](int l) STN_LAMBDA { return load<Quad>(volume + offset[l] + 4); }, right);
    }
    V words[4];
    apart<N>([&](int l) STN_LAMBDA { return load<Quad>(volume + offset[l]); }, words);
    for (int z = 0; z < 2; ++z) {
      widen_words<N>(format, words[z], left[2 * z], left[2 * z + 1]);
      widen_words<N>(format, words[2 + z], right[2 * z], right[2 * z + 1]);
    }
  }

  STN_SHARED void forward(const float* volume, const Points<float>& points, int64_t count,
                          const Planes<Any>& out) const {
    Offsets offset;
    Weights weight;
    lattice.set_offsets(points, count, offset);
    if (channels == 1) {
      for (int64_t first = 0; first < count; first += N) {
        const int64_t i = whole_vector<N>(first, count);
        const Fractions w(points, i);
        V left[4], right[4];
        read(volume, offset + i, left, right);
        for (int r = 0; r < 4; ++r) left[r] = w.between(left[r], right[r]);
        store_sampled<N>(out[0] + i, w.of_rows(left));
      }
      return;
    }
    set_weights(points, count, weight);
    for (int64_t first = 0; first < count; first += N) {
      const int64_t i = whole_vector<N>(first, count);
      const auto sum = [&](int l) STN_LAMBDA {
        const float* from = volume + offset[i + l];
        const TwoQuads both = weighted_taps(from, 4 * lattice.step[1], weight[0][i + l]) +
                              weighted_taps(from + 4 * lattice.step[2], 4 * lattice.step[1], weight[1][i + l]);
        return lower(both) + upper(both);
      };
      V values[4];
      apart<N>(sum, values);
      store_channels<N>(values, channels, out, i);
    }
  }

  // dL/d(pixel coordinate before padding) of each point by axis, from the output's gradient.
  STN_SHARED void grad_points(const float* volume, const Points<float>& points, int64_t count,
                              const Planes<const Any>& grad, float (&to)[3][kRun]) const {
    Offsets offset;
    Quad pixels[kRun];
    lattice.set_offsets(points, count, offset);
    if (channels > 1) quads_from_planes<N>(grad, channels, count, (float*)pixels);
    const float* single = single_row(grad);
    for (int64_t first = 0; first < count; first += N) {
      const int64_t i = whole_vector<N>(first, count);
      V left[4], right[4];  // taps by row, times the output's gradient, summed over channels
      if (channels == 1) {
        read(volume, offset + i, left, right);
        for (int r = 0; r < 4; ++r) left[r] *= load<V>(single + i), right[r] *= load<V>(single + i);
      } else {
        TwoQuads dots[N];
#pragma GCC unroll 16
        for (int l = 0; l < N; ++l) {
          const float* from = volume + offset[i + l];
          const Quad g = pixels[i + l];
          dots[l] = pairwise_sums(tap_products(from, 4 * lattice.step[1], g),
                                  tap_products(from + 4 * lattice.step[2], 4 * lattice.step[1], g));
        }
        apart<N>([&](int l) STN_LAMBDA { return lower(dots[l]); }, left);
        apart<N>([&](int l) STN_LAMBDA { return upper(dots[l]); }, right);
      }
      const Fractions w(points, i);
      V line[4], along[4];
      for (int r = 0; r < 4; ++r) line[r] = w.between(left[r], right[r]), along[r] = right[r] - left[r];
      const V y = w.g[2] * (line[1] - line[0]) + w.f[2] * (line[3] - line[2]);
      const V z = w.g[1] * (line[2] - line[0]) + w.f[1] * (line[3] - line[1]);
      store(to[0] + i, w.of_rows(along) * load<V>(points.slope[0] + i));
      store(to[1] + i, y * load<V>(points.slope[1] + i)), store(to[2] + i, z * load<V>(points.slope[2] + i));
    }
  }

  // Adds the output's gradient to the sums.
  STN_SHARED void scatter(const Planes<const Any>& grad, const Points<float>& points, int64_t count,
                          float* sums) const {
    Offsets offset;
    Weights weight;
    Quad pixels[kRun];
    lattice.set_offsets(points, count, offset);
    if (channels == 1) {
      for (int64_t first = 0; first < count; first += N) {
        const int64_t i = whole_vector<N>(first, count);
        const Fractions w(points, i);
        const V g = load<V>(single_row(grad) + i), left = w.g[0] * g, right = w.f[0] * g;
        const V row[] = {w.of_row(0), w.of_row(1), w.of_row(2), w.of_row(3)};
        interleave<4, N>({row[0] * left, row[1] * left, row[2] * left, row[3] * left}, (float*)(weight[0] + i));
        interleave<4, N>({row[0] * right, row[1] * right, row[2] * right, row[3] * right}, (float*)(weight[1] + i));
      }
      asm volatile("" : "+m"(weight));  // as above
#pragma GCC unroll 4
      for (int64_t i = 0; i < count; ++i) {
        float* to = sums + offset[i];
        store(to, load<Quad>(to) + weight[0][i]), store(to + 4, load<Quad>(to + 4) + weight[1][i]);
      }
      return;
    }
    set_weights(points, count, weight);
    quads_from_planes<N>(grad, channels, count, (float*)pixels);
#pragma GCC unroll 2
    for (int64_t i = 0; i < count; ++i) {
      float* to = sums + offset[i];
      add_taps(to, 4 * lattice.step[1], weight[0][i], pixels[i]);
      add_taps(to + 4 * lattice.step[2], 4 * lattice.step[1], weight[1][i], pixels[i]);
    }
  }

  // Of a single channel: a row's numbers from the rows of pixels that they are; and what rows of sums give to a row.
  template <class T>
  STN_SHARED void set_cells(const T* const (&rows)[4], float* quads) const {
    for (int64_t first = 0; first < lattice.extent[0]; first += N) {
      const int64_t x = whole_vector<N>(first, lattice.extent[0]);
      if constexpr (kIs<T, float>) {
        const V parts[] = {load<V>(rows[0] + x), load<V>(rows[1] + x), load<V>(rows[2] + x), load<V>(rows[3] + x)};
        interleave<4, N>(parts, quads + 4 * x);
      } else {
        const V parts[] = {(V)half_words<N>(rows[0] + x, rows[1] + x), (V)half_words<N>(rows[2] + x, rows[3] + x)};
        interleave<2, N>(parts, quads + 2 * x);
      }
    }
  }
  STN_SHARED void add_cells(const float* const (&sums)[4], Elements<Any> row) const {
    for (int64_t first = 0; first < lattice.extent[0]; first += N) {
      const int64_t x = whole_vector<N>(first, lattice.extent[0]);
      V of[4];
      for (int r = 0; r < 4; ++r) {
        V parts[4];
        deinterleave<4, N>(sums[r] + 4 * x, parts);
        of[r] = parts[r];
      }
      store_sampled<N>(row + x, (of[0] + of[1]) + (of[2] + of[3]));
    }
  }
};

}  // namespace stn::STN_LEVEL
