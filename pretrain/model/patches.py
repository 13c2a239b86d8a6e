"""Patches of images: cut, put together again, and their positions."""

import torch
from torch import Tensor


def to_patches(images: Tensor, patch: int) -> Tensor:
    """Cut images (images, channels, size, size) into patches (images, patches, patch * patch * channels), by rows."""
    parts = images.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))
    return parts.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def from_patches(patches: Tensor, patch: int, shape: torch.Size) -> Tensor:
    """Put patches together again to images of a shape: the inverse of `to_patches`."""
    grid = shape[-1] // patch
    parts = patches.unflatten(2, (patch, patch, shape[1])).unflatten(1, (grid, grid))
    return parts.permute(0, 5, 1, 3, 2, 4).reshape(shape)


def position_embeddings(grid: int, dim: int) -> Tensor:
    """Return sine and cosine embeddings of the positions of a square grid, float32 (grid * grid, dim)."""
    frequencies = 10_000 ** -(torch.arange(dim // 4) / (dim // 4))
    angles = torch.arange(grid)[:, None] * frequencies
    axis = torch.cat([angles.sin(), angles.cos()], 1)
    return torch.cat([axis.repeat_interleave(grid, 0), axis.repeat(grid, 1)], 1)
