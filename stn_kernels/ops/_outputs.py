"""Shapes and memory layouts of operator results, the same in the fakes and in every kernel."""

import torch


def is_channels_last(input: torch.Tensor) -> bool:
    """Whether the pixels of input (B, C, *in) are stored channel by channel inside a dense pixel; any batch stride."""
    if not 3 <= input.dim() <= 5:
        return False
    pixel = input.shape[1]
    if pixel <= 1 or input.stride(1) != 1:
        return False
    for axis in range(input.dim() - 1, 1, -1):
        if input.stride(axis) != pixel:
            return False
        pixel = pixel * input.shape[axis]
    return True


def empty_images(like: torch.Tensor, shape, channels_last: bool, n: int = 2, dtype=None) -> torch.Tensor:
    """An empty (..., C, *size) tensor with n spatial dimensions, stored (..., *size, C) if channels_last."""
    if not channels_last:
        return like.new_empty(shape, dtype=dtype)
    *lead, channels = shape[: len(shape) - n]
    return like.new_empty((*lead, *shape[len(shape) - n :], channels), dtype=dtype).movedim(-1, -n - 1)


def store_images(value: torch.Tensor, channels_last: bool, n: int = 2) -> torch.Tensor:
    """value (..., C, *size) in the layout `empty_images` gives."""
    if not channels_last:
        return value.contiguous()
    return value.movedim(-n - 1, -1).contiguous().movedim(-1, -n - 1)
