"""The performance model: the bytes that an operator must move through device memory, and the time that takes at least.

Every number of every tensor is read or written once, and of an image only the pixels that some output reads: what no
kernel can avoid, whatever its caches do. `python -m benchmarks.roofline` prints it for the cases of `make gpu`.
"""

import argparse
from dataclasses import dataclass

import torch

from stn_kernels.op_cases import OP_CASES, Inputs

H200 = 4.3e12  # bytes a second, read and written, of a copy on an NVIDIA H200
DIRECTIONS = ("forward", "forward+backward", "input gradient")


@dataclass(frozen=True)
class Call:
    """The bytes of one call's tensors."""

    params: int  # matrices, grids, points: what says where to sample
    output: int
    image: int = 0  # 0 for coordinates alone
    read: int = 0  # of the image, what some output reads
    constants: int = 0  # what has no gradient: given offsets of linearized samples

    def moved(self, direction: str) -> int:
        """Bytes of "forward", "forward+backward" (to all tensors) or "input gradient" (backward to the image alone)."""
        forward = self.read + self.params + self.constants + self.output
        if direction == "forward":
            return forward
        if direction == "input gradient":
            return self.output + self.params + self.image
        if direction == "forward+backward":
            reads = self.output + (self.read + self.params if self.image else 0)  # of coordinates the cotangent alone
            return forward + reads + self.image + self.params
        raise ValueError(f"direction must be one of {', '.join(DIRECTIONS)}, got {direction!r}")

    def floor(self, direction: str, bandwidth: float) -> float:
        """Seconds that the call takes at least, at `bandwidth` bytes a second."""
        return self.moved(direction) / bandwidth


def call_of(op: str, inputs: Inputs) -> Call:
    """The bytes of a call of a public operator."""
    params = sum(t.nbytes for name, t in inputs.tensors.items() if name != "input")
    output = OP_CASES[op].call(inputs.to(device="meta")).nbytes
    image = inputs.tensors.get("input")
    if image is None:
        return Call(params, output)
    pixel = image.shape[1] * image.element_size()
    offsets = getattr(inputs.options.get("mode"), "offsets", None)
    constants = 0 if offsets is None else offsets.nbytes
    return Call(params, output, image.numel() * image.element_size(), pixels_read(op, inputs) * pixel, constants)


def pixels_read(op: str, inputs: Inputs) -> int:
    """How many pixels of its images a call reads with a weight that is not 0: those that have a gradient."""
    image = torch.zeros_like(inputs.tensors["input"][:, :1], dtype=torch.float32, requires_grad=True)
    output = OP_CASES[op].call(Inputs({**inputs.tensors, "input": image}, inputs.options), "reference")
    (gradient,) = torch.autograd.grad(output, image, torch.ones_like(output))
    return int(gradient.count_nonzero())


def main() -> None:
    from .gpu.cases import gpu_cases

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bandwidth", type=float, default=H200, help=f"bytes a second; {H200:g} (an H200) by default")
    bandwidth = parser.parse_args().bandwidth
    print(f"{'operator':<14}{'case':<44}{'direction':<18}{'MB':>9}{'floor us':>10}")
    for case in gpu_cases():
        call = call_of(case.op, case.inputs("cpu"))
        for direction in DIRECTIONS:
            if call.image or direction != "input gradient":
                size, time = call.moved(direction) / 1e6, 1e6 * call.floor(direction, bandwidth)
                print(f"{case.op:<14}{case.name:<44}{direction:<18}{size:>9.1f}{time:>10.2f}")


if __name__ == "__main__":
    main()
