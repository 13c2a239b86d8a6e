"""AdamW over named parameters with a rate of their own each, and the learning-rate schedule as a pure function."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import nn

from engine.config import Train


def learning_rate(step: int, steps: int, train: Train) -> float:
    """The rate of optimizer step `step` (from 0) of `steps`: linear warm-up to `train.lr`, then `train.schedule`."""
    warmup = round(train.warmup * steps)
    if step < warmup:
        return train.lr * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return train.lr * {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1.0}[train.schedule]


def adamw(parameters: Iterable[tuple[str, nn.Parameter]], train: Train,
          lr_scale: Callable[[str], float] = lambda name: 1.0) -> torch.optim.AdamW:
    """Fused AdamW (Loshchilov and Hutter 2019). Vectors (biases, norms) are not decayed.

    Each group carries `lr_scale`, the factor its parameters' rate has over the schedule's.
    """
    groups: dict[tuple[float, bool], dict] = {}
    for name, parameter in parameters:
        scale, decayed = lr_scale(name), parameter.ndim > 1
        group = groups.setdefault((scale, decayed), {
            "params": [], "lr_scale": scale, "weight_decay": train.weight_decay if decayed else 0.0})
        group["params"].append(parameter)
    return torch.optim.AdamW(list(groups.values()), lr=train.lr, betas=(0.9, train.beta2), fused=True)
