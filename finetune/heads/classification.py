"""One class of several for a text or a pair of texts: transformers' own sequence classifier of the architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from data.encoders import pooling_of
from data.labelled import Example
from engine import attention
from engine.config import Section
from engine.errors import DataError
from engine.loop import Output
from finetune import metrics, pooling

MONITOR = "accuracy"


class Config(Section):
    """Single-label classification."""

    name: Literal["classification"] = "classification"
    """classification: one class of several."""
    pooling: Literal["mean", "cls"] | None = None
    """What the head reads: the mean of the tokens or the first one; none: as the encoder folder says, else cls."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target spread over all classes (Szegedy et al. 2016)."""


def build(config: Config, folder: Path, labels: list[str], dropout: float,
          random: bool = False) -> tuple[PreTrainedModel, list[nn.Parameter]]:
    """(a plain sequence classifier on the encoder in `folder`, its parameters that are constants).

    random: the same network with random weights. Raises DataError when transformers cannot load it.
    """
    named = {"num_labels": len(labels), "id2label": dict(enumerate(labels)),
             "label2id": {label: index for index, label in enumerate(labels)},
             "problem_type": "single_label_classification"}
    mean = (config.pooling or pooling_of(folder)) == "mean"
    try:
        settings = AutoConfig.from_pretrained(folder, **named)
        if hasattr(settings, "classifier_pooling"):
            settings.classifier_pooling = "mean" if mean else "cls"
        model = (AutoModelForSequenceClassification.from_config(settings) if random else
                 AutoModelForSequenceClassification.from_pretrained(
                     folder, config=settings, dtype=torch.float32, use_safetensors=True))
    except Exception as error:
        raise DataError(f"{folder}: transformers cannot load it for classification"
                        f" ({str(error).strip().splitlines()[0]})") from None
    attention.use(model)
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout):
            # Dropout of attention weights gains nothing here and rules out the fast attention.
            module.p = 0.0 if ".self." in name else dropout
    if not mean or hasattr(settings, "classifier_pooling"):
        return model, []
    if not pooling.can_write_mean(model):
        print(f"note: the head of {settings.model_type} reads the first token; this encoder was taught mean pooling")
        return model, []
    return model, pooling.write_mean(model)


def targets(examples: list[Example], names: list[str]) -> np.ndarray:
    """int64 (texts,): class ids."""
    number = {name: index for index, name in enumerate(names)}
    return np.array([number[example.label] for example in examples], dtype=np.int64)


class Head(nn.Module):
    """Cross-entropy of the classes, summed; counted are the texts."""

    def __init__(self, config: Config, model: PreTrainedModel):
        super().__init__()
        self.model, self.label_smoothing = model, config.label_smoothing

    def forward(self, labels: Tensor, **inputs: Tensor) -> Output:
        """labels int64 (texts,); inputs as the tokenizer makes them, (texts, length)."""
        logits = self.model(**inputs).logits.float()
        loss = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=self.label_smoothing)
        return Output(loss, loss.new_tensor(len(labels)))

    def predict(self, **inputs: Tensor) -> Tensor:
        """Probabilities, (texts, classes)."""
        return self.model(**inputs).logits.float().softmax(-1)


def score(probabilities: list[np.ndarray], labels: np.ndarray) -> dict[str, float]:
    """Figures of probabilities, (classes,) of each text, against class ids (texts,)."""
    return metrics.classification(np.argmax(probabilities, -1), labels)
