"""The image processor of an encoder folder: size, mean and standard deviation, and the normalization of pixels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from engine.errors import DataError, first_line
from engine.files import read_json, write_json
from engine.models import LOAD_KWARGS

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import BaseImageProcessor

PROCESSOR_FILES = ("preprocessor_config.json",)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BICUBIC = 3


class Processor(NamedTuple):
    """What is done to pixels before a network reads them; mean and std are of channels, of values from 0 to 1."""

    size: int
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


def read_processor(folder: Path) -> Processor:
    """Read the processor of an encoder folder; ImageNet's where it has none. Raises DataError for a damaged one."""
    path = folder / "preprocessor_config.json"
    content = read_json(path) if path.is_file() else {}
    size = content.get("crop_size") or content.get("size") or 224
    if isinstance(size, dict):
        size = size.get("shortest_edge") or size.get("height") or 224
    mean, std = content.get("image_mean") or IMAGENET_MEAN, content.get("image_std") or IMAGENET_STD
    if content.get("do_normalize") is False:
        mean, std = (0.0,) * len(mean), (1.0,) * len(std)
    try:
        found = Processor(int(size), tuple(map(float, mean)), tuple(map(float, std)))
    except (TypeError, ValueError):
        raise DataError(f"{path}: size, image_mean or image_std are not numbers") from None
    if len(found.mean) != len(found.std) or not all(value > 0 for value in found.std):
        raise DataError(f"{path}: image_mean and image_std do not fit together")
    return found


def load_image_processor(folder: Path) -> BaseImageProcessor:
    """Load the image processor in a folder. Raises DataError if transformers cannot."""
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(folder, **LOAD_KWARGS)
    except Exception as error:
        raise DataError(f"{folder}: cannot load its image processor ({first_line(error)})") from None


def write_processor(folder: Path, processor: Processor) -> None:
    """Write a processor that `AutoImageProcessor` loads: scale the shorter side, cut out the center, normalize.

    transformers' processor of EfficientNet normalizes twice, so all encoders get that of BiT, which scales, cuts and
    normalizes like `data.images.decode.resize_square` and `normalize`.
    """
    size, is_gray = processor.size, len(processor.mean) == 1
    content = {
        "image_processor_type": "BitImageProcessor",
        **{"do_resize": True, "do_center_crop": True, "do_rescale": True, "do_normalize": True},
        **{"do_convert_rgb": not is_gray, "resample": BICUBIC, "rescale_factor": 1 / 255},
        **{"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}},
        **{"image_mean": list(processor.mean), "image_std": list(processor.std)},
    }
    write_json(folder / "preprocessor_config.json", content)


def normalize(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Return float32 (images, channels, size, size) of uint8 pixels (images, size, size, channels)."""
    values = pixels.permute(0, 3, 1, 2).float() / 255
    shape = (1, -1, 1, 1)
    return (values - values.new_tensor(mean).view(shape)) / values.new_tensor(std).view(shape)
