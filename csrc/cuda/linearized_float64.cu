#include "linearized.cuh"

template void stn::linearized_forward<double>(const Call&, const Device&, const Tensor&, const Tensor&, const Tensor&);
template stn::Tensor stn::linearized_grad_grid<double>(const Call&, const Tensor&, const Tensor&);
template void stn::linearized_scatter<double>(const Call&, const Device&, const Tensor&, const Tensor&,
                                              const AnyScatter<double>&, const Tensor&);
template void stn::linearized_largest<double>(const Call&, const Device&, const Tensor&, FixedPoint*);
