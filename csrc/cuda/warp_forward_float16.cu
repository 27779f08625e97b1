#include "warp_forward.cuh"

template stn::Tensor stn::warp_forward<c10::Half>(const Call&);
