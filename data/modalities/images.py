"""Images: what pretraining, fine-tuning and publishing share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from data.images.processor import PROCESSOR_FILES
from data.modalities import Modality
from data.tasks.problem_types import ProblemType

if TYPE_CHECKING:
    from torch import Tensor


class Images(Modality):
    """Images, read by an image processor."""

    name = inputs_noun = unit = "images"
    input_noun = "image"
    encoder_task = "image-feature-extraction"
    preprocessor_files = PROCESSOR_FILES

    def auto_class(self, problem_type: ProblemType) -> str:
        """Return transformers' classifier of images, or the encoder alone."""
        return "AutoModel" if problem_type.is_detector else "AutoModelForImageClassification"

    def pipeline_task(self, problem_type: ProblemType) -> str:
        """Return `image-classification`, or what an encoder does."""
        return self.encoder_task if problem_type.is_detector else "image-classification"

    def pool_layer(self, states: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return the mean over the positions, of a convolutional network's states or a transformer's."""
        return states.float().mean((2, 3) if states.ndim == 4 else 1)


MODALITY = Images()
