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

FINAL_NORM_PATTERN = re.compile(
    r"\bfinal_norm\b|\bencoder\.LayerNorm\b"
)  # the encoder's last normalisation, where it has one
LAYER_PATTERN = re.compile(r"\.(?:layer|layers|h|blocks)\.(\d+)\.")


@cache  # asked of every parameter and module at every step
def layer_depth(name: str, num_layers: int) -> int:
    """0 for the head, 1 for the encoder's top layer, `num_layers` for its lowest, `num_layers` + 1 for the embeddings."""
    found = LAYER_PATTERN.search(name)
    if found:
        return max(0, num_layers - int(found[1]))
    if "embeddings" in name:
        return num_layers + 1
    return 1 if FINAL_NORM_PATTERN.search(name) else 0


def lr_scale(name: str, num_layers: int, config: Layers, lr: float, encoder_scale: float = 1.0) -> float:
    """The factor a parameter's rate has over the schedule's, whose peak is `lr`; `encoder_scale`: what the encoder's have more."""
    deep = layer_depth(name, num_layers)
    return encoder_scale * config.lr_decay ** (deep - 1) if deep else config.head_lr / lr


def trainable_depth(step: int, num_layers: int, config: Layers, steps_per_epoch: float, num_steps: int) -> int:
    """The largest depth that learns at `step` of `num_steps`."""
    every = config.unfreeze_every * (steps_per_epoch if config.unfreeze_unit == "epochs" else 1)
    groups = int(step / every) if every else num_layers
    lowest = (
        num_layers - min(config.num_frozen, num_layers)
        if config.num_frozen
        else num_layers + 1
        if config.train_embeddings
        else num_layers
    )
    # The embeddings come last, in a group of their own.
    reached = groups * config.unfreeze_group
    joined = (
        lowest if groups > -(-num_layers // config.unfreeze_group) or not every else min(reached, num_layers, lowest)
    )
    soonest = config.freeze_min_epochs * steps_per_epoch
    settled = config.unfreeze_group * sum(step >= max(share * num_steps, soonest) for share in config.freeze_at)
    return min(joined, max(0, num_layers - settled)) if settled else joined


def freeze_schedule(
    num_steps: int, num_layers: int, config: Layers, steps_per_epoch: float, min_depth: int = 0
) -> list[tuple[int, bool]]:
    """For each step (the largest depth that learns, whether that stays so for an epoch or the whole training).

    min_depth: the top layers that always learn, whatever has not joined yet or has settled.
    """
    depths = [
        max(min_depth, trainable_depth(step, num_layers, config, steps_per_epoch, num_steps))
        for step in range(num_steps)
    ]
    return [
        (deepest, count >= min(num_steps, steps_per_epoch))
        for deepest, same in groupby(depths)
        for count in [len(list(same))]
        for _ in range(count)
    ]


def freeze_below(model: nn.Module, max_depth: int, num_layers: int, always_frozen: set[nn.Parameter]) -> None:
    """Freeze what lies deeper than `max_depth`, and `always_frozen` always. What is frozen by depth runs without dropout."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter not in always_frozen and layer_depth(name, num_layers) <= max_depth)
    for name, module in model.named_modules():
        if layer_depth(f".{name}.", num_layers) > max_depth:
            module.training = False


@torch.no_grad()
def reinitialize_top_layers(model: PreTrainedModel, count: int, num_layers: int) -> None:
    """Random weights for the top `count` layers, as the architecture draws them. Raises ConfigError if it has fewer."""
    if count > num_layers:
        raise ConfigError(f"layers.reinit_layers: {count} is more than the encoder's {num_layers} layers")
    chosen = [
        module
        for name, module in model.named_modules()
        if LAYER_PATTERN.search(f".{name}.") and 1 <= layer_depth(f".{name}.", num_layers) <= count
    ]
    for module in chosen:
        for parameter in module.parameters(recurse=False):
            parameter._is_hf_initialized = False  # transformers' mark on what was loaded, which it would leave alone
    for module in reversed(chosen):  # the parts before the whole, which may draw them otherwise
        model._init_weights(module)
