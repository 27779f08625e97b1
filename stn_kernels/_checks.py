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


def image(value) -> None:
    """input: (B, C, H, W) with a non-empty spatial size."""
    floating_tensor("input", value)
    if value.dim() != 4:
        raise ValueError(f"input must be (B, C, H, W), got shape {tuple(value.shape)}")
    if value.shape[2] == 0 or value.shape[3] == 0:
        raise ValueError(f"input must have a non-empty spatial size, got shape {tuple(value.shape)}")


def spatial_size(value, n: int = 2) -> list[int]:
    """size: n positive integers, the spatial size of the output."""
    if isinstance(value, str) or not hasattr(value, "__len__"):
        raise TypeError(f"size must be {n} integers (height, width), got {value!r}")
    if len(value) != n:
        hint = "; torch's affine_grid takes (N, C, H, W): pass its last two" if len(value) == n + 2 else ""
        raise ValueError(f"size must be {n} integers (height, width), got {tuple(value)}{hint}")
    for extent in value:
        if not isinstance(extent, (int, torch.SymInt)) or isinstance(extent, bool):
            raise TypeError(f"size must be {n} integers (height, width), got {tuple(value)}")
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


def grid(value) -> None:
    """grid: (B, Ho, Wo, 2) or (B, S, Ho, Wo, 2)."""
    floating_tensor("grid", value)
    if value.dim() not in (4, 5) or value.shape[-1] != 2:
        raise ValueError(f"grid must be (B, Ho, Wo, 2) or (B, S, Ho, Wo, 2), got shape {tuple(value.shape)}")


def same_batch_and_device(name: str, value, input) -> None:
    if value.device != input.device:
        raise ValueError(f"{name} must be on the device of input ({input.device}), got {value.device}")
    if value.shape[0] != input.shape[0]:
        raise ValueError(f"{name} must have the batch size of input ({input.shape[0]}), got shape {tuple(value.shape)}")


def mode(value) -> int:
    if value != "bilinear":
        known = ", ".join(repr(m) for m in MODES if m == "bilinear")
        raise ValueError(f"mode must be {known}, got {value!r}")
    return MODES[value]


def padding_mode(value) -> int:
    code = PADDING_MODES.get(value) if isinstance(value, str) else None
    if code is None:
        raise ValueError(f"padding_mode must be 'zeros', 'border' or 'reflection', got {value!r}")
    return code


def flag(name: str, value) -> None:
    if value is not True and value is not False:
        raise TypeError(f"{name} must be True or False, got {value!r}")
