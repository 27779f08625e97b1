#include "sampler_forward.cuh"

template void stn::sampler_forward<float>(const Call&, const Device&, const Tensor&, const Tensor&, const Tensor&);
