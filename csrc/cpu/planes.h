// Rows of points or pixels in planes, whatever they are stored as: where they lie, or through a buffer of float32.
#pragma once
#include "few_channels.h"
#include "planar.h"

namespace stn::STN_LEVEL {

// The channels of a row of points or pixels. The passes take whole vectors, of which the last is moved back over its
// neighbour where the row has that many, and may end behind it where not.
template <class Number>
struct Planes {
  Elements<Number> data;
  int64_t plane;
  STN_INLINE Elements<Number> operator[](int64_t c) const { return data + c * plane; }
  template <class Other>
  STN_INLINE operator Planes<Other>() const {
    if constexpr (kIs<Number, float> && kIs<Other, Any>) {
      return {{reinterpret_cast<typename AnyElements<Other>::template Alike<char>*>(data), DType::float32}, plane};
    } else {
      return {data, plane};
    }
  }
};

// `rows` rows of `count` elements, `step` apart; and the channels of `count` points or pixels; and back.
void load_rows(Elements<const Any> from, int64_t step, int64_t rows, int64_t count, Planes<float> to);
void store_rows(Planes<const float> from, int64_t rows, int64_t count, Elements<Any> to, int64_t step);
void load_planes(const Problem& p, Elements<const Any> from, int64_t channel, int64_t count, Planes<float> to);
void store_planes(const Problem& p, Planes<const float> from, int64_t count, Elements<Any> to, int64_t channel);

// Whether whole vectors can take a row where it lies.
STN_INLINE bool in_planes(const Problem& p, int64_t count) {
  return !(p.channels_last && p.channels > 1) && count >= kVectorBytes / 4;
}
// Of a single channel in float32.
STN_INLINE Planes<const Any> row_to_read(const Problem& p, Elements<const Any> from, int64_t channel, int64_t count,
                                         Planes<float> buffer) {
  if (in_planes(p, count) && (p.channels > 1 || from.format == DType::float32)) return {from, channel};
  load_planes(p, from, channel, count, buffer);
  return buffer;
}
STN_INLINE const float* single_row(const Planes<const Any>& row) { return row.data.as<float>(); }
template <class Body>
STN_INLINE void write_row(const Problem& p, Elements<Any> to, int64_t channel, int64_t count, Planes<float> buffer,
                          Body body) {
  if (in_planes(p, count)) return body(Planes<Any>{to, channel});
  body(Planes<Any>(buffer));
  store_planes(p, buffer, count, to, channel);
}

}  // namespace stn::STN_LEVEL
