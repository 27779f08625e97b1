#include "linearized.cuh"

template void stn::linearized_forward<c10::BFloat16>(const Call&, const Device&, const Tensor&, const Tensor&,
                                                     const Tensor&);
template stn::Tensor stn::linearized_backward<c10::BFloat16>(const Call&, const Device&, const Tensor&, const Tensor&,
                                                             const Tensor&, const AnyScatter<float>&, const Tensor&,
                                                             bool);
template void stn::linearized_largest<c10::BFloat16>(const Call&, const Device&, const Tensor&, FixedPoint*);
