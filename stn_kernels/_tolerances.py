"""The one table of allowed errors: of the tests, of `stn-kernels verify` and of the benchmarks' gate.

An error is max |actual - expected| / max |expected| against the float64 reference on the same inputs. What decides the
allowance is the dtype in which the result is stored; parameters and coordinates of float32 images are float32.
"""

import math

import torch

# Per quantity: "value" of an op, gradient to the "image", gradient to "coords" (a matrix or a grid).
TOLERANCES = {
    torch.float64: {"value": 1e-12, "image": 1e-12, "coords": 1e-11},
    torch.float32: {"value": 1e-5, "image": 1e-5, "coords": 2e-5},
    # Computed in float32 and rounded once: half a unit in the last place is 2^-11 and 2^-9 of a value.
    torch.float16: {"value": 2**-10, "image": 2**-10, "coords": 2**-10},
    torch.bfloat16: {"value": 2**-8, "image": 2**-8, "coords": 2**-8},
}


def nondeterminism(device: str) -> float:
    """By how much two float64 runs may differ, gradcheck's `nondet_tol`: a GPU's atomics add in any order."""
    return 1e-12 if device == "cuda" else 0.0


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """max |actual - expected| / max |expected|; inf if the shapes or the non-finite elements differ."""
    if actual.shape != expected.shape:
        return float("inf")
    if expected.numel() == 0:
        return 0.0
    actual, expected = actual.detach().to(expected.device).double(), expected.detach().double()
    finite = expected.isfinite()
    if not torch.isclose(actual[~finite], expected[~finite], equal_nan=True).all():
        return float("inf")
    if not finite.any():
        return 0.0
    difference = (actual - expected)[finite].abs().max().item()
    scale = expected[finite].abs().max().item()
    if math.isnan(difference):  # NaN where a finite value is expected
        return float("inf")
    return difference / scale if scale > 0 else difference
