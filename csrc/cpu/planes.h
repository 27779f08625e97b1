// Rows of points or pixels in planes of float32, whatever they are stored as: where they lie, or through a buffer.
#pragma once
#include "few_channels.h"
#include "planar.h"

namespace stn::STN_LEVEL {

// The channels of a row of points or pixels. The passes take whole vectors, of which the last is moved back over its
// neighbour where the row has that many, and may end behind it where not.
template <class Number>
struct Planes {
  Number* data;
  int64_t plane;
  STN_INLINE Number* operator[](int64_t c) const { return data + c * plane; }
  STN_INLINE operator Planes<const Number>() const { return {data, plane}; }
};

// `rows` rows of `count` elements, `step` apart; and the channels of `count` points or pixels; and back.
void load_rows(Elements<const Any> from, int64_t step, int64_t rows, int64_t count, Planes<float> to);
void store_rows(Planes<const float> from, int64_t rows, int64_t count, Elements<Any> to, int64_t step);
void load_planes(const Problem& p, Elements<const Any> from, int64_t channel, int64_t count, Planes<float> to);
void store_planes(const Problem& p, Planes<const float> from, int64_t count, Elements<Any> to, int64_t channel);

// The row where it lies, if whole vectors can take it there, else null.
template <class A>
STN_INLINE auto in_planes(const Problem& p, AnyElements<A> row, int64_t count) {
  const bool lies = row.format == DType::float32 && !(p.channels_last && p.channels > 1) && count >= kVectorBytes / 4;
  return lies ? row.template as<float>() : nullptr;
}
STN_INLINE Planes<const float> row_to_read(const Problem& p, Elements<const Any> from, int64_t channel, int64_t count,
                                           Planes<float> buffer) {
  if (const float* row = in_planes(p, from, count)) return {row, channel};
  load_planes(p, from, channel, count, buffer);
  return buffer;
}
template <class Body>
STN_INLINE void write_row(const Problem& p, Elements<Any> to, int64_t channel, int64_t count, Planes<float> buffer,
                          Body body) {
  if (float* row = in_planes(p, to, count)) return body(Planes<float>{row, channel});
  body(buffer);
  store_planes(p, buffer, count, to, channel);
}

}  // namespace stn::STN_LEVEL
