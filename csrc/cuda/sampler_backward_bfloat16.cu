#include "sampler_backward.cuh"

template stn::Tensor stn::sampler_backward<c10::BFloat16>(const Call&, const Device&, const Tensor&, const Tensor&,
                                                          const Tensor&, const AnyScatter<float>&, const Tensor&, bool);
