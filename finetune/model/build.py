"""A plain transformers network with a new last layer on an encoder: loaded, its dropout set, reading what its head reads."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from data.encoders import LOAD_KWARGS, read_pooling
from engine.config.schema import Section
from engine.errors import DataError
from engine.kernels import attention
from engine.kernels.dropout import replace_dropout
from finetune.model import mean_pooling

POSTPROCESS_KEYS = (
    "calibration",
    "thresholds",
)  # what heads write into a network's configuration, fitted on validation rows


class SequenceHeadConfig(Section):
    """What every head on whole texts can be told."""

    pooling: Literal["mean", "cls"] | None = None
    """What the head reads: the mean of the tokens or the first one; none: as the encoder folder says, else cls."""


def load_model(
    auto_class: type,
    folder: Path,
    dropout: float,
    random_init: bool,
    purpose: str,
    label_names: list[str],
    mean_pooling: bool = False,
    **settings: object,
) -> PreTrainedModel:
    """`auto_class`'s network for the labels `label_names` on the encoder in `folder`; random_init: the same with random weights.

    settings: more keys of its configuration. Raises DataError when transformers cannot load it for `purpose`.
    """
    named = {
        "num_labels": len(label_names),
        "id2label": dict(enumerate(label_names)),
        "label2id": {name: index for index, name in enumerate(label_names)},
        **settings,
    }
    try:
        config = AutoConfig.from_pretrained(folder, **named, **LOAD_KWARGS)
        for key in POSTPROCESS_KEYS:
            config.__dict__.pop(key, None)  # of a head that the encoder was left with
        if hasattr(config, "classifier_pooling"):
            config.classifier_pooling = "mean" if mean_pooling else "cls"
        model = (
            auto_class.from_config(config)
            if random_init
            else auto_class.from_pretrained(
                folder, config=config, dtype=torch.float32, use_safetensors=True, **LOAD_KWARGS
            )
        )
    except Exception as error:
        raise DataError(
            f"{folder}: transformers cannot load it for {purpose} ({str(error).strip().splitlines()[0]})"
        ) from None
    attention.use_fast_attention(model)
    # Dropout of attention weights gains nothing here and rules out the fast attention.
    replace_dropout(model, lambda name: 0.0 if ".self." in name else dropout)
    return model


def build_sequence_classifier(
    config: SequenceHeadConfig,
    folder: Path,
    label_names: list[str],
    dropout: float,
    random_init: bool,
    problem_type: str,
    purpose: str,
) -> tuple[PreTrainedModel, list[nn.Parameter]]:
    """(transformers' own classifier of whole texts, or pairs, on the encoder in `folder`, its parameters that are constants).

    problem_type: what transformers is to make of its outputs. Raises DataError when it cannot be loaded.
    """
    mean = (config.pooling or read_pooling(folder)) == "mean"
    model = load_model(
        AutoModelForSequenceClassification,
        folder,
        dropout,
        random_init,
        purpose,
        label_names,
        mean,
        problem_type=problem_type,
    )
    if not mean or hasattr(model.config, "classifier_pooling"):
        return model, []
    if not mean_pooling.supports_mean_pooling(model):
        print(
            f"note: the head of {model.config.model_type} reads the first token; this encoder was taught mean pooling"
        )
        return model, []
    return model, mean_pooling.add_mean_pooling_layer(model)


def get_last_linear(model: PreTrainedModel) -> nn.Linear:
    """The layer whose outputs are the network's. Raises DataError where the architecture has none."""
    found = [
        module
        for module in model.modules()
        if isinstance(module, nn.Linear) and module.out_features == model.config.num_labels
    ]
    if not found:
        raise DataError(f"the head of {model.config.model_type} does not end in a linear layer")
    return found[-1]


@torch.no_grad()
def scale_output(model: PreTrainedModel, factor: float | Tensor, shift: float | Tensor = 0.0) -> None:
    """Write into the last layer's weights that what it gives is times `factor`, plus `shift`."""
    layer = get_last_linear(model)
    layer.weight.mul_(factor)
    if layer.bias is not None:
        layer.bias.mul_(factor).add_(shift)
