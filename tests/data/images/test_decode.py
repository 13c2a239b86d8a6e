"""Untrusted images: decoded upright, or refused in one line with bounded memory."""

from __future__ import annotations

import io
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from data.images import decode as decoding
from data.images.decode import decode, resize_square
from engine.errors import DataError


def photograph(width: int = 64, height: int = 48, seed: int = 0) -> Image.Image:
    """Return a part of one of scikit-learn's photographs."""
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(seed)
    image = Image.fromarray(load_sample_images().images[seed % 2])
    x, y = int(rng.integers(0, image.width - 4 * width)), int(rng.integers(0, image.height - 4 * height))
    return image.crop((x, y, x + 4 * width, y + 4 * height)).resize((width, height))


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes with this size in its header."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_the_image_and_is_dropped(orientation):
    image, exif = photograph(), Image.Exif()
    exif[0x0112], exif[0x010E] = orientation, "a name"
    turned = decode(encode(image, "PNG", exif=exif))
    expected = {1: image, 2: ImageOps.mirror(image), 3: image.rotate(180), 4: ImageOps.flip(image)}
    expected |= {5: ImageOps.mirror(image.rotate(270, expand=True)), 6: image.rotate(270, expand=True)}
    expected |= {7: ImageOps.mirror(image.rotate(90, expand=True)), 8: image.rotate(90, expand=True)}
    assert np.array_equal(turned, expected[orientation]) and not turned.getexif()


def test_every_kind_of_pixels_becomes_rgb_or_gray():
    image = photograph()
    pixels = np.asarray(image)
    assert np.abs(np.asarray(decode(encode(image.convert("CMYK"), "TIFF"))).astype(int) - pixels).max() <= 2
    sixteen = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    assert np.array_equal(decode(encode(sixteen)), pixels[..., 0])
    frames = [photograph(seed=seed).quantize(16) for seed in (0, 1)]
    animated = decode(encode(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert np.array_equal(animated, frames[0].convert("RGB")), "the first frame"
    clear = image.copy()
    clear.putalpha(0)
    assert (np.asarray(decode(encode(clear))) == 255).all(), "transparent parts are white"
    black = decode(encode(Image.new("L", (9, 9), 0), transparency=0))
    assert black.mode == "L" and (np.asarray(black) == 255).all(), "also a transparent shade of gray"
    assert decode(encode(image.convert("1"))).mode == "L"
    assert decode(encode(Image.new("RGB", (1, 1)))).size == (1, 1)


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "not an image"),
        (b"GIF89a", "not an image|cannot|broken|truncated"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (png_header(60_000, 60_000), "over 50 million pixels"),
        (png_header(8_000, 8_000), "8000 x 8000 pixels, over 50 million"),
        (encode(photograph())[:-900], "truncated|broken"),
    ],
)
def test_what_cannot_be_decoded_is_one_short_line(content, reason):
    with pytest.raises(DataError, match=reason) as error:
        decode(content)
    assert "\n" not in str(error.value) and len(str(error.value)) < 200


def fuzz(rng: random.Random, originals: list[bytes]) -> bytes:
    """Return a damaged image: bytes changed, cut off, inserted, or another header."""
    content = bytearray(rng.choice(originals))
    for _ in range(rng.choice((0, 1, 3, 30))):
        content[rng.randrange(min(len(content), rng.choice((40, 400, 10**6))))] = rng.randrange(256)
    if rng.random() < 0.4:
        del content[rng.randrange(len(content)) :]
    if rng.random() < 0.1:
        content = bytearray(png_header(rng.choice((1, 2**15, 2**31 - 1)), rng.choice((1, 2**16, 2**31 - 1)))) + content
    return bytes(content)


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_damaged_images_are_decoded_or_refused_in_bounded_memory(count):
    import resource

    image, rng = photograph(), random.Random(0)
    originals = [
        encode(image, kind) for kind in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM", "ICO", "JPEG2000")
    ]
    originals += [encode(image.convert("CMYK"), "JPEG"), encode(Image.fromarray(np.full((9, 9), 999, np.uint16)))]
    before, decoded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    for _ in range(count):
        try:
            pixels = resize_square(decode(fuzz(rng, originals)), 32)
        except DataError as error:
            assert str(error) and "\n" not in str(error)
            continue
        decoded += 1
        assert pixels.shape == (32, 32, 3) and pixels.dtype == np.uint8
    assert 0.1 * count < decoded < 0.9 * count, "both happen"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000, "KB"


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (50, 50), (33, 97), (7, 5)])
def test_the_square_is_that_of_transformers_to_the_last_bit(tmp_path, size):
    import torch
    from transformers import AutoImageProcessor

    from data.images.processor import Processor, normalize, read_processor, write_processor

    processor = Processor(24, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    write_processor(tmp_path, processor)
    assert read_processor(tmp_path) == processor
    image = photograph(*size)
    pixels = torch.from_numpy(resize_square(image, 24).copy())
    expected = AutoImageProcessor.from_pretrained(tmp_path, trust_remote_code=False)(image, return_tensors="pt")
    assert torch.allclose(normalize(pixels[None], *processor[1:]), expected["pixel_values"], atol=1e-6)


def test_a_strip_is_not_scaled_as_a_whole():
    strip = Image.fromarray(np.tile(np.arange(100, dtype=np.uint8), (2, 500)))
    assert resize_square(strip, 64, 1).shape == (64, 64, 1)
    assert decoding.MAX_PIXELS < 2**26
