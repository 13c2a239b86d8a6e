"""Image classifiers: plain transformers models with a new last layer on an image encoder."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel

from data.modalities.images import MODALITY
from data.tasks.problem_types import ProblemType
from engine.errors import DataError, first_line
from engine.kernels.depthwise import use_float32_depthwise
from engine.kernels.dropout import replace_dropout
from engine.kernels.pointwise import use_subsampled_pointwise
from engine.models import LOAD_KWARGS
from engine.models.batch_norm import freeze_batch_norm
from engine.models.load import load_pretrained
from finetune.model.network import Network, label_settings, load_with_new_head, remove_postprocess


class ImageNetwork(Network):
    """An image model, with batch normalization by its stored statistics."""

    def __init__(self, model: PreTrainedModel, is_random: bool):
        super().__init__(model)
        self.needs_standardization = is_random

    @torch.no_grad()
    def standardize(self, batches: Iterable[dict[str, Tensor]]) -> None:
        """Set the statistics of batch normalization on these images, where the weights are random."""
        layers = [module for module in self.model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        if not (layers and self.needs_standardization):
            return
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum, layer.training = None, True  # None: the mean over all batches
        for inputs in batches:
            self.model(**inputs)
        for layer in layers:
            layer.training = False


class LayerStatistics(nn.Module):
    """Joins mean and standard deviation over the positions of every hidden state, and their mean over both flips.

    What a small data set is about is often in the lower layers, which an embedding leaves out.
    """

    def __init__(self, model: PreTrainedModel, flip: bool):
        """flip: whether an image and its mirror image mean the same."""
        super().__init__()
        self.model, self.flip = model, flip

    def predict(self, pixel_values: Tensor) -> Tensor:
        """Return the features of the images of one batch, float32 (images, width)."""
        views = [pixel_values, pixel_values.flip(-1)] if self.flip else [pixel_values]
        return torch.stack([self.join(view) for view in views]).mean(0)

    def join(self, pixel_values: Tensor) -> Tensor:
        """Return the features of one view."""
        output = self.model(pixel_values=pixel_values, output_hidden_states=True)
        states = [*output.hidden_states, output.last_hidden_state]
        states = [state.flatten(2).mT if state.ndim == 4 else state for state in states]
        return torch.cat([part for state in states for part in (state.mean(1), state.std(1))], -1).float()


@cache
def load_embedder(folder: Path) -> nn.Module:
    """Return the encoder in `folder`, which a study uses for many trials."""
    return MODALITY.load_embedder(folder)


def load_model(folder: Path, problem_type: ProblemType, label_names: list[str], random_init: bool) -> PreTrainedModel:
    """Load transformers' image classifier on the encoder in `folder`. Raise DataError if it cannot."""
    auto_class, purpose = MODALITY.auto_class(problem_type), problem_type.name.replace("_", " ")
    try:
        old_names = list(AutoConfig.from_pretrained(folder, **LOAD_KWARGS).id2label.values())
        config = AutoConfig.from_pretrained(folder, **label_settings(problem_type, label_names), **LOAD_KWARGS)
        remove_postprocess(config)
        random_model = getattr(transformers, auto_class).from_config(config) if random_init else None
    except Exception as error:
        raise DataError(f"{folder}: transformers cannot load it for {purpose} ({first_line(error)})") from None
    return random_model or load_with_new_head(folder, auto_class, purpose, config, old_names)


def build_image_encoder(folder: Path, random_init: bool = False) -> ImageNetwork:
    """Return the encoder in `folder` without a head. Raise DataError if it cannot be loaded."""
    model, _ = load_pretrained(folder, "AutoModel", "images")
    if random_init:
        model = transformers.AutoModel.from_config(model.config)
    freeze_batch_norm(model)
    return ImageNetwork(model.eval(), random_init)


def build_image_network(
    folder: Path, problem_type: ProblemType, label_names: list[str], dropout: float, random_init: bool = False
) -> ImageNetwork:
    """Return a classifier of images on the encoder in `folder`. Raise DataError if it cannot be loaded.

    dropout: before the last layer; inside the encoder, with its few trained steps, it costs accuracy.
    """
    model = load_model(folder, problem_type, label_names, random_init)
    base = {f"{name}." for name, module in model.named_children() if module is model.base_model}
    replace_dropout(model, lambda name: 0.0 if name.startswith(tuple(base)) else dropout)
    use_float32_depthwise(model)
    use_subsampled_pointwise(model)
    freeze_batch_norm(model)
    return ImageNetwork(model, random_init)
