#include "sampler_second.cuh"

template std::tuple<stn::Tensor, stn::Tensor, stn::Tensor> stn::warp_second<c10::Half>(const Call&, const Tensor&,
                                                                                       const Tensor&, const Tensor&,
                                                                                       const bool (&)[3], bool);
