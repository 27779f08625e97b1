"""The CUDA kernels, run on the CPU, against the float64 reference: raw operators, every layout and both scatters.

`python -m tests.simt.sweep VARIANT` runs a few cases of each kernel on one build (tests run it under the sanitizers).
"""

import dataclasses
import itertools
import sys

import torch

import stn_kernels  # noqa: F401  declares the operators
from stn_kernels._tolerances import TOLERANCES, relative_error
from stn_kernels.ops._outputs import empty_images, is_channels_last

from .build import NAMESPACE, load

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
LAYOUTS = ("planar", "channels_last", "rows", "expanded", "transposed")
PADDINGS = (0, 1, 2)


@dataclasses.dataclass(frozen=True)
class Case:
    """One call of a sampling operator and of its backward."""

    op: str  # "affine_sample" or "grid_sample"
    dtype: torch.dtype = torch.float32
    coords_dtype: torch.dtype = torch.float32
    padding: int = 0
    align_corners: bool = False
    layout: str = "planar"
    samples: int | None = None
    batch: int = 2
    channels: int = 3
    size: tuple[int, int] = (7, 9)
    out_size: tuple[int, int] = (6, 18)
    zoom: float = 1.0  # of the affine matrices: above 1 outputs are sparse, below 1 dense

    def image(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Random numbers (..., C, H, W) in the case's layout."""
        *lead, channels, height, width = shape
        if self.layout == "expanded":
            return torch.randn(1, *shape[1:]).to(self.dtype).expand(shape)
        if self.layout == "rows":
            return torch.randn(*lead, channels, height, width + 3).to(self.dtype)[..., 1 : width + 1]
        if self.layout == "transposed":
            return torch.randn(*lead, channels, width, height).to(self.dtype).transpose(-1, -2)
        if self.layout == "channels_last":
            return torch.randn(*lead, height, width, channels).to(self.dtype).movedim(-1, -3)
        return torch.randn(shape).to(self.dtype)

    def draw(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, tuple]:
        """(input, theta or grid, grad_output, the options after them)."""
        lead = (self.batch,) if self.samples is None else (self.batch, self.samples)
        theta = (self.zoom * torch.eye(2, 3) + 0.4 * self.zoom * torch.randn(*lead, 2, 3)).to(self.coords_dtype)
        params = theta if self.op == "affine_sample" else (1.3 * torch.randn(*lead, *self.out_size, 2)).to(theta.dtype)
        image = self.image((self.batch, self.channels, *self.size))
        grad_output = self.image((*lead, self.channels, *self.out_size))
        return image, params, grad_output, (0, self.padding, self.align_corners)


def assert_close(actual: torch.Tensor, expected: torch.Tensor, quantity: str) -> None:
    error, allowed = relative_error(actual, expected), TOLERANCES[actual.dtype][quantity]
    assert error <= allowed, f"{quantity}: relative error {error:.2e} > {allowed:.2e} ({actual.dtype})"


def check(case: Case) -> None:
    """Value, layout and gradients, the latter with and without the demand for determinism."""
    namespace, reference = getattr(torch.ops, NAMESPACE), torch.ops.stn_kernels_reference
    forward, backward = getattr(namespace, case.op), getattr(namespace, f"_{case.op}_backward")
    image, params, grad_output, options = case.draw()
    size = (list(case.out_size),) if case.op == "affine_sample" else ()

    output = forward(image, params, *size, *options)
    assert_close(output, getattr(reference, case.op)(image.double(), params.double(), *size, *options), "value")
    promised = empty_images(image, output.shape, is_channels_last(image))
    assert (output.dtype, output.stride()) == (promised.dtype, promised.stride())

    truth = getattr(reference, f"_{case.op}_backward")(
        grad_output.double(), image.double(), params.double(), *options, True, True, False
    )
    for deterministic in (False, True):
        gradients = backward(grad_output, image, params, *options, True, True, deterministic)
        for gradient, expected, of, quantity in zip(
            gradients, truth, (image, params), ("image", "coords"), strict=True
        ):
            assert gradient.dtype == of.dtype
            assert_close(gradient, expected, quantity)


def each_kernel() -> list[Case]:
    """A few small cases that between them run every kernel template."""
    cases = []
    for op, padding, dtype in itertools.product(("affine_sample", "grid_sample"), PADDINGS, DTYPES):
        for layout, channels in (
            ("planar", 1),
            ("planar", 3),
            ("planar", 5),
            ("channels_last", 3),
            ("channels_last", 16),
        ):
            cases.append(Case(op, dtype, torch.float32, padding, True, layout, 2, 1, channels, (4, 5), (3, 17)))
        cases.append(Case(op, dtype, torch.float64, padding, False, "rows", None, 2, 2, (4, 5), (18, 3)))
    cases += [
        Case("affine_sample", zoom=z, channels=c, layout=y)
        for z in (0.3, 3.0)
        for c, y in ((3, "planar"), (8, "channels_last"))
    ]
    return cases


def main() -> None:
    load(sys.argv[1])
    torch.manual_seed(0)
    cases = each_kernel()
    for case in cases:
        check(case)
    theta = torch.randn(2, 2, 2, 3)
    grid = getattr(torch.ops, NAMESPACE).affine_grid(theta, [3, 17], False)
    grad = torch.randn_like(grid)
    assert_close(grid, torch.ops.stn_kernels_reference.affine_grid(theta.double(), [3, 17], False), "value")
    back = getattr(torch.ops, NAMESPACE)._affine_grid_backward(grad, False)
    assert_close(back, torch.ops.stn_kernels_reference._affine_grid_backward(grad.double(), False), "coords")
    print(f"{len(cases)} cases on {sys.argv[1]}: as the reference")


if __name__ == "__main__":
    main()
