// The gradient to an input as a sum in fixed point: the same whatever the order of its terms.
#pragma once
#include "scatter.cuh"
#include "warp_launch.cuh"

namespace stn {

template <class I>
class FixedSum {
 public:
  // sum: int64 zeros, shaped and stored as the gradient, to each element of which up to 2^log2_terms terms are added.
  FixedSum(const Device& device, const Tensor& sum, int log2_terms)
      : device_(device),
        sum_(sum),
        largest_(torch::stable::new_zeros(sum, {2}, ScalarType::Long)),
        log2_terms_(log2_terms) {}

  // A term is a value times a weight of at most 1; after a second call, of at most `factor` times one of those values.
  template <class V>
  void bound(const Tensor& values, double factor = 1) {
    const FixedPoint* times = bounds_ ? slots() : nullptr;
    launch(largest_magnitude_kernel<V>, values.numel(), data<V>(values), next_bound(), times, factor);
  }
  // The same where a kernel finds the largest term itself: zero, to be raised to its bits.
  FixedPoint* next_bound() { return slots() + bounds_++; }
  FixedScatter<ScalarOf<I>> scatter() const { return {data<FixedPoint>(sum_), slots() + bounds_ - 1, log2_terms_}; }
  void store(const Tensor& gradient) const {
    launch(from_fixed_point_kernel<I>, sum_.numel(), data<FixedPoint>(sum_), slots() + bounds_ - 1, data<I>(gradient),
           log2_terms_);
  }

 private:
  FixedPoint* slots() const { return data<FixedPoint>(largest_); }
  template <class Kernel, class... Args>
  void launch(Kernel kernel, int64_t count, Args... args) const {
    const int64_t blocks = std::min(ceil_div(count, int64_t(kThreads)), 4 * kEnoughBlocks);
    simt::launch(kernel, dim3(unsigned(blocks)), dim3(kThreads), 0, device_.stream, args..., count);
  }

  const Device& device_;
  Tensor sum_, largest_;
  int log2_terms_, bounds_ = 0;
};

}  // namespace stn
