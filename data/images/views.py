"""Random views of pictures: one resampling and one color matrix each (random crop, flip, color; Chen et al. 2020).

The parameters are drawn on the CPU, by each row's own generator; the views are computed from them on any device, so
that a batch is a pure function of its step and needs no worker processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field, model_validator

from engine.config.schema import Fraction, Section

if TYPE_CHECKING:
    from torch import Tensor

NUM_VIEW_PARAMS = 14
"""x and y scale, x and y shift of the crop; a color matrix by rows; an offset."""
NUM_DRAWS = 12
LUMINANCE = np.array([0.299, 0.587, 0.114])  # of red, green and blue (ITU-R BT.601)
GRAY_LEVEL = 0.5  # which contrast leaves as it is

Area = Annotated[float, Field(gt=0, le=1)]
Change = Annotated[float, Field(ge=0, lt=1)]


class Views(Section):
    """Random views of a picture. What a task depends on, such as brightness, must not be varied."""

    min_area: Area = 0.2
    """Minimum fraction of the picture's area in a view."""
    max_area: Area = 1.0
    """Maximum fraction of the picture's area in a view."""
    aspect_ratio: Annotated[float, Field(ge=1, le=4)] = 1.333
    """Maximum ratio of a crop's sides, which are stretched to a square."""
    horizontal_flip: Fraction = 0.5
    """Fraction of the views that are mirrored left to right."""
    vertical_flip: Fraction = 0.0
    """Fraction of the views that are mirrored top to bottom, for pictures without an up and down."""
    color_prob: Fraction = 0.8
    """Fraction of the views with another brightness, contrast, saturation and hue."""
    brightness: Change = 0.4
    """Maximum relative change of brightness."""
    contrast: Change = 0.4
    """Maximum relative change of contrast."""
    saturation: Change = 0.4
    """Maximum relative change of saturation."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Maximum rotation of hue, in turns of the color circle."""
    gray_prob: Fraction = 0.2
    """Fraction of the views without color."""

    @model_validator(mode="after")
    def check_areas(self) -> Views:
        """Reject a smallest area above the largest one."""
        if self.min_area > self.max_area:
            raise ValueError(f"min_area={self.min_area} is more than max_area={self.max_area}")
        return self


def draw_view_params(generators: Sequence[np.random.Generator], views: int, settings: Views) -> np.ndarray:
    """Draw the parameters of `views` views of each row from its generator, float32 (rows, views, NUM_VIEW_PARAMS)."""
    draws = np.stack([generator.random((views, NUM_DRAWS)) for generator in generators])
    params = np.empty((*draws.shape[:2], NUM_VIEW_PARAMS), dtype=np.float32)
    params[..., :4] = crop_params(draws[..., :6], settings)
    params[..., 4:] = color_params(draws[..., 6:], settings)
    return params


def crop_params(draws: np.ndarray, settings: Views) -> np.ndarray:
    """Return x and y scale, x and y shift of crops, for coordinates from -1 to 1: input = scale * output + shift.

    draws: uniform numbers (..., 6).
    """
    area, aspect, x, y, mirrored, flipped = np.moveaxis(draws, -1, 0)
    area = settings.min_area + area * (settings.max_area - settings.min_area)
    aspect = settings.aspect_ratio ** (2 * aspect - 1)
    width, height = np.minimum(np.sqrt(area * aspect), 1), np.minimum(np.sqrt(area / aspect), 1)
    shift_x, shift_y = (1 - width) * (2 * x - 1), (1 - height) * (2 * y - 1)
    width = np.where(mirrored < settings.horizontal_flip, -width, width)
    height = np.where(flipped < settings.vertical_flip, -height, height)
    return np.stack([width, height, shift_x, shift_y], -1)


def color_params(draws: np.ndarray, settings: Views) -> np.ndarray:
    """Return color matrices by rows and offsets, (..., 10), for red, green and blue from 0 to 1.

    Brightness and contrast are factors, saturation a mixture with the luminance, hue a rotation around the gray axis.
    The last three leave gray as it is, so the offset is that of contrast alone. draws: uniform numbers (..., 6).
    """
    changed = np.where(draws[..., 0] < settings.color_prob, 1.0, 0.0)[..., None] * (2 * draws[..., 1:5] - 1)
    maxima = [settings.brightness, settings.contrast, settings.saturation, 2 * np.pi * settings.hue]
    brightness, contrast, saturation, angle = np.moveaxis(changed * maxima, -1, 0)
    saturation = np.where(draws[..., 5] < settings.gray_prob, 0.0, 1 + saturation)
    gray_axis = np.full((3, 3), 1 / 3)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    cosine, sine = np.cos(angle)[..., None, None], np.sin(angle)[..., None, None]
    rotation = cosine * np.eye(3) + (1 - cosine) * gray_axis + sine * cross  # Rodrigues' formula
    mixture = saturation[..., None, None] * np.eye(3) + (1 - saturation)[..., None, None] * LUMINANCE
    matrix = ((1 + brightness) * (1 + contrast))[..., None, None] * (mixture @ rotation)
    return np.concatenate([matrix.reshape(*matrix.shape[:-2], 9), (-contrast * GRAY_LEVEL)[..., None]], -1)


def identity_params(rows: int) -> np.ndarray:
    """Return the parameters of one unchanged view of each row, float32 (rows, 1, NUM_VIEW_PARAMS)."""
    params = np.array([1, 1, 0, 0, *np.eye(3).flat, 0], dtype=np.float32)
    return np.broadcast_to(params, (rows, 1, NUM_VIEW_PARAMS)).copy()


def apply_views(
    pixels: Tensor, params: Tensor, mean: Sequence[float], std: Sequence[float], size: int | None = None
) -> Tensor:
    """Compute normalized views, float32 (rows * views, channels, size, size), the views of a row after each other.

    pixels: uint8 (rows, side, side, channels); params: as drawn by `draw_view_params`; mean, std: of each channel, for
    values from 0 to 1; size: of the views, by default that of the pictures. Colors are not clipped.
    """
    import torch
    from torch.nn import functional as F

    rows, side, _, channels = pixels.shape
    views, size = params.shape[1], size or side
    with torch.autocast(pixels.device.type, enabled=False):
        images = pixels.permute(0, 3, 1, 2).float()
        affine = images.new_zeros(rows * views, 2, 3)
        scale_shift = params.flatten(0, 1)[:, :4]
        affine[:, 0, 0], affine[:, 1, 1], affine[:, :, 2] = scale_shift[:, 0], scale_shift[:, 1], scale_shift[:, 2:]
        grid = F.affine_grid(affine, [rows * views, channels, size, size], align_corners=False)
        # The grids of a row's views are one high grid, so that its picture is not copied.
        sampled = F.grid_sample(images, grid.view(rows, views * size, size, 2), "bilinear", "border", False)
        sampled = sampled.view(rows, channels, views, size * size).transpose(1, 2).reshape(rows * views, channels, -1)
        matrix, offset = params.flatten(0, 1)[:, 4:13].unflatten(1, (3, 3)), params.flatten(0, 1)[:, 13:, None]
        if channels == 1:
            matrix = matrix[:, :1].sum(2, keepdim=True)  # what the matrix does to gray
        mean, std = (torch.tensor(values, device=pixels.device)[:, None] for values in (mean, std))
        colored = torch.baddbmm((offset - mean) / std, matrix / (255 * std), sampled)
    return colored.view(rows * views, channels, size, size)
