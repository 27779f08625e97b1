// Linearized multi-sampling: a thread goes through the samples of its point, first for their plane, then to read them.
// It keeps none, so that there may be any number: given offsets are read again, others drawn again.
#pragma once
#include "common/linearized.h"
#include "common/philox.h"
#include "lattice.cuh"
#include "sampler.h"
#include "sampler_launch.cuh"
#include "taps.cuh"

namespace stn {

// What the samples of a call have in common. Spreads are normalized.
template <class T, int n>
struct Sampling {
  int samples;
  Weighting weighting;
  double ridge, half;                  // half: of the neighbourhood of "distance", in pixels
  T spread[n], scale[n], per_unit[n];  // scale: pixels in a normalized unit; unit: of "entropic"
  const int64_t* seed;                 // one number, or null:
  const T* offsets;                    // (items, samples, points, n), normalized
  int64_t points;                      // of an item
};

template <class T, int n>
Sampling<T, n> sampling_of(const Call& call, const Tensor& offsets) {
  const MultiSampling& m = call.multi;
  Sampling<T, n> s{int(m.samples), m.weighting, m.ridge, 2.0, {}, {}, {}, nullptr, nullptr, 1};
  for (int a = 0; a < n; ++a) {
    const double scale = pixel_axis<double>(along(call.input.sizes(), n, a), call.align_corners).scale;
    const double spread = m.spread[a] * scale;
    s.spread[a] = T(m.spread[a]), s.scale[a] = T(scale), s.per_unit[a] = T(1 / std::max(1.0, spread));
    s.half = std::max(s.half, 2 * spread);
    s.points *= call.size[size_t(a)];
  }
  if (call.offsets.defined())
    s.offsets = data<T>(offsets);
  else
    s.seed = data<int64_t>(call.seed);
  return s;
}

// The normal numbers of one point in turn; a block of the generator has four.
class Numbers {
 public:
  __device__ __forceinline__ Numbers(uint64_t seed, int64_t item, int64_t point)
      : seed_(seed), counter_{uint32_t(point), uint32_t(item), 0, uint32_t(uint64_t(point) >> 32)} {}

  template <class T, int n>
  __device__ __forceinline__ void next(T (&value)[n]) {
    const bool draws = used_ + n > 4;
    if (draws) {
      const Words<uint32_t> w = philox<uint32_t>(counter_, uint32_t(seed_), uint32_t(seed_ >> 32));
      normal_pair(w.a, w.b, number_[4], number_[5]);
      normal_pair(w.c, w.d, number_[6], number_[7]);
      ++counter_.c;
    }
#pragma unroll
    for (int a = 0; a < n; ++a) {
      float number = number_[a];
#pragma unroll
      for (int i = 1; i <= 4; ++i) {  // registers have no index
        const float candidate = number_[i + a];
        number = used_ == i ? candidate : number;
      }
      value[a] = T(number);
    }
    used_ += n;
    if (!draws) return;
    used_ -= 4;
#pragma unroll
    for (int i = 0; i < 4; ++i) number_[i] = number_[i + 4];
  }

 private:
  uint64_t seed_;
  Words<uint32_t> counter_;
  float number_[8] = {};  // of the last block, and of the one drawn now
  int used_ = 4;
};

// Sums over samples that come one by one: of weights, and of the offsets' moments about 0 and about their mean, which
// moves along (West 1979).
template <class T, int n>
struct OffsetSums {
  T total = 0, mean[n] = {}, moment[n] = {}, covariance[n][n] = {};

  __device__ __forceinline__ void add(T weight, const T (&offset)[n]) {
    total += weight;
    const T part = weight > 0 ? weight / total : T(0);
#pragma unroll
    for (int a = 0; a < n; ++a) {
      const T before = offset[a] - mean[a];
      mean[a] += part * before;
      moment[a] += weight * offset[a] * offset[a];
#pragma unroll
      for (int b = 0; b <= a; ++b) covariance[a][b] += weight * before * (offset[b] - mean[b]);
    }
  }
  __device__ __forceinline__ FittedPlane<T, n> plane(double ridge) {
    T weighted[n];
#pragma unroll
    for (int a = 0; a < n; ++a) weighted[a] = total * mean[a];
    FittedPlane<T, n> fitted(total, weighted, ridge);
    // A ridge moves the mean.
#pragma unroll
    for (int a = 0; a < n; ++a) {
#pragma unroll
      for (int b = 0; b <= a; ++b) covariance[a][b] += total * (mean[a] - fitted.mean[a]) * (mean[b] - fitted.mean[b]);
    }
    fitted.factor(covariance, moment, ridge);
    return fitted;
  }
};

// The offsets of one point's samples in turn, without the centre.
template <class T, int n>
class Offsets {
 public:
  __device__ __forceinline__ Offsets(const Sampling<T, n>& m, int64_t item, int64_t point)
      : m_(m),
        numbers_(m.seed ? uint64_t(*m.seed) : 0, item, point),
        given_(m.offsets + ((item * m.samples + 1) * m.points + point) * n) {}

  // In pixels. Returns whether the sample counts; one that does not is at 0.
  __device__ __forceinline__ bool next(T (&offset)[n]) {
    if (m_.offsets) {
#pragma unroll
      for (int a = 0; a < n; ++a) offset[a] = given_[a];
      given_ += m_.points * n;
    } else {
      numbers_.next(offset);
#pragma unroll
      for (int a = 0; a < n; ++a) offset[a] *= m_.spread[a];
    }
    bool counts = true;
#pragma unroll
    for (int a = 0; a < n; ++a) counts &= std::fabs(offset[a]) <= T(1);
#pragma unroll
    for (int a = 0; a < n; ++a) offset[a] = counts ? offset[a] * m_.scale[a] : T(0);
    return counts;
  }

 private:
  const Sampling<T, n>& m_;
  Numbers numbers_;
  const T* given_;
};

// Makes the compiler multiply a row's factors again, instead of keeping 3^n products in registers.
template <int n, class T>
__device__ __forceinline__ void forget_products([[maybe_unused]] MatchingRow<n, T>& row) {
#if defined(__CUDA_ARCH__)
#pragma unroll
  for (int a = 0; a < n; ++a) {
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      if constexpr (sizeof(T) == 8)
        asm volatile("" : "+d"(row.factor[a][i]));
      else
        asm volatile("" : "+f"(row.factor[a][i]));
    }
  }
#endif
}

// The samples of one point.
template <class T, int n>
class Samples {
 public:
  __device__ __forceinline__ Samples(const Sampling<T, n>& m, int64_t item, int64_t point)
      : m_(m), item_(item), point_(point), matching_(matched()), plane_(fitted()) {}

  __device__ __forceinline__ const FittedPlane<T, n>& plane() const { return plane_; }

  // visit(source, weight, offset) for all but the centre: where a sample is read, and what it has in the fit.
  template <class F>
  __device__ __forceinline__ void each(const Source<T, n>& centre, F&& visit) const {
    Offsets<T, n> offsets = begin();
#pragma unroll 1
    for (int k = 1; k < m_.samples; ++k) {
      Source<T, n> source = centre;
      T offset[n];
      const T weight = next(offsets, source, offset);
      visit(source, weight, offset);
    }
  }

  // visit(source, share) for each: its coefficient in the value. The centre comes last, with what the others leave.
  template <class F>
  __device__ __forceinline__ void each_share(const Source<T, n>& centre, F&& visit) const {
    T left = 1;
    Offsets<T, n> offsets = begin();
#pragma unroll 1
    for (int k = 1; k <= m_.samples; ++k) {
      Source<T, n> source = centre;
      T share = left;
      if (k < m_.samples) {
        T offset[n];
        const T weight = next(offsets, source, offset);
        share = plane_.bias_of(weight, offset);
        left -= share;
      }
      visit(source, share);
    }
  }

 private:
  __device__ __forceinline__ Offsets<T, n> begin() const { return {m_, item_, point_}; }

  // The weight of the next sample, its offset, and the centre's source moved to it.
  __device__ __forceinline__ T next(Offsets<T, n>& offsets, Source<T, n>& source, T (&offset)[n]) const {
    const bool counts = offsets.next(offset);
#pragma unroll
    for (int a = 0; a < n; ++a) source.at[a] += plane_.solvable > 0 ? offset[a] : T(0);
    return weight(offset, counts);
  }
  __device__ __forceinline__ MatchingRow<n, T> matching_row(const T (&offset)[n], bool counts) const {
    T units[n];
#pragma unroll
    for (int a = 0; a < n; ++a) units[a] = offset[a] * m_.per_unit[a];
    return {units, counts ? T(1) : T(0)};
  }
  __device__ __forceinline__ Matching<n, T> matched() const {
    Matching<n, T> matching;
    if (m_.weighting != Weighting::entropic) return matching;
#pragma unroll 1
    for (int round = 1; round <= kSinkhornRounds; ++round) {
      Offsets<T, n> offsets = begin();
#pragma unroll 1
      for (int k = 1; k < m_.samples; ++k) {
        T offset[n];
        const bool counts = offsets.next(offset);
        MatchingRow<n, T> row = matching_row(offset, counts);
        const T factor = matching.of_sample(row);
        forget_products(row);
        matching.add(row, factor);
      }
      matching.end_round(round == kSinkhornRounds);
    }
    return matching;
  }
  __device__ __forceinline__ T weight(const T (&offset)[n], bool counts) const {
    if (m_.weighting == Weighting::entropic) {
      return matching_.weight(matching_row(offset, counts));
    }
    if (m_.weighting == Weighting::uniform || !counts) return counts ? T(1) : T(0);
    T squared = 0;
#pragma unroll
    for (int a = 0; a < n; ++a) squared += offset[a] * offset[a];
    return distance_weight(std::sqrt(squared), m_.half);
  }
  __device__ __forceinline__ FittedPlane<T, n> fitted() const {
    OffsetSums<T, n> sums;
    Offsets<T, n> offsets = begin();
#pragma unroll 1
    for (int k = 1; k < m_.samples; ++k) {
      T offset[n];
      const bool counts = offsets.next(offset);
      sums.add(weight(offset, counts), offset);
    }
    return sums.plane(m_.ridge);
  }

  const Sampling<T, n>& m_;
  int64_t item_, point_;
  Matching<n, T> matching_;
  FittedPlane<T, n> plane_;
};

// The bilinear value of one channel.
template <class T, int n, class I>
__device__ __forceinline__ T value_at(const PointTaps<T, Mode::bilinear, n>& taps, const I* plane, const Strides& in) {
  T value = 0;
  taps.rows(in, [&](const TapRow<T>& r) {
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      T pixel[1];
      load(plane + r.offset + taps.offset(in, k), r.inside && taps.axis[0].inside[k], pixel);
      value += r.weight * taps.axis[0].weight[k] * pixel[0];
    }
  });
  return value;
}

// slopes: null for none.
template <class Transform, class I>
__global__ void __launch_bounds__(kThreads, 1)
    linearized_forward_kernel(const I* __restrict__ input, I* __restrict__ output,
                              typename Transform::Scalar* __restrict__ slopes, Transform transform,
                              Sampling<typename Transform::Scalar, Transform::n> sampling, Strides in, Strides out,
                              Strides along, Work work) {
  using T = typename Transform::Scalar;
  constexpr int n = Transform::n, kTogether = sizeof(T) == 8 && n == 3 ? 1 : 4;  // two spill
  const Share share = share_of(work);
  const Points points = points_of<Strided, n>(work);
  if (points.x >= work.out_width) return;
  const int first = share.first_channel + points.lane, step = 1 << work.log2_lanes;
  const I* source = input + input_image(work, share.image) * in.image;
#pragma unroll 1
  for (int row = 0; row < work.rows; ++row) {
    const int y = points.y(row);
    if (y >= work.out_rows) return;
    const Pixel<n> pixel = pixel_at<n>(work, points.x, y);
    const Source<T, n> centre = transform.image(share.image).source(pixel);
    const Samples<T, n> samples(sampling, share.image, int64_t(y) * work.out_width + points.x);
#pragma unroll 1
    for (int c = first; c < share.last_channel; c += kTogether * step) {
      T middle[kTogether], weighted[kTogether] = {}, moment[kTogether][n] = {};
      const auto read = [&](const Source<T, n>& place, auto&& take) {
        const PointTaps<T, Mode::bilinear, n> taps(work, place);
#pragma unroll
        for (int j = 0; j < kTogether; ++j)
          if (c + j * step < share.last_channel) take(j, value_at(taps, source + (c + j * step) * in.channel, in));
      };
      read(centre, [&](int j, T value) { middle[j] = value; });
      samples.each(centre, [&](const Source<T, n>& place, T weight, const T(&offset)[n]) {
        read(place, [&](int j, T value) {
          const T difference = weight * (value - middle[j]);
          weighted[j] += difference;
#pragma unroll
          for (int a = 0; a < n; ++a) moment[j][a] += (offset[a] - samples.plane().mean[a]) * difference;
        });
      });
#pragma unroll
      for (int j = 0; j < kTogether; ++j) {
        const int channel = c + j * step;
        if (channel >= share.last_channel) break;
        const T bias = samples.plane().solve(weighted[j], moment[j]);
        output[share.image * out.image + channel * out.channel + offset(out, pixel)] = I(middle[j] + bias);
        if (!slopes) continue;
#pragma unroll
        for (int a = 0; a < n; ++a)
          slopes[share.image * along.image + (a * int64_t(work.channels) + channel) * along.channel +
                 offset(along, pixel)] = moment[j][a] * sampling.scale[a];
      }
    }
  }
}

// grad_grid (N, *out, n): grad_output times slopes, summed over channels.
template <class T, int n, class I>
__global__ void __launch_bounds__(kThreads)
    linearized_grad_grid_kernel(const I* __restrict__ grad_output, const T* __restrict__ slopes,
                                T* __restrict__ grad_grid, Strides out, Strides along, Work work) {
  const Share share = share_of(work);
  const Points points = points_of<Strided, n>(work);
#pragma unroll 1
  for (int row = 0; row < work.rows; ++row) {
    const int y = points.y(row);
    const bool valid = points.x < work.out_width && y < work.out_rows;
    const Pixel<n> pixel = pixel_at<n>(work, points.x, y);
    T sum[n] = {};
#pragma unroll 1
    for (int c = share.first_channel + points.lane; valid && c < share.last_channel; c += 1 << work.log2_lanes) {
      const T grad = T(grad_output[share.image * out.image + c * out.channel + offset(out, pixel)]);
#pragma unroll
      for (int a = 0; a < n; ++a)
        sum[a] +=
            grad *
            slopes[share.image * along.image + (a * int64_t(work.channels) + c) * along.channel + offset(along, pixel)];
    }
#pragma unroll
    for (int a = 0; a < n; ++a) sum[a] = sum_lanes(sum[a], work.log2_lanes);
    if (valid && points.lane == 0)
      store_all<n == 2 ? 2 : 1>(grad_grid + lattice_index<n>(work, share.image, points.x, y), sum);
  }
}

// Adds the input's gradient through all samples.
template <class Transform, class I>
__global__ void __launch_bounds__(kThreads, 1)
    linearized_scatter_kernel(const I* __restrict__ grad_output, AnyScatter<typename Transform::Scalar> scatter,
                              Transform transform, Sampling<typename Transform::Scalar, Transform::n> sampling,
                              Strides out, Strides grad_in, Work work) {
  using T = typename Transform::Scalar;
  constexpr int n = Transform::n;
  const Share share = share_of(work);
  const Points points = points_of<Strided, n>(work);
  if (points.x >= work.out_width) return;
  const int64_t image = input_image(work, share.image) * grad_in.image;
  const auto add = scatter.adder();
#pragma unroll 1
  for (int row = 0; row < work.rows; ++row) {
    const int y = points.y(row);
    if (y >= work.out_rows) return;
    const Pixel<n> pixel = pixel_at<n>(work, points.x, y);
    const Samples<T, n> samples(sampling, share.image, int64_t(y) * work.out_width + points.x);
    const I* grad = grad_output + share.image * out.image + offset(out, pixel);
    samples.each_share(transform.image(share.image).source(pixel), [&](const Source<T, n>& source, T part) {
      const PointTaps<T, Mode::bilinear, n> taps(work, source);
#pragma unroll 1
      for (int c = share.first_channel + points.lane; c < share.last_channel; c += 1 << work.log2_lanes) {
        const T value[1] = {T(grad[c * out.channel])};
        taps.rows(grad_in, [&](const TapRow<T>& r) {
#pragma unroll
          for (int i = 0; i < 2; ++i)
            if (r.inside && taps.axis[0].inside[i])
              add(image + c * grad_in.channel + r.offset + taps.offset(grad_in, i),
                  part * r.weight * taps.axis[0].weight[i], value);
        });
      }
    });
  }
}

// largest = max(largest, |share times grad_output| of every sample): the terms of the gradient to the input.
template <class T, int n, class I>
__global__ void __launch_bounds__(kThreads, 1)
    linearized_largest_kernel(const I* __restrict__ grad_output, FixedPoint* __restrict__ largest,
                              Sampling<T, n> sampling, Strides out, Work work) {
  const Share share = share_of(work);
  const Points points = points_of<Strided, n>(work);
  FixedPoint mine = 0;
#pragma unroll 1
  for (int row = 0; row < work.rows; ++row) {
    const int y = points.y(row);
    if (points.x >= work.out_width || y >= work.out_rows) break;
    const I* grad = grad_output + share.image * out.image + offset(out, pixel_at<n>(work, points.x, y));
    FixedPoint share_bits = 0, grad_bits = 0;
    const Samples<T, n> samples(sampling, share.image, int64_t(y) * work.out_width + points.x);
    samples.each_share(Source<T, n>{}, [&](const Source<T, n>&, T part) {
      share_bits = maximum(share_bits, magnitude_bits(double(part)));
    });
#pragma unroll 1
    for (int c = share.first_channel + points.lane; c < share.last_channel; c += 1 << work.log2_lanes)
      grad_bits = maximum(grad_bits, magnitude_bits(double(grad[c * out.channel])));
    const double product = __longlong_as_double((long long)(share_bits)) * __longlong_as_double((long long)(grad_bits));
    mine = maximum(mine, magnitude_bits(product));
  }
  keep_largest(mine, largest);
}

// Offsets as the kernels take them, if there are any.
template <class T>
Tensor readable_offsets(const Call& call) {
  return call.offsets.defined() ? coordinates(call.offsets, scalar_type<T>) : call.offsets;
}

template <class I>
void linearized_forward(const Call& call, const Device& device, const Tensor& input, const Tensor& params,
                        const Tensor& output) {
  using T = ScalarOf<I>;
  const Tensor offsets = readable_offsets<T>(call);
  with_dimensions(call.n(), [&](auto dimensions) {
    constexpr int n = decltype(dimensions)::value;
    with_transform<T, n, false>(call, params, [&](const auto& transform) {
      using Transform = std::remove_cvref_t<decltype(transform)>;
      launch_sampler<n>(call, true, [&](dim3 grid, const Work& work) {
        simt::launch(linearized_forward_kernel<Transform, I>, grid, dim3(kThreads), 0, device.stream, data<I>(input),
                     data<I>(output), call.slopes.defined() ? data<T>(call.slopes) : nullptr, transform,
                     sampling_of<T, n>(call, offsets), strides_of(input, n), strides_of(output, n),
                     call.slopes.defined() ? strides_of(call.slopes, n) : Strides{}, work);
      });
    });
  });
}

template <class I>
Tensor linearized_grad_grid(const Call& call, const Tensor& grad_output, const Tensor& slopes) {
  using T = ScalarOf<I>;
  std::vector<int64_t> shape = call.output_shape();
  shape.erase(shape.end() - call.n() - 1);
  shape.push_back(call.n());
  if (grad_output.numel() == 0) return torch::stable::new_zeros(slopes, shape, scalar_type<T>);
  const Device device(slopes);
  const Tensor grad_grid = torch::stable::new_empty(slopes, shape, scalar_type<T>);
  const Tensor grad = readable(grad_output, call.channels_last, call.n());
  const Tensor planes = readable(slopes, call.channels_last, call.n());
  with_dimensions(call.n(), [&](auto dimensions) {
    constexpr int n = decltype(dimensions)::value;
    launch_sampler<n>(call, false, [&](dim3 grid, const Work& work) {
      simt::launch(linearized_grad_grid_kernel<T, n, I>, grid, dim3(kThreads), 0, device.stream, data<I>(grad),
                   data<T>(planes), data<T>(grad_grid), strides_of(grad, n), strides_of(planes, n), work);
    });
  });
  return grad_grid;
}

template <class I>
void linearized_scatter(const Call& call, const Device& device, const Tensor& grad_output, const Tensor& params,
                        const AnyScatter<ScalarOf<I>>& scatter, const Tensor& target) {
  using T = ScalarOf<I>;
  const Tensor offsets = readable_offsets<T>(call);
  with_dimensions(call.n(), [&](auto dimensions) {
    constexpr int n = decltype(dimensions)::value;
    with_transform<T, n, false>(call, params, [&](const auto& transform) {
      using Transform = std::remove_cvref_t<decltype(transform)>;
      launch_sampler<n>(call, true, [&](dim3 grid, const Work& work) {
        simt::launch(linearized_scatter_kernel<Transform, I>, grid, dim3(kThreads), 0, device.stream,
                     data<I>(grad_output), scatter, transform, sampling_of<T, n>(call, offsets),
                     strides_of(grad_output, n), strides_of(target, n), work);
      });
    });
  });
}

template <class I>
void linearized_largest(const Call& call, const Device& device, const Tensor& grad_output, FixedPoint* largest) {
  using T = ScalarOf<I>;
  const Tensor offsets = readable_offsets<T>(call);
  with_dimensions(call.n(), [&](auto dimensions) {
    constexpr int n = decltype(dimensions)::value;
    launch_sampler<n>(call, true, [&](dim3 grid, const Work& work) {
      simt::launch(linearized_largest_kernel<T, n, I>, grid, dim3(kThreads), 0, device.stream, data<I>(grad_output),
                   largest, sampling_of<T, n>(call, offsets), strides_of(grad_output, n), work);
    });
  });
}

}  // namespace stn
