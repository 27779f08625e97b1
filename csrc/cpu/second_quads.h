// The second backward of bilinear sampling at a grid, in two dimensions, by quads: what the cotangents of the image's
// gradient (an image, the "other") and of the grid's (directions) give to the output's gradient, the image and the
// grid.
#pragma once
#include "quad_passes.h"

namespace stn::STN_LEVEL {

// Pairs of numbers, of a run's points.
struct RunPairs {
  static constexpr int kPoints = Run<float>::kPoints;
  float x[kPoints], y[kPoints];

  // From those of a run's points, as the grid has them.
  STN_INLINE void load_from(const void* grid, const Source& s, int64_t v, int64_t u, int64_t count) {
    constexpr int N = kVectorBytes / 4;
    const auto load_all = [&](const auto* pairs) STN_LAMBDA {
      pairs += 2 * (s.item * s.p.item_points() + v * s.p.out_width + u);
      for (int64_t first = 0; first < count; first += N) {
        const int64_t i = whole_vector<N>(first, count);
        if (sizeof *pairs != sizeof(float) || count < N) {
          for (int64_t k = i; k < minimum(count, i + N); ++k)
            x[k] = float(pairs[2 * k]), y[k] = float(pairs[2 * k + 1]);
          continue;
        }
        Vec<float, N> of[2];
        deinterleave<2, N>((const float*)(pairs + 2 * i), of);
        store(x + i, of[0]), store(y + i, of[1]);
      }
    };
    s.p.double_parameters ? load_all(static_cast<const double*>(grid)) : load_all(static_cast<const float*>(grid));
  }
  STN_INLINE void clear() { __builtin_memset(this, 0, sizeof *this); }
  STN_INLINE void multiply(const float* by_x, float scale_x, const float* by_y, float scale_y) {
    for (int i = 0; i < kPoints; ++i) x[i] *= by_x[i] * scale_x, y[i] *= by_y[i] * scale_y;
  }
};

// The passes over a run of points, along directions in source pixels before padding.
struct SecondPasses {
  static constexpr int N = QuadPasses::N;
  using V = QuadPasses::V;
  using Quads = QuadPasses::Quads;
  using Fractions = QuadPasses::Fractions;
  const QuadPasses& passes;
  const float *image, *other;  // as quads; null where there are no directions, or no other

  // What the passes share.
  struct Points {
    const Run<float>& run;
    const RunPairs& along;
    QuadPasses::Offsets offset;
    const QuadPasses::Gradient grad;
    Quads derivative;  // of the weights along the directions

    STN_INLINE Points(const QuadPasses& passes, const Run<float>& placed, const RunPairs& directions, bool moved,
                      const Planes<const Any>& planes)
        : run(placed), along(directions), grad(passes, planes, run.count) {
      passes.set_offsets(run, 0, offset);
      if (!moved) return;
      for (int64_t i = 0; i < run.count; i += N) {
        V of[4];
        derive_weights(i, of);
        interleave<4, N>(of, (float*)(derivative + i));
      }
      asm volatile("" : "+m"(derivative));  // as in QuadPasses
    }
    // Of the weights of N points' taps from left to right, then down.
    STN_INLINE void derive_weights(int64_t i, V (&to)[4]) const {
      const Fractions f(run, i);
      const V x = load<V>(along.x + i), y = load<V>(along.y + i);
      to[0] = -x * f.gy - y * f.gx, to[1] = x * f.gy - y * f.fx;
      to[2] = y * f.gx - x * f.fy, to[3] = x * f.fy + y * f.fx;
    }
  };

  // The gradient to the output's.
  STN_SHARED void outputs(const Points& points, const Planes<Any>& out) const {
    const Run<float>& run = points.run;
    if (passes.channels == 1) {
      for (int64_t first = 0; first < run.count; first += N) {
        const int64_t i = whole_vector<N>(first, run.count);
        V sum{}, taps[4], weight[4];
        if (other) passes.read(other, points.offset + i, taps), sum = Fractions(run, i).value(taps);
        if (image) {
          passes.read(image, points.offset + i, taps), points.derive_weights(i, weight);
          sum += weight[0] * taps[0] + weight[2] * taps[1] + (weight[1] * taps[2] + weight[3] * taps[3]);
        }
        store_sampled<N>(out[0] + i, sum);
      }
      return;
    }
    Quads weight;
    if (other) passes.set_weights(run, weight);
    const int64_t below = 4 * passes.lattice.row;
    for (int64_t first = 0; first < run.count; first += N) {
      const int64_t i = whole_vector<N>(first, run.count);
      const auto sum = [&](int l) STN_LAMBDA {
        const int64_t at = 4 * int64_t(points.offset[i + l]);
        TwoQuads both{};
        if (other) both = weighted_taps(other + at, below, weight[i + l]);
        if (image) both += weighted_taps(image + at, below, points.derivative[i + l]);
        return lower(both) + upper(both);
      };
      V values[4];
      apart<N>(sum, values);
      store_channels<N>(values, passes.channels, out, i);
    }
  }

  // The gradient to source pixels, more than `before`: along the other, and by how directions turn weights along the
  // image.
  STN_SHARED void pixels(const Points& points, const RunPairs& before, RunPairs& gradient) const {
    const Run<float>& run = points.run;
    for (int64_t first = 0; first < run.count; first += N) {
      const int64_t i = whole_vector<N>(first, run.count);
      const V grad = passes.channels == 1 ? load<V>(points.grad.single + i) : V{};
      V taps[4], x{}, y{};
      if (other) {
        const Fractions f(run, i);
        passes.dots(other, points.offset + i, grad, points.grad.pixels + i, taps);
        x = f.along_x(taps), y = f.along_y(taps);
      }
      if (image) {
        const V mixed = mixed_differences(points, i, grad);
        x += mixed * load<V>(points.along.y + i), y += mixed * load<V>(points.along.x + i);
      }
      store(gradient.x + i, load<V>(before.x + i) + x * load<V>(run.x_slope + i));
      store(gradient.y + i, load<V>(before.y + i) + y * load<V>(run.y_slope + i));
    }
  }
  // Of the image at N points, times the output's gradient and summed over channels.
  STN_INLINE V mixed_differences(const Points& points, int64_t i, V single) const {
    V parts[4];
    if (passes.channels == 1) {
      passes.read(image, points.offset + i, parts);
      return single * ((parts[0] - parts[1]) - (parts[2] - parts[3]));
    }
    const auto mixed = [&](int l) STN_LAMBDA {
      const float* from = image + 4 * int64_t(points.offset[i + l]);
      const TwoQuads down = load<TwoQuads>(from) - load<TwoQuads>(from + 4 * passes.lattice.row);
      return points.grad.pixels[i + l] * (lower(down) - upper(down));
    };
    apart<N>(mixed, parts);
    return (parts[0] + parts[1]) + (parts[2] + parts[3]);
  }
};

// Whether a call is worth it.
STN_INLINE bool in_second_quads(const Problem& p) {
  return p.in_rows() && 4 * p.samples * p.item_points() >= p.width * p.height && p.width * p.height <= (1 << 18);
}

// The gradients that are asked for, in one: tasks are those of QuadTasks, channels are taken some after others.
template <class T>
void second_quads(const Problem& p, int64_t begin, int64_t end) {
  const QuadTasks tasks(p);
  RunPlanes values, results;
  RunPairs along, before, gradient;
  const bool turns = p.grad_grad_grid, scatters = p.grad_input.data, any = p.output.data || p.grad_grid;
  along.clear();
  for (int64_t task = begin; task < end; ++task) {
    const int64_t b = task / tasks.bands, band = task % tasks.bands;
    const int64_t first = p.height * band / tasks.bands, last = p.height * (band + 1) / tasks.bands;
    const int64_t top = tasks.rows * band / tasks.bands, bottom = tasks.rows * (band + 1) / tasks.bands;
    before.clear();
    for (int64_t c = 0; c < p.channels; c += kQuadChannels) {
      Problem part = p;
      part.channels = minimum(kQuadChannels, p.channels - c);
      const bool is_last = c + part.channels == p.channels;
      QuadImage image(part, any && turns ? p.height : 0, false),
          other(part, any && p.grad_grad_input ? p.height : 0, false), sums(part, scatters ? last - first : 0, true);
      const int64_t at = b * p.input.batch + c * p.input.channel;
      if (any && turns) image.read(any_elements<T>(p, p.input.data) + at);
      if (any && p.grad_grad_input) other.read(any_elements<T>(p, p.grad_grad_input) + at);
      const QuadPasses whole = QuadImage::passes_of(part, p.height, false);
      const SecondPasses passes{whole, turns ? image.quads.data : nullptr,
                                p.grad_grad_input ? other.quads.data : nullptr};
      over_image_points(
          part, b, scatters ? 0 : top, scatters ? tasks.rows : bottom,
          [&](const Source& source, int64_t v, int64_t u, const Run<float>& run) STN_LAMBDA {
            const int64_t row = source.item % p.samples * p.out_height + v;
            const auto at_run = [&](const auto& images) STN_LAMBDA {
              return any_elements<T>(p, images.data) + source.item * images.batch + c * images.channel +
                     v * images.row + u * images.column;
            };
            const auto grad =
                row_to_read(part, at_run(p.grad_output), p.grad_output.channel, run.count, planes_of_run(values));
            if (turns) {
              along.load_from(p.grad_grad_grid, source, v, u, run.count);
              along.multiply(run.x_slope, float(source.x.scale), run.y_slope, float(source.y.scale));
            }
            SecondPasses::Points points(whole, run, along, turns, grad);
            const bool mine = row >= top && row < bottom;
            if (mine && p.output.data)
              write_row(part, at_run(p.output), p.output.channel, run.count, planes_of_run(results),
                        [&](const Planes<Any>& out) STN_LAMBDA { passes.outputs(points, out); });
            if (mine && p.grad_grid) {
              if (c > 0) before.load_from(p.grad_grid, source, v, u, run.count);
              passes.pixels(points, before, gradient);
              const double x = is_last ? source.x.scale : 1, y = is_last ? source.y.scale : 1;
              p.double_parameters
                  ? put_pairs<double>(p.grad_grid, source, v, u, run.count, gradient.x, gradient.y, x, y)
                  : put_pairs<float>(p.grad_grid, source, v, u, run.count, gradient.x, gradient.y, x, y);
            }
            if (!scatters) return;
            if (first > 0 || last < p.height) sums.passes.set_offsets(run, first, points.offset);
            sums.passes.add_weighted(points.grad, points.derivative, points.offset, run.count, sums.quads.data);
          });
      if (scatters)
        sums.write(any_elements<T>(p, p.grad_input.data) + b * p.grad_input.batch + c * p.grad_input.channel +
                   first * p.grad_input.row);
    }
  }
}

}  // namespace stn::STN_LEVEL
