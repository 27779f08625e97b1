#include "warp_forward.cuh"

template stn::Tensor stn::warp_forward<float>(const Call&);
