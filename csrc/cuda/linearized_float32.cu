#include "linearized.cuh"

template void stn::linearized_forward<float>(const Call&, const Device&, const Tensor&, const Tensor&, const Tensor&);
template stn::Tensor stn::linearized_backward<float>(const Call&, const Device&, const Tensor&, const Tensor&,
                                                     const Tensor&, const AnyScatter<float>&, const Tensor&, bool);
template void stn::linearized_largest<float>(const Call&, const Device&, const Tensor&, FixedPoint*);
