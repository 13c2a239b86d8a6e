"""Rows with images to predict: image files, folders, archives, shards, and tables that name or hold images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

from data.images.config import ImageSource
from data.images.sources import find_image_files, fingerprint_inputs, is_image_name, iter_images
from data.modalities import Modality
from data.sources.source import Source
from data.sources.values import MISSING, find_value
from data.tasks.columns import read_head
from data.tasks.problem_types import ProblemType
from data.tasks.splits import Example
from engine.errors import ConfigError
from predict.rows import Item, Table, complete_text_source, find_columns


@dataclass
class ImageTable(Table):
    """The images of a source, which are decoded when they are predicted."""

    digest: str = ""
    """Of the places of all images, so that another list of files is another table."""

    def iter_items(self) -> Iterator[Item]:
        """Yield the rows in order: those of a table as they are; others have the column `path`."""
        is_tree = self.source.folder or self.source.wheel or self.source.files
        for location, load, columns, row in iter_images(self.source):
            if row is None:  # the column `label` of a folder is the name of the folder, which the path has
                row = {"path": location} | ({} if is_tree else columns)
            yield Item(row or {"path": location}, Example((location,), ""), False, location, load=load)

    def scan(self) -> None:
        """Count the images and list the columns, without decoding."""
        super().scan()
        digest = sha256()
        for item in self.iter_items():
            digest.update(f"{item.text}\n".encode("utf-8", "replace"))
        self.digest = digest.hexdigest()

    def fingerprint_rows(self) -> dict:
        """Return what determines the rows."""
        return {**fingerprint_inputs(self.source), "places": self.digest}


def is_file_table(source: Source) -> bool:
    """Return whether a source is of files, also in a wheel, that hold rows of text, or name or hold images."""
    if isinstance(source, ImageSource):
        return bool(source.files) and not find_image_files(source)
    return not source.hub


def open_image_table(
    source: ImageSource, modality: Modality, problem_type: ProblemType, asked: str | list[str] | None, trained: object
) -> ImageTable:
    """Return the images of a source after a first pass over its rows, without decoding.

    asked, trained: columns of the images in a table.
    """
    if isinstance(asked, list):
        raise ConfigError("text: an image is in one column")
    if is_file_table(source):
        given = asked or (source.image if "image" in source.model_fields_set else None)
        common = source.model_dump(exclude_unset=True, include=set(Source.model_fields))
        completed = complete_text_source(Source(**common))
        head, _ = read_head(completed)
        is_trained = bool(head) and isinstance(trained, str) and find_value(head[0][1], trained) is not MISSING
        column = find_columns(completed, modality, given, trained if is_trained else None)[0]
        source = ImageSource(**completed.model_dump(exclude_unset=True), image=column)
    elif asked or isinstance(trained, str) and "image" not in source.model_fields_set:
        source = source.model_copy(update={"image": asked or trained})
    table = ImageTable(source, [], modality, problem_type)
    table.scan()
    return table


def list_images(paths: list[str]) -> list[Item]:
    """Return image files as items. Raises DataError for a missing one."""
    for path in paths:
        if not is_image_name(path):
            raise ConfigError(f"{path}: no extension of images; give file={path} for a folder, an archive or a table")
    return list(ImageTable(ImageSource(files=paths), [], None, None).iter_items())
