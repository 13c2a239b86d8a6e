"""Single-label classification from a few labels: supervised contrastive learning, then an exact fit of the last layer.

Texts of one class are pulled together and others pushed apart (Khosla et al. 2020), optionally combined with
cross-entropy (Gunel et al. 2021). With few labels the embeddings learn more from a step this way: a batch of n texts
has n^2 / 2 pairs at the cost of n. Pairs come from the global batch, without a list of all pairs. The classifier reads
the direction of a text's mean vector; its last layer is fitted by logistic regression (`finetune.linear_probe`), as in
SetFit (Tunstall et al. 2022).
"""

from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor
from torch.nn import functional as F

from data.tasks.problem_types.single_label_classification import PROBLEM_TYPE as PROBLEM_TYPE
from engine.training.gradcache import all_gather_rows
from engine.training.step import Output
from finetune.heads import classification

DEFAULT_HEAD_LR = 1e-3
SAMPLES_PER_CLASS = 2  # texts of a class are sampled in pairs, so that each has a positive
FITS_LAST_LAYER = True  # after training


class Config(classification.Config):
    """Supervised contrastive learning."""

    name: Literal["supcon"] = "supcon"
    """supcon: one class of several, by supervised contrastive learning; for a few labels."""
    temperature: Annotated[float, Field(gt=0)] = 0.1
    """Temperature that cosine similarities are divided by."""
    cross_entropy_weight: NonNegativeFloat = 0.0
    """Weight of the cross-entropy loss that is added to the contrastive loss (Gunel et al. 2021)."""
    pooling: Literal["mean"] = "mean"
    """Pooling of both the contrastive loss and the classifier."""


def supcon_loss(vectors: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Compute the loss of each text, (texts,), 0 for the only text of a class (Khosla et al. 2020, equation 2).

    vectors: (texts, width); labels: int64 (texts,). Minus the mean log-probability of the other texts of its class
    among all other texts.
    """
    vectors = F.normalize(vectors.float(), dim=-1)
    is_self = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    scores = (vectors @ vectors.T / temperature).masked_fill(is_self, -torch.inf)
    is_positive = (labels[:, None] == labels[None]) & ~is_self
    log_probabilities = scores.log_softmax(-1).masked_fill(~is_positive, 0.0)
    return -log_probabilities.sum(-1) / is_positive.sum(-1).clamp(min=1)


class Head(classification.Head):
    """Sum of the contrastive loss over the global batch and cross-entropy; the count is the number of texts."""

    def embed(self, labels: Tensor, **inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return (vectors, labels) of a micro-batch."""
        return self.network.embed_and_classify(inputs)[0], labels

    def cache_gradients(self, embedded: list[tuple[Tensor, Tensor]]) -> list[dict]:
        """Return {"cached": (gradient of the step's loss with respect to the vectors, losses)} for each micro-batch."""
        vectors, labels = map(torch.cat, zip(*embedded, strict=True))
        all_vectors, local = all_gather_rows(vectors.detach().float())
        with torch.enable_grad(), torch.autocast(vectors.device.type, enabled=False):
            all_vectors = all_vectors.requires_grad_()
            losses = supcon_loss(all_vectors, all_gather_rows(labels)[0], self.config.temperature)
            (gradient,) = torch.autograd.grad(losses.sum(), all_vectors)
        sizes = [len(part) for part, _ in embedded]
        parts = zip(gradient[local].split(sizes), losses.detach()[local].split(sizes), strict=True)
        return [{"cached": part} for part in parts]

    def forward(self, labels: Tensor, cached: tuple[Tensor, Tensor] | None = None, **inputs: Tensor) -> Output:
        """Return the loss; `cached` is from `cache_gradients` if the inputs are not the whole step."""
        vectors, logits = self.network.embed_and_classify(inputs)
        gradient, losses = cached or self.cache_gradients([(vectors, labels)])[0]["cached"]
        surrogate = (vectors.float() * gradient).sum()
        loss, count = losses.sum() + surrogate - surrogate.detach(), losses.new_tensor(len(labels))
        if self.config.cross_entropy_weight:
            loss = loss + self.config.cross_entropy_weight * self.cross_entropy(logits, labels).loss
        return Output(loss, count)
