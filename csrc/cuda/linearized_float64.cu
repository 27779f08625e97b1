#include "linearized.cuh"

template void stn::linearized_forward<double>(const Call&, const Device&, const Tensor&, const Tensor&, const Tensor&);
template stn::Tensor stn::linearized_backward<double>(const Call&, const Device&, const Tensor&, const Tensor&,
                                                      const Tensor&, const AnyScatter<double>&, const Tensor&, bool);
template void stn::linearized_largest<double>(const Call&, const Device&, const Tensor&, FixedPoint*);
