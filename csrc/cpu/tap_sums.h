// What is done with a list of taps: weighted sums of an image, its products with a cotangent, additions to a gradient.
#pragma once
#include "channels_last.h"
#include "planar.h"
#include "tap_list.h"

namespace stn::STN_LEVEL {

// The pixels at N offsets, widened.
template <int N, class P, class Offset>
STN_INLINE auto gather(P plane, const Offset* offset) {
  return [&]<size_t... i>(std::index_sequence<i...>) STN_LAMBDA {
    if constexpr (sizeof(plane[0]) == 2) {
      return widen<N>(plane.is_bfloat16, Halves<N>{plane[offset[i]].bits...});
    } else {
      return Vec<std::remove_cvref_t<decltype(plane[0])>, N>{plane[offset[i]]...};
    }
  }(std::make_index_sequence<size_t(N)>{});
}

// How taps are read: two by two as neighbours in memory, of which all are inside or not; else one by one.
enum class Reads { pairs, masked_pairs, single };

template <class T>
STN_INLINE Reads reads_of(const TapList<Compute<T>>& list, const Region& w, int64_t width) {
  if (sizeof(T) == 8 || !list.stepped() || w.stride[0] != 1 || width == 1) return Reads::single;
  return list.interior ? Reads::pairs : Reads::masked_pairs;
}

// The taps t and t + 1 of N points in one plane; 0 where they are outside.
template <Reads kReads, class T>
STN_INLINE void read_two(const TapList<Compute<T>>& list, Elements<const T> plane, int t,
                         typename TapList<Compute<T>>::V& a, typename TapList<Compute<T>>::V& b) {
  constexpr int N = TapList<Compute<T>>::N;
  if constexpr (kReads == Reads::single) {
    const auto one = [&](int k) STN_LAMBDA {
      if (list.interior) return gather<N>(plane + list.step[k], list.offset);
      alignas(64) int64_t offset[N];
      if (list.stepped()) return list.inside_only(gather<N>(plane + list.step[k], list.offset), k);
      store(offset, list.offsets(k));
      asm volatile("" : "+m"(offset));  // reloading beats extracting lane by lane
      return list.inside_only(gather<N>(plane, offset), k);
    };
    a = one(t);
    b = one(t + 1);
  } else {
    load_pairs<N>(plane + list.step[t], list.offset, a, b);
    if constexpr (kReads == Reads::masked_pairs) a = list.inside_only(a, t), b = list.inside_only(b, t + 1);
  }
}

// Calls f(how taps are read, their number) with integral constants; 0 for a number that is not.
template <class F>
STN_INLINE void with_reads(Reads reads, int taps, F f) {
  const auto with = [&]<Reads kReads, int kCount>() STN_LAMBDA {
    f(std::integral_constant<Reads, kReads>{}, std::integral_constant<int, kCount>{});
  };
  if (reads == Reads::pairs)
    return taps == 8 ? with.template operator()<Reads::pairs, 8>() : with.template operator()<Reads::pairs, 0>();
  if (reads == Reads::masked_pairs)
    return taps == 8 ? with.template operator()<Reads::masked_pairs, 8>()
                     : with.template operator()<Reads::masked_pairs, 0>();
  with.template operator()<Reads::single, 0>();
}
// Calls f(t) for every second tap.
template <int kCount, class F>
STN_INLINE void every_second(int taps, F f) {
  if constexpr (kCount > 0) {
    unrolled<kCount / 2>([&](auto i) STN_LAMBDA { f(2 * i); });
  } else {
    for (int t = 0; t < taps; t += 2) f(t);
  }
}

// target[t] += weight[t] grad of points [begin, end), in one plane in the compute type. Pixels that are not read get 0.
// Points share pixels with their neighbours, and a sum in memory waits for the one before: so every other point comes
// first, or column by column of the taps. Which tap a pixel is to a point that moved inside depends on the region; the
// order of the sums must not.
template <class A>
STN_INLINE void scatter_plane(const TapList<A>& list, A* plane, typename TapList<A>::V grad,
                              const typename TapList<A>::V* weight, int begin, int end) {
  constexpr int N = TapList<A>::N;
  const auto value = [&](int t) STN_LAMBDA {
    const auto product = weight[t] * grad;
    return list.interior ? product : list.inside_only(product, t);
  };
  if (list.row == 2) {
    alignas(64) A lanes[8][N];
    for (int t = 0; t < list.taps; ++t) store(lanes[t], value(t));
    for (int parity = 0; parity < 2; ++parity) {
      for (int i = begin + parity; i < end; i += 2) {
        for (int t = 0; t < list.taps; ++t) plane[list.offset[i] + list.step[t]] += lanes[t][i];
      }
    }
    return;
  }
  alignas(64) A lanes[N];
  alignas(64) int64_t offset[N];
  const auto add = [&](A* target, const int64_t* offset) STN_LAMBDA {
    if (end - begin == N) {
      for (int i = 0; i < N; ++i) target[offset[i]] += lanes[i];
    } else {
      for (int i = begin; i < end; ++i) target[offset[i]] += lanes[i];
    }
  };
  for (int column = 0; column < list.row; ++column) {
    for (int t = column; t < list.taps; t += list.row) {
      store(lanes, value(t));
      if (list.interior) {
        add(plane + list.step[t], list.offset);
      } else {
        store(offset, list.offsets(t));
        asm volatile("" : "+m"(offset));
        add(plane, offset);
      }
    }
  }
}

// The taps of one point of a list that are inside: for lanes over channels.
template <class A>
struct PointTaps {
  int count = 0;
  int64_t offset[TapList<A>::kMost];
  A weight[TapList<A>::kMost];
  int tap[TapList<A>::kMost];

  STN_INLINE PointTaps(const TapList<A>& list, const typename TapList<A>::V* weights, int64_t i) {
    for (int t = 0; t < list.taps; ++t) {
      if (!list.is_inside(t, i)) continue;
      offset[count] = list.offset_of(t, i);
      weight[count] = weights[t][i], tap[count++] = t;
    }
  }
};

// dots[t] of one point of a list.
template <class T>
STN_INLINE void channels_dots(const PointTaps<Compute<T>>& taps, Elements<const T> image, Elements<const T> grad,
                              int64_t channels, int64_t i, typename TapList<Compute<T>>::V* dots) {
  for (int k = 0; k < taps.count; ++k) {
    ChannelSum<T> sum;
    over_channels<T>(channels, [&](int64_t c, auto lanes) STN_LAMBDA {
      sum.add(lanes.load(grad + c) * lanes.load(image + taps.offset[k] + c));
    });
    dots[taps.tap[k]][i] += sum_of_lanes(sum.folded());
  }
}

template <class T>
STN_INLINE void channels_scatter(const PointTaps<Compute<T>>& taps, Elements<const T> grad, Compute<T>* pixels,
                                 int64_t channels) {
  using A = Compute<T>;
  over_channels<T>(channels, [&](int64_t c, auto lanes) STN_LAMBDA {
    const auto g = lanes.load(grad + c);
    for (int k = 0; k < taps.count; ++k) {
      A* pixel = pixels + taps.offset[k] + c;
      lanes.store(pixel, lanes.load(pixel) + taps.weight[k] * g);
    }
  });
}

// gradient[a] = sum_t dots[t] d weight[t] / d coordinate a, one axis after another.
template <class A>
STN_INLINE void contract(const TapList<A>& list, int n, const typename TapList<A>::V* dots,
                         typename TapList<A>::V (&gradient)[3]) {
  using V = typename TapList<A>::V;
  const int K = list.row;
  V gx{}, gy{}, gz{};
  const V* d = dots;
  for (int c = 0; c < (n > 2 ? K : 1); ++c) {
    V along_x{}, along_y{}, plane{};
    for (int b = 0; b < (n > 1 ? K : 1); ++b) {
      V line{}, slope{};
      for (int a = 0; a < K; ++a, ++d) line += list.axis_weight[0][a] * *d, slope += list.axis_slope[0][a] * *d;
      if (n > 1) {
        along_x += list.axis_weight[1][b] * slope, along_y += list.axis_slope[1][b] * line;
        plane += list.axis_weight[1][b] * line;
      } else {
        along_x = slope;
      }
    }
    if (n > 2) {
      gx += list.axis_weight[2][c] * along_x, gy += list.axis_weight[2][c] * along_y;
      gz += list.axis_slope[2][c] * plane;
    } else {
      gx = along_x, gy = along_y;
    }
  }
  gradient[0] = gx, gradient[1] = gy, gradient[2] = gz;
}

constexpr int64_t kPlanes = 8;  // channels that share a list of taps

// Lanes are points, and channels follow one another; only where pixels hold many channels are lanes channels.
STN_INLINE bool lanes_are_points(const Problem& p) { return !p.channels_last || p.channels < 8; }
STN_INLINE int64_t planes_at_once(const Problem& p) {
  return lanes_are_points(p) && kPlanes < p.channels ? kPlanes : p.channels;
}

// N values in a plane of the output's shape, of which only `count` may be there.
template <int N, class P>
STN_INLINE auto load_points_of(P plane, int64_t column, int count) {
  return column == 1 && count == N ? load_as<N>(plane) : load_part<N>(plane, count, column);
}
template <int N, class P, class V>
STN_INLINE void store_points_of(P plane, int64_t column, V value, int count) {
  column == 1 && count == N ? store_as<N>(plane, value) : store_part<N>(plane, value, count, column);
}

// What outputs add to: planes, or pixels, of the compute type.
template <class A>
struct Target {
  A* origin;
  int64_t plane_stride, channels;
};

// What the points of a run add to planes, two neighbours at a time. An addition must not wait for one that it overlaps:
// so the first points of all lists come first, then the second ones.
template <class A>
struct PairRun {
  static constexpr int N = TapList<A>::N, kLists = kRun / N;
  using Pair = Vec<A, 2>;
  int64_t number = 0;  // of the run
  int lists = 0, rows = 0;
  int64_t step[4];
  alignas(64) int64_t offset[kRun];
  alignas(64) A value[kPlanes][4][2 * kRun];

  static STN_INLINE bool possible(const Problem& p) {
    return sizeof(A) == 4 && p.mode != Mode::bicubic && lanes_are_points(p) && p.grad_input.column == 1 && p.width > 1;
  }
  STN_INLINE void add_to(const Target<A>& target) {
    for (int64_t c = 0; c < target.channels; ++c) {
      A* plane = target.origin + c * target.plane_stride;
      for (int i = 0; i < N; ++i) {
        for (int list = 0; list < lists; ++list) {
          A* point = plane + offset[N * list + i];
          for (int r = 0; r < rows; ++r) {
            A* pair = point + step[r];
            store(pair, load<Pair>(pair) + load<Pair>(value[c][r] + 2 * (N * list + i)));
          }
        }
      }
    }
    lists = 0;
  }
};

// What of the passes depends on the storage type, compiled once a level: in samplers.cpp. Images lie as the input does,
// cotangents as the output's gradient; at, grad_at, out_at: elements from their beginning.
template <class T>
struct TapSums {
  using A = Compute<T>;
  using List = TapList<A>;
  using V = typename List::V;
  static constexpr int N = List::N;

  // sums[c] += sum_t weight[t] image[c][t] of N points, over planes.
  static void add_values(const Problem& p, const List& list, const Region& region, const void* images, int64_t at,
                         const V* weight, int64_t channels, V* sums) {
    Elements<const T> image = elements<const T>(p, images) + at;
    with_reads(reads_of<T>(list, region, p.width), list.taps, [&](auto reads, auto count) STN_LAMBDA {
      for (int64_t c = 0; c < channels; ++c, image += p.input.channel) {
        V first{}, second{};
        every_second<count>(list.taps, [&](int t) STN_LAMBDA {
          V a, b;
          read_two<reads, T>(list, image, t, a, b);
          first += weight[t] * a, second += weight[t + 1] * b;
        });
        sums[c] += first + second;
      }
    });
  }
  // Stores sums of N points, of which only `count` are there, in planes of the output.
  static void store_values(const Problem& p, int64_t out_at, int64_t channels, int count, const V* sums) {
    Elements<T> out = elements<T>(p, p.output.data) + out_at;
    for (int64_t c = 0; c < channels; ++c)
      store_points_of<N>(out + c * p.output.channel, p.output.column, sums[c], count);
  }

  // sums[c] = sum_t weight[t] image[t][c] for the channels of one point.
  static void sum_channels(const Problem& p, const PointTaps<A>& taps, const void* images, int64_t at, int64_t channels,
                           A* sums) {
    Elements<const T> image = elements<const T>(p, images) + at;
    over_channels<T>(channels, [&](int64_t c, auto lanes) STN_LAMBDA {
      typename decltype(lanes)::V value{};
      for (int k = 0; k < taps.count; ++k) value += taps.weight[k] * lanes.load(image + taps.offset[k] + c);
      lanes.store(sums + c, value);
    });
  }
  // The same stored in the output.
  static void store_channels(const Problem& p, const PointTaps<A>& taps, int64_t at, int64_t out_at) {
    Elements<const T> image = elements<const T>(p, p.input.data) + at;
    Elements<T> out = elements<T>(p, p.output.data) + out_at;
    over_channels<T>(p.channels, [&](int64_t c, auto lanes) STN_LAMBDA {
      typename decltype(lanes)::V value{};
      for (int k = 0; k < taps.count; ++k) value += taps.weight[k] * lanes.load(image + taps.offset[k] + c);
      lanes.store(out + c, value);
    });
  }

  // dots[t] of N points: the output's gradient times each tap, summed over some channels.
  static void set_dots(const Problem& p, const List& list, const Region& region, const void* images, int64_t at,
                       int64_t grad_at, int count, int64_t channels, V* dots) {
    Elements<const T> image = elements<const T>(p, images) + at;
    Elements<const T> grad = elements<const T>(p, p.grad_output.data) + grad_at;
    if (list.outside || !lanes_are_points(p)) {
      for (int t = 0; t < list.taps; ++t) dots[t] = V{};
    }
    if (list.outside) return;
    if (!lanes_are_points(p)) {
      for (int i = 0; i < count; ++i, grad += p.grad_output.column) {
        channels_dots<T>(PointTaps<A>(list, list.weight, i), image, grad, channels, i, dots);
      }
      return;
    }
    V g[kPlanes];
    for (int64_t c = 0; c < channels; ++c) {
      g[c] = load_points_of<N>(grad + c * p.grad_output.channel, p.grad_output.column, count);
    }
    // In 1-D all that is asked for is how two neighbours differ, which sums of each would cancel to.
    const bool differences = p.dimensions == 1 && list.row == 2 && list.interior;
    with_reads(reads_of<T>(list, region, p.width), list.taps, [&](auto reads, auto count) STN_LAMBDA {
      every_second<count>(list.taps, [&](int t) STN_LAMBDA {
        V first{}, second{};
        for (int64_t c = 0; c < channels; ++c) {
          V a, b;
          read_two<reads, T>(list, image + c * p.input.channel, t, a, b);
          if (differences) b = A(0.5) * (b - a), a = -b;
          first += g[c] * a, second += g[c] * b;
        }
        dots[t] = first, dots[t + 1] = second;
      });
    });
  }

  // Adds the cotangents of points [begin, end), times weights, to a gradient.
  static void scatter(const Problem& p, const List& list, const V* weight, int64_t grad_at, const Target<A>& target,
                      int begin, int end) {
    Elements<const T> grad = elements<const T>(p, p.grad_output.data) + grad_at;
    if (!lanes_are_points(p)) {
      for (int i = begin; i < end; ++i) {
        const PointTaps<A> taps(list, weight, i);
        channels_scatter<T>(taps, grad + i * p.grad_output.column, target.origin, target.channels);
      }
      return;
    }
    A* plane = target.origin;
    for (int64_t c = 0; c < target.channels; ++c, grad += p.grad_output.channel, plane += target.plane_stride) {
      scatter_plane<A>(list, plane, load_points_of<N>(grad, p.grad_output.column, end), weight, begin, end);
    }
  }
  // Leaves them to a run.
  static void put_off(const Problem& p, const List& list, int64_t grad_at, int64_t channels, PairRun<A>& run) {
    Elements<const T> grad = elements<const T>(p, p.grad_output.data) + grad_at;
    const int64_t first = N * run.lists++;
    store(run.offset + first, load<typename List::Offsets>(list.offset));
    run.rows = list.taps / 2;
    for (int r = 0; r < run.rows; ++r) run.step[r] = list.step[2 * r];
    for (int64_t c = 0; c < channels; ++c, grad += p.grad_output.channel) {
      const V g = load_points_of<N>(grad, p.grad_output.column, N);
      for (int r = 0; r < run.rows; ++r) {
        V pair[2] = {list.weight[2 * r] * g, list.weight[2 * r + 1] * g};
        if (!list.interior) pair[0] = list.inside_only(pair[0], 2 * r), pair[1] = list.inside_only(pair[1], 2 * r + 1);
        interleave<2, N>(pair, run.value[c][r] + 2 * first);
      }
    }
  }
  // Rounds sums to consecutive elements of an image.
  static void store_all(const Problem& p, const A* sums, int64_t count, void* images, int64_t at) {
    Elements<T> image = elements<T>(p, images) + at;
    over_channels<T>(count, [&](int64_t i, auto lanes) STN_LAMBDA { lanes.store(image + i, lanes.load(sums + i)); });
  }
};
extern template struct TapSums<float>;
extern template struct TapSums<double>;
extern template struct TapSums<Half>;

// They by pointers, so that a pass is compiled once a compute type.
template <class A>
struct TapKernels {
  decltype(&TapSums<A>::add_values) add_values;
  decltype(&TapSums<A>::store_values) store_values;
  decltype(&TapSums<A>::sum_channels) sum_channels;
  decltype(&TapSums<A>::store_channels) store_channels;
  decltype(&TapSums<A>::set_dots) set_dots;
  decltype(&TapSums<A>::scatter) scatter;
  decltype(&TapSums<A>::put_off) put_off;
  decltype(&TapSums<A>::store_all) store_all;
  bool direct;  // the storage type is the compute type

  template <class T>
  static constexpr TapKernels of(T) {
    using S = TapSums<T>;
    return {S::add_values, S::store_values, S::sum_channels, S::store_channels,     S::set_dots,
            S::scatter,    S::put_off,      S::store_all,    sizeof(T) == sizeof(A)};
  }
  STN_INLINE static TapKernels of(DType dtype) {
    if constexpr (sizeof(A) == sizeof(float)) {
      if (dtype != DType::float32) return of(Half{});
    }
    return of(A{});
  }
};

}  // namespace stn::STN_LEVEL
