// `stn_kernels._lib._C`: what the native build was made of. Only strings, so that it loads with any torch or none.
#include <pybind11/pybind11.h>

#include <string>

PYBIND11_MODULE(_C, module) {
  module.doc() = "Build information of the native libraries.";
  module.attr("compiler") = STN_COMPILER;
  module.attr("flags") = STN_FLAGS;
  module.attr("cpu_levels") = STN_CPU_LEVELS;
  module.attr("cuda_archs") = STN_CUDA_ARCHS;
  module.attr("torch") = STN_TORCH;
  module.attr("debug") = std::string(STN_DEBUG) == "1";
}
