#include "linearized.cuh"

template void stn::linearized_forward<float>(const Call&, const Device&, const Tensor&, const Tensor&, const Tensor&);
template stn::Tensor stn::linearized_grad_grid<float>(const Call&, const Tensor&, const Tensor&);
template void stn::linearized_scatter<float>(const Call&, const Device&, const Tensor&, const Tensor&,
                                             const AnyScatter<float>&, const Tensor&);
template void stn::linearized_largest<float>(const Call&, const Device&, const Tensor&, FixedPoint*);
