"""InfoNCE over all texts of a step (van den Oord et al. 2018), and what tells of a collapse."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.training.gradcache import all_gather_rows

MAX_SIMILARITIES = 2**24  # similarities held at once
STATS_PAIRS = 1_024  # pairs that tell how all spread


def info_nce(
    embeddings: Tensor, group_ids: Tensor, anchor_indices: Tensor, temperature: float, symmetric: bool
) -> Tensor:
    """Loss of the pairs numbered `anchor_indices`, (anchors,): cross-entropy of finding each one's second text among all others.

    embeddings: (pairs, texts of a pair, width): a text, the one that belongs to it, and any that are hard to tell from that
    one. symmetric: each of two texts seeks the other among all texts, and the two losses are averaged (Chen et al. 2020);
    without it firsts seek among seconds and hard ones. group_ids: int64 (pairs, texts of a pair), the same for the same text:
    one is not held against a text like itself or the one it seeks, nor against what belongs to a text like itself.
    """
    pairs, texts, _ = embeddings.shape
    embeddings = F.normalize(embeddings.float(), dim=-1).transpose(0, 1)
    begin = 0 if symmetric else 1
    among, whose = group_ids.T[begin:].flatten(), torch.arange(pairs, device=group_ids.device).repeat(texts - begin)
    found = embeddings.new_zeros(len(anchor_indices))
    sought = ((0, 1), (1, 0)) if symmetric else ((0, 1),)
    for seeking, belongs in sought:
        scores = embeddings[seeking][anchor_indices] @ embeddings[begin:].flatten(0, 1).T / temperature
        own, right = group_ids[anchor_indices, seeking, None], group_ids[anchor_indices, belongs, None]
        alike = (
            (among == own)
            | (among == right)
            | ((group_ids[whose, seeking] == own) & (whose != anchor_indices[:, None]))
        )
        target = anchor_indices + pairs * (belongs - begin)
        alike.scatter_(1, target[:, None], False)
        found = found + F.cross_entropy(scores.masked_fill(alike, -torch.inf), target, reduction="none") / len(sought)
    return found


class CachedGrads(NamedTuple):
    """What all texts of a step say to the pairs of one micro-batch."""

    gradient: Tensor
    """(pairs, texts of a pair, width): of the step's summed loss with respect to their vectors."""
    losses: Tensor
    """(pairs,)"""
    stats: dict[str, Tensor]
    """What `embedding_stats` says of the step's texts."""


def cached_info_nce(
    micro_batches: list[tuple[Tensor, Tensor]], temperature: float, symmetric: bool
) -> list[CachedGrads]:
    """To each micro-batch of this process, (vectors, keys) as in `info_nce`, what the texts of all processes say.

    The loss is computed on every process, in blocks that bound its memory; the gradient is exact whichever micro-batch or
    process a text's partner or its rivals are in.
    """
    own, keys = map(torch.cat, zip(*micro_batches))
    vectors, mine = all_gather_rows(own.detach().float())
    keys, _ = all_gather_rows(keys)
    with torch.enable_grad(), torch.autocast(own.device.type, enabled=False):
        vectors = vectors.requires_grad_()
        gradient, losses = torch.zeros_like(vectors), []
        for anchors in torch.arange(len(vectors), device=own.device).split(
            max(1, MAX_SIMILARITIES // vectors[..., 0].numel())
        ):
            found = info_nce(vectors, keys, anchors, temperature, symmetric)
            gradient += torch.autograd.grad(found.sum(), vectors)[0]
            losses.append(found.detach())
    sizes, told = [len(part) for part, _ in micro_batches], embedding_stats(vectors.detach())
    return [CachedGrads(*each, told) for each in zip(gradient[mine].split(sizes), torch.cat(losses)[mine].split(sizes))]


def embedding_stats(embeddings: Tensor) -> dict[str, Tensor]:
    """{"alignment", "uniformity", "effective_rank"} of (pairs, texts of a pair, width), each a scalar.

    alignment: mean squared distance of the two texts of a pair, on the unit sphere; uniformity: logarithm of the mean of
    exp(-2 d^2) over pairs of first texts, 0 when all are the same (Wang and Isola 2020). rank: how many directions the
    texts spread in, (sum of the covariance's eigenvalues)^2 / sum of their squares, 1 when it is a line.
    """
    first, second = F.normalize(embeddings[:STATS_PAIRS, :2].float(), dim=-1).unbind(1)
    distance = torch.pdist(first).square() if len(first) > 1 else first.new_zeros(1)
    centred = first - first.mean(0)
    gram = centred @ centred.T if len(first) < first.shape[1] else centred.T @ centred
    return {
        "alignment": (first - second).square().sum(-1).mean(),
        "uniformity": distance.mul(-2).exp().mean().log(),
        "effective_rank": gram.trace().square() / gram.square().sum().clamp(min=1e-12),
    }
