"""Images: what pretraining, fine-tuning and publishing share."""

from __future__ import annotations

from data.images.processor import PROCESSOR_FILES
from data.modalities import Modality
from data.tasks.problem_types import ProblemType


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


MODALITY = Images()
