"""Decode images from untrusted bytes, and scale them to squares of pixels.

Only formats that Pillow reads by itself are opened, and only the first frame. EXIF data turns the image and is
then dropped. Every problem is a DataError with a short reason.
"""

from __future__ import annotations

import io
import warnings
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from engine.errors import DataError, first_line

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "TGA", "ICO", "AVIF")
EXTENSIONS = frozenset(
    ".jpg .jpeg .jpe .jfif .png .gif .webp .bmp .dib .tif .tiff .ppm .pgm .pbm .pnm .jp2 .j2k .tga .ico .avif".split()
)
MAX_PIXELS = 50_000_000  # 150 MB as RGB
MAX_BYTES = 2**28  # of a file


@cache
def list_formats() -> list[str]:
    """List the formats of FORMATS that this Pillow reads."""
    from PIL import Image

    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def decode(content: bytes) -> Image:
    """Decode an image and return it upright, as RGB or in shades of gray. Raises DataError."""
    if len(content) > MAX_BYTES:
        raise DataError(f"over {MAX_BYTES // 2**20} MiB")
    from PIL import Image, ImageOps

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(content), formats=list_formats()) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise DataError(f"{width} x {height} pixels, over {MAX_PIXELS / 1e6:g} million")
                image.load()
                upright = simplify(ImageOps.exif_transpose(image))
        except (DataError, KeyboardInterrupt):
            raise
        except Exception as error:  # Pillow's readers raise many types
            raise DataError(describe_problem(error)) from None
    upright.info = {}  # EXIF data, among others
    return upright


def describe_problem(error: Exception) -> str:
    """Describe an error of Pillow."""
    kind = type(error).__name__
    if kind == "DecompressionBombError":
        return f"over {MAX_PIXELS / 1e6:g} million pixels"
    if kind == "UnidentifiedImageError":
        return "not an image of a known format"
    return first_line(error) if isinstance(error, OSError) and not error.__cause__ else "broken"


def simplify(image: Image) -> Image:
    """Return an image as RGB or in shades of gray: 16 bits scaled to 8, transparent parts white, CMYK converted."""
    from PIL import Image

    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0, neginf=0)
        low, high = (0, 65535) if image.mode == "I" and values.max() > 255 else (values.min(), values.max())
        if image.mode == "I" and values.max() <= 255:
            low, high = 0, 255
        return Image.fromarray(((values - low) * (255 / ((high - low) or 1))).clip(0, 255).astype(np.uint8))
    mode = "L" if image.mode in ("1", "L") else "RGB"
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert(mode)


def resize_square(image: Image, size: int, channels: int = 3) -> np.ndarray:
    """Scale the shorter side to `size` and cut out the center: uint8 (size, size, channels).

    As transformers' image processors with `shortest_edge` and `center_crop` do, to the last bit.
    """
    from PIL import Image

    width, height = image.size
    short, long = sorted((width, height))
    scaled = max(size, int(size * long / short))
    target = (size, scaled) if width <= height else (scaled, size)
    if max(target) > 4 * size:  # of a strip, scale only the part that is kept
        half = 2 * short
        left, top = max(0, width // 2 - half), max(0, height // 2 - half)
        image = image.crop((left, top, min(width, left + 2 * half), min(height, top + 2 * half)))
        target = (size, 4 * size) if width <= height else (4 * size, size)
    image = image.convert("RGB" if channels == 3 else "L")
    image = image if image.size == target else image.resize(target, Image.Resampling.BICUBIC)
    left, top = (target[0] - size) // 2, (target[1] - size) // 2
    pixels = np.asarray(image)[top : top + size, left : left + size]
    return pixels if channels == 3 else pixels[..., None]
