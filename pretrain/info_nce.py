"""InfoNCE over all texts of a step (van den Oord et al. 2018), and embedding statistics that show a collapse."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.training.gradcache import all_gather_rows

MAX_SIMILARITIES = 2**24  # computed at a time
STATS_PAIRS = 1_024  # pairs in the embedding statistics


def info_nce(
    embeddings: Tensor,
    group_ids: Tensor,
    indices: Tensor,
    temperature: float,
    symmetric: bool,
    relative_margin: float | None = None,
) -> Tensor:
    """Compute the loss of the pairs at `indices`, (indices,): cross-entropy of finding each anchor's positive.

    embeddings: (pairs, texts per pair, width): anchor, positive, and any hard negatives. symmetric: average the losses
    of both directions, each against all texts (Chen et al. 2020), instead of comparing anchors with the other columns
    only. group_ids: int64 (pairs, texts per pair), the same for the same text. Texts of the groups of the anchor and
    its positive are not negatives, nor are the texts of other pairs with an anchor of the same group. relative_margin:
    texts more similar to the anchor than (1 - margin) times its positive, by the embeddings as they are, are not either
    (Moreira et al. 2024); None: they are.
    """
    pairs, texts, _ = embeddings.shape
    embeddings = F.normalize(embeddings.float(), dim=-1).transpose(0, 1)
    start = 0 if symmetric else 1
    candidate_ids = group_ids.T[start:].flatten()
    candidate_pairs = torch.arange(pairs, device=group_ids.device).repeat(texts - start)
    losses = embeddings.new_zeros(len(indices))
    directions = ((0, 1), (1, 0)) if symmetric else ((0, 1),)
    for anchor, positive in directions:
        logits = embeddings[anchor][indices] @ embeddings[start:].flatten(0, 1).T / temperature
        anchor_ids = group_ids[indices, anchor, None]
        same_anchor = group_ids[candidate_pairs, anchor] == anchor_ids
        excluded = (candidate_ids == anchor_ids) | (candidate_ids == group_ids[indices, positive, None])
        excluded |= same_anchor & (candidate_pairs != indices[:, None])
        target = indices + pairs * (positive - start)
        if relative_margin is not None:
            excluded |= logits > (1 - relative_margin) * logits.gather(1, target[:, None])
        excluded.scatter_(1, target[:, None], False)
        logits = logits.masked_fill(excluded, -torch.inf)
        losses = losses + F.cross_entropy(logits, target, reduction="none") / len(directions)
    return losses


class CachedGrads(NamedTuple):
    """The loss of the whole step, for the pairs of one micro-batch."""

    gradient: Tensor
    """(pairs, texts per pair, width): gradient of the step's summed loss with respect to their embeddings."""
    losses: Tensor
    """(pairs,)"""
    stats: dict[str, Tensor]
    """`embedding_stats` of the step's texts."""


def cached_info_nce(
    batches: list[tuple[Tensor, Tensor]], temperature: float, symmetric: bool, relative_margin: float | None = None
) -> list[CachedGrads]:
    """Compute loss and exact gradient over the texts of all processes, for this one's (embeddings, group_ids) batches.

    Every process computes the whole loss, in blocks that bound its memory.
    """
    local, local_ids = (torch.cat(tensors) for tensors in zip(*batches, strict=True))
    embeddings, local_rows = all_gather_rows(local.detach().float())
    group_ids, _ = all_gather_rows(local_ids)
    with torch.enable_grad(), torch.autocast(local.device.type, enabled=False):
        embeddings = embeddings.requires_grad_()
        gradient, losses = torch.zeros_like(embeddings), []
        block_size = max(1, MAX_SIMILARITIES // embeddings[..., 0].numel())
        for anchors in torch.arange(len(embeddings), device=local.device).split(block_size):
            block = info_nce(embeddings, group_ids, anchors, temperature, symmetric, relative_margin)
            gradient += torch.autograd.grad(block.sum(), embeddings)[0]
            losses.append(block.detach())
    sizes, stats = [len(part) for part, _ in batches], embedding_stats(embeddings.detach())
    gradients, losses = gradient[local_rows].split(sizes), torch.cat(losses)[local_rows].split(sizes)
    return [CachedGrads(*part, stats) for part in zip(gradients, losses, strict=True)]


def embedding_stats(embeddings: Tensor) -> dict[str, Tensor]:
    """Compute {"alignment", "uniformity", "effective_rank"}, scalars, of embeddings (pairs, texts per pair, width).

    alignment: mean squared distance of the two texts of a pair on the unit sphere.
    uniformity: log of the mean of exp(-2 d^2) over pairs of anchors, 0 when all are the same (Wang and Isola 2020).
    effective_rank: (sum of the covariance's eigenvalues)^2 / sum of their squares, 1 when all anchors are on a line.
    """
    first, second = F.normalize(embeddings[:STATS_PAIRS, :2].float(), dim=-1).unbind(1)
    distance = torch.pdist(first).square() if len(first) > 1 else first.new_zeros(1)
    return {
        "alignment": (first - second).square().sum(-1).mean(),
        "uniformity": distance.mul(-2).exp().mean().log(),
        "effective_rank": effective_rank(first),
    }


def effective_rank(vectors: Tensor) -> Tensor:
    """Return (sum of the eigenvalues of the covariance)^2 / sum of their squares, a scalar, of vectors (n, width)."""
    centered = vectors - vectors.mean(0)
    gram = centered @ centered.T if len(vectors) < vectors.shape[1] else centered.T @ centered
    return gram.trace().square() / gram.square().sum().clamp(min=1e-12)
