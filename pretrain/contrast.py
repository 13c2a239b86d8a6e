"""InfoNCE over all texts of a step (van den Oord et al. 2018), and what tells of a collapse."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.tied import everyone

BLOCK = 2**24  # similarities held at once
SAMPLE = 1_024  # pairs that tell how all spread


def info_nce(vectors: Tensor, keys: Tensor, anchors: Tensor, temperature: float, mutual: bool) -> Tensor:
    """Loss of the pairs numbered `anchors`, (anchors,): cross-entropy of finding each one's second text among all others.

    vectors: (pairs, texts of a pair, width): a text, the one that belongs to it, and any that are hard to tell from that
    one. mutual: each of two texts seeks the other among all texts, and the two losses are averaged (Chen et al. 2020);
    without it firsts seek among seconds and hard ones. keys: int64 (pairs, texts of a pair), the same for the same text:
    one is not held against a text like itself or the one it seeks, nor against what belongs to a text like itself.
    """
    pairs, texts, _ = vectors.shape
    vectors = F.normalize(vectors.float(), dim=-1).transpose(0, 1)
    begin = 0 if mutual else 1
    among, whose = keys.T[begin:].flatten(), torch.arange(pairs, device=keys.device).repeat(texts - begin)
    found = vectors.new_zeros(len(anchors))
    sought = ((0, 1), (1, 0)) if mutual else ((0, 1),)
    for seeking, belongs in sought:
        scores = vectors[seeking][anchors] @ vectors[begin:].flatten(0, 1).T / temperature
        own, right = keys[anchors, seeking, None], keys[anchors, belongs, None]
        alike = (among == own) | (among == right) | ((keys[whose, seeking] == own) & (whose != anchors[:, None]))
        target = anchors + pairs * (belongs - begin)
        alike.scatter_(1, target[:, None], False)
        found = found + F.cross_entropy(scores.masked_fill(alike, -torch.inf), target, reduction="none") / len(sought)
    return found


class Said(NamedTuple):
    """What all texts of a step say to the pairs of one micro-batch."""

    gradient: Tensor
    """(pairs, texts of a pair, width): of the step's summed loss with respect to their vectors."""
    losses: Tensor
    """(pairs,)"""
    spread: dict[str, Tensor]
    """What `spread` says of the step's texts."""


def said(parts: list[tuple[Tensor, Tensor]], temperature: float, mutual: bool) -> list[Said]:
    """To each micro-batch of this process, (vectors, keys) as in `info_nce`, what the texts of all processes say.

    The loss is computed on every process, in blocks that bound its memory; the gradient is exact whichever micro-batch or
    process a text's partner or its rivals are in.
    """
    own, keys = map(torch.cat, zip(*parts))
    vectors, mine = everyone(own.detach().float())
    keys, _ = everyone(keys)
    with torch.enable_grad(), torch.autocast(own.device.type, enabled=False):
        vectors = vectors.requires_grad_()
        gradient, losses = torch.zeros_like(vectors), []
        for anchors in torch.arange(len(vectors), device=own.device).split(max(1, BLOCK // vectors[..., 0].numel())):
            found = info_nce(vectors, keys, anchors, temperature, mutual)
            gradient += torch.autograd.grad(found.sum(), vectors)[0]
            losses.append(found.detach())
    sizes, told = [len(part) for part, _ in parts], spread(vectors.detach())
    return [Said(*each, told) for each in zip(gradient[mine].split(sizes), torch.cat(losses)[mine].split(sizes))]


def spread(vectors: Tensor) -> dict[str, Tensor]:
    """{"alignment", "uniformity", "rank"} of (pairs, texts of a pair, width), each a scalar.

    alignment: mean squared distance of the two texts of a pair, on the unit sphere; uniformity: logarithm of the mean of
    exp(-2 d^2) over pairs of first texts, 0 when all are the same (Wang and Isola 2020). rank: how many directions the
    texts spread in, (sum of the covariance's eigenvalues)^2 / sum of their squares, 1 when it is a line.
    """
    first, second = F.normalize(vectors[:SAMPLE, :2].float(), dim=-1).unbind(1)
    distance = torch.pdist(first).square() if len(first) > 1 else first.new_zeros(1)
    centred = first - first.mean(0)
    gram = centred @ centred.T if len(first) < first.shape[1] else centred.T @ centred
    return {"alignment": (first - second).square().sum(-1).mean(),
            "uniformity": distance.mul(-2).exp().mean().log(),
            "rank": gram.trace().square() / gram.square().sum().clamp(min=1e-12)}
