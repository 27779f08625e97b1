#include "sampler_backward.cuh"

template stn::Tensor stn::sampler_backward<float>(const Call&, const Device&, const Tensor&, const Tensor&,
                                                  const Tensor&, const AnyScatter<float>&, const Tensor&, bool);
