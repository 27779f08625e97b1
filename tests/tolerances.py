"""Assertions on the package's one table of tolerances (stn_kernels/_tolerances.py)."""

import torch

from stn_kernels import verify
from stn_kernels._tolerances import TOLERANCES, relative_error
from stn_kernels.op_cases import Inputs, OpCase


def assert_close(actual: torch.Tensor, expected: torch.Tensor, quantity: str = "value") -> None:
    """actual within the tolerance of its dtype of expected; non-finite elements exactly where expected has them."""
    error, allowed = relative_error(actual, expected), TOLERANCES[actual.dtype][quantity]
    assert error <= allowed, f"{quantity}: relative error {error:.2e} > {allowed:.2e} ({actual.dtype})"


def assert_like_reference(backend, case: OpCase, inputs: Inputs, layout: str = "contiguous") -> None:
    """The value and every gradient of a call against the float64 reference; inputs are on the CPU."""
    truth = verify.expected(case, inputs, layout)
    results = verify.evaluate(case, inputs.to(device=backend.device), backend.name, layout)
    for name, expected in truth.items():
        got, allowed = results[name], verify.allowed_error(case, inputs, name, results[name])
        error = relative_error(got, expected)
        assert error <= allowed, f"{name}: relative error {error:.2e} > {allowed:.2e} ({got.dtype})"
        tensor = inputs.tensors.get(name.removeprefix("grad_"))
        assert tensor is None or got.dtype == tensor.dtype
