#include "cpab_launch.cuh"
#include "cpab_sample.cuh"
#include "warp_backward_launch.cuh"

namespace stn {
namespace {

template <class T>
AnyImages<T> any_images(const Tensor& images, int n) {
  return {images.data_ptr(), images.scalar_type(), strides_of(images, n)};
}

// f(launch, ends) of a call whose images are read from `input`; `output`: or its gradient.
template <class T, class F>
void with_images(const CpabSampling& s, const Device& device, const Tensor& input, const Tensor& output, F&& f) {
  with_dimensions(s.images.n(), [&](auto dimensions) {
    constexpr int n = decltype(dimensions)::value;
    using Pixels = CpabPixels<T, n>;
    const Work work = work_of(s.images);
    const Frame<T, n> frame = frame_of<T, n>(s.images, false);
    const int64_t across = ceil_div(work.out_width, Pixels::kWidth);
    const Pixels pixels{frame,         work.out_width, work.out_height,
                        work.out_rows, int(across),    32 * across * ceil_div(work.out_rows, Pixels::kHeight)};
    CpabImages<T, n> ends{any_images<T>(input, n),
                          any_images<T>(output, n),
                          s.affine ? data<T>(*s.affine) : nullptr,
                          {},
                          work,
                          s.images.mode,
                          NoScatter{},
                          {},
                          false,
                          false};
    for (int a = 0; a < n; ++a) ends.axis[a] = frame.source[a];
    f(CpabLaunch(s.field, pixels, device.stream), ends);
  });
}

// The parameters in the type of the coordinates.
template <class T>
CpabSampling readable(CpabSampling s) {
  s.field.velocities = coordinates(s.field.velocities, scalar_type<T>);
  for (Tensor* t : {&s.field.integers, &s.field.reals}) *t = torch::stable::contiguous(*t);
  if (s.affine) s.affine = coordinates(*s.affine, scalar_type<T>);
  return s;
}

}  // namespace

template <class I>
Tensor cpab_sample(const CpabSampling& given) {
  using T = ScalarOf<I>;
  const Call& call = given.images;
  const Tensor output = new_images(call.input, call.output_shape(), call.channels_last, scalar_type<I>, call.n());
  if (output.numel() == 0) return output;
  const CpabSampling s = readable<T>(given);
  const Device device(call.input);
  with_images<T>(s, device, stn::readable(call.input, call.channels_last, call.n()), output,
                 [](auto launch, const auto& ends) { launch.forward(ends); });
  return output;
}

template <class I>
std::tuple<Tensor, Tensor, Tensor> cpab_sample_backward(const CpabSampling& given, const Tensor& grad_output,
                                                        Needs needs, bool need_affine) {
  using T = ScalarOf<I>;
  const Call& call = given.images;
  const int n = call.n();
  const Tensor& velocities = given.field.velocities;
  const Tensor none = torch::stable::new_empty(velocities, {0});
  const bool empty = grad_output.numel() == 0, still = empty || call.mode == Mode::nearest;
  Tensor grad_input = none, grad_velocities = none, grad_affine = none;
  if (needs.params && still) grad_velocities = torch::stable::new_zeros(velocities, velocities.sizes());
  if (need_affine && still) grad_affine = torch::stable::new_zeros(*given.affine, given.affine->sizes());
  if (needs.input && empty)
    grad_input = new_images(call.input, shape_of(call.input), call.channels_last, scalar_type<I>, n, true);
  const bool pulls = needs.params && !still, of_affine = need_affine && !still;
  if (empty || !(needs.input || pulls || of_affine)) return {grad_input, grad_velocities, grad_affine};

  const CpabSampling s = readable<T>(given);
  const Device device(call.input);
  const Backward b{call,
                   device,
                   stn::readable(call.input, call.channels_last, n),
                   stn::readable(grad_output, call.channels_last, n),
                   s.field.velocities,
                   false};
  // Returns the gradient to the velocities, and sets that of the matrices.
  const auto run = [&](const AnyScatter<T>& scatter, const Tensor& target) {
    Tensor result = none;
    with_images<T>(s, device, b.input, b.grad_output, [&]<int m>(auto launch, CpabImages<T, m> ends) {
      ends.scatter = scatter, ends.scattered = strides_of(target, n);
      ends.need_points = pulls || of_affine, ends.need_affine = of_affine;
      Tensor sums = launch.backward(ends, nullptr, pulls, of_affine);
      if (of_affine) {
        const Tensor last = torch::stable::narrow(sums, 1, sums.size(1) - 1, 1);
        grad_affine = torch::stable::new_empty(*given.affine, given.affine->sizes());
        torch::stable::copy_(grad_affine, torch::stable::reshape(last, given.affine->sizes()));
      }
      if (!pulls) return;
      result = torch::stable::new_empty(s.field.velocities, s.field.velocities.sizes());
      launch.to_velocities(sums, result);
    });
    return result;
  };
  Tensor computed;
  if (needs.input)
    std::tie(grad_input, computed) = scatter_input<I>(b, needs, run);
  else
    computed = run(NoScatter{}, b.input);
  if (pulls)
    grad_velocities = computed.scalar_type() == velocities.scalar_type()
                          ? computed
                          : torch::stable::to(computed, velocities.scalar_type());
  return {grad_input, grad_velocities, grad_affine};
}

#define STN_INSTANTIATE(I)                             \
  template Tensor cpab_sample<I>(const CpabSampling&); \
  template std::tuple<Tensor, Tensor, Tensor> cpab_sample_backward<I>(const CpabSampling&, const Tensor&, Needs, bool);
STN_INSTANTIATE(float)
STN_INSTANTIATE(double)
STN_INSTANTIATE(c10::BFloat16)
#ifndef STN_WITHOUT_FLOAT16
STN_INSTANTIATE(c10::Half)
#endif
#undef STN_INSTANTIATE

}  // namespace stn
