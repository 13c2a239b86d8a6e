"""Self-distillation (DINO; Caron et al. 2021): views of an image predict what a teacher makes of another view.

The teacher is a moving average of the network in training, the student, and it is the student that is saved.
Subtracting the teacher's mean output and sharpening it prevent a collapse.
"""

import copy
from typing import Annotated, Literal

import numpy as np
import torch
import torch.distributed as dist
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from data.images.shards import PixelShards
from data.images.views import Views, draw_view_params
from engine.config.schema import Section
from engine.training.step import MicroBatch, Output
from pretrain.image_views import ImageViewDataset
from pretrain.info_nce import embedding_stats
from pretrain.model.image_encoder import ImageEncoder
from pretrain.model.prototype_head import PrototypeHead
from pretrain.objective import BaseObjective

CENTER_MOMENTUM = 0.9


class Config(Section):
    """Self-distillation."""

    name: Literal["dino"] = "dino"
    """dino: predict a teacher's output for another view of an image."""
    prototypes: PositiveInt = 1_024
    """Width of the output that is predicted."""
    local_views: NonNegativeInt = 4
    """Small views of an image, of half the size, which predict the teacher's output for the two large ones."""
    local_area: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Maximum fraction of the image's area in a small view."""
    teacher_momentum: Annotated[float, Field(gt=0, lt=1)] = 0.99
    """Fraction of the teacher's weights that a step keeps."""
    temperature: PositiveFloat = 0.1
    """Divisor of the outputs."""
    teacher_temperature: PositiveFloat = 0.04
    """Divisor of the teacher's outputs."""

    def validate_training(self, batch_size: int, dropout: float, max_length: int) -> None:
        """Accept any configuration."""


class Dataset(ImageViewDataset):
    """Two large views of each image, and small ones."""

    def __init__(self, config: Config, shards: PixelShards, settings: Views, encoder: ImageEncoder | None = None):
        super().__init__(shards, settings)
        max_area = min(config.local_area, settings.max_area)
        areas = {"min_area": min(settings.min_area, max_area) / 2, "max_area": max_area}
        self.num_local, self.local = config.local_views, settings.model_copy(update=areas)

    def collate(self, indices: list[int], generators: list[np.random.Generator]) -> MicroBatch:
        """Make pixels and parameters of the large views, and `local_params` of the small ones if there are any."""
        inputs, num_images = super().collate(indices, generators)
        del inputs["group_ids"]
        if self.num_local:
            inputs["local_params"] = torch.from_numpy(draw_view_params(generators, self.num_local, self.local))
        return MicroBatch(inputs, num_images)


class Objective(BaseObjective):
    """Cross-entropy of the outputs for all views with the teacher's for another, averaged by image; their number."""

    compares_views = True

    def __init__(self, config: Config, encoder: ImageEncoder):
        super().__init__()
        self.encoder, self.config, patch = encoder, config, encoder.patch_size
        self.local_size = max(patch, encoder.processor.size // 2 // patch * patch)
        if config.local_views:
            encoder.probe(self.local_size)
        self.head = PrototypeHead(encoder.width, config.prototypes)
        self.teacher = nn.ModuleList([copy.deepcopy(encoder), copy.deepcopy(self.head)]).requires_grad_(False)
        self.register_buffer("center", torch.zeros(config.prototypes))
        self.outputs: list[Tensor] = []

    def train(self, mode: bool = True) -> nn.Module:
        """Start a step: the teacher's mean output is that of the micro-batches since this call."""
        self.outputs = []
        self.prototypes_before = self.head.prototypes.detach().clone()
        return super().train(mode)

    def forward(self, pixels: Tensor, view_params: Tensor, local_params: Tensor | None = None) -> Output:
        """Compute the loss of inputs from `Dataset.collate`."""
        rows, config = len(pixels), self.config
        embeddings = self.encoder.embed(2 * rows, pixels, view_params)
        outputs = self.head(embeddings).unflatten(0, (rows, 2))
        with torch.no_grad():
            encoder, head = self.teacher
            teacher_outputs = head(encoder.embed(2 * rows, pixels, view_params)).unflatten(0, (rows, 2))
            self.outputs.append(
                torch.cat([teacher_outputs.flatten(0, 1).sum(0), teacher_outputs.new_full((1,), 2 * rows)])
            )
            targets = ((teacher_outputs - self.center) / config.teacher_temperature).softmax(-1)
        if local_params is not None:
            count = local_params.shape[1]
            local = self.head(self.encoder.embed(count * rows, pixels, local_params, self.local_size))
            outputs = torch.cat([outputs, local.unflatten(0, (rows, count))], 1)
        entropy = -torch.einsum("rtp,rsp->rts", targets, (outputs / config.temperature).log_softmax(-1))
        is_other = ~torch.eye(2, entropy.shape[2], dtype=torch.bool, device=entropy.device)
        loss = entropy[:, is_other].mean(1).sum()
        count = loss.new_full((), rows)
        stats = embedding_stats(embeddings.detach().unflatten(0, (rows, 2)))
        return Output(loss, count, {name: torch.stack([stat * count, count]) for name, stat in stats.items()})

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Move the teacher toward the network, and the center to its mean output, unless no weight changed."""
        total = torch.stack(self.outputs).sum(0)
        if dist.is_initialized():
            dist.all_reduce(total)
        # An update that is left out is known on the device alone (`engine.training.loss_guard`).
        is_changed = (self.head.prototypes != self.prototypes_before).any()
        center = self.center.lerp(total[:-1] / total[-1], 1 - CENTER_MOMENTUM)
        self.center.copy_(torch.where(is_changed, center, self.center))
        fraction = (1 - self.config.teacher_momentum) * is_changed.float()
        current = [*self.encoder.parameters(), *self.head.parameters()]
        for mean, weight in zip(self.teacher.parameters(), current, strict=True):
            mean.lerp_(weight, fraction.to(mean.dtype))
