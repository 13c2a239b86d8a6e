"""The pixels of a corpus of unlabeled images, without broken, small and repeated ones (`data.images.store`)."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np

from data.cache import fingerprint, get_or_build, read_manifest
from data.images import hashes
from data.images.config import ImageCorpus
from data.images.sources import fingerprint_inputs, iter_images
from data.images.store import REASONS, CountedImages, Dropped, PixelImage, PixelShards, PixelWriter, decode_images
from data.images.task import TestImages, read_test_images
from data.sources.source import display_name
from engine.errors import DataError
from engine.files import write_json
from engine.log import get_logger, warn_once

logger = get_logger(__name__)

VERSION = 1


def is_held_out(key: str, fraction: float) -> bool:
    """Return whether an image is held out, by its key."""
    return int(key[:8], 16) < fraction * 2**32


def prepare_pixels(corpus: ImageCorpus, size: int, channels: int = 3) -> Path:
    """Return the folder with the pixels of a corpus, built if it does not exist. Raises DataError without images."""
    excluded = [read_test_images(path) for path in corpus.tasks]
    inputs = {
        "version": VERSION,
        "corpus": corpus.model_dump(mode="json", exclude={"sources", "name", "tasks"}),
        "sources": [fingerprint_inputs(source) for source in corpus.sources],
        "excluded": [fingerprint(images.keys) for images in excluded],
        "size": size,
        "channels": channels,
    }
    folder = get_or_build(
        "pixels", corpus.name, inputs, lambda path: build_corpus(path, corpus, size, channels, excluded)
    )
    manifest = read_manifest(folder)
    logger.info(describe_summary(corpus.name, manifest["summary"]))
    for line in manifest["dropped"]:
        warn_once(line)
    return folder


def describe_summary(name: str, summary: dict) -> str:
    """Return a line with the counts of a corpus."""
    dropped = [f"{summary[reason]:,} {title}" for reason, title in REASONS.items() if summary.get(reason)]
    return f"  images  {name}: {summary['kept']:,} of {summary['read']:,}{''.join(f', {each}' for each in dropped)}"


def describe_pixels(folder: Path) -> str:
    """Return what `make data` prints of a prepared corpus: where it is, its splits, and its size."""
    manifest, counts = (
        read_manifest(folder),
        {split: len(PixelShards(folder, split)) for split in ("train", "held_out")},
    )
    size = sum((folder / split / "pixels.bin").stat().st_size for split in counts)
    return (
        f"  splits  {counts['train']:,} to train, {counts['held_out']:,} held out, of"
        f" {manifest['size']} x {manifest['size']} pixels, {size / 1e6:,.1f} MB\n  pixels  {folder}"
    )


def build_corpus(folder: Path, corpus: ImageCorpus, size: int, channels: int, excluded: list[TestImages]) -> dict:
    """Write a corpus's pixels to `folder`; return its manifest.

    Images are first written as they come, then those that are kept are copied to their split.
    """
    dropped, seen, locations = Dropped(), set(), []
    every = CountedImages(image for source in corpus.sources for image in iter_images(source))
    with PixelWriter(folder / "all") as writer:
        for location, image in decode_images(
            islice(every, corpus.max_images), size, channels, corpus.min_size, dropped
        ):
            if image.key in seen and corpus.deduplicate != "none":
                dropped.add("duplicates", location)
                continue
            seen.add(image.key)
            writer.add(image)
            locations.append(location)
    write_json(folder / "manifest.json", {"size": size, "channels": channels})  # replaced when the folder is finished
    whole = PixelShards(folder, "all")
    is_kept = np.ones(len(whole), dtype=bool)

    def drop(reason: str, indices: Iterable[int]) -> None:
        for index in filter(is_kept.__getitem__, indices):
            dropped.add(reason, locations[index])
            is_kept[index] = False

    for images in excluded:
        drop("test_images", find_excluded(whole, images))
    if corpus.deduplicate == "near":
        drop("near_duplicates", np.flatnonzero(hashes.find_duplicates(whole.hashes, whole.pixels, is_kept)).tolist())
    split_pixels(folder, whole, is_kept, corpus.held_out)
    if not is_kept.any():
        names, reasons = ", ".join(map(display_name, corpus.sources)), "; ".join(dropped.describe())
        raise DataError(f"{names}: no images to learn from: {reasons or 'there are none'}")
    summary = dropped.summarize(every.count, int(is_kept.sum()))
    return {"size": size, "channels": channels, "summary": summary, "dropped": dropped.describe()}


def find_excluded(shards: PixelShards, excluded: TestImages) -> list[int]:
    """Return the indices of images that are, or are copies of, excluded ones."""
    keys = set(excluded.keys)
    exact = {index for index, key in enumerate(shards.keys) if key in keys}
    near = hashes.find_copies(shards.hashes, shards.pixels, excluded.hashes, excluded.pixels)
    return sorted(exact | set(near[:, 0].tolist()))


def split_pixels(folder: Path, whole: PixelShards, is_kept: np.ndarray, held_out: float) -> None:
    """Copy the images that are kept to the splits `train` and `held_out`, and remove those of `all`."""
    with PixelWriter(folder / "train") as train, PixelWriter(folder / "held_out") as rest:
        for index in np.flatnonzero(is_kept).tolist():
            writer = rest if is_held_out(whole.keys[index], held_out) else train
            writer.add(PixelImage(whole.keys[index], int(whole.hashes[index]), whole.pixels[index]))
    whole.__dict__.pop("pixels", None)
    shutil.rmtree(folder / "all")
