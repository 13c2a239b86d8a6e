"""Images: what pretraining, fine-tuning and publishing share."""

from __future__ import annotations

from pathlib import Path

from data.images.processor import PROCESSOR_FILES, read_processor, write_processor
from data.modalities import Modality
from data.tasks.problem_types import ProblemType
from engine.files import read_json


class Images(Modality):
    """Images, read by an image processor."""

    name = inputs_noun = unit = "images"
    input_noun = "image"
    encoder_task = "image-feature-extraction"
    preprocessor_files = PROCESSOR_FILES

    def auto_class(self, problem_type: ProblemType) -> str:
        """Return transformers' classifier of images."""
        return "AutoModelForImageClassification"

    def pipeline_task(self, problem_type: ProblemType) -> str:
        """Return `image-classification`."""
        return "image-classification"

    def copy_preprocessor(self, source: Path, target: Path) -> None:
        """Write an image processor of the encoder's mean and standard deviation, for the size that was trained on."""
        size = read_json(target / "config.json").get("image_size")
        processor = read_processor(source)
        write_processor(target, processor._replace(size=size if isinstance(size, int) else processor.size))


MODALITY = Images()
