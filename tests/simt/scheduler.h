// What the race detector sees of the scheduler.
#pragma once
#include <string>

#include "simt_host.h"

namespace simt {

struct Now {
  unsigned launch, block;      // launches count from 1
  unsigned thread;             // in its block
  unsigned epoch, warp_epoch;  // barriers of the block, full __syncwarps of the warp, passed so far
};

bool in_kernel();  // false outside kernels and after a failure
Now now();
bool is_stack(const void* address);
bool is_shared(const void* address);
[[noreturn]] void fail(const std::string& what);  // ends the launch with an error; only inside a kernel

}  // namespace simt
