// Linearized multi-sampling: K bilinear samples around every point. What is read, and with which coefficients, is
// prepared a run of points at a time; nothing of it outlives the run.
#pragma once
#include "common/philox.h"
#include "tap_passes.h"

namespace stn::STN_LEVEL {

// Standard normal numbers of the points [point, point + count) of an item: (numbers, kRun), a multiple of four of them.
STN_SHARED inline void draw_numbers(const MultiSampling& m, int64_t item, int64_t point, int64_t count, int64_t numbers,
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

// The samples of a run of points, of which 0 is the centre: where each is read, and the planes through them.
template <class A, int n>
struct RunSamples {
  int64_t count;
  Scratch<float> numbers;     // (drawn, kRun)
  Scratch<A> offsets;         // (K, n, kRun), in pixels
  Scratch<A> weights;         // (K, kRun)
  Scratch<A> planes;          // (FittedPlane::kNumbers, kRun)
  Scratch<A> work;            // of the matching: (K - 1, 3^n + 1, a vector)
  Scratch<Points<A>> points;  // (K)

  static constexpr int kPad = kVectorBytes / int(sizeof(A));  // vectors may read beyond the last run
  STN_INLINE explicit RunSamples(const Problem& p)
      : count(p.multi.samples),
        numbers(p.multi.offsets ? 1 : ((count - 1) * n + 3) / 4 * 4 * kRun),
        offsets(count * n * kRun + kPad),
        weights(count * kRun + kPad),
        planes(FittedPlane<A, n>::kNumbers * kRun + kPad),
        work(p.multi.weighting == Weighting::entropic ? ((count - 1) * (kPlaces<n> + 1) + 1) * kPad : 1),
        points(count) {}

  STN_INLINE A* offset(int64_t k, int a, int64_t i) const { return offsets.data + (k * n + a) * kRun + i; }
  STN_INLINE A* weight(int64_t k, int64_t i) const { return weights.data + k * kRun + i; }
  // V: a number or a vector of them, of the points from i on.
  template <class V>
  STN_INLINE FittedPlane<V, n> plane(int64_t i) const {
    FittedPlane<V, n> plane;
    const A* from = planes.data + i;
    plane.each([&](V& number) STN_LAMBDA { number = load<V>(from), from += kRun; });
    return plane;
  }
};

// Fills the normalized offsets of a run: those given, or spread numbers.
template <class A, int n>
STN_INLINE void load_offsets(const Problem& p, int64_t item, int64_t point, int64_t count, RunSamples<A, n>& run) {
  const MultiSampling& m = p.multi;
  if (m.offsets) {
    const int64_t points = p.item_points();
    const auto copy = [&](const auto* from) STN_LAMBDA {
      for (int64_t k = 1; k < run.count; ++k) {
        const auto* row = from + ((item * run.count + k) * points + point) * n;
        if constexpr (sizeof(*row) == 4 && sizeof(A) == 4) {
          constexpr int W = kVectorBytes / 4;
          for (int64_t i = 0; i < count; i += W) {
            float rest[W * n];
            Vec<float, W> offset[n];
            const bool whole = count - i >= W;
            if (!whole) __builtin_memcpy(rest, row + i * n, size_t((count - i) * n) * sizeof(float));
            deinterleave<n, W>(whole ? row + i * n : rest, offset);
            for (int a = 0; a < n; ++a) store(run.offset(k, a, i), offset[a]);
          }
          continue;
        }
        for (int64_t i = 0; i < count; ++i) {
          for (int a = 0; a < n; ++a) *run.offset(k, a, i) = A(row[i * n + a]);
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

// Turns the normalized offsets of a vector of points, at index i of a run, into pixels, and fits their planes.
template <class A, int n>
STN_INLINE void fit_planes(const Item& item, int64_t i, RunSamples<A, n>& run) {
  constexpr int N = kVectorBytes / int(sizeof(A));
  using V = Vec<A, N>;
  const MultiSampling& m = item.p.multi;
  const V zero{}, one = splat<V>(A(1));
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
      offset[a] = load<V>(run.offset(k, a, i));
      counts &= absolute(offset[a]) <= one;
    }
    const V counted = masked(one, counts);
    for (int a = 0; a < n; ++a) {
      offset[a] = masked(offset[a], counts) * scale[a];
      store(run.offset(k, a, i), offset[a]);
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
    store(run.weight(k, i), weight);
  }
  if (m.weighting == Weighting::entropic) {
    V* const weights = kernel + (run.count - 1) * kPlaces<n>;
    matched_weights<n>(kernel, run.count - 1, weights);
    for (int64_t k = 1; k < run.count; ++k) store(run.weight(k, i), weights[k - 1]);
  }

  V total = zero, weighted[n] = {}, moment[n] = {}, covariance[n][n] = {};
  for (int64_t k = 1; k < run.count; ++k) {
    const V weight = load<V>(run.weight(k, i));
    total += weight;
    for (int a = 0; a < n; ++a) {
      const V offset = load<V>(run.offset(k, a, i));
      weighted[a] += weight * offset, moment[a] += weight * offset * offset;
    }
  }
  FittedPlane<V, n> plane(total, weighted, m.ridge);
  for (int64_t k = 1; k < run.count; ++k) {
    const V weight = load<V>(run.weight(k, i));
    V centred[n];
    for (int a = 0; a < n; ++a) {
      centred[a] = load<V>(run.offset(k, a, i)) - plane.mean[a];
      for (int b = 0; b <= a; ++b) covariance[a][b] += weight * centred[a] * centred[b];
    }
  }
  plane.factor(covariance, moment, m.ridge);
  for (int64_t k = 1; k < run.count; ++k) {
    for (int a = 0; a < n; ++a) store(run.offset(k, a, i), load<V>(run.offset(k, a, i)) * plane.solvable);
  }
  for (int a = 0; a < n; ++a) store(run.offset(0, a, i), zero);
  A* to = run.planes.data + i;
  plane.each([&](V& number) STN_LAMBDA { store(to, number), to += kRun; });
}

// Places the samples of a run: indices and fractions of source pixels.

// Any type and padding, in double.
template <class A, int n>
STN_INLINE void place_in_double(const Problem& p, const double (*x)[kRun], int64_t count, RunSamples<A, n>& run) {
  const auto split = splitter<Mode::bilinear, A>(p.padding);
  const int64_t whole = (count + 15) / 16 * 16;
  double moved[kRun];
  for (int64_t k = 0; k < run.count; ++k) {
    Points<A>& points = run.points.data[k];
    for (int a = 0; a < n; ++a) {
      const A* offset = run.offset(k, a, 0);
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
STN_INLINE void place_near(const Problem& p, const double (*x)[kRun], int64_t count, RunSamples<float, n>& run) {
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
      const float* offset = run.offset(k, a, 0);
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

template <class A, int n>
void prepare_run(const Item& item, int64_t row, int64_t u, int64_t count, RunSamples<A, n>& run) {
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
template <class A, int n>
struct SampledPoints {
  using List = TapList<A>;
  using V = typename List::V;
  static constexpr bool outside = false;
  const Problem& p;
  const RunSamples<A, n>& run;
  const Region& region;
  int64_t i;

  STN_INLINE void list(int64_t k, List& result) const {
    build_taps<Mode::bilinear, n, A>(p, run.points.data[k], i, region, false, result);
  }
  // The weight of sample k of the points from j on, W a number or a vector of them; its offset is set.
  template <class W>
  STN_INLINE W weight(int64_t k, int64_t j, W (&offset)[n]) const {
    for (int a = 0; a < n; ++a) offset[a] = load<W>(run.offset(k, a, i + j));
    return load<W>(run.weight(k, i + j));
  }
};

// The sampler that the passes of tap_passes.h run on: its lists are SampledPoints.
template <class A, int n>
struct MultiSampler {
  static constexpr int N = TapList<A>::N;
  const Problem& p;
  mutable RunSamples<A, n> run;

  STN_INLINE MultiSampler(const Problem& problem, bool) : p(problem), run(problem) {}
  static STN_INLINE int64_t planes(const Problem& problem) { return problem.channels; }

  template <class Body>
  STN_INLINE void over(const Item& item, int64_t row, int64_t first, int64_t last, const Region& region,
                       Body body) const {
    for (int64_t u = first; u < last; u += kRun) {
      const int64_t count = minimum<int64_t>(kRun, last - u);
      prepare_run<A, n>(item, row, u, count, run);
      for (int64_t i = 0; i < count; i += N) {
        const int64_t at = i + N > count && count >= N ? count - N : i;
        body(SampledPoints<A, n>{p, run, region, at}, u + at, int(i - at), int(minimum<int64_t>(N, count - at)));
      }
    }
  }
};

// The taps of N points read in pairs of neighbours, without a list: where an image is so stored and wide enough.
template <class A, int n>
struct PairedTaps {
  using V = typename TapList<A>::V;
  using I = typename TapList<A>::I;
  static constexpr int N = TapList<A>::N, kRows = 1 << (n - 1);
  bool interior;       // all are inside: `inside` is not set
  V weight[kRows][2];  // of the pixels that are read, those beside an edge moved inside:
  I inside[kRows][2];  // whether one is a tap
  int64_t step[kRows];
  alignas(64) int64_t offset[N];

  static STN_INLINE bool possible(const Problem& p, const Region& w) {
    bool wide = true;
    for (int a = 0; a < n; ++a) wide &= p.extent(a) > 1;
    return wide && sizeof(A) < 8 && w.stride[0] == 1 && w.small;
  }
  STN_INLINE void set(const Problem& p, const Points<A>& points, int64_t i, const Region& w) {
    I first[n], at{}, of_axis[n][2] = {};
    V of[n][2];
    auto within = at == at;
    for (int a = 0; a < n; ++a) {
      first[a] = load<I>(points.index[a] + i);
      within &= (first[a] >= I{}) & (first[a] <= splat<I>(IndexOf<A>(p.extent(a) - 2)));
      of[a][1] = load<V>(points.fraction[a] + i), of[a][0] = splat<V>(A(1)) - of[a][1];
    }
    interior = all(within);
    for (int a = 0; a < n; ++a) {
      I moved = first[a];
      if (!interior) {
        const I last = splat<I>(IndexOf<A>(p.extent(a) - 2));
        moved = moved < I{} ? I{} : moved;
        moved = moved > last ? last : moved;
        const I by = first[a] - moved;
        const auto same = by == I{}, before = by == splat<I>(IndexOf<A>(-1)), behind = by == splat<I>(IndexOf<A>(1));
        of_axis[a][0] = same | before, of_axis[a][1] = same | behind;
        const V left = same ? of[a][0] : of[a][1], right = same ? of[a][1] : of[a][0];
        of[a][0] = masked(left, of_axis[a][0]), of[a][1] = masked(right, of_axis[a][1]);
      }
      at += moved * IndexOf<A>(w.stride[a]);
    }
    store(offset, __builtin_convertvector(at, Vec<int64_t, N>));
    asm volatile("" : "+m"(offset));  // reloading beats extracting lane by lane
    for (int r = 0; r < kRows; ++r) {
      step[r] = 0;
      for (int k = 0; k < 2; ++k) weight[r][k] = of[0][k];
      if (!interior) inside[r][0] = of_axis[0][0], inside[r][1] = of_axis[0][1];
      for (int a = 1; a < n; ++a) {
        const int second = r >> (a - 1) & 1;
        if (second) step[r] += w.stride[a];
        for (int k = 0; k < 2; ++k) {
          weight[r][k] *= of[a][second];
          if (!interior) inside[r][k] &= of_axis[a][second];
        }
      }
    }
  }
  template <class T, bool kInterior>
  STN_INLINE V value(Elements<const T> plane) const {
    V sums[2] = {};
    for (int r = 0; r < kRows; ++r) {
      V pair[2];
      load_pairs<N>(plane + step[r], offset, pair[0], pair[1]);
      for (int k = 0; k < 2; ++k) sums[k] += weight[r][k] * (kInterior ? pair[k] : masked(pair[k], inside[r][k]));
    }
    return sums[0] + sums[1];
  }
};

// Sums over the samples of a point, or of a vector of them: what solves its plane in one channel.
template <class V, int n>
struct PlaneSums {
  V centre, weighted, moment[n];

  template <class W>
  STN_INLINE void add(V value, W weight, const W (&centred)[n]) {
    const V difference = value - centre;
    weighted += weight * difference;
    for (int a = 0; a < n; ++a) moment[a] += centred[a] * difference;
  }
};

// w (d - mean).
template <class V, int n>
STN_INLINE void centre_offset(const FittedPlane<V, n>& plane, V weight, V (&offset)[n]) {
  for (int a = 0; a < n; ++a) offset[a] = weight * (offset[a] - plane.mean[a]);
}

// values[c] of the taps of N points, over planes.
template <class T, int n>
void paired_values(const Problem& p, const PairedTaps<Compute<T>, n>& taps, int64_t at, int64_t channels,
                   Vec<Compute<T>, TapList<Compute<T>>::N>* values) {
  Elements<const T> image = elements<const T>(p, p.input.data) + at;
  const auto read = [&]<bool kInterior>() STN_LAMBDA {
    for (int64_t c = 0; c < channels; ++c) values[c] = taps.template value<T, kInterior>(image + c * p.input.channel);
  };
  taps.interior ? read.template operator()<true>() : read.template operator()<false>();
}

// What of the passes over samples depends on the storage type.
template <class A, int n>
struct SampleKernels : TapKernels<A> {
  decltype(&paired_values<A, n>) paired;
  STN_INLINE explicit SampleKernels(DType dtype)
      : TapKernels<A>(TapKernels<A>::of(dtype)), paired(paired_values<A, n>) {
    if constexpr (sizeof(A) == sizeof(float)) {
      if (dtype != DType::float32) paired = paired_values<Half, n>;
    }
  }
};

// The values and slopes of N points, of which `count` are there; slopes may be null.
template <class A, int n>
STN_INLINE void planes_of_points(const SampleKernels<A, n>& kernels, const Item& item,
                                 const SampledPoints<A, n>& points, int count, int64_t out_at, A* slopes) {
  using V = typename TapList<A>::V;
  constexpr int N = TapList<A>::N;
  const Problem& p = item.p;
  TapList<A> list;
  PairedTaps<A, n> taps;
  const bool paired = taps.possible(p, points.region);
  const auto plane = points.run.template plane<V>(points.i);
  const int64_t step = planes_at_once(p);
  for (int64_t c = 0; c < p.channels; c += step) {
    const int64_t channels = minimum(step, p.channels - c), at = item.image * p.input.batch + c * p.input.channel;
    PlaneSums<V, n> sums[kPlanes];
    V values[kPlanes];
    for (int64_t k = 0; k < points.run.count; ++k) {
      V offset[n];
      const V weight = points.weight(k, 0, offset);
      centre_offset(plane, weight, offset);
      if (paired) {
        taps.set(p, points.run.points.data[k], points.i, points.region);
        kernels.paired(p, taps, at, channels, values);
      } else {
        points.list(k, list);
        for (int64_t j = 0; j < channels; ++j) values[j] = V{};
        if (!list.outside) kernels.add_values(p, list, points.region, p.input.data, at, list.weight, channels, values);
      }
      for (int64_t j = 0; j < channels; ++j) {
        if (k == 0) {
          sums[j] = {values[j], V{}, {}};
        } else {
          sums[j].add(values[j], weight, offset);
        }
      }
    }
    for (int64_t j = 0; j < channels; ++j) {
      PlaneSums<V, n>& sum = sums[j];
      values[j] = sum.centre + plane.solve(sum.weighted, sum.moment);
      if (!slopes) continue;
      for (int a = 0; a < n; ++a) {
        store_points_of<N>(slopes + (a * p.channels + c + j) * p.slopes.channel, p.slopes.column,
                           sum.moment[a] * A(item.axis[a].scale), count);
      }
    }
    kernels.store_values(p, out_at + c * p.output.channel, channels, count, values);
  }
}

// The same of points [from, to) where lanes are channels. Sums are kept in whole vectors.
template <class A, int n>
struct ChannelPlanes {
  static constexpr int W = kVectorBytes / int(sizeof(A)), kSums = n + 2;
  using V = Vec<A, W>;
  using Sums = PlaneSums<V, n>;
  const int64_t channels, vectors;
  Scratch<A> values;   // of a point, by channel
  Scratch<Sums> sums;  // (N, vectors)
  STN_INLINE explicit ChannelPlanes(const Problem& p)
      : channels(lanes_are_points(p) ? 0 : p.channels),
        vectors((channels + W - 1) / W),
        values(vectors * W + 1),
        sums(TapList<A>::N * vectors + 1) {}

  STN_INLINE void run(const SampleKernels<A, n>& kernels, const Item& item, const SampledPoints<A, n>& points, int from,
                      int to, int64_t out_at, A* slopes) {
    const Problem& p = item.p;
    TapList<A> list{};  // for the compiler, which does not see that its rest is not read
    FittedPlane<A, n> planes[TapList<A>::N];
    for (int i = from; i < to; ++i) planes[i] = points.run.template plane<A>(points.i + i);
    for (int64_t k = 0; k < points.run.count; ++k) {
      points.list(k, list);
      for (int i = from; i < to; ++i) {
        A offset[n];
        const A weight = points.weight(k, i, offset);
        centre_offset(planes[i], weight, offset);
        kernels.sum_channels(p, PointTaps<A>(list, list.weight, i), p.input.data, item.image * p.input.batch, channels,
                             values.data);
        for (int64_t v = 0; v < vectors; ++v) {
          Sums& sum = sums.data[i * vectors + v];
          const V value = load<V>(values.data + v * W);
          if (k == 0)
            sum = {value, V{}, {}};
          else
            sum.add(value, weight, offset);
        }
      }
    }
    for (int i = from; i < to; ++i) {
      const auto store_each = [&](void* to, int64_t at, auto store_all, auto number) STN_LAMBDA {
        for (int64_t v = 0; v < vectors; ++v) store(values.data + v * W, number(sums.data[i * vectors + v]));
        store_all(p, values.data, channels, to, at);
      };
      for (int64_t v = 0; v < vectors; ++v) {
        Sums& sum = sums.data[i * vectors + v];
        sum.centre += planes[i].solve(sum.weighted, sum.moment);
      }
      store_each(p.output.data, out_at + i * p.output.column, kernels.store_all,
                 [](const Sums& sum) { return sum.centre; });
      for (int a = 0; slopes && a < n; ++a) {
        const A scale = A(item.axis[a].scale);
        store_each(slopes, i * p.slopes.column + a * channels, TapSums<A>::store_all,
                   [&](const Sums& sum) { return sum.moment[a] * scale; });
      }
    }
  }
};

template <class A, int n>
void samples_forward(const Problem& p, int64_t begin, int64_t end) {
  const Region region(p, p.input);
  ChannelPlanes<A, n> channels(p);
  const SampleKernels<A, n> kernels(p.dtype);
  over_points<MultiSampler<A, n>>(
      p, begin, end, region, false, Nothing{},
      [&](const Row& row, const SampledPoints<A, n>& points, int64_t u, int from, int to, int64_t, int64_t) STN_LAMBDA {
        const int64_t out_at = row.at(p.output, u);
        A* slopes = p.slopes.data ? static_cast<A*>(p.slopes.data) + row.at(p.slopes, u) : nullptr;
        if (lanes_are_points(p)) {
          planes_of_points(kernels, row.item, points, to, out_at, slopes);
        } else {
          channels.run(kernels, row.item, points, from, to, out_at, slopes);
        }
      });
}

// The gradient of the input through all samples: the centre's share is what the others leave.
template <class A, int n>
void samples_grad_input(const Problem& p, int64_t begin, int64_t end) {
  using V = typename TapList<A>::V;
  const auto kernels = TapKernels<A>::of(p.dtype);
  TapList<A> list;
  const auto scatter = [&](const Row&, const SampledPoints<A, n>& points, int64_t, int from, int to, int64_t grad_at,
                           const Target<A>& target) STN_LAMBDA {
    const auto plane = points.run.template plane<V>(points.i);
    V left = splat<V>(A(1));
    for (int64_t k = p.multi.samples; k-- > 0;) {
      V offset[n], share = left;
      const V weight = points.weight(k, 0, offset);
      if (k > 0) share = plane.bias_of(weight, offset), left -= share;
      points.list(k, list);
      if (list.outside) continue;
      for (int t = 0; t < list.taps; ++t) list.weight[t] *= share;
      kernels.scatter(p, list, list.weight, grad_at, target, from, to);
    }
  };
  scatter_tasks<A, MultiSampler<A, n>>(p, begin, end, false, kernels, scatter);
}

// The gradient of the source points: grad_output times slopes, summed over channels.
template <class T>
void slopes_grad_grid(const Problem& p, int64_t begin, int64_t end) {
  using A = Compute<T>;
  constexpr int N = TapList<A>::N;
  const int n = p.dimensions;
  const Lines lines(p);
  over_row_blocks(begin, end, lines.count, [&](int64_t, int64_t number, int64_t first, int64_t last) STN_LAMBDA {
    const Item item(p, number);
    for (int64_t line = first; line < last; ++line) {
      const Row row(item, line / lines.per_row);
      const int64_t u = line % lines.per_row * Lines::kLine, end_u = minimum(u + Lines::kLine, p.row_width(row.row));
      Elements<const T> grad = elements<const T>(p, p.grad_output.data) + row.at(p.grad_output, u);
      const A* slopes = static_cast<const A*>(p.slopes.data) + row.at(p.slopes, u);
      A* to = static_cast<A*>(p.grad_grid) + (number * p.item_points() + row.row * p.out_width + u) * n;
      if (p.channels_last) {
        for (int64_t i = u; i < end_u; ++i, grad += p.grad_output.column, slopes += p.slopes.column) {
          for (int a = 0; a < n; ++a) {
            ChannelSum<T> sum;
            over_channels<T>(p.channels, [&](int64_t c, auto lanes) STN_LAMBDA {
              sum.add(lanes.load(grad + c) * lanes.load(slopes + a * p.channels + c));
            });
            *to++ = sum_of_lanes(sum.folded());
          }
        }
        continue;
      }
      for (int64_t i = u; i < end_u; i += N, grad += N, slopes += N) {
        const int count = int(minimum<int64_t>(N, end_u - i));
        Vec<A, N> sums[3] = {};
        for (int64_t c = 0; c < p.channels; ++c) {
          const auto g = load_points_of<N>(grad + c * p.grad_output.channel, 1, count);
          for (int a = 0; a < n; ++a)
            sums[a] += g * load_points_of<N>(slopes + (a * p.channels + c) * p.slopes.channel, 1, count);
        }
        for (int j = 0; j < count; ++j) {
          for (int a = 0; a < n; ++a) *to++ = sums[a][j];
        }
      }
    }
  });
}

}  // namespace stn::STN_LEVEL
