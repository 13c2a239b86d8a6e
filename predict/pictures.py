"""Pictures of the page of a prediction: the most doubtful images, and what in them decided."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from data.classifier import Classifier
from engine.errors import DataError
from predict.image_rows import ImageTable

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PICTURES = 64
SIZE = 128  # pixels of a side on the page
NUM_STEPS, STEP_BATCH = 24, 8
GRID = 16  # squares on a side of a heat map
RED, BLUE = (215, 25, 28), (44, 123, 182)


class Picture(NamedTuple):
    """One row's images, as data URLs."""

    image: str
    heat_map: str = ""
    """The image with what speaks for the label in red, and against it in blue."""


def attribute_pixels(model: nn.Module, pixel_values: Tensor, target: int) -> np.ndarray:
    """Return integrated gradients (Sundararajan et al. 2017) of a logit, float32 (height, width).

    From an image of the mean color; they add up to the difference of the logit. pixel_values: (1, channels, height,
    width).
    """
    total = torch.zeros_like(pixel_values)
    for start in range(0, NUM_STEPS, STEP_BATCH):
        steps = (torch.arange(start, min(start + STEP_BATCH, NUM_STEPS), device=pixel_values.device) + 0.5) / NUM_STEPS
        inputs = (steps.view(-1, 1, 1, 1) * pixel_values).requires_grad_()
        logits = model(pixel_values=inputs).logits[:, target]
        total += torch.autograd.grad(logits.sum(), inputs)[0].sum(0, keepdim=True)
    return (pixel_values * total / NUM_STEPS).sum((0, 1)).float().cpu().numpy()


def to_url(image: Image) -> str:
    """Return an image as a data URL."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


def draw_heat_map(pixels: np.ndarray, values: np.ndarray) -> Image:
    """Return an image in shades of gray with attributions over it, summed in squares.

    pixels: as the network reads them, float32 (channels, height, width); values: (height, width).
    """
    from PIL import Image

    gray = pixels.mean(0)
    gray = 110 + 145 * (gray - gray.min()) / max(1e-6, gray.max() - gray.min())  # light, so that colors show
    base = Image.fromarray(gray.astype(np.uint8)).resize((SIZE, SIZE)).convert("RGB")
    squares = Image.fromarray(values).resize((GRID, GRID), Image.Resampling.BOX)
    smooth = np.asarray(squares.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    strength = np.abs(smooth) / max(1e-12, float(np.abs(smooth).max()))
    color = np.where(smooth[..., None] > 0, np.array(RED), np.array(BLUE))
    mixed = np.asarray(base) * (1 - 0.7 * strength[..., None]) + color * 0.7 * strength[..., None]
    return Image.fromarray(mixed.clip(0, 255).astype(np.uint8))


def find_target(label: object, names: list[str]) -> int:
    """Return the output that a heat map is of: that of the label, or of the first of several."""
    first = label[0] if isinstance(label, list) and label else label
    return names.index(first) if first in names else 0


def draw_pictures(
    doubtful: list[dict], table: ImageTable, classifier: Classifier, has_heat_maps: bool
) -> dict[int, Picture]:
    """Return the pictures of the most doubtful rows by row, at most MAX_PICTURES.

    The rows are read once more, and only these images decoded, so that none is kept while predicting.
    """
    wanted = {entry["row"]: entry for entry in doubtful[: MAX_PICTURES // (2 if has_heat_maps else 1)]}
    pictures: dict[int, Picture] = {}
    for number, item in enumerate(table.iter_items(), 1):
        if number not in wanted:
            continue
        try:
            image = item.load()
        except DataError:  # it has changed since
            continue
        heat_map = ""
        if has_heat_maps:
            values = classifier.read.process(image)
            target = find_target(wanted[number]["label"], classifier.names)
            inputs = values[None].to(next(classifier.model.parameters()).device)
            heat_map = to_url(draw_heat_map(values.numpy(), attribute_pixels(classifier.model, inputs, target)))
        small = image.convert("RGB")
        small.thumbnail((SIZE, SIZE))
        pictures[number] = Picture(to_url(small), heat_map)
        if len(pictures) == len(wanted):
            break
    return pictures
