"""Labeled tasks of images: the rows of their sources as keys and columns, and the pixels of each key.

A row's `Example.texts` holds the key of its image, the hash of its decoded pixels, so that splits, samples and
fingerprints follow from the content of images alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from data.cache import dry_run, get_or_build, read_manifest
from data.images.config import ImageSource, Pixels
from data.sources.source import display_name
from data.tasks.answers import Row
from data.tasks.task import Example, Task, label_row, read_task
from engine.config.loader import load_config
from engine.config.schema import Section
from engine.errors import DataError
from engine.log import warn_once

VERSION = 2


class ImageTask(Task):
    """A labeled task of images: the sources of its rows and their column with labels."""

    modality: Literal["images"] = "images"
    """Kind of the inputs."""
    train: ImageSource
    """Training rows; validation and test rows are split off them unless they have their own source."""
    validation: ImageSource | None = None
    """Validation rows, used for checkpoint selection and calibration."""
    test: ImageSource | None = None
    """Test rows, used only for the final evaluation."""
    unlabeled: ImageSource | None = None
    """Images without labels, besides the training rows with an empty label: for self-training, and to label."""
    text: Literal["image"] = "image"
    """Not used: the column of the images is that of each source, `image`."""
    pixels: Pixels = Pixels()
    """The form in which the images are stored and read."""

    # Not the modality, by which a saved configuration is read as one of images.
    added_later: ClassVar[tuple[str, ...]] = (*(key for key in Task.added_later if key != "modality"), "text")

    def iter_rows(self, source: ImageSource, split: str) -> Iterator[Row]:
        """Yield the rows of a source; images that cannot be read are left out, named and counted."""
        problem_type = self.load_problem_type()
        folder = prepare_rows(self.name, source, self.pixels)
        for line in read_manifest(folder)["dropped"]:
            warn_once(line)
        for row in read_rows(folder):
            columns, location = problem_type.prepare_row(row["columns"], self, row["location"]), row["location"]
            yield label_row(problem_type, self, columns, (row["key"],), location, split)

    def fingerprint_source(self, source: ImageSource) -> dict:
        """Return what determines the rows of a source."""
        from data.images.sources import fingerprint_inputs

        return fingerprint_inputs(source)


def prepare_rows(name: str, source: ImageSource, pixels: Pixels) -> Path:
    """Return the folder with the rows of a source and their pixels, built if it does not exist."""
    from data.images.sources import fingerprint_inputs

    inputs = {"version": VERSION, "source": fingerprint_inputs(source), **pixels.model_dump(mode="json")}
    with dry_run(False):  # rows are read in a dry run too
        return get_or_build("pixels", name, inputs, lambda folder: build_rows(folder, source, pixels))


def to_json(value: object) -> str:
    """Return a value of a row that JSON has no form for as text."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def build_rows(folder: Path, source: ImageSource, pixels: Pixels) -> dict:
    """Write the rows of a source to `folder`, each distinct image once; return the manifest."""
    from data.images.sources import iter_images
    from data.images.store import MIN_SIDE, CountedImages, Dropped, PixelWriter, decode_images

    dropped, seen, num_rows, images = Dropped(), set(), 0, CountedImages(iter_images(source))
    with PixelWriter(folder / "rows") as writer, open(folder / "rows.jsonl", "w", encoding="utf-8") as file:
        for location, image in decode_images(images, pixels.size, pixels.channels, MIN_SIDE, dropped):
            if image.key not in seen:
                seen.add(image.key)
                writer.add(image)
            row = {"key": image.key, "location": location, "columns": image.columns}
            file.write(json.dumps(row, default=to_json) + "\n")
            num_rows += 1
    if not num_rows:
        raise DataError(f"{display_name(source)}: no images: {'; '.join(dropped.describe()) or 'there are none'}")
    summary = dropped.summarize(images.count, num_rows) | {"duplicates": num_rows - len(seen)}
    return {**pixels.model_dump(), "summary": summary, "dropped": dropped.describe()}


def read_rows(folder: Path) -> Iterator[dict]:
    """Yield {"key", "location", "columns"} of the rows in a folder of `prepare_rows`."""
    with open(folder / "rows.jsonl", encoding="utf-8") as file:
        yield from map(json.loads, file)


def locate_image(source: ImageSource, location: str, columns: dict) -> tuple[bool, str]:
    """Return (True, the path) of an image with a file of its own, or else (False, where it is)."""
    from data.images.sources import resolve_path

    inside = columns.get("path")
    path = str(Path(source.folder) / inside) if source.folder and inside else inside
    if path and not source.folder:
        path = resolve_path(location.removesuffix(f" ({path})"), path)
    is_file = bool(path) and not source.wheel and Path(path).is_file()
    return is_file, path if is_file else location


def find_places(task: ImageTask) -> dict[str, str]:
    """Return where each image of a task is, by its key."""
    sources = [source for source in (task.train, task.validation, task.test) if source]
    folders = [prepare_rows(task.name, source, task.pixels) for source in sources]
    return {row["key"]: row["location"] for folder in reversed(folders) for row in read_rows(folder)}


class ImageTaskFile(Section):
    """The task of a fine-tuning YAML; its other sections are ignored."""

    model_config = {"extra": "ignore"}
    task: ImageTask


class ImageStore:
    """The pixels and difference hashes of all images of a task, by key. Raises DataError for an unknown key."""

    def __init__(self, task: ImageTask):
        from data.images.store import PixelShards

        sources = [source for source in (task.train, task.validation, task.test, task.unlabeled) if source]
        self.shards = [PixelShards(prepare_rows(task.name, source, task.pixels), "rows") for source in sources]
        self.places = {key: (shards, index) for shards in reversed(self.shards) for key, index in shards.index.items()}

    def find(self, examples: list[Example]) -> list[tuple]:
        """Return (shards, index) of the image of each example."""
        try:
            return [self.places[example.texts[0]] for example in examples]
        except KeyError:
            raise DataError(
                "an image of these rows is not stored anymore; remove out/pixels to read them again"
            ) from None

    def read_pixels(self, examples: list[Example]) -> np.ndarray:
        """Return uint8 (examples, size, size, channels)."""
        return np.stack([shards.pixels[index] for shards, index in self.find(examples)])

    def read_hashes(self, examples: list[Example]) -> np.ndarray:
        """Return difference hashes, uint64 (examples,)."""
        return np.array([shards.hashes[index] for shards, index in self.find(examples)], dtype=np.uint64)


class TestImages(NamedTuple):
    """The images of a task's test rows."""

    keys: list[str]
    hashes: np.ndarray
    """uint64 (images,)."""
    pixels: np.ndarray
    """uint8 (images, size, size, channels)."""


def read_test_images(path: str) -> TestImages:
    """Return the images of the test rows of a fine-tuning YAML."""
    task = load_config(ImageTaskFile, [path]).task
    examples = read_task(task, needs_validation=False)["test"]
    store = ImageStore(task)
    return TestImages(
        [example.texts[0] for example in examples], store.read_hashes(examples), store.read_pixels(examples)
    )
