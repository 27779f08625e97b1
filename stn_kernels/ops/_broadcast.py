"""One image under a batch of coordinates: they count as its samples, so that it is neither copied nor expanded."""

from collections.abc import Callable

import torch


def over_batch(run: Callable, input: torch.Tensor, coords: torch.Tensor, dims: int, *others) -> torch.Tensor:
    """run(coords, *others) of a sampling op on input (B, C, *in); B = 1 goes with coords (N[, S], ...) of any N.

    Args:
        run: coords (B[, S], ...) and others -> (B[, S], C, *out).
        input: the images.
        coords: what the operator samples at, with `dims` dimensions after (B[, S]).
        others: further tensors (B[, S], ...), or None.
    """
    if coords.shape[0] == input.shape[0]:
        return run(coords, *others)
    given = coords, *others
    if coords.dim() == dims + 1:
        return run(*(t if t is None else t.unsqueeze(0) for t in given)).squeeze(0)
    flat = (t if t is None else t.flatten(0, 1).unsqueeze(0) for t in given)
    return run(*flat).squeeze(0).unflatten(0, coords.shape[:2])
