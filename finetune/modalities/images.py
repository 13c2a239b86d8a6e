"""Fine-tuning on images."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from data.images.baseline import BASELINE_SIZE
from data.images.task import ImageStore, ImageTask
from data.images.views import Area, Views
from data.sampling import take_evenly
from data.tasks.splits import Example
from engine.config.schema import Fraction
from engine.errors import ConfigError
from finetune import modalities
from finetune.config import METHODS_FOLDER, Finetune

if TYPE_CHECKING:
    import numpy as np
    from accelerate import Accelerator
    from torch import Tensor
    from transformers import PreTrainedModel

    from data.images.dataset import ImageDataset
    from finetune.model.image_network import ImageNetwork


class Augment(Views):
    """Random views of training images, different at every visit; none where all are off."""

    min_area: Area = 0.8
    """Minimum fraction of the image's area in a view; 1: the whole image."""
    aspect_ratio: Annotated[float, Field(ge=1, le=4)] = 1.1
    """Maximum ratio of a crop's sides, which are stretched to a square."""
    color_prob: Fraction = 0.0
    """Fraction of the views with another brightness, contrast, saturation and hue."""
    gray_prob: Fraction = 0.0
    """Fraction of the views without color."""


class Config(Finetune):
    """Fine-tune an encoder on a task of images with few labels."""

    task: ImageTask
    """The labeled rows."""
    augment: Augment = Augment()
    """Augmentation of the training images."""

    presets: ClassVar[dict[str, Path]] = {"method": METHODS_FOLDER / "images"}


class Modality(modalities.Modality):
    """Pixels, and image networks."""

    linear_baseline = "pixels", f"{BASELINE_SIZE} x {BASELINE_SIZE} pixels"

    def validate_config(self) -> None:
        """Raise ConfigError for settings that are for text."""
        config = self.config
        if self.problem_type.labels_words:
            raise ConfigError("task.problem_type: token_classification is for the words of a text")
        if config.tapt.steps or config.selftrain.corpus:
            key = "tapt.steps" if config.tapt.steps else "selftrain.corpus"
            raise ConfigError(f"{key}: only for text; leave it out")
        if not config.task.num_examples and config.method != "names":
            raise ConfigError(
                "task.num_examples=0: images have no texts of their classes to learn from; give 1 or more"
            )

    @cached_property
    def store(self) -> ImageStore:
        """The pixels of the task's images."""
        return ImageStore(self.config.task)

    def build_dataset(
        self, examples: list[Example], folder: Path, description: str, label_names: list[str] | None = None
    ) -> ImageDataset:
        """Find the examples' images."""
        from data.images.dataset import ImageDataset
        from data.images.processor import read_processor

        labels = None if label_names is None else self.problem_type.encode_labels(examples, label_names)
        return ImageDataset(self.store.find(examples), read_processor(folder), labels)

    def get_augmentation(self) -> Callable | None:
        """Return the configured augmentation; none for a linear probe or a detector, which read each image once."""
        augment = self.config.augment
        if (
            self.config.layers.linear_probe
            or self.problem_type.is_detector
            or augment.min_area == augment.max_area == 1
            and not any((augment.horizontal_flip, augment.vertical_flip, augment.color_prob, augment.gray_prob))
        ):
            return None
        from data.images.dataset import augment_images

        return partial(augment_images, settings=augment)

    def build_network(self, folder: Path, label_names: list[str], random_init: bool) -> ImageNetwork:
        """Return the encoder in `folder` with a new last layer."""
        from finetune.model.image_network import build_image_network

        return build_image_network(folder, self.problem_type, label_names, self.config.dropout, random_init)

    def build_encoder(self, folder: Path, random_init: bool) -> ImageNetwork:
        """Return the encoder in `folder`."""
        from finetune.model.image_network import build_image_encoder

        return build_image_encoder(folder, random_init)

    def fit_features(self, examples: list[Example]) -> Callable[[list[Example]], np.ndarray]:
        """Return a function from examples to standardized pixels of small images, float32 (examples, pixels)."""
        from data.images.baseline import PixelFeatures

        return PixelFeatures(self.store, BASELINE_SIZE).fit(examples)

    def embed(
        self, examples: list[Example], folder: Path, accelerator: Accelerator, random_init: bool = False
    ) -> np.ndarray:
        """Return each image's pooled vector, computed in float32."""
        import numpy as np
        import torch

        from engine.models.embed import ImageEmbedder, run_batches
        from finetune.model.image_network import build_image_encoder, load_embedder

        dataset = self.build_dataset(examples, folder, f"task {self.config.task.name}")
        torch.manual_seed(self.config.seed)
        embedder = ImageEmbedder(build_image_encoder(folder, True).model) if random_init else load_embedder(folder)
        return np.stack(run_batches(embedder.to(accelerator.device), dataset, accelerator, autocast=False))

    def embed_layers(
        self, examples: list[Example], folder: Path, accelerator: Accelerator, random_init: bool
    ) -> np.ndarray:
        """Return each image's features from all layers of the encoder, float32 (images, width).

        random_init: of the same network with random weights.
        """
        import numpy as np
        import torch

        from engine.models.embed import BATCH_SIZE, run_batches
        from finetune.model.image_network import LayerStatistics, build_image_encoder

        dataset = self.build_dataset(examples, folder, f"task {self.config.task.name}")
        torch.manual_seed(self.config.seed)
        network = build_image_encoder(folder, random_init)
        sample = np.array(take_evenly(range(len(examples)), 8 * BATCH_SIZE))
        network.standardize(map(dataset.get_inputs, np.array_split(sample, -(-len(sample) // BATCH_SIZE))))
        module = LayerStatistics(network.model, self.config.augment.horizontal_flip > 0)
        return np.stack(run_batches(module.to(accelerator.device), dataset, accelerator))

    def record_outputs(
        self, model: PreTrainedModel, folder: Path, examples: list[Example], output_fn: Callable[[object], Tensor]
    ) -> dict:
        """Return {"images", "outputs"}: PNG files in base64, and `output_fn` of the model's output for each."""
        import torch

        from data.images.reference_outputs import encode_images

        dataset, outputs = self.build_dataset(examples, folder, f"task {self.config.task.name}"), []
        model.eval().float().cpu()
        for index in range(len(examples)):
            with torch.no_grad():
                outputs.append(output_fn(model(**dataset.get_inputs([index]))).float().tolist())
        return {"images": encode_images(self.store.read_pixels(examples)), "outputs": outputs}

    def sample_rows(self, examples: list[Example]) -> dict:
        """Return {"images", "labels", "total_rows"}."""
        from data.images.reference_outputs import MAX_TEST_ROWS, encode_images

        rows = take_evenly(examples, MAX_TEST_ROWS)
        images = encode_images(self.store.read_pixels(rows))
        return {"images": images, "labels": [row.label for row in rows], "total_rows": len(examples)}

    def copy_preprocessor(self, source: Path, target: Path) -> None:
        """Write an image processor of the encoder's mean and standard deviation, for the size that was trained on."""
        from data.images.processor import read_processor, write_processor

        write_processor(target, read_processor(source)._replace(size=self.config.task.pixels.size))

    def list_report_metrics(self, metrics: dict) -> tuple[str, ...]:
        """List the metrics of the table; with one of two classes per image, the area under the ROC curve too."""
        is_single, names = self.problem_type.has_single_class, self.problem_type.list_report_metrics(metrics)
        return (*names, "auroc") if is_single and "auroc" in metrics else names

    def show(self, examples: list[Example], max_chars: int) -> list[dict[str, str]]:
        """Return {"image"}, a data URL, of each example."""
        from data.images.reference_outputs import encode_images

        return [{"image": f"data:image/png;base64,{png}"} for png in encode_images(self.store.read_pixels(examples))]

    def check_contamination(
        self, rows: dict[str, list[Example]], record: dict, drop_training: bool, drop_corpus: bool
    ) -> tuple[dict, list[int]]:
        """Search the training rows and the pretraining corpus for the images of test rows."""
        from data.contamination import check_image_contamination

        return check_image_contamination(self.store, rows, record, drop_training, drop_corpus)

    def count_overlap(self, examples: list[Example], others: list[Example]) -> dict[str, int]:
        """Return {"num_rows", "exact", "near"} of the examples with images that are, or are copies of, others."""
        from data.images.overlap import count_overlaps, match_images

        return count_overlaps(match_images(self.store, examples, others))
