#include "sampler_backward.cuh"

template stn::Tensor stn::sampler_backward<double>(const Call&, const Device&, const Tensor&, const Tensor&,
                                                   const Tensor&, const AnyScatter<double>&, const Tensor&, bool);
