// Linearized multi-sampling: K bilinear samples around every point. What is read, and with which coefficients, is
// prepared a run of points at a time; nothing of it outlives the run.
#pragma once
#include "common/philox.h"
#include "tap_passes.h"

namespace stn::STN_LEVEL {

// Standard normal numbers of the points [point, point + count) of an item: (numbers, kRun), a multiple of four of them.
STN_INLINE void draw_numbers(const MultiSampling& m, int64_t item, int64_t point, int64_t count, int64_t numbers,
                             float* result) {
  using U = Vec<uint64_t, kDoubles>;
  using Narrow = Vec<uint32_t, kDoubles>;
  constexpr int W = kVectorBytes / 4;
  using Word = Vec<uint32_t, W>;
  using F = Vec<float, W>;
  U lane;
  for (int i = 0; i < kDoubles; ++i) lane[i] = uint64_t(i);
  uint32_t words[4][kRun];
  for (int64_t block = 0; 4 * block < numbers; ++block, result += 4 * kRun) {
    for (int64_t i = 0; i < count; i += kDoubles) {
      const U index = lane + uint64_t(point + i);
      const Words<U> drawn =
          philox<U>({index & uint64_t(0xFFFFFFFF), splat<U>(uint64_t(item)), splat<U>(uint64_t(block)), index >> 32},
                    uint32_t(m.seed), uint32_t(m.seed >> 32));
      store(words[0] + i, __builtin_convertvector(drawn.a, Narrow));
      store(words[1] + i, __builtin_convertvector(drawn.b, Narrow));
      store(words[2] + i, __builtin_convertvector(drawn.c, Narrow));
      store(words[3] + i, __builtin_convertvector(drawn.d, Narrow));
    }
    for (int pair = 0; pair < 4; pair += 2) {
      for (int64_t i = 0; i < count; i += W) {
        F x, y;
        normal_pair(load<Word>(words[pair] + i), load<Word>(words[pair + 1] + i), x, y);
        store(result + pair * kRun + i, x), store(result + (pair + 1) * kRun + i, y);
      }
    }
  }
}

// The samples of a run of points, of which 0 is the centre: where each is read, and its coefficients in the slope (by
// pixels of the input) and in the output's value.
template <class A>
struct RunSamples {
  int64_t count;
  Scratch<float> numbers;     // (drawn, kRun)
  Scratch<A> offsets;         // (K, n, kRun), in pixels
  Scratch<A> slopes, values;  // (K, n, kRun), (K, kRun)
  Scratch<A> work;            // of the matching: (K - 1, 3^n + 1, a vector)
  Scratch<Points<A>> points;  // (K)

  static constexpr int kPad = kVectorBytes / int(sizeof(A));  // vectors may read beyond the last run
  STN_INLINE explicit RunSamples(const Problem& p)
      : count(p.multi.samples),
        numbers(p.multi.offsets ? 1 : ((count - 1) * p.dimensions + 3) / 4 * 4 * kRun),
        offsets(count * p.dimensions * kRun + kPad),
        slopes(count * p.dimensions * kRun + kPad),
        values(count * kRun + kPad),
        work(p.multi.weighting == Weighting::entropic ? ((count - 1) * 28 + 1) * kPad : 1),
        points(count) {}
};

// Fills the normalized offsets of a run: those given, or spread numbers.
template <class A, int n>
STN_INLINE void load_offsets(const Problem& p, int64_t item, int64_t point, int64_t count, RunSamples<A>& run) {
  const MultiSampling& m = p.multi;
  if (m.offsets) {
    const int64_t points = p.item_points();
    const auto copy = [&](const auto* from) STN_LAMBDA {
      for (int64_t k = 1; k < run.count; ++k) {
        const auto* row = from + ((item * run.count + k) * points + point) * n;
        for (int64_t i = 0; i < count; ++i) {
          for (int a = 0; a < n; ++a) run.offsets.data[(k * n + a) * kRun + i] = A(row[i * n + a]);
        }
      }
    };
    return m.double_offsets ? copy(static_cast<const double*>(m.offsets)) : copy(static_cast<const float*>(m.offsets));
  }
  constexpr int N = kVectorBytes / int(sizeof(A));
  draw_numbers(m, item, point, count, (run.count - 1) * n, run.numbers.data);
  for (int64_t q = 0; q < (run.count - 1) * n; ++q) {
    const auto spread = splat<Vec<A, N>>(A(m.spread[q % n]));
    for (int64_t i = 0; i < count; i += N) {
      const auto number = __builtin_convertvector((load<Vec<float, N>>(run.numbers.data + q * kRun + i)), Vec<A, N>);
      store(run.offsets.data + (q + n) * kRun + i, unfused_product(number, spread));
    }
  }
}

// Turns the normalized offsets of a vector of points, at index i of a run, into pixels and coefficients.
template <class A, int n>
STN_INLINE void fit_planes(const Item& item, int64_t i, RunSamples<A>& run) {
  constexpr int N = kVectorBytes / int(sizeof(A));
  using V = Vec<A, N>;
  const MultiSampling& m = item.p.multi;
  const V zero{}, one = splat<V>(A(1));
  const auto offset_at = [&](int64_t k, int a) STN_LAMBDA { return run.offsets.data + (k * n + a) * kRun + i; };
  const auto weight_at = [&](int64_t k) STN_LAMBDA { return run.values.data + k * kRun + i; };
  A scale[n];
  double spread[n], widest = 0;
  for (int a = 0; a < n; ++a) {
    scale[a] = A(item.axis[a].scale), spread[a] = m.spread[a] * item.axis[a].scale;
    widest = maximum(widest, spread[a]);
  }
  V* const kernel = reinterpret_cast<V*>((uintptr_t(run.work.data) + sizeof(V) - 1) / sizeof(V) * sizeof(V));
  for (int64_t k = 1; k < run.count; ++k) {
    V offset[n], units[n], squared = zero;
    auto counts = zero == zero;
    for (int a = 0; a < n; ++a) {
      offset[a] = load<V>(offset_at(k, a));
      counts &= absolute(offset[a]) <= one;
    }
    const V counted = masked(one, counts);
    for (int a = 0; a < n; ++a) {
      offset[a] = masked(offset[a], counts) * scale[a];
      store(offset_at(k, a), offset[a]);
      squared += offset[a] * offset[a];
    }
    if (m.weighting == Weighting::entropic) {
      for (int a = 0; a < n; ++a) units[a] = offset[a] / A(maximum(1.0, spread[a]));
      matching_kernel<n>(units, counted, kernel + (k - 1) * kPlaces<n>);
      continue;
    }
    const V weight = m.weighting == Weighting::uniform
                         ? counted
                         : distance_weight(square_root(squared), maximum(2.0, 2 * widest)) * counted;
    store(weight_at(k), weight);
  }
  if (m.weighting == Weighting::entropic) {
    V* const weights = kernel + (run.count - 1) * kPlaces<n>;
    matched_weights<n>(kernel, run.count - 1, weights);
    for (int64_t k = 1; k < run.count; ++k) store(weight_at(k), weights[k - 1]);
  }

  V total = zero, weighted[n] = {}, moment[n] = {}, covariance[n][n] = {};
  for (int64_t k = 1; k < run.count; ++k) {
    const V weight = load<V>(weight_at(k));
    total += weight;
    for (int a = 0; a < n; ++a) {
      const V offset = load<V>(offset_at(k, a));
      weighted[a] += weight * offset, moment[a] += weight * offset * offset;
    }
  }
  FittedPlane<V, n> plane(total, weighted, m.ridge);
  for (int64_t k = 1; k < run.count; ++k) {
    const V weight = load<V>(weight_at(k));
    V centred[n];
    for (int a = 0; a < n; ++a) {
      centred[a] = load<V>(offset_at(k, a)) - plane.mean[a];
      for (int b = 0; b <= a; ++b) covariance[a][b] += weight * centred[a] * centred[b];
    }
  }
  plane.factor(covariance, moment, m.ridge);
  V centre = one, centre_slope[n] = {};
  for (int64_t k = 1; k < run.count; ++k) {
    V offset[n], slope[n], bias;
    for (int a = 0; a < n; ++a) offset[a] = load<V>(offset_at(k, a));
    plane.coefficients(load<V>(weight_at(k)), offset, slope, bias);
    store(weight_at(k), bias);
    centre -= bias;
    for (int a = 0; a < n; ++a) {
      store(offset_at(k, a), offset[a] * plane.solvable);
      store(run.slopes.data + (k * n + a) * kRun + i, slope[a]);
      centre_slope[a] -= slope[a];
    }
  }
  store(weight_at(0), centre);
  for (int a = 0; a < n; ++a) store(run.slopes.data + a * kRun + i, centre_slope[a]), store(offset_at(0, a), zero);
}

// Places the samples of a run: indices and fractions of source pixels.

// Any type and padding, in double.
template <class A, int n>
STN_INLINE void place_in_double(const Problem& p, const double (*x)[kRun], int64_t count, RunSamples<A>& run) {
  const auto split = splitter<Mode::bilinear, A>(p.padding);
  const int64_t whole = (count + 15) / 16 * 16;
  double moved[kRun];
  for (int64_t k = 0; k < run.count; ++k) {
    Points<A>& points = run.points.data[k];
    for (int a = 0; a < n; ++a) {
      const A* offset = run.offsets.data + (k * n + a) * kRun;
      for (int64_t i = 0; i < whole; i += kDoubles) {
        store(moved + i,
              load<Doubles>(x[a] + i) + __builtin_convertvector((load<Vec<A, kDoubles>>(offset + i)), Doubles));
      }
      split(moved, whole, int(p.extent(a)), p.align_corners, points.index[a], points.fraction[a], points.slope[a]);
    }
  }
}

// Zeros or border in float: offsets move the fraction of the centre. They reach at most half the image, so that a
// centre clamped to twice its size is as far outside.
template <Padding kPadding, int n>
STN_INLINE void place_near(const Problem& p, const double (*x)[kRun], int64_t count, RunSamples<float>& run) {
  constexpr int W = kVectorBytes / 4;
  using F = Vec<float, W>;
  using I = Vec<int32_t, W>;
  for (int a = 0; a < n; ++a) {
    const double size = double(p.extent(a));
    const Doubles first = splat<Doubles>(-size - 2), last = splat<Doubles>(2 * size + 2);
    int32_t index[kRun];
    float fraction[kRun];
    for (int64_t i = 0; i < (count + 15) / 16 * 16; i += kDoubles) {
      const Doubles at = minimum(maximum(first, load<Doubles>(x[a] + i)), last), low = floor_of(at);
      store(index + i, __builtin_convertvector(low, Vec<int32_t, kDoubles>));
      store(fraction + i, __builtin_convertvector(at - low, Vec<float, kDoubles>));
    }
    for (int64_t k = 0; k < run.count; ++k) {
      Points<float>& points = run.points.data[k];
      const float* offset = run.offsets.data + (k * n + a) * kRun;
      for (int64_t i = 0; i < count; i += W) {
        const F moved = load<F>(fraction + i) + load<F>(offset + i), low = floor_of(moved);
        I pixel = load<I>(index + i) + __builtin_convertvector(low, I);
        F rest = moved - low;
        if constexpr (kPadding == Padding::border) {
          const I end = splat<I>(int32_t(p.extent(a) - 1));
          const auto before = pixel < I{}, behind = pixel >= end;
          pixel = before ? I{} : behind ? end : pixel;
          rest = masked(rest, ~(before | behind));
        }
        store(points.index[a] + i, pixel), store(points.fraction[a] + i, rest);
      }
    }
  }
}

template <class A>
using PrepareRun = void (*)(const Item&, int64_t row, int64_t u, int64_t count, RunSamples<A>&);

template <class A, int n>
void prepare_run(const Item& item, int64_t row, int64_t u, int64_t count, RunSamples<A>& run) {
  constexpr int N = kVectorBytes / int(sizeof(A));
  const Problem& p = item.p;
  load_offsets<A, n>(p, item.item, row * p.out_width + u, count, run);
  for (int64_t i = 0; i < count; i += N) fit_planes<A, n>(item, i, run);
  double x[3][kRun];
  source_points(item, row, u, count, x);
  if constexpr (sizeof(A) == 4) {
    if (p.padding == Padding::zeros) return place_near<Padding::zeros, n>(p, x, count, run);
    if (p.padding == Padding::border) return place_near<Padding::border, n>(p, x, count, run);
  }
  place_in_double<A, n>(p, x, count, run);
}

// N points of a run, at index i.
template <class T>
struct SampledPoints {
  using A = Compute<T>;
  using List = TapList<A>;
  using V = typename List::V;
  static constexpr bool outside = false;
  const Problem& p;
  const RunSamples<A>& run;
  BuildTaps<A> build;
  const Region& region;
  int64_t i;

  STN_INLINE void list(int64_t k, List& result) const { build(p, run.points.data[k], i, region, false, result); }
  STN_INLINE V value(int64_t k) const { return load<V>(run.values.data + k * kRun + i); }
  STN_INLINE V slope(int64_t k, int a) const { return load<V>(run.slopes.data + (k * p.dimensions + a) * kRun + i); }
};

// The sampler that the passes of tap_passes.h run on: its lists are SampledPoints.
template <class T>
struct MultiSampler {
  using A = Compute<T>;
  static constexpr int N = TapList<A>::N;
  const Problem& p;
  mutable RunSamples<A> run;
  PrepareRun<A> prepare;
  BuildTaps<A> build;

  STN_INLINE MultiSampler(const Problem& problem, bool) : p(problem), run(problem) {
    with_dimensions(p.dimensions,
                    [&](auto n) STN_LAMBDA { prepare = prepare_run<A, n>, build = build_taps<Mode::bilinear, n, A>; });
  }
  static STN_INLINE int64_t planes(const Problem& problem) { return problem.channels; }

  template <class Body>
  STN_INLINE void over(const Item& item, int64_t row, int64_t first, int64_t last, const Region& region,
                       Body body) const {
    for (int64_t u = first; u < last; u += kRun) {
      const int64_t count = minimum<int64_t>(kRun, last - u);
      prepare(item, row, u, count, run);
      for (int64_t i = 0; i < count; i += N) {
        const int64_t at = i + N > count && count >= N ? count - N : i;
        body(SampledPoints<T>{p, run, build, region, at}, u + at, int(i - at), int(minimum<int64_t>(N, count - at)));
      }
    }
  }
};

template <class T>
void samples_forward(const Problem& p, int64_t begin, int64_t end) {
  using A = Compute<T>;
  using V = typename TapList<A>::V;
  constexpr int N = TapList<A>::N;
  const Region region(p, p.input);
  const Scratch<A> pixels(lanes_are_points(p) ? 1 : N * p.channels);
  over_points<MultiSampler<T>>(
      p, begin, end, region, false, Nothing{},
      [&](const Row& row, const SampledPoints<T>& points, int64_t u, int from, int to, int64_t, int64_t) STN_LAMBDA {
        TapList<A> list;
        const T* image = row.item.template input<T>();
        T* out = static_cast<T*>(p.output.data) + row.at(p.output, u);
        const int64_t step = planes_at_once(p);
        for (int64_t c = 0; c < p.channels; c += step) {
          const int64_t channels = minimum(step, p.channels - c);
          V sums[kPlanes] = {};
          if (!lanes_are_points(p)) __builtin_memset(pixels.data, 0, size_t(N * channels) * sizeof(A));
          for (int64_t k = 0; k < p.multi.samples; ++k) {
            points.list(k, list);
            if (list.outside) continue;
            const V value = points.value(k);
            for (int t = 0; t < list.taps; ++t) list.weight[t] *= value;
            if (!lanes_are_points(p)) {
              for (int i = from; i < to; ++i) {
                channels_add<T>(PointTaps<A>(list, list.weight, i), image, pixels.data + i * channels, channels);
              }
              continue;
            }
            TapSums<T>::add_values(p, list, region, image + c * p.input.channel, list.weight, channels, sums);
          }
          if (!lanes_are_points(p)) {
            for (int i = from; i < to; ++i) {
              over_channels<T>(channels, [&](int64_t j, auto lanes) STN_LAMBDA {
                lanes.store(out + i * p.output.column + j, lanes.load(pixels.data + i * channels + j));
              });
            }
            continue;
          }
          for (int64_t j = 0; j < channels; ++j) {
            store_points_of<N>(out + (c + j) * p.output.channel, p.output.column, sums[j], to);
          }
        }
      });
}

// dL/d(source pixel) of N points by axis: the slopes of their planes.
template <class T>
STN_INLINE void point_gradient(const Row& row, const SampledPoints<T>& points, const Region& region, int64_t u,
                               int count, int64_t, int64_t, typename TapList<Compute<T>>::V (&gradient)[3]) {
  using A = Compute<T>;
  using V = typename TapList<A>::V;
  const Problem& p = row.item.p;
  TapList<A> list;
  V dots[8];
  const T* image = row.item.template input<T>();
  const T* grad = static_cast<const T*>(p.grad_output.data) + row.at(p.grad_output, u);
  const int64_t step = planes_at_once(p);
  gradient[0] = gradient[1] = gradient[2] = V{};
  // Without a ridge the slopes of the samples add up to 0, so that the centre does not count.
  for (int64_t k = p.multi.ridge > 0 ? 0 : 1; k < p.multi.samples; ++k) {
    points.list(k, list);
    if (list.outside) continue;
    V along{};
    for (int64_t c = 0; c < p.channels; c += step) {
      TapSums<T>::set_dots(p, list, region, image + c * p.input.channel, grad + c * p.grad_output.channel, count,
                           minimum(step, p.channels - c), dots);
      for (int t = 0; t < list.taps; ++t) along += list.weight[t] * dots[t];
    }
    for (int a = 0; a < p.dimensions; ++a) gradient[a] += points.slope(k, a) * along;
  }
}

// The gradient of the input through all samples.
template <class T>
void samples_grad_input(const Problem& p, int64_t begin, int64_t end) {
  using A = Compute<T>;
  TapList<A> list;
  scatter_tasks<T, MultiSampler<T>>(p, begin, end, false,
                                    [&](const Row&, const SampledPoints<T>& points, int64_t, int from, int to,
                                        const T* grad, const auto& target) STN_LAMBDA {
                                      for (int64_t k = 0; k < p.multi.samples; ++k) {
                                        points.list(k, list);
                                        if (list.outside) continue;
                                        const auto value = points.value(k);
                                        for (int t = 0; t < list.taps; ++t) list.weight[t] *= value;
                                        TapSums<T>::scatter(p, list, list.weight, grad, target, from, to);
                                      }
                                    });
}

}  // namespace stn::STN_LEVEL
