// The channels of one pixel in vectors: whole ones, then one that is filled in part.
#pragma once
#include <utility>

#include "elements.h"

namespace stn::STN_LEVEL {

// kCount consecutive elements of storage type T in a vector of kWidth; nothing beyond them is touched.
template <class T, int kWidth, int kCount = kWidth>
struct Channels {
  using V = Vec<Compute<T>, kWidth>;
  static constexpr int kLanes = kWidth;

  template <class P>
  static STN_INLINE V load(P p) {
    if constexpr (kCount == kWidth) return load_as<kWidth>(p);
    V v{};
    constexpr int kPair = sizeof(p[0]) == 4 && kCount > 1 ? 2 : 0;
    if constexpr (kPair > 0) {
      const auto pair = STN_LEVEL::load<Vec<float, 2>>(p);
      v[0] = pair[0], v[1] = pair[1];
    }
    for (int i = kPair; i < kCount; ++i) v[i] = load_one(p + i);
    return v;
  }
  // The same as one load, of a pixel that has a neighbour right (left) of it in memory; other lanes hold its channels.
  template <bool kLeft, class P>
  static STN_INLINE V load_beside(P p) {
    if constexpr (kCount == kWidth || kLeft) {
      return load_as<kWidth>(p);
    } else {
      return shifted(load_as<kWidth>(p - (kWidth - kCount)), std::make_integer_sequence<int, kWidth>{});
    }
  }
  template <class P>
  static STN_INLINE void store(P p, V v) {
    if constexpr (kCount == kWidth) return store_as<kWidth>(p, v);
    constexpr int kPair = sizeof(p[0]) == 4 && kCount > 1 ? 2 : 0;
    if constexpr (kPair > 0) STN_LEVEL::store(p, Vec<float, 2>{v[0], v[1]});
    for (int i = kPair; i < kCount; ++i) store_one(p + i, v[i]);
  }

 private:
  template <int... i>
  static STN_INLINE V shifted(V v, std::integer_sequence<int, i...>) {
    return __builtin_shufflevector(v, v, (i + kWidth - kCount) % kWidth...);
  }
};

// Calls f(c, Channels) over channels [0, count).
template <class T, class F>
STN_INLINE void over_channels(int64_t count, F f) {
  using A = Compute<T>;
  constexpr int kWide = kVectorBytes / int(sizeof(A)), kNarrow = 16 / int(sizeof(A));
  int64_t c = 0;
  for (; c + kWide <= count; c += kWide) f(c, Channels<T, kWide>{});
  if constexpr (kNarrow < kWide) {
    for (; c + kNarrow <= count; c += kNarrow) f(c, Channels<T, kNarrow>{});
  }
  const auto rest = [&]<int kCount>() STN_LAMBDA {
    if constexpr (kCount < kNarrow) f(c, Channels<T, kNarrow, kCount>{});
  };
  switch (count - c) {
    case 1:
      return rest.template operator()<1>();
    case 2:
      return rest.template operator()<2>();
    case 3:
      return rest.template operator()<3>();
  }
}

// A sum over the channels of a pixel, kept in lanes: whole vectors and the others apart.
template <class T>
struct ChannelSum {
  using A = Compute<T>;
  static constexpr int kWide = kVectorBytes / int(sizeof(A)), kNarrow = 16 / int(sizeof(A));
  using Narrow = Vec<A, kNarrow>;
  Vec<A, kWide> wide{};
  Narrow narrow{};

  template <class V>
  STN_INLINE void add(V product) {
    if constexpr (sizeof(V) == sizeof(wide)) {
      wide += product;
    } else {
      narrow += product;
    }
  }
  STN_INLINE Narrow folded() const { return narrow + fold(wide); }
  template <class V>
  static STN_INLINE Narrow fold(V v) {
    if constexpr (sizeof(V) == sizeof(Narrow)) {
      return v;
    } else {
      using Half = Vec<A, sizeof(V) / sizeof(A) / 2>;
      Half halves[2];
      __builtin_memcpy(halves, &v, sizeof v);
      return fold(halves[0] + halves[1]);
    }
  }
};

}  // namespace stn::STN_LEVEL
