// Linear sampling of signals as quads: the numbers of a sample are its channels, and a point's two taps are one pair.
#pragma once
#include "volume_passes.h"

namespace stn::STN_LEVEL {

// As VolumePasses, in one dimension.
struct SignalPasses {
  static constexpr int N = kVectorBytes / 4;
  using V = Vec<float, N>;
  VolumeLattice<1> lattice;
  int64_t channels;

  using Offsets = int32_t[kRun];
  using Weights = float[2][kRun];  // of the left tap, and of the right

  static STN_INLINE void set_weights(const Points<float>& points, int64_t count, Weights& weight) {
    for (int64_t i = 0; i < count; i += N) {
      const V right = load<V>(points.fraction[0] + i);
      store(weight[0] + i, 1 - right), store(weight[1] + i, right);
    }
    asm volatile("" : "+m"(weight));  // as offsets
  }

  STN_SHARED void forward(const float* signal, const Points<float>& points, int64_t count,
                          const Planes<Any>& out) const {
    Offsets offset;
    Weights weight;
    lattice.set_offsets(points, count, offset), set_weights(points, count, weight);
    for (int64_t first = 0; first < count; first += N) {
      const int64_t i = whole_vector<N>(first, count);
      const auto sum = [&](int l) STN_LAMBDA {
        const auto both = load<TwoQuads>(signal + offset[i + l]);
        return weight[0][i + l] * lower(both) + weight[1][i + l] * upper(both);
      };
      V values[4];
      apart<N>(sum, values);
      store_channels<N>(values, channels, out, i);
    }
  }

  // dL/d(pixel coordinate before padding) of each point, from the output's gradient.
  STN_SHARED void grad_points(const float* signal, const Points<float>& points, int64_t count,
                              const Planes<const Any>& grad, float (&to)[3][kRun]) const {
    Offsets offset;
    Quad pixels[kRun];
    lattice.set_offsets(points, count, offset), quads_from_planes<N>(grad, channels, count, (float*)pixels);
    for (int64_t first = 0; first < count; first += N) {
      const int64_t i = whole_vector<N>(first, count);
      const auto product = [&](int l) STN_LAMBDA {
        const auto both = load<TwoQuads>(signal + offset[i + l]);
        return pixels[i + l] * (upper(both) - lower(both));
      };
      V parts[4];
      apart<N>(product, parts);
      store(to[0] + i, ((parts[0] + parts[1]) + (parts[2] + parts[3])) * load<V>(points.slope[0] + i));
    }
  }

  // Adds the output's gradient to the sums.
  STN_SHARED void scatter(const Planes<const Any>& grad, const Points<float>& points, int64_t count,
                          float* sums) const {
    Offsets offset;
    Weights weight;
    Quad pixels[kRun];
    lattice.set_offsets(points, count, offset), set_weights(points, count, weight);
    quads_from_planes<N>(grad, channels, count, (float*)pixels);
#pragma GCC unroll 4
    for (int64_t i = 0; i < count; ++i) {
      float* to = sums + offset[i];
      store(to, load<Quad>(to) + weight[0][i] * pixels[i]);
      store(to + 4, load<Quad>(to + 4) + weight[1][i] * pixels[i]);
    }
  }
};

}  // namespace stn::STN_LEVEL
