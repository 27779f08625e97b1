#include "sampler_forward.cuh"

template void stn::sampler_forward<c10::BFloat16>(const Call&, const Device&, const Tensor&, const Tensor&,
                                                  const Tensor&);
