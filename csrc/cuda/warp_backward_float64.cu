#include "warp_backward_launch.cuh"

template std::tuple<stn::Tensor, stn::Tensor> stn::warp_backward<double>(const Call&, const Tensor&, Needs);
