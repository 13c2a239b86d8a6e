"""Pixel shards: decoded images as one memory-mapped array of unsigned bytes, in a folder named by its inputs.

    out/pixels/NAME-FINGERPRINT/SPLIT/pixels.bin    uint8 (images, size, size, channels)
    out/pixels/NAME-FINGERPRINT/SPLIT/keys.txt      the pixel hash of each image, a line each
    out/pixels/NAME-FINGERPRINT/SPLIT/hashes.bin    uint64 (images,), difference hashes
    out/pixels/NAME-FINGERPRINT/manifest.json       what was dropped and why; written last

The splits of a corpus are `train` and `held_out`; the rows of a labeled source are in the split `rows`, with their
columns in rows.jsonl (data.images.rows).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np

from data.cache import read_manifest
from data.images import hashes
from data.images.decode import resize_square
from data.images.sources import SourceImage
from engine.errors import DataError

MAX_NAMED = 5  # images that are named for each reason to drop them
MIN_SIDE = 2  # of an image with labels; a single pixel shows nothing
REASONS = {"broken": "broken", "tiny": "too small", "duplicates": "repeated", "near_duplicates": "copies of others"}
REASONS |= {"test_images": "of test rows of a task"}


class PixelImage(NamedTuple):
    """A decoded image."""

    key: str
    difference_hash: int
    pixels: np.ndarray
    """uint8 (size, size, channels)."""
    columns: dict | None = None


class Dropped:
    """Counts of dropped images by reason, with the names of the first of each."""

    def __init__(self):
        self.counts: Counter[str] = Counter()
        self.names: dict[str, list[str]] = {}

    def add(self, reason: str, name: str) -> None:
        """Count an image."""
        self.counts[reason] += 1
        if self.counts[reason] <= MAX_NAMED:
            self.names.setdefault(reason, []).append(name)

    def summarize(self, num_read: int, num_kept: int) -> dict:
        """Return the counts for a manifest."""
        return {"read": num_read, "kept": num_kept, **{reason: self.counts[reason] for reason in REASONS}}

    def describe(self) -> list[str]:
        """Return a line for each reason."""
        lines = []
        for reason, names in self.names.items():
            count, more = self.counts[reason], ", ..." * (self.counts[reason] > len(names))
            lines.append(f"{count:,} image{'s' * (count > 1)} {REASONS[reason]}, left out: {', '.join(names)}{more}")
        return lines


class CountedImages:
    """Iterator of images that counts them."""

    def __init__(self, images: Iterator[SourceImage]):
        self.images, self.count = images, 0

    def __iter__(self) -> CountedImages:
        return self

    def __next__(self) -> SourceImage:
        image = next(self.images)
        self.count += 1
        return image


def decode_images(
    images: Iterable[SourceImage], size: int, channels: int, min_size: int, dropped: Dropped
) -> Iterator[tuple[str, PixelImage]]:
    """Yield (location, decoded image) of the images that can be read and are not too small; count the others."""
    for location, load, columns, _ in images:
        try:
            image = load()
        except DataError as error:
            dropped.add("broken", f"{location} ({error})")
            continue
        if min(image.size) < min_size:
            dropped.add("tiny", f"{location} ({image.width} x {image.height})")
            continue
        key, difference = hashes.pixel_hash(image), hashes.difference_hash(image)
        yield location, PixelImage(key, difference, resize_square(image, size, channels), columns)


class PixelWriter:
    """Appends images to a split's files, as a context."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.stack = folder, ExitStack()

    def __enter__(self) -> PixelWriter:
        self.pixels, self.hashes = (
            self.stack.enter_context(open(self.folder / name, "wb")) for name in ("pixels.bin", "hashes.bin")
        )
        self.keys = self.stack.enter_context(open(self.folder / "keys.txt", "w", encoding="ascii"))
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stack.close()

    def add(self, image: PixelImage) -> None:
        """Append an image."""
        self.pixels.write(np.ascontiguousarray(image.pixels).tobytes())
        self.hashes.write(np.uint64(image.difference_hash).tobytes())
        self.keys.write(f"{image.key}\n")


class PixelShards:
    """The images of a split, read from a folder of `prepare_pixels`."""

    def __init__(self, folder: Path, split: str):
        self.folder = folder / split
        self.manifest = read_manifest(folder)
        self.size, self.channels = self.manifest["size"], self.manifest["channels"]
        self.keys = (self.folder / "keys.txt").read_text(encoding="ascii").split()

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def pixels(self) -> np.ndarray:
        """Pixels, uint8 (images, size, size, channels), by memory map. Raises DataError for a damaged file."""
        shape, path = (len(self), self.size, self.size, self.channels), self.folder / "pixels.bin"
        if path.stat().st_size != np.prod(shape, dtype=np.int64):
            raise DataError(
                f"{path}: not of {len(self):,} images; remove the folder {self.folder.parent} to rebuild it"
            )
        return np.memmap(path, np.uint8, "r", shape=shape) if len(self) else np.zeros(shape, np.uint8)

    @cached_property
    def hashes(self) -> np.ndarray:
        """Difference hashes, uint64 (images,)."""
        return np.fromfile(self.folder / "hashes.bin", np.uint64)

    @cached_property
    def index(self) -> dict[str, int]:
        """Index of each key."""
        return {key: index for index, key in enumerate(self.keys)}
