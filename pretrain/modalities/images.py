"""Pretraining on images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pydantic import PositiveInt

from data.images.config import ImageCorpus, Pixels
from data.images.views import Views
from engine.config.schema import Section
from engine.errors import ConfigError
from engine.log import get_logger
from pretrain import modalities
from pretrain.config import ImageModel, Pretrain

if TYPE_CHECKING:
    from torch import Tensor

    from pretrain.model.image_encoder import ImageEncoder
    from pretrain.objective import BaseObjective, Gallery

logger = get_logger(__name__)

NO_LIMIT = 10**9  # of the length of a text
BATCH_NORMALIZED = ("resnet", "efficientnet")
ADVERSARIAL = ("gan", "cyclegan")


class Probe(Section):
    """A labeled task on which the frozen encoder is measured before and after training."""

    task: str | None = None
    """File with the `task`; none: no probe. Only its training and validation rows are used."""
    shots: list[PositiveInt] = [32, 100]
    """Numbers of training labels."""
    seeds: PositiveInt = 5
    """Random samples of training labels averaged per number."""


class Config(Pretrain):
    """Pretrain an encoder on unlabeled images."""

    corpus: ImageCorpus
    """The unlabeled images."""
    pixels: Pixels = Pixels()
    """The form in which the images are stored and read."""
    model: ImageModel = ImageModel()
    """Only used without init."""
    views: Views = Views()
    """The random views of an image that objectives compare."""
    probe: Probe = Probe()
    """With init: its weights are kept unless training gains on this task."""


class Modality(modalities.Modality):
    """Pixels of images, and image models."""

    config: Config

    def validate_config(self) -> None:
        """Raise ConfigError for settings that cannot be combined."""
        from pretrain.views import Views as TextViews

        config = self.config
        for key in sorted(config.objective.model_fields_set & (set(TextViews.model_fields) - {"projection_dim"})):
            raise ConfigError(f"objective.{key}: is for modality=text; views of images are configured by views.*")
        if config.objective.name != "auto":
            config.objective.validate_training(config.train.batch_size, config.dropout, NO_LIMIT)
        name, train = config.objective.name, config.train
        if name == "dino" and train.sharded:
            raise ConfigError("train.sharded: dino has a teacher, which is not sharded; leave it out")
        if name in ADVERSARIAL and (train.sharded or train.compile):
            key = "sharded" if train.sharded else "compile"
            raise ConfigError(f"train.{key}: {name} computes with constant copies of its weights; leave it out")
        if name == "vae" and config.init and config.probe.task:
            raise ConfigError("probe.task: the decoder of vae does not fit the weights of init; leave it out")
        is_normalized = config.init is None and config.model.architecture in BATCH_NORMALIZED
        if is_normalized and config.train.micro_batch_size:
            raise ConfigError(
                f"train.micro_batch_size: batch normalization ties the images of a batch of a new"
                f" {config.model.architecture}; leave it out, or take model.architecture=convnextv2"
            )
        if is_normalized and self.accelerator.num_processes > 1:
            logger.info(
                f"  note: each of {self.accelerator.num_processes} processes normalizes its own share of a batch"
            )

    def prepare(self) -> dict[str, str]:
        """Build the pixels of the corpus."""
        from data.cache import fingerprint, read_manifest
        from data.encoders import hash_weights, read_record, resolve_encoder
        from data.images.shards import PixelShards, prepare_pixels

        config = self.config
        with self.accelerator.main_process_first():
            self.init_folder = resolve_encoder(config.init) if config.init else None
            if self.init_folder:
                read_record(self.init_folder)  # first: its record goes into that of the new encoder
            self.pixels_folder = prepare_pixels(config.corpus, config.pixels.size, config.pixels.channels)
            self.probe = load_probe(config.probe, config.pixels) if config.probe.task and config.init else None
        self.train, self.held_out = (PixelShards(self.pixels_folder, split) for split in ("train", "held_out"))
        fingerprints = {"images": fingerprint(read_manifest(self.pixels_folder)["inputs"])}
        return fingerprints | ({"init": hash_weights(self.init_folder)} if self.init_folder else {})

    def resolve_objective(self) -> Config:
        """Choose contrastive learning if no objective is given, and log it."""
        if self.config.objective.name == "auto":
            from pretrain.config import DEFAULT_STEPS
            from pretrain.objectives import contrastive

            objective = contrastive.Config(projection_dim=128, temperature=0.2)
            train = self.config.train.model_copy(update={"steps": self.config.train.steps or DEFAULT_STEPS})
            self.config = self.config.model_copy(update={"objective": objective, "train": train})
            self.validate_config()
            logger.info(f"objective: contrastive, two views of an image; {train.steps:,} steps")
        return self.config

    def build_encoder(self) -> ImageEncoder:
        """Return an image model."""
        import torch

        from data.images.processor import Processor
        from pretrain.model import image_encoder

        config, size = self.config, self.config.pixels.size
        torch.manual_seed(config.seed)
        if self.init_folder:
            channels = config.pixels.channels
            args = (self.init_folder, size, channels, config.dropout)
            self.encoder = image_encoder.image_encoder_from_pretrained(*args)
        else:
            processor = Processor(size, *image_encoder.measure_channels(self.train.pixels))
            self.encoder = image_encoder.image_encoder_from_config(config.model, processor, config.dropout)
        return self.encoder

    def build_dataset(self, objective_file: ModuleType) -> Any:
        """Return the objective's `Dataset`, or two views of each image for an objective without one."""
        from pretrain.image_views import ImageViewDataset

        if dataset_class := self.find_dataset(objective_file):
            self.dataset = dataset_class(self.config.objective, self.train, self.config.views, self.encoder)
        else:
            self.dataset = ImageViewDataset(self.train, self.config.views)
        return self.dataset

    def dataset_at(self, step: int) -> tuple[Any, int]:
        """Return the training images."""
        return self.dataset, 1

    def build_validator(self, with_head: bool) -> Callable[[ImageEncoder], dict[str, float]]:
        """Return retrieval between two fixed views of held-out images."""
        from pretrain.image_validation import ImageValidator

        self.validator = ImageValidator(self.held_out, self.train, self.accelerator)
        return self.validator

    def measure_quality(self, encoder: ImageEncoder) -> tuple[dict[str, float], Tensor | None]:
        """Return (retrieval of held-out images and the probe's metric, embeddings of held-out images)."""
        from pretrain.validation import retrieval_metrics

        with self.validator.statistics(encoder):
            embeddings = self.validator.embed_views(encoder)
            quality = self.probe.measure(encoder, self.accelerator) if self.probe else {}
        metrics, names = retrieval_metrics(embeddings), ("retrieval_acc@1", "num_candidates")
        return {name: metrics[name] for name in names if name in metrics} | quality, embeddings[:, 0]

    def keeps_init(self, quality: dict[str, dict[str, float]]) -> str:
        """Return why the initial weights are to be kept, or an empty string: training did not gain on the probe."""
        if not self.probe:
            return ""
        has_gained, gain = self.probe.describe_gain()
        if has_gained:
            return ""
        task, init = self.config.probe.task, self.config.init
        return f"pretraining gained nothing on {task} ({gain}); the weights of {init} are kept"

    def build_record(self, encoder: ImageEncoder, with_head: bool) -> dict:
        """Return the manifest of the pixels, licenses and pooling."""
        from data.cache import read_manifest
        from data.encoders import base_model_info
        from data.sources.source import display_name

        manifest = read_manifest(self.pixels_folder)
        return {
            "pixels": self.pixels_folder.name,
            "pixels_manifest": {key: value for key, value in manifest.items() if key not in ("inputs", "dropped")},
            "pooling": "mean",
            "has_mlm_head": False,
            "licenses": {
                "corpus": {display_name(source): source.license for source in self.config.corpus.sources},
                "base": base_model_info(self.config.init, self.init_folder),
            },
        }

    def record_outputs(self, encoder: ImageEncoder) -> dict | None:
        """Return {"images", "outputs"}: PNG files in base64 of a few held-out images, and their embeddings.

        None if no image is held out.
        """
        import numpy as np
        import torch

        from data.images.processor import normalize
        from data.images.reference_outputs import encode_images
        from data.sampling import take_evenly
        from engine.models.load_check import mean_state
        from pretrain.model.base import copy_uncompiled

        if not len(self.held_out):
            return None
        with self.validator.statistics(encoder):
            model = copy_uncompiled(encoder.model).float().cpu().eval()
        pixels, processor = np.stack(take_evenly(self.held_out.pixels)), encoder.processor
        images = normalize(torch.from_numpy(pixels), processor.mean, processor.std)
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            outputs = [mean_state(model(pixel_values=image[None])).tolist() for image in images]
        return {"images": encode_images(pixels), "outputs": outputs}

    def draw_gallery(self, encoder: ImageEncoder, objective: BaseObjective) -> Gallery:
        """Return training images with two views, held-out ones with their neighbors, and what the objective shows."""
        from pretrain.image_gallery import draw_views

        with self.validator.statistics(encoder):
            return draw_views(encoder, self.dataset, self.held_out) + super().draw_gallery(encoder, objective)

    def save_encoder(self, encoder: ImageEncoder, folder: Path, record: dict, card: str, with_head: bool) -> None:
        """Write a folder that plain transformers and sentence-transformers load."""
        from pretrain.model.image_encoder import save_image_encoder

        with self.validator.statistics(encoder):
            save_image_encoder(encoder, folder, record, card)


def load_probe(settings: Probe, pixels: Pixels) -> Any:
    """Load the labeled rows of the probe. Raises ConfigError and DataError."""
    from pretrain.image_probe import ImageProbe

    return ImageProbe(settings.task, settings.shots, settings.seeds, pixels)
