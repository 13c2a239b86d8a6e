"""A plain transformers network with a new last layer on an encoder: loaded, its dropout set, reading what its head reads."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from data.encoders import SAFELY, pooling_of
from engine import attention
from engine.config import Section
from engine.dropout import put_dropout
from engine.errors import DataError
from finetune import pooling


FITTED = ("calibration", "thresholds")  # what heads write into a network's configuration, fitted on validation rows


class Pooled(Section):
    """What every head on whole texts can be told."""

    pooling: Literal["mean", "cls"] | None = None
    """What the head reads: the mean of the tokens or the first one; none: as the encoder folder says, else cls."""


def load(auto: type, folder: Path, dropout: float, random: bool, what: str, names: list[str], mean: bool = False,
         **settings: object) -> PreTrainedModel:
    """`auto`'s network for the labels `names` on the encoder in `folder`; random: the same with random weights.

    settings: more keys of its configuration. Raises DataError when transformers cannot load it for `what`.
    """
    named = {"num_labels": len(names), "id2label": dict(enumerate(names)),
             "label2id": {name: index for index, name in enumerate(names)}, **settings}
    try:
        config = AutoConfig.from_pretrained(folder, **named, **SAFELY)
        for key in FITTED:
            config.__dict__.pop(key, None)  # of a head that the encoder was left with
        if hasattr(config, "classifier_pooling"):
            config.classifier_pooling = "mean" if mean else "cls"
        model = (auto.from_config(config) if random else
                 auto.from_pretrained(folder, config=config, dtype=torch.float32, use_safetensors=True, **SAFELY))
    except Exception as error:
        raise DataError(f"{folder}: transformers cannot load it for {what}"
                        f" ({str(error).strip().splitlines()[0]})") from None
    attention.use(model)
    # Dropout of attention weights gains nothing here and rules out the fast attention.
    put_dropout(model, lambda name: 0.0 if ".self." in name else dropout)
    return model


def of_texts(config: Pooled, folder: Path, names: list[str], dropout: float, random: bool, problem_type: str,
             what: str) -> tuple[PreTrainedModel, list[nn.Parameter]]:
    """(transformers' own classifier of whole texts, or pairs, on the encoder in `folder`, its parameters that are constants).

    problem_type: what transformers is to make of its outputs. Raises DataError when it cannot be loaded.
    """
    mean = (config.pooling or pooling_of(folder)) == "mean"
    model = load(AutoModelForSequenceClassification, folder, dropout, random, what, names, mean, problem_type=problem_type)
    if not mean or hasattr(model.config, "classifier_pooling"):
        return model, []
    if not pooling.can_write_mean(model):
        print(f"note: the head of {model.config.model_type} reads the first token; this encoder was taught mean pooling")
        return model, []
    return model, pooling.write_mean(model)


def last_linear(model: PreTrainedModel) -> nn.Linear:
    """The layer whose outputs are the network's. Raises DataError where the architecture has none."""
    found = [module for module in model.modules() if isinstance(module, nn.Linear)
             and module.out_features == model.config.num_labels]
    if not found:
        raise DataError(f"the head of {model.config.model_type} does not end in a linear layer")
    return found[-1]


@torch.no_grad()
def fold(model: PreTrainedModel, factor: float | Tensor, shift: float | Tensor = 0.0) -> None:
    """Write into the last layer's weights that what it gives is times `factor`, plus `shift`."""
    layer = last_linear(model)
    layer.weight.mul_(factor)
    if layer.bias is not None:
        layer.bias.mul_(factor).add_(shift)
