"""Plain transformers models with a new last layer on an encoder."""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from data.encoders import LOAD_KWARGS, read_pooling
from engine.config.schema import Section
from engine.errors import DataError, first_line
from engine.kernels import attention
from engine.kernels.dropout import replace_dropout
from finetune.model import mean_pooling

POSTPROCESS_KEYS = ("calibration", "thresholds")  # that heads add to a model's configuration


class SequenceHeadConfig(Section):
    """Settings of all heads on whole texts."""

    pooling: Literal["mean", "cls"] | None = None
    """Pooling of the tokens for the head: mean or cls (the first token); none: the encoder's, else cls."""


def load_model(
    auto_class: type,
    folder: Path,
    dropout: float,
    random_init: bool,
    label_names: list[str],
    mean_pooling: bool = False,
    **settings: object,
) -> PreTrainedModel:
    """Load `auto_class` on the encoder in `folder`. Raise DataError if transformers cannot."""
    purpose = settings.get("problem_type", "token_classification").replace("_", " ")
    settings |= {
        "num_labels": len(label_names),
        "id2label": dict(enumerate(label_names)),
        "label2id": {name: index for index, name in enumerate(label_names)},
    }
    try:
        config = AutoConfig.from_pretrained(folder, **settings, **LOAD_KWARGS)
        for key in POSTPROCESS_KEYS:
            config.__dict__.pop(key, None)  # from an earlier fine-tuning of the encoder
        if hasattr(config, "classifier_pooling"):
            config.classifier_pooling = "mean" if mean_pooling else "cls"
        if random_init:
            model = auto_class.from_config(config)
        else:
            options = {"config": config, "dtype": torch.float32, "use_safetensors": True, **LOAD_KWARGS}
            model = auto_class.from_pretrained(folder, **options)
    except Exception as error:
        raise DataError(f"{folder}: transformers cannot load it for {purpose} ({first_line(error)})") from None
    attention.use_fast_attention(model)
    # Dropout of attention weights gains nothing here and rules out the fast attention.
    replace_dropout(model, lambda name: 0.0 if ".self." in name else dropout)
    return model


def build_sequence_classifier(
    problem_type: str,
    config: SequenceHeadConfig,
    folder: Path,
    label_names: list[str],
    dropout: float,
    random_init: bool = False,
) -> tuple[PreTrainedModel, list[nn.Parameter]]:
    """Return (plain classifier of texts or pairs on the encoder in `folder`, its constant parameters).

    Raise DataError if transformers cannot load it.
    """
    use_mean, auto_class = (config.pooling or read_pooling(folder)) == "mean", AutoModelForSequenceClassification
    settings = {"mean_pooling": use_mean, "problem_type": problem_type}
    model = load_model(auto_class, folder, dropout, random_init, label_names, **settings)
    if not use_mean or hasattr(model.config, "classifier_pooling"):
        return model, []
    if not mean_pooling.supports_mean_pooling(model):
        kind = model.config.model_type
        print(f"note: the head of {kind} reads the first token, but this encoder was trained with mean pooling")
        return model, []
    return model, mean_pooling.add_mean_pooling_layer(model)


def get_last_linear(model: PreTrainedModel) -> nn.Linear:
    """Return the model's output layer. Raise DataError if the architecture has none."""
    for module in reversed(list(model.modules())):
        if isinstance(module, nn.Linear) and module.out_features == model.config.num_labels:
            return module
    raise DataError(f"the head of {model.config.model_type} does not end in a linear layer")


@torch.no_grad()
def scale_output(model: PreTrainedModel, factor: float | Tensor, shift: float | Tensor = 0.0) -> None:
    """Change the output layer's weights so that its output is multiplied by `factor`, plus `shift`."""
    layer = get_last_linear(model)
    layer.weight.mul_(factor)
    if layer.bias is not None:
        layer.bias.mul_(factor).add_(shift)
