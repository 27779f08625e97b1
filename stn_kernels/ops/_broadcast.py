"""One image under a batch of coordinates: they count as its samples, so that it is neither copied nor expanded."""

from collections.abc import Callable

import torch


def over_batch(run: Callable, input: torch.Tensor, coords: torch.Tensor, dims: int) -> torch.Tensor:
    """run(coords) of a sampling op on input (B, C, *in); B = 1 goes with coords (N[, S], ...) of any N.

    Args:
        run: coords (B[, S], ...) -> (B[, S], C, *out).
        input: the images.
        coords: what the operator samples at, with `dims` dimensions after (B[, S]).
    """
    if coords.shape[0] == input.shape[0]:
        return run(coords)
    if coords.dim() == dims + 1:
        return run(coords.unsqueeze(0)).squeeze(0)
    return run(coords.flatten(0, 1).unsqueeze(0)).squeeze(0).unflatten(0, coords.shape[:2])
