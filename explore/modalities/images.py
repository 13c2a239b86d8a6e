"""Exploring images."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from pydantic import Field

from data.cache import read_manifest
from data.images.baseline import BASELINE_SIZE
from data.images.config import ImageSource, Pixels
from data.images.task import ImageTask, locate_image, prepare_rows, read_rows
from data.sources.source import display_name
from engine.errors import DataError
from engine.files import atomic_path
from engine.log import warn_once
from explore import modalities
from explore.config import Explore
from explore.inputs import Inputs

if TYPE_CHECKING:
    from PIL.Image import Image

    from data.images.store import PixelShards
    from explore.baselines import Baseline
    from explore.image_encoder import ImageEncoder

MAX_SIZE = 128  # pixels, where neither the task nor the corpus has another size


class Config(Explore):
    """Map unlabeled images, and list which to label first."""

    modality: Literal["images"] = "images"
    """Kind of the inputs; found in the task or the corpus."""
    source: ImageSource | None = None
    """Images; `images=FILES` is short for source.files=FILES, also for a folder, a .zip or .tar of images."""
    encoder: str = "efficientnet-lite0"
    """Encoder of the vectors: a folder, a built-in name or a Hub name."""
    pixels: Pixels | None = None
    """The form in which the images are stored and read; none: that of the task or the corpus, or 128 pixels
    or the encoder's fewer."""
    duplicate_similarity: Annotated[float, Field(gt=0, le=1)] | None = None
    """Cosine similarity from which two images are near duplicates; none: scaled and compressed copies alone."""

    help_first: ClassVar[tuple[str, ...]] = Explore.help_first


class Modality(modalities.Modality):
    """Images by their pixels in shards, and image encoders."""

    config: Config
    column = "image"
    part_inputs = 512

    def __init__(self, config: Config, folder: Path):
        super().__init__(config, folder)
        self.places: dict[str, tuple[PixelShards, int]] = {}  # by key
        self.sources: list[ImageSource] = []
        processor = self.encoder.processor
        self.pixels = config.pixels or Pixels(size=min(MAX_SIZE, processor.size), channels=len(processor.mean))

    def read(self, task: ImageTask | None) -> Inputs:
        """Read all inputs, in the form of the task's unless another is given. Raises DataError if there are too few."""
        if task and not self.config.pixels:
            self.pixels = task.pixels
        inputs = super().read(task)
        inputs.form = self.pixels.model_dump()
        return inputs

    def load_encoder(self, folder: Path) -> ImageEncoder:
        """Return the encoder in a folder."""
        from explore.image_encoder import ImageEncoder

        return ImageEncoder(folder)

    def add_shards(self, source: ImageSource, name: str) -> dict[str, str]:
        """Store the images of a source; return the path of each, or where it is, by key, in order."""
        from data.images.store import PixelShards

        folder = prepare_rows(name, source, self.pixels)
        for line in read_manifest(folder)["dropped"]:
            warn_once(line)
        shards = PixelShards(folder, "rows")
        for key, index in shards.index.items():
            self.places.setdefault(key, (shards, index))
        self.sources.append(source)
        rows = {row["key"]: row for row in reversed(list(read_rows(folder)))}
        return {key: locate_image(source, rows[key]["location"], rows[key]["columns"])[1] for key in shards.index}

    def add_images(self, source: ImageSource, name: str, kept: set[str] | None = None) -> None:
        """Add the images of a source, each once, those of the keys `kept` if they are given."""
        known = set(self.inputs.keys)
        for key, place in self.add_shards(source, name).items():
            if key not in known and (kept is None or key in kept):
                self.inputs.add(key, text=place)

    def read_source(self) -> None:
        """Add the images of the source."""
        from data.images.sources import complete_image_source
        from data.shortcut import name_run

        source = complete_image_source(self.config.source)
        self.add_images(source, name_run(display_name(source)))

    def read_corpus(self, path: Path) -> None:
        """Add the images that pretraining on a corpus reads: without copies, and without those of test rows."""
        from data.config import PrepareImages
        from data.images.shards import PixelShards, prepare_pixels
        from engine.config.loader import read_args, validate

        tree = read_args([str(path)])
        found = validate(PrepareImages, {key: tree[key] for key in PrepareImages.model_fields if key in tree})
        folder = prepare_pixels(found.corpus, found.pixels.size, found.pixels.channels)
        kept = {key for split in ("train", "held_out") for key in PixelShards(folder, split).keys}
        if not (self.config.pixels or self.config.task):
            self.pixels = found.pixels
        for source in found.corpus.sources:
            self.add_images(source, found.corpus.name, kept)

    def read_rows(self, task: ImageTask) -> None:
        """Add the rows of a task."""
        task = task.model_copy(update={"pixels": self.pixels})
        rows, shown = [], {}
        for split, source in (("train", task.train), ("unlabeled", task.unlabeled)):
            if source:
                rows += task.iter_rows(source, split)
                shown = self.add_shards(source, task.name) | shown
        self.inputs.add_rows(rows, shown)

    def list_inputs(self, indices: np.ndarray) -> list[tuple[PixelShards, int]]:
        """Return the places of the images."""
        return [self.places[self.inputs.keys[index]] for index in indices]

    def list_examples(self, indices: np.ndarray) -> list[Callable[[], Image]]:
        """Return functions that return the images."""
        return [partial(self.open, int(index)) for index in indices]

    def open(self, index: int) -> Image:
        """Return an image as it is stored, a square."""
        from PIL import Image

        shards, position = self.places[self.inputs.keys[index]]
        pixels = np.asarray(shards.pixels[position])
        return Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0])

    def list_baselines(self, indices: np.ndarray) -> list[Baseline]:
        """List the encoder before pretraining, and the pixels of small images."""
        from data.images.baseline import shrink_images
        from explore.vectors import to_unit

        def embed() -> np.ndarray:
            pixels = shrink_images(self.list_inputs(indices), BASELINE_SIZE)
            return to_unit((pixels - pixels.mean(0)) / pixels.std(0).clip(1e-3))

        return [*super().list_baselines(indices), (f"{BASELINE_SIZE} x {BASELINE_SIZE} pixels", embed)]

    def draw(self, index: int, side: int) -> Image:
        """Return an image, scaled."""
        return self.open(index).convert("RGB").resize((side, side))

    def find_copies(self) -> np.ndarray:
        """Return pairs of scaled and compressed copies, by difference hashes and pixels."""
        from data.images import hashes

        places = self.list_inputs(np.arange(len(self.inputs.keys)))
        found = np.array([shards.hashes[position] for shards, position in places], np.uint64)
        pixels = [shards.pixels[position] for shards, position in places]  # read where hashes are close
        return hashes.find_copies(found, pixels).T

    def save_files(self, indices: Iterable[int], folder: Path) -> dict[int, str]:
        """Write images of archives and tables as PNG files with the same pixels; return their paths.

        Files are named by their pixels: answers name them too, and an index is that of another image in a later round.
        The sources are read once more, and only these images decoded.
        """
        from data.images.sources import iter_images

        wanted = {self.inputs.texts[index]: index for index in indices if not Path(self.inputs.texts[index]).is_file()}
        paths = {index: str(folder / f"{self.inputs.keys[index]}.png") for index in wanted.values()}
        missing = {place for place, index in wanted.items() if not Path(paths[index]).is_file()}
        for source in self.sources if missing else ():
            for image in iter_images(source):
                if image.location in missing:
                    folder.mkdir(parents=True, exist_ok=True)
                    with atomic_path(Path(paths[wanted[image.location]])) as temp, open(temp, "wb") as file:
                        image.load().save(file, "PNG")
                    missing.remove(image.location)
        if missing:
            raise DataError(f"{min(missing)}: not there anymore; remove out/pixels to read the images again")
        return paths
