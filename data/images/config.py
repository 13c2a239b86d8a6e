"""Configuration of images: their sources, the pixels that are stored, and a corpus of unlabeled images."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from data.sources.source import Source
from engine.config.schema import FileName, Fraction, Section


class ImageSource(Source):
    """Where images come from: exactly one of wheel, hub, files, folder, tar and idx."""

    files: str | list[str] | None = None
    """Path, folder, glob or address, or a list of them, of tables (csv, jsonl, parquet, arrow, xlsx), or of images
    themselves, with the column `label`, the name of the folder that they are in."""
    image: str = "image"
    """Column of a table with the path of an image, next to the table, or its content (bytes)."""
    folder: str | None = None
    """Folder or zip archive of images; their column `label` is the name of the folder that they are in."""
    tar: str | list[str] | None = None
    """Tar shards in WebDataset's layout, also a glob: the files of a row have one name and different extensions, which
    are its columns."""
    idx: str | None = None
    """File of images in the idx format of MNIST, also compressed."""
    idx_labels: str | None = None
    """File in the idx format with the column `label` of these images."""

    origins: ClassVar[tuple[str, ...]] = ("wheel", "hub", "files", "folder", "tar", "idx")
    added_later: ClassVar[tuple[str, ...]] = (*Source.added_later, "folder", "tar", "idx", "idx_labels")

    @model_validator(mode="after")
    def labels_have_images(self):
        """Validate that labels in the idx format have images."""
        if self.idx_labels and not self.idx:
            raise ValueError("idx_labels needs idx")
        return self


class Pixels(Section):
    """The form in which images are stored and read: squares of unsigned bytes."""

    size: Annotated[int, Field(ge=8, le=1024)] = 128
    """Side of the square in pixels: the shorter side of an image is scaled to it, and the center is cut out."""
    channels: Literal[1, 3] = 3
    """3 for RGB, which pretrained encoders read, or 1 for shades of gray."""


class ImageCorpus(Section):
    """Unlabeled images."""

    name: FileName
    """Name of the corpus on disk."""
    sources: Annotated[list[ImageSource], Field(min_length=1)]
    """Sources of its images."""
    deduplicate: Literal["none", "exact", "near"] = "near"
    """Repeated images to drop: exact, those with the same pixels; near, also scaled or compressed copies."""
    min_size: PositiveInt = 16
    """Smallest side of an image in pixels; smaller images are dropped."""
    max_images: PositiveInt | None = None
    """Number of images to read; none: all."""
    held_out: Fraction = 0.02
    """Fraction of the images held out for evaluation, chosen by a hash of their pixels."""
    tasks: list[str] = []
    """YAML files of tasks; images of their test rows, and near copies of them, are dropped."""
