"""Builds the native libraries while installing, as far as this machine can; the build itself is stn_kernels/_build.py.

DEBUG=1, FORCE_CUDA=1, TORCH_CUDA_ARCH_LIST, CXX, NVCC, MAX_JOBS are honoured; STN_KERNELS_NO_NATIVE=1 builds nothing.
"""

import importlib.util
import os
import pathlib

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = pathlib.Path(__file__).resolve().parent


def load_builder():
    spec = importlib.util.spec_from_file_location("stn_kernels_build", ROOT / "stn_kernels" / "_build.py")
    builder = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(builder)
    return builder


class NativeBuild(build_ext):
    """Hands over to ninja; a machine that cannot build still gets a package that works (Triton and the reference)."""

    def run(self):
        if os.environ.get("STN_KERNELS_NO_NATIVE") == "1":
            return
        builder = load_builder()
        print("stn_kernels configuration:", builder.configuration())
        package = ROOT if self.inplace else pathlib.Path(self.build_lib).resolve()
        output = package / "stn_kernels" / "_lib"
        output.mkdir(parents=True, exist_ok=True)
        for line in builder.build(output, ROOT / "build" / "native"):
            print("stn_kernels", line)

    def get_outputs(self):
        return []

    def get_output_mapping(self):
        return {}


# The extension named here only makes setuptools treat the package as one with binaries.
setup(ext_modules=[Extension("stn_kernels._lib._C", sources=[])], cmdclass={"build_ext": NativeBuild})
