"""Layer by layer: how deep a parameter lies, the rate that follows, and which layers learn at a step."""

from __future__ import annotations

import re
from functools import cache
from itertools import groupby

import torch
from torch import nn
from transformers import PreTrainedModel

from engine.errors import ConfigError
from finetune.config import Layers

TOP = re.compile(r"\bfinal_norm\b|\bencoder\.LayerNorm\b")  # the encoder's last normalisation, where it has one
LAYER = re.compile(r"\.(?:layer|layers|h|blocks)\.(\d+)\.")


@cache  # asked of every parameter and module at every step
def depth(name: str, layers: int) -> int:
    """0 for the head, 1 for the encoder's top layer, `layers` for its lowest, `layers` + 1 for the embeddings."""
    found = LAYER.search(name)
    if found:
        return max(0, layers - int(found[1]))
    if "embeddings" in name:
        return layers + 1
    return 1 if TOP.search(name) else 0


def lr_scale(name: str, layers: int, config: Layers, lr: float, factor: float = 1.0) -> float:
    """The factor a parameter's rate has over the schedule's, whose peak is `lr`; `factor`: what the encoder's have more."""
    deep = depth(name, layers)
    return factor * config.decay ** (deep - 1) if deep else config.head_lr / lr


def deepest_learning(step: int, layers: int, config: Layers, steps_per_epoch: float, steps: int) -> int:
    """The largest depth that learns at `step` of `steps`."""
    every = config.unfreeze_every * (steps_per_epoch if config.unfreeze_unit == "epochs" else 1)
    groups = int(step / every) if every else layers
    lowest = layers - min(config.frozen, layers) if config.frozen else layers + 1 if config.embeddings else layers
    # The embeddings come last, in a group of their own.
    reached = groups * config.unfreeze_group
    joined = lowest if groups > -(-layers // config.unfreeze_group) or not every else min(reached, layers, lowest)
    soonest = config.freeze_after * steps_per_epoch
    settled = config.unfreeze_group * sum(step >= max(share * steps, soonest) for share in config.freeze_at)
    return min(joined, max(0, layers - settled)) if settled else joined


def plan(steps: int, layers: int, config: Layers, steps_per_epoch: float, least: int = 0) -> list[tuple[int, bool]]:
    """For each step (the largest depth that learns, whether that stays so for an epoch or the whole training).

    least: the top layers that always learn, whatever has not joined yet or has settled.
    """
    depths = [max(least, deepest_learning(step, layers, config, steps_per_epoch, steps)) for step in range(steps)]
    return [(deepest, count >= min(steps, steps_per_epoch)) for deepest, same in groupby(depths)
            for count in [len(list(same))] for _ in range(count)]


def set_learning(model: nn.Module, deepest: int, layers: int, constant: set[nn.Parameter]) -> None:
    """Freeze what lies deeper than `deepest`, and `constant` always. What is frozen by depth runs without dropout."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter not in constant and depth(name, layers) <= deepest)
    for name, module in model.named_modules():
        if depth(f".{name}.", layers) > deepest:
            module.training = False


@torch.no_grad()
def reinitialise(model: PreTrainedModel, count: int, layers: int) -> None:
    """Random weights for the top `count` layers, as the architecture draws them. Raises ConfigError if it has fewer."""
    if count > layers:
        raise ConfigError(f"layers.reinitialise: {count} is more than the encoder's {layers} layers")
    chosen = [module for name, module in model.named_modules()
              if LAYER.search(f".{name}.") and 1 <= depth(f".{name}.", layers) <= count]
    for module in chosen:
        for parameter in module.parameters(recurse=False):
            parameter._is_hf_initialized = False  # transformers' mark on what was loaded, which it would leave alone
    for module in reversed(chosen):  # the parts before the whole, which may draw them otherwise
        model._init_weights(module)
