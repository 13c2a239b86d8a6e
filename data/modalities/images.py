"""Images: what pretraining, fine-tuning and publishing share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from data.images.processor import PROCESSOR_FILES, load_image_processor
from data.modalities import Modality
from data.tasks.problem_types import ProblemType
from engine.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn
    from transformers import BaseImageProcessor

    from data.images.dataset import ProcessedImages
    from engine.config.schema import Section

COLUMNS = "image img picture photo file filename file_name path image_path filepath".split()
"""Names of the column of images, the most likely first."""


class Images(Modality):
    """Images, read by an image processor."""

    name = inputs_noun = unit = "images"
    input_noun, example_input = "image", "photo.jpg"
    encoder_task, usage_template = "image-feature-extraction", "publish/card/image_usage.md"
    preprocessor_files, pools_states = PROCESSOR_FILES, True

    def auto_class(self, problem_type: ProblemType) -> str:
        """Return transformers' classifier of images, or the encoder alone."""
        return "AutoModel" if problem_type.is_detector else "AutoModelForImageClassification"

    def pipeline_task(self, problem_type: ProblemType) -> str:
        """Return `image-classification`, or what an encoder does."""
        return self.encoder_task if problem_type.is_detector else "image-classification"

    def pool_layer(self, states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return the mean over the positions, of a convolutional network's states or a transformer's."""
        from engine.models.embed import pool_positions

        return pool_positions(states)

    def find_columns(self, columns: list[str]) -> str | None:
        """Return the column of the images."""
        by_name = {column.lower(): column for column in reversed(columns)}
        return next((by_name[name] for name in COLUMNS if name in by_name), None)

    def make_reader(
        self, folder: Path, max_length: int | None, problem_type: ProblemType
    ) -> Callable[[list[Callable[[], Image]]], ProcessedImages]:
        """Return a function that decodes images and applies the folder's image processor."""
        from data.images.dataset import ImageReader

        return ImageReader(folder)

    def pool_states(self, states: tuple[Tensor, ...], inputs: dict[str, Tensor]) -> Tensor:
        """Return the mean of the states two thirds up the layers, over an image's patches or pixels."""
        chosen = states[2 * (len(states) - 1) // 3].float()
        return chosen.flatten(2).mean(2) if chosen.ndim == 4 else chosen.mean(1)

    def task_file(self) -> type[Section]:
        """Return the schema of a task of images."""
        from data.images.task import ImageTaskFile

        return ImageTaskFile

    def load_embedder(self, folder: Path) -> nn.Module:
        """Return the encoder with the mean of its last hidden states."""
        from engine.models.embed import ImageEmbedder
        from engine.models.load import load_pretrained

        return ImageEmbedder(load_pretrained(folder, "AutoModel", "images")[0].eval())

    def load_processor(self, folder: Path) -> BaseImageProcessor:
        """Return the image processor in a folder. Raises DataError if transformers cannot load it."""
        return load_image_processor(folder)

    def open_png(self, content: str) -> Image:
        """Return the image in a PNG file in base64, as in test.json and sample.json."""
        import base64

        from data.images.decode import decode

        return decode(base64.b64decode(content))

    def open_folder(self, folder: str, max_images: int) -> list[Image]:
        """Return the first images in a folder. Raises DataError for one without images."""
        from itertools import islice

        from data.images.config import ImageSource
        from data.images.sources import iter_images

        images = []
        for location, load, *_ in islice(iter_images(ImageSource(folder=folder)), max_images):
            try:
                images.append(load())
            except DataError as error:
                raise DataError(f"{location}: {error}") from None
        return images


MODALITY = Images()
