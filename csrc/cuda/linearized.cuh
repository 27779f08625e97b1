// Linearized multi-sampling: a thread goes through the samples of its point, first for their plane, then to read them.
// It keeps none, so that there may be any number: given offsets are read again, others drawn again.
#pragma once
#include "common/linearized.h"
#include "common/philox.h"
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

  // visit(source, slope, bias) for each: where it is read, and its coefficients in the slope, by pixels, and in the
  // value. The centre comes last, with what makes all slopes sum to 0 and all biases to 1.
  template <class F>
  __device__ __forceinline__ void each(const Source<T, n>& centre, F&& visit) const {
    T left = 1, slope_left[n] = {};
    Offsets<T, n> offsets = begin();
#pragma unroll 1
    for (int k = 1; k <= m_.samples; ++k) {
      Source<T, n> source = centre;
      T slope[n], bias = left;
#pragma unroll
      for (int a = 0; a < n; ++a) slope[a] = slope_left[a];
      if (k < m_.samples) {
        T offset[n];
        const bool counts = offsets.next(offset);
        plane_.coefficients(weight(offset, counts), offset, slope, bias);
        left -= bias;
#pragma unroll
        for (int a = 0; a < n; ++a) source.at[a] += plane_.solvable > 0 ? offset[a] : T(0), slope_left[a] -= slope[a];
      }
      visit(source, slope, bias);
    }
  }

 private:
  __device__ __forceinline__ Offsets<T, n> begin() const { return {m_, item_, point_}; }

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

template <class Transform, class I>
__global__ void __launch_bounds__(kThreads, 1)
    linearized_forward_kernel(const I* __restrict__ input, I* __restrict__ output, Transform transform,
                              Sampling<typename Transform::Scalar, Transform::n> sampling, Strides in, Strides out,
                              Work work) {
  using T = typename Transform::Scalar;
  constexpr int n = Transform::n, kTogether = 4;
  const Share share = share_of(work);
  const Points points = points_of<Strided, n>(work);
  if (points.x >= work.out_width) return;
  const int first = share.first_channel + points.lane, step = 1 << work.log2_lanes;
  const I* source = input + input_image(work, share.image) * in.image;
  I* target = output + share.image * out.image;
#pragma unroll 1
  for (int row = 0; row < work.rows; ++row) {
    const int y = points.y(row);
    if (y >= work.out_rows) return;
    const Pixel<n> pixel = pixel_at<n>(work, points.x, y);
    const Source<T, n> centre = transform.image(share.image).source(pixel);
    const Samples<T, n> samples(sampling, share.image, int64_t(y) * work.out_width + points.x);
    const int64_t at = offset(out, pixel);
#pragma unroll 1
    for (int c = first; c < share.last_channel; c += kTogether * step) {
      T sum[kTogether] = {};
      samples.each(centre, [&](const Source<T, n>& place, const T(&)[n], T bias) {
        const PointTaps<T, Mode::bilinear, n> taps(work, place);
#pragma unroll
        for (int j = 0; j < kTogether; ++j)
          if (c + j * step < share.last_channel)
            sum[j] += bias * value_at(taps, source + (c + j * step) * in.channel, in);
      });
#pragma unroll
      for (int j = 0; j < kTogether; ++j)
        if (c + j * step < share.last_channel) target[(c + j * step) * out.channel + at] = I(sum[j]);
    }
  }
}

// grad_params: as Transform::Gradient says; null for none. Through all samples the input's gradient is scattered.
template <class Transform, class I>
__global__ void __launch_bounds__(kThreads, 1)
    linearized_backward_kernel(const I* __restrict__ grad_output, const I* __restrict__ input,
                               AnyScatter<typename Transform::Scalar> scatter, Transform transform,
                               Sampling<typename Transform::Scalar, Transform::n> sampling,
                               typename Transform::Scalar* __restrict__ grad_params, Strides out, Strides in,
                               Strides grad_in, Work work) {
  using T = typename Transform::Scalar;
  constexpr int n = Transform::n;
  const Share share = share_of(work);
  const Points points = points_of<Strided, n>(work);
  typename Transform::Gradient gradient(transform);
  const int64_t b = input_image(work, share.image);
  const int first = share.first_channel + points.lane, step = 1 << work.log2_lanes;
#pragma unroll 1
  for (int row = 0; row < work.rows; ++row) {
    const int y = points.y(row);
    const bool valid = points.x < work.out_width && y < work.out_rows;
    const Pixel<n> pixel = pixel_at<n>(work, points.x, y);
    Source<T, n> grad = {};
    if (valid) {
      const Samples<T, n> samples(sampling, share.image, int64_t(y) * work.out_width + points.x);
      const Source<T, n> centre = transform.image(share.image).source(pixel);
      const I* grad_at = grad_output + share.image * out.image + offset(out, pixel);
      samples.each(centre, [&](const Source<T, n>& source, const T(&slope)[n], T bias) {
        const PointTaps<T, Mode::bilinear, n> taps(work, source);
        T along = 0;
#pragma unroll 1
        for (int c = first; grad_params && c < share.last_channel; c += step)
          along += T(grad_at[c * out.channel]) * value_at(taps, input + b * in.image + c * in.channel, in);
#pragma unroll
        for (int a = 0; a < n; ++a) grad.at[a] += slope[a] * along;
        if (!scatter.active) return;
        const auto add = scatter.adder();
#pragma unroll 1
        for (int c = first; c < share.last_channel; c += step) {
          const T value[1] = {T(grad_at[c * out.channel])};
          const int64_t plane = b * grad_in.image + c * grad_in.channel;
          taps.rows(grad_in, [&](const TapRow<T>& r) {
#pragma unroll
            for (int i = 0; i < 2; ++i)
              if (r.inside && taps.axis[0].inside[i])
                add(plane + r.offset + taps.offset(grad_in, i), bias * r.weight * taps.axis[0].weight[i], value);
          });
        }
      });
    }
    if (grad_params) gradient.add(transform, work, share.image, pixel, valid, points.lane, grad, grad_params);
  }
  if (grad_params) gradient.finish(transform, work, share, grad_params);
}

// largest = max(largest, |bias times grad_output| of every sample): the terms of the gradient to the input.
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
    FixedPoint bias_bits = 0, grad_bits = 0;
    const Samples<T, n> samples(sampling, share.image, int64_t(y) * work.out_width + points.x);
    samples.each(Source<T, n>{}, [&](const Source<T, n>&, const T(&)[n], T bias) {
      bias_bits = maximum(bias_bits, magnitude_bits(double(bias)));
    });
#pragma unroll 1
    for (int c = share.first_channel + points.lane; c < share.last_channel; c += 1 << work.log2_lanes)
      grad_bits = maximum(grad_bits, magnitude_bits(double(grad[c * out.channel])));
    const double product = __longlong_as_double((long long)(bias_bits)) * __longlong_as_double((long long)(grad_bits));
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
                     data<I>(output), transform, sampling_of<T, n>(call, offsets), strides_of(input, n),
                     strides_of(output, n), work);
      });
    });
  });
}

template <class I>
Tensor linearized_backward(const Call& call, const Device& device, const Tensor& grad_output, const Tensor& input,
                           const Tensor& params, const AnyScatter<ScalarOf<I>>& scatter, const Tensor& target,
                           bool need_params) {
  using T = ScalarOf<I>;
  const Tensor offsets = readable_offsets<T>(call);
  Tensor result = params;
  with_dimensions(call.n(), [&](auto dimensions) {
    constexpr int n = decltype(dimensions)::value;
    with_transform<T, n, false>(call, params, [&](const auto& transform) {
      using Transform = std::remove_cvref_t<decltype(transform)>;
      ParameterGradient<Transform> gradient(params, need_params, device.stream);
      launch_sampler<n>(call, Transform::kSumsGradient || !need_params, [&](dim3 grid, const Work& work) {
        simt::launch(linearized_backward_kernel<Transform, I>, grid, dim3(kThreads), transform.shared_bytes(),
                     device.stream, data<I>(grad_output), data<I>(input), scatter, transform,
                     sampling_of<T, n>(call, offsets), gradient.out(grid, work), strides_of(grad_output, n),
                     strides_of(input, n), strides_of(target, n), work);
      });
      result = gradient.result();
    });
  });
  return result;
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
