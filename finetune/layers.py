"""Layer by layer: how deep a parameter lies, the rate that follows, and which layers learn at a step."""

from __future__ import annotations

import re

from torch import nn

from finetune.config import Layers

TOP = re.compile(r"\bfinal_norm\b|\bencoder\.LayerNorm\b")  # the encoder's last normalisation, where it has one
LAYER = re.compile(r"\.(?:layer|layers|h|blocks)\.(\d+)\.")


def depth(name: str, layers: int) -> int:
    """0 for the head, 1 for the encoder's top layer, `layers` for its lowest, `layers` + 1 for the embeddings."""
    found = LAYER.search(name)
    if found:
        return max(0, layers - int(found[1]))
    if "embeddings" in name:
        return layers + 1
    return 1 if TOP.search(name) else 0


def lr_scale(name: str, layers: int, config: Layers, lr: float) -> float:
    """The factor a parameter's rate has over the schedule's, whose peak is `lr`."""
    deep = depth(name, layers)
    return config.decay ** (deep - 1) if deep else config.head_lr / lr


def deepest_learning(step: int, layers: int, config: Layers, steps_per_epoch: float) -> int:
    """The largest depth that learns at `step`."""
    every = config.unfreeze_every * (steps_per_epoch if config.unfreeze_unit == "epochs" else 1)
    groups = int(step / every) if every else layers
    lowest = layers + 1 if config.embeddings else layers
    # The embeddings come last, in a group of their own.
    reached = groups * config.unfreeze_group
    return lowest if groups > -(-layers // config.unfreeze_group) or not every else min(reached, layers)


def set_learning(model: nn.Module, deepest: int, layers: int, constant: set[nn.Parameter]) -> None:
    """Freeze what lies deeper than `deepest`, and `constant` always."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter not in constant and depth(name, layers) <= deepest)
