"""Argument checks shared by the public functions: every error names the argument, what it got and what it should be."""

import torch

from ._library import MODES, PADDING_MODES

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def floating_tensor(name: str, value) -> None:
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if value.dtype not in FLOATS:
        raise TypeError(f"{name} must be float32, float64, float16 or bfloat16, got {value.dtype}")
    if value.layout is not torch.strided:
        raise TypeError(f"{name} must be a dense (strided) tensor, got {value.layout}")


def image(value, dimensions: tuple[int, ...] = (2,)) -> int:
    """input: (B, C, *in) with a non-empty spatial size of as many dimensions as allowed; returns how many."""
    floating_tensor("input", value)
    shape = value.shape
    n = len(shape) - 2
    if n not in dimensions:
        wanted = " or ".join(("(B, C, W)", "(B, C, H, W)", "(B, C, D, H, W)")[d - 1] for d in dimensions)
        raise ValueError(f"input must be {wanted}, got shape {tuple(shape)}")
    if 0 in shape[2:]:
        raise ValueError(f"input must have a non-empty spatial size, got shape {tuple(shape)}")
    return n


def spatial_size(value, n: int = 2) -> list[int]:
    """size: n positive integers, the spatial size of the output."""
    wanted = ("1 integer (width,)", "2 integers (height, width)", "3 integers (depth, height, width)")[n - 1]
    if isinstance(value, str) or not hasattr(value, "__len__"):
        raise TypeError(f"size must be {wanted}, got {value!r}")
    if len(value) != n:
        last = ("one", "two", "three")[n - 1]
        hint = f"; torch's affine_grid has (N, C) before it: pass the last {last}" if len(value) == n + 2 else ""
        raise ValueError(f"size must be {wanted}, got {tuple(value)}{hint}")
    for extent in value:
        if not isinstance(extent, (int, torch.SymInt)) or isinstance(extent, bool):
            raise TypeError(f"size must be {wanted}, got {tuple(value)}")
        if extent <= 0:
            raise ValueError(f"size must be positive, got {tuple(value)}")
    return list(value)


def matrix(name: str, value, rows: int, columns: int) -> None:
    """A parameter matrix (B, rows, columns) or (B, S, rows, columns)."""
    floating_tensor(name, value)
    shape = value.shape
    if len(shape) not in (3, 4) or shape[-2] != rows or shape[-1] != columns:
        wanted = f"(B, {rows}, {columns}) or (B, S, {rows}, {columns})"
        raise ValueError(f"{name} must be {wanted}, got shape {tuple(shape)}")


def affine(value) -> int:
    """theta: (B, n, n + 1) or (B, S, n, n + 1) with n = 1, 2 or 3; returns n."""
    floating_tensor("theta", value)
    shape = value.shape
    if len(shape) not in (3, 4) or shape[-2] not in (1, 2, 3) or shape[-1] != shape[-2] + 1:
        wanted = "(B, 2, 3) or (B, S, 2, 3), with 1, 2 for 1-D and 3, 4 for 3-D"
        raise ValueError(f"theta must be {wanted}, got shape {tuple(shape)}")
    return shape[-2]


def grid(value, n: int = 2) -> None:
    """grid: (B, *out, n) or (B, S, *out, n)."""
    floating_tensor("grid", value)
    shape = value.shape
    if len(shape) - n not in (2, 3) or shape[-1] != n:
        size = ", ".join(("Do", "Ho", "Wo")[3 - n :])
        raise ValueError(f"grid must be (B, {size}, {n}) or (B, S, {size}, {n}), got shape {tuple(shape)}")


def same_batch_and_device(name: str, value, input, broadcast: bool = False) -> None:
    """broadcast: whether one image may go with a batch of any size."""
    if value.device != input.device:
        raise ValueError(f"{name} must be on the device of input ({input.device}), got {value.device}")
    if value.shape[0] != input.shape[0] and not (broadcast and input.shape[0] == 1):
        raise ValueError(f"{name} must have the batch size of input ({input.shape[0]}), got shape {tuple(value.shape)}")


def mode(value, known: tuple[str, ...] = ("bilinear",)) -> int:
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"mode must be {' or '.join(map(repr, known))} or 'linearized' or a Linearized, got {value!r}")
    return MODES[value]


def padding_mode(value) -> int:
    code = PADDING_MODES.get(value) if isinstance(value, str) else None
    if code is None:
        raise ValueError(f"padding_mode must be 'zeros', 'border' or 'reflection', got {value!r}")
    return code


def flag(name: str, value) -> None:
    if value is not True and value is not False:
        raise TypeError(f"{name} must be True or False, got {value!r}")
