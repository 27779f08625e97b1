"""torch.vmap over an operator, in one call: the mapped dimension joins the batch, or the samples of a shared image."""

from collections.abc import Callable

import torch

from .. import _library


def _refuse(name: str, in_dims) -> None:
    if any(d is not None for d in in_dims):
        raise ValueError(
            f"torch.vmap over {name} maps over its batched tensors, not over the constants that they share"
        )


def _mapped(tensor: torch.Tensor, dim: int | None, size: int, to: int) -> torch.Tensor:
    """The tensor with the mapped dimension at `to`; one that is not mapped repeats along it."""
    if dim is not None:
        return tensor.movedim(dim, to)
    return tensor.unsqueeze(to).expand(*tensor.shape[:to], size, *tensor.shape[to:])


def _in_batch(tensor: torch.Tensor | None, dim: int | None, size: int) -> torch.Tensor | None:
    """(B, ...) -> (size * B, ...); None and a cotangent that is none, of one dimension, stay."""
    if tensor is None or (dim is None and tensor.dim() == 1):
        return tensor
    return _mapped(tensor, dim, size, 0).flatten(0, 1)


def _in_samples(tensor: torch.Tensor | None, dim: int | None, size: int, has_samples: bool) -> torch.Tensor | None:
    """(B[, S], ...) -> (B, size[ * S], ...); what `_in_batch` leaves as it is stays."""
    if tensor is None or (dim is None and tensor.dim() == 1):
        return tensor
    tensor = _mapped(tensor, dim, size, 1)
    return tensor.flatten(1, 2) if has_samples else tensor


def _split(results, restore: Callable, out_dim: int):
    """Results with the mapped dimension restored, and where it is; a gradient not needed, of one dimension, stays."""
    if isinstance(results, torch.Tensor):
        return restore(results), out_dim
    dims = tuple(None if r.dim() == 1 else out_dim for r in results)
    return tuple(r if d is None else restore(r) for r, d in zip(results, dims, strict=True)), dims


def into_batch(name: str, tensors: int, constants: int = 0) -> Callable[[str], Callable]:
    """The rule of an operator whose first `tensors` arguments, before `constants`, and whose results are (B, ...)."""

    def rule(namespace):
        def run(info, in_dims, *args):
            _refuse(name, in_dims[tensors : tensors + constants])
            size = info.batch_size
            folded = [_in_batch(t, d, size) for t, d in zip(args[:tensors], in_dims, strict=False)]
            results = _library.call_in(namespace, name, *folded, *args[tensors:])
            return _split(results, lambda r: r.unflatten(0, (size, -1)), 0)

        return run

    return rule


def sampling(name: str, coords: int = 1, constants: int = 0, sized: bool = True, backward: bool = False):
    """The rule of a sampling operator ([grad_output,] input, `coords` tensors, `constants` tensors, ...).

    sized: as in `declare_sample`. Of a backward the last arguments are needs, the input's first, and `deterministic`.
    """
    first = int(backward)  # the input's place
    tensors = first + 1 + coords
    fold = into_batch(name, tensors, constants)

    def rule(namespace):
        def run(info, in_dims, *args):
            input, values = args[first], args[first + 1]
            if in_dims[first] is not None or (backward and args[-2 - coords]):  # no image, or no gradient, to share
                return fold(namespace)(info, in_dims, *args)
            _refuse(name, in_dims[tensors : tensors + constants])
            size, dims = info.batch_size, 2 if sized else input.dim() - 1
            has_samples = values.dim() - (in_dims[first + 1] is not None) > dims + 1
            folded = [
                t if i == first else _in_samples(t, d, size, has_samples)
                for i, (t, d) in enumerate(zip(args[:tensors], in_dims, strict=False))
            ]
            results = _library.call_in(namespace, name, *folded, *args[tensors:])
            return _split(results, lambda r: r.unflatten(1, (size, -1)) if has_samples else r, 1)

        return run

    return rule


def moving_points(name: str, backward: bool = False):
    """The rule of an operator on ([grad_output,] points (P, n) or (B, P, n), velocities, two constants, ...)."""
    first = int(backward)  # the points' place
    tensors = first + 2

    def rule(namespace):
        def run(info, in_dims, *args):
            _refuse(name, in_dims[tensors : tensors + 2])
            size, dim = info.batch_size, in_dims[first]
            shared = args[first].dim() - (dim is not None) == 2
            folded = [_in_batch(t, d, size) for t, d in zip(args[:tensors], in_dims, strict=False)]
            batch = folded[first + 1].shape[0] // size
            if shared and dim is None and not (backward and args[-2]):
                folded[first] = args[first]
            elif shared:  # points of each example, and a gradient
                folded[first] = _mapped(args[first], dim, size, 0).repeat_interleave(batch, 0)
            results = _library.call_in(namespace, name, *folded, *args[tensors:])
            results, dims = _split(results, lambda r: r.unflatten(0, (size, -1)), 0)
            if backward and shared and dims[0] is not None:
                results = results[0].sum(1), results[1]
            return results, dims

        return run

    return rule


def multi_sampling(name: str, grid: int, backward: bool = False):
    """The rule of ([grad_output, slopes,] input, parameters, two constants, offsets, transform, ...).

    grid: the transform whose parameters are a grid. Of a backward the last arguments are as for `sampling`.
    """
    first = 2 if backward else 0  # the input's place

    def rule(namespace):
        def run(info, in_dims, *args):
            _refuse(name, in_dims[first + 2 : first + 4])
            size, input, values = info.batch_size, args[first], args[first + 1]
            moved, restore, out_dim = [*range(first + 2), first + 4], lambda r: r.unflatten(0, (size, -1)), 0
            if in_dims[first] is not None or (backward and args[-3]):  # no image, or no gradient, to share
                folded = {i: _in_batch(args[i], in_dims[i], size) for i in moved}
            else:
                dims = input.dim() - 1 if args[first + 5] == grid else 2
                has_samples = values.dim() - (in_dims[first + 1] is not None) > dims + 1
                moved.remove(first)
                folded = {i: _in_samples(args[i], in_dims[i], size, has_samples) for i in moved}
                restore, out_dim = (lambda r: r.unflatten(1, (size, -1))) if has_samples else (lambda r: r), 1
            results = _library.call_in(namespace, name, *(folded.get(i, a) for i, a in enumerate(args)))
            return _split(results, restore, out_dim)

        return run

    return rule
