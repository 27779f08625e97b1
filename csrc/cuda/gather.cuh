// The gradient of sampling to its input under zeros padding: every input pixel gathers from the outputs that read it,
// found through the inverse of the transform. Written once, without atomics, the same bits every time.
#pragma once
#include "transform.cuh"

namespace stn {

// The outputs that read a pixel of one transformed image: Footprint(transform, n, work).visit(work, out, px, py, f)
// calls f(reads, weight, offset) for all of them, with their weights by the very coordinates of the forward and their
// offsets in the image, and for some that do not. kBlocks: the most that fit a multiprocessor without spilling.
template <class Transform>
struct Footprint;

// Columns [low, high] of a row of outputs that may read a pixel.
template <class T>
struct Columns {
  T low, high;
};

// Visits the candidates in rows [first, last] of the output, whose columns in a row v are columns(v); weight(u, v).
template <class T, class GetColumns, class Weight, class F>
__device__ __forceinline__ void visit_rows(const Work& work, const Strides& out, T first, T last, GetColumns&& columns,
                                           Weight&& weight, F&& visit) {
  const T last_u = T(work.out_width - 1), last_v = T(work.out_height - 1);
  const int v0 = int(std::ceil(minimum(maximum(T(0), first), last_v + 1)));
  const int v1 = int(std::floor(maximum(T(-1), minimum(last, last_v))));
#pragma unroll 1
  for (int v = v0; v <= v1; ++v) {
    const Columns<T> row = columns(v);
    const int u0 = int(std::ceil(minimum(maximum(T(0), row.low), last_u + 1)));
    const int u1 = int(std::floor(maximum(T(-1), minimum(row.high, last_u))));
#pragma unroll 1
    for (int u = u0; u <= u1; ++u) {
      const T w = weight(u, v);
      visit(w > 0, w, offset(out, u, v));
    }
  }
}

// Four channels a thread leave the least registers for the search.
template <class A, class Transform>
constexpr int kGatherBlocks = std::min(Tile<A>::kGatherBlocks, A::kVector == 4 ? Footprint<Transform>::kBlocks : 3);

// kGroup: how many chunks of channels share the search for candidates.
template <class A, int kGroup, class I, class Transform>
__global__ void __launch_bounds__(kThreads, resident_blocks<typename Transform::Scalar>(kGatherBlocks<A, Transform>))
    gather_kernel(const I* __restrict__ grad_output, I* __restrict__ grad_input, Transform transform,
                  Strides output_strides, Strides input_strides, Work work) {
  using T = typename Transform::Scalar;
  const Strides out = known<A>(output_strides), in = known<A>(input_strides);
  const Share share = share_of(work);
  const Points points = points_of<A>(work);
  if (points.x >= work.width) return;
  const int step = A::kVector << log2_lanes<A>(work);
  const int64_t first_image = share.image * work.samples;
  Footprint<Transform> footprint(transform, first_image, work);
#pragma unroll 1
  for (int row = 0; row < work.rows; ++row) {
    const int py = points.y(row);
    if (py >= work.height) return;
#pragma unroll 1
    for (int c = share.first_channel + points.lane * A::kVector; c < share.last_channel; c += step * kGroup) {
      T sum[kGroup][A::kVector] = {};
#pragma unroll 1
      for (int s = 0; s < work.samples; ++s) {
        const int64_t n = first_image + s;
        if (work.samples > 1) footprint = Footprint<Transform>(transform, n, work);
        const I* source = grad_output + n * out.image + c * out.channel;
        footprint.visit(work, out, points.x, py, [&](bool reads, T weight, int64_t at) {
          const I* p = source + at;
#pragma unroll
          for (int k = 0; k < kGroup; ++k) {
            T value[A::kVector];
            load(p + k * step * out.channel, reads && (A::kChannels || c + k * step < share.last_channel), value);
#pragma unroll
            for (int i = 0; i < A::kVector; ++i) sum[k][i] += weight * value[i];
          }
        });
      }
      I* target = grad_input + share.image * in.image + c * in.channel + offset(in, points.x, py);
#pragma unroll
      for (int k = 0; k < kGroup; ++k)
        if (A::kChannels || c + k * step < share.last_channel) store(target + k * step * in.channel, sum[k]);
    }
  }
}

}  // namespace stn
