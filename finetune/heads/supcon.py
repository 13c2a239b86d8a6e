"""One class of several from a handful of labels: supervised contrastive learning, then the last layer solved exactly.

Texts of one class are drawn together and others pushed away (Khosla et al. 2020), beside cross-entropy (Gunel et al. 2021).
With few labels the vectors learn more from a step this way: a batch of n texts holds n^2 / 2 pairs for the price of n. The
pairs are those of the step, never a list of all. The direction of a text's mean vector is then what the classifier reads,
and its last layer solved by logistic regression (`finetune.linear_probe`), as Tunstall et al. (2022) do after their pairs.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from engine.training.gradcache import all_gather_rows
from engine.training.step import Output
from finetune.heads import classification
from finetune.model import mean_pooling

PROBLEM_TYPE = "single_label_classification"
METRIC_FOR_BEST, REPORT_METRICS, DEFAULT_HEAD_LR = classification.METRIC_FOR_BEST, classification.REPORT_METRICS, 1e-3
build, encode_labels, quick_metrics, details = (
    classification.build,
    classification.encode_labels,
    classification.quick_metrics,
    classification.details,
)
fit_postprocess, apply_postprocess, fold_into_weights, compute_metrics = (
    classification.fit_postprocess,
    classification.apply_postprocess,
    classification.fold_into_weights,
    classification.compute_metrics,
)
SAMPLES_PER_CLASS = 2  # texts of a class drawn at a time: each has a partner
FIT_LAST_LAYER = True  # the last linear layer is solved once training is over


class Config(classification.Config):
    """Single-label classification from a handful of labels."""

    name: Literal["contrastive"] = "contrastive"
    """contrastive: one class of several, by supervised contrastive learning; for a handful of labels."""
    temperature: Annotated[float, Field(gt=0)] = 0.1
    """What similarities, cosines, are divided by."""
    cross_entropy_weight: NonNegativeFloat = 0.0
    """Weight of cross-entropy beside the contrastive loss (Gunel et al. 2021)."""
    pooling: Literal["mean"] = "mean"
    """The contrastive loss is of the mean of the tokens, and so the head reads that."""


def supcon_loss(vectors: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Loss of each text, (texts,), 0 for one that is alone in its class (Khosla et al. 2020, equation 2).

    vectors: (texts, width); labels: int64 (texts,). Minus the mean, over the other texts of its class, of the log share
    that each has among all others.
    """
    vectors = F.normalize(vectors.float(), dim=-1)
    own = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    scores = (vectors @ vectors.T / temperature).masked_fill(own, -torch.inf)
    same = (labels[:, None] == labels[None]) & ~own
    shares = scores.log_softmax(-1).masked_fill(~same, 0.0)
    return -shares.sum(-1) / same.sum(-1).clamp(min=1)


class Head(classification.Head):
    """The contrastive loss of all texts of the step and their cross-entropy, summed; counted are the texts."""

    def __init__(self, config: Config, model: PreTrainedModel):
        super().__init__(config, model)
        self.hidden_layer_index = -1 - mean_pooling.has_mean_pooling_layer(model)

    def embed_and_classify(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(vectors (texts, width): the mean of each text's last hidden states; logits (texts, classes))."""
        told = self.model(**inputs, output_hidden_states=True)
        states, mask = told.hidden_states[self.hidden_layer_index].float(), inputs["attention_mask"][..., None]
        return (states * mask).sum(1) / mask.sum(1), told.logits.float()

    def embed(self, labels: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """(vectors, labels) of one micro-batch."""
        return self.embed_and_classify(inputs)[0], labels

    def cache_gradients(self, embedded: list[tuple[Tensor, Tensor]]) -> list[dict]:
        """{"cached": (the step's loss's gradient with respect to the vectors, losses)} for each micro-batch."""
        own, labels = map(torch.cat, zip(*embedded))
        vectors, mine = all_gather_rows(own.detach().float())
        with torch.enable_grad(), torch.autocast(own.device.type, enabled=False):
            vectors = vectors.requires_grad_()
            losses = supcon_loss(vectors, all_gather_rows(labels)[0], self.config.temperature)
            (gradient,) = torch.autograd.grad(losses.sum(), vectors)
        sizes = [len(part) for part, _ in embedded]
        return [{"cached": each} for each in zip(gradient[mine].split(sizes), losses.detach()[mine].split(sizes))]

    def forward(self, labels: Tensor, cached: tuple[Tensor, Tensor] | None = None, **inputs: Tensor) -> Output:
        """As for `classification`, and what `cache_gradients` said if the inputs are not the whole step."""
        vectors, logits = self.embed_and_classify(inputs)
        gradient, losses = cached or self.cache_gradients([(vectors, labels)])[0]["cached"]
        pull = (vectors.float() * gradient).sum()
        loss, count = losses.sum() + pull - pull.detach(), losses.new_tensor(len(labels))
        if self.config.cross_entropy_weight:
            loss = loss + self.config.cross_entropy_weight * self.cross_entropy(logits, labels).loss
        return Output(loss, count)
