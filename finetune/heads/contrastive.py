"""One class of several from a handful of labels: supervised contrastive learning, then the last layer solved exactly.

Texts of one class are drawn together and others pushed away (Khosla et al. 2020), beside cross-entropy (Gunel et al. 2021).
With few labels the vectors learn more from a step this way: a batch of n texts holds n^2 / 2 pairs for the price of n. The
pairs are those of the step, never a list of all. The direction of a text's mean vector is then what the classifier reads,
and its last layer solved by logistic regression (`finetune.probe`), as Tunstall et al. (2022) do after their pairs.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from engine.gradient import Output
from engine.tied import everyone
from finetune import pooling
from finetune.heads import classification

KIND = "class"
MONITOR, SHOWN, HEAD_LR = classification.MONITOR, classification.SHOWN, 1e-3
build, targets, score, details = classification.build, classification.targets, classification.score, classification.details
tune, revise, finish, figures = classification.tune, classification.revise, classification.finish, classification.figures
PARTNERS = 2  # texts of a class drawn at a time: each has a partner
SOLVED = True  # the last linear layer is solved once training is over


class Config(classification.Config):
    """Single-label classification from a handful of labels."""

    name: Literal["contrastive"] = "contrastive"
    """contrastive: one class of several, by supervised contrastive learning; for a handful of labels."""
    temperature: Annotated[float, Field(gt=0)] = 0.1
    """What similarities, cosines, are divided by."""
    beside: NonNegativeFloat = 0.0
    """Weight of cross-entropy beside the contrastive loss (Gunel et al. 2021)."""
    pooling: Literal["mean"] = "mean"
    """The contrastive loss is of the mean of the tokens, and so the head reads that."""


def supervised_contrast(vectors: Tensor, labels: Tensor, temperature: float) -> Tensor:
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
        self.layer = -1 - pooling.is_written(model)

    def both(self, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(vectors (texts, width): the mean of each text's last hidden states; logits (texts, classes))."""
        told = self.model(**inputs, output_hidden_states=True)
        states, mask = told.hidden_states[self.layer].float(), inputs["attention_mask"][..., None]
        return (states * mask).sum(1) / mask.sum(1), told.logits.float()

    def represent(self, labels: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """(vectors, labels) of one micro-batch."""
        return self.both(inputs)[0], labels

    def tie(self, represented: list[tuple[Tensor, Tensor]]) -> list[dict]:
        """{"said": (the step's loss's gradient with respect to the vectors, losses)} for each micro-batch."""
        own, labels = map(torch.cat, zip(*represented))
        vectors, mine = everyone(own.detach().float())
        with torch.enable_grad(), torch.autocast(own.device.type, enabled=False):
            vectors = vectors.requires_grad_()
            losses = supervised_contrast(vectors, everyone(labels)[0], self.config.temperature)
            gradient, = torch.autograd.grad(losses.sum(), vectors)
        sizes = [len(part) for part, _ in represented]
        return [{"said": each} for each in zip(gradient[mine].split(sizes), losses.detach()[mine].split(sizes))]

    def forward(self, labels: Tensor, said: tuple[Tensor, Tensor] | None = None, **inputs: Tensor) -> Output:
        """As for `classification`, and what `tie` said if the inputs are not the whole step."""
        vectors, logits = self.both(inputs)
        gradient, losses = said or self.tie([(vectors, labels)])[0]["said"]
        pull = (vectors.float() * gradient).sum()
        loss, count = losses.sum() + pull - pull.detach(), losses.new_tensor(len(labels))
        if self.config.beside:
            loss = loss + self.config.beside * self.cross_entropy(logits, labels).loss
        return Output(loss, count)
