"""A plain transformers model with a new last layer, and what training needs to know about it."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from data.tasks.problem_types import ProblemType
from engine.errors import DataError
from engine.log import get_logger
from engine.models.load import check_encoder_weights, load_pretrained
from finetune.model.layerwise import split_layers

logger = get_logger(__name__)

POSTPROCESS_KEYS = ("calibration", "thresholds", "label_scale")  # that fine-tuning adds to a model's configuration


def remove_postprocess(config: PreTrainedConfig) -> None:
    """Remove what an earlier fine-tuning has added to the configuration of a model that is an encoder now."""
    for key in POSTPROCESS_KEYS:
        config.__dict__.pop(key, None)


class NoCache:
    """Stands for `finetune.model.frozen_cache.FrozenLayerCache` where the inputs are not the same at every visit."""

    def set_boundary(self, boundary: int) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class Network:
    """A model; `constant` parameters are never trained, and the first `num_layers` layers layer by layer."""

    def __init__(self, model: PreTrainedModel, constant: Iterable[nn.Parameter] = (), num_layers: int | None = None):
        self.model, self.constant = model, list(constant)
        self.num_layers = len(split_layers(model)) if num_layers is None else num_layers
        self.needs_standardization = False  # also where the last layer is fitted after training

    def embed_and_classify(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (embeddings, float32 (inputs, width); outputs, float32 (inputs, outputs))."""
        return self.last_layer_inputs(inputs)

    def last_layer_inputs(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return (what the last linear layer reads, float32 (inputs, width); its outputs, float32)."""
        captured: list[tuple[Tensor, Tensor]] = []
        hook = get_last_linear(self.model).register_forward_hook(
            lambda module, args, output: captured.append((args[0], output))
        )
        try:
            logits = self.model(**inputs).logits
        finally:
            hook.remove()
        features, outputs = captured[0]
        if outputs.ndim > logits.ndim:  # the layer is applied to all tokens, of which the model returns one
            index = (outputs == logits[:, None]).all(-1).int().argmax(1)
            features = features[torch.arange(len(features), device=index.device), index]
        return features.float(), logits.float()

    def standardize(self, batches: Iterable[dict[str, Tensor]]) -> None:
        """Adapt constant parameters to the training inputs before training."""

    def prepare_last_layer_fit(self) -> None:
        """Prepare the layers above the encoder for fitting the last linear layer after training."""

    def training_forward(self) -> AbstractContextManager:
        """Return a context in which the model may run a cheaper forward with the same results."""
        return nullcontext()

    def cache_frozen_layers(self, splits: list, folder: Path, memory_mb: int) -> NoCache:
        """Return a cache of the frozen layers' states of the inputs in `splits`."""
        return NoCache()


def get_last_linear(model: PreTrainedModel) -> nn.Linear:
    """Return the model's output layer. Raise DataError if the architecture has none."""
    for module in reversed(list(model.modules())):
        if isinstance(module, nn.Linear) and module.out_features == model.config.num_labels:
            return module
    raise DataError(f"the head of {model.config.model_type} does not end in a linear layer")


def label_settings(problem_type: ProblemType, label_names: list[str]) -> dict:
    """Return the keys of a model's configuration that follow from its labels."""
    settings = {
        "num_labels": len(label_names),
        "id2label": dict(enumerate(label_names)),
        "label2id": {name: index for index, name in enumerate(label_names)},
    }
    if problem_type.transformers_problem_type:
        settings["problem_type"] = problem_type.transformers_problem_type
    return settings


def load_with_new_head(
    folder: Path, auto_class: str, purpose: str, config: PreTrainedConfig, old_names: list[str]
) -> PreTrainedModel:
    """Load the weights in `folder`, without the output layer of a classifier of other labels than `config` has.

    old_names: the labels that the folder's output layer has, if it has one. Raises DataError if it cannot be loaded.
    """
    model, missing = load_pretrained(folder, auto_class, purpose, config=config, ignore_mismatched_sizes=True)
    layer = get_last_linear(model)
    name = next(name for name, module in model.named_modules() if module is layer)
    head = {f"{name}.{parameter}" for parameter, _ in layer.named_parameters()}
    check_encoder_weights(folder, model, missing - head)
    if not head <= missing and old_names != list(config.id2label.values()):
        for parameter in layer.parameters():
            parameter._is_hf_initialized = False  # transformers skips weights with this mark
        model._init_weights(layer)
        logger.info(f"note: {folder} has the labels {', '.join(old_names[:3])}, ...; its output layer is replaced")
    return model


@torch.no_grad()
def scale_output(model: PreTrainedModel, factor: float | Tensor, shift: float | Tensor = 0.0) -> None:
    """Change the output layer's weights so that its output is multiplied by `factor`, plus `shift`."""
    layer = get_last_linear(model)
    layer.weight.mul_(factor)
    if layer.bias is not None:
        layer.bias.mul_(factor).add_(shift)
