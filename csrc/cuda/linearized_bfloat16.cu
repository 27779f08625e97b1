#include "linearized.cuh"

template void stn::linearized_forward<c10::BFloat16>(const Call&, const Device&, const Tensor&, const Tensor&,
                                                     const Tensor&);
template stn::Tensor stn::linearized_grad_grid<c10::BFloat16>(const Call&, const Tensor&, const Tensor&);
template void stn::linearized_scatter<c10::BFloat16>(const Call&, const Device&, const Tensor&, const Tensor&,
                                                     const AnyScatter<float>&, const Tensor&);
template void stn::linearized_largest<c10::BFloat16>(const Call&, const Device&, const Tensor&, FixedPoint*);
