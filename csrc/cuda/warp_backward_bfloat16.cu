#include "warp_backward_launch.cuh"

template std::tuple<stn::Tensor, stn::Tensor> stn::warp_backward<c10::BFloat16>(const Call&, const Tensor&, Needs);
