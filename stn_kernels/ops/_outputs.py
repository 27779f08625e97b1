"""Shapes and memory layouts of operator results, the same in the fakes and in every kernel."""

import torch


def is_channels_last(input: torch.Tensor) -> bool:
    """Whether the pixels of input (B, C, H, W) are stored channel by channel inside a dense pixel; any batch stride."""
    if input.dim() != 4:
        return False
    _, channels, _, width = input.shape
    _, channel_stride, row_stride, pixel_stride = input.stride()
    return channels > 1 and channel_stride == 1 and pixel_stride == channels and row_stride == channels * width


def empty_images(like: torch.Tensor, shape, channels_last: bool) -> torch.Tensor:
    """An empty (..., C, H, W) tensor, stored (..., H, W, C) if channels_last."""
    if not channels_last:
        return like.new_empty(shape)
    *lead, channels, height, width = shape
    return like.new_empty((*lead, height, width, channels)).movedim(-1, -3)


def store_images(value: torch.Tensor, channels_last: bool) -> torch.Tensor:
    """value (..., C, H, W) in the layout `empty_images` gives."""
    if not channels_last:
        return value.contiguous()
    return value.movedim(-3, -1).contiguous().movedim(-1, -3)
