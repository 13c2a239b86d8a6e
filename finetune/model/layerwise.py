"""Layer-wise fine-tuning: the depth of a parameter, its learning rate, and the layers trained at each step."""

import re
from functools import cache
from itertools import groupby

import torch
from torch import nn
from transformers import PreTrainedModel

from engine.errors import ConfigError
from finetune.config import Layers

FINAL_NORM_PATTERN = re.compile(r"\bfinal_norm\b|\bencoder\.LayerNorm\b")  # the encoder's last normalization
LAYER_PATTERN = re.compile(r"\.(?:layer|layers|h|blocks)\.(\d+)\.")


@cache  # called for every parameter and module at every step
def layer_depth(name: str, num_layers: int) -> int:
    """Return 0 for the head, 1 for the top layer, `num_layers` for the lowest, `num_layers` + 1 for the embeddings."""
    if match := LAYER_PATTERN.search(name):
        return max(0, num_layers - int(match[1]))
    if "embeddings" in name:
        return num_layers + 1
    return 1 if FINAL_NORM_PATTERN.search(name) else 0


def lr_scale(name: str, num_layers: int, config: Layers, lr: float, encoder_scale: float = 1.0) -> float:
    """Return the factor of a parameter's learning rate on `lr`, times `encoder_scale` if it is the encoder's."""
    depth = layer_depth(name, num_layers)
    return encoder_scale * config.lr_decay ** (depth - 1) if depth else config.head_lr / lr


def trainable_depth(step: int, num_layers: int, config: Layers, steps_per_epoch: float, num_steps: int) -> int:
    """Return the largest depth that is trained at `step` of `num_steps`."""
    if config.num_frozen:
        deepest = max(0, num_layers - config.num_frozen)
    else:
        deepest = num_layers + config.train_embeddings
    unfrozen = deepest
    if config.unfreeze_every:
        unit = steps_per_epoch if config.unfreeze_unit == "epochs" else 1
        groups = int(step / (config.unfreeze_every * unit))
        # The embeddings are unfrozen last, as a group of their own.
        if groups <= -(-num_layers // config.unfreeze_group):
            unfrozen = min(groups * config.unfreeze_group, num_layers, deepest)
    first_freeze = config.freeze_min_epochs * steps_per_epoch
    frozen_groups = sum(step >= max(fraction * num_steps, first_freeze) for fraction in config.freeze_at)
    return min(unfrozen, max(0, num_layers - config.unfreeze_group * frozen_groups)) if frozen_groups else unfrozen


def freeze_schedule(
    num_steps: int, num_layers: int, config: Layers, steps_per_epoch: float, min_depth: int = 0
) -> list[tuple[int, bool]]:
    """Return for each step (the largest depth that is trained, whether that holds for an epoch or all of training).

    min_depth: number of top layers that are always trained.
    """
    arguments = num_layers, config, steps_per_epoch, num_steps
    depths = [max(min_depth, trainable_depth(step, *arguments)) for step in range(num_steps)]
    runs = [(depth, len(list(steps))) for depth, steps in groupby(depths)]
    return [(depth, count >= min(num_steps, steps_per_epoch)) for depth, count in runs for _ in range(count)]


def freeze_below(model: nn.Module, max_depth: int, num_layers: int, always_frozen: set[nn.Parameter]) -> None:
    """Freeze parameters deeper than `max_depth`, without dropout in their layers, and those in `always_frozen`."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter not in always_frozen and layer_depth(name, num_layers) <= max_depth)
    for name, module in model.named_modules():
        if layer_depth(f".{name}.", num_layers) > max_depth:
            module.training = False


@torch.no_grad()
def reinitialize_top_layers(model: PreTrainedModel, count: int, num_layers: int) -> None:
    """Reinitialize the top `count` layers with random weights. Raise ConfigError if there are fewer."""
    if count > num_layers:
        raise ConfigError(f"layers.reinit_layers: {count} is more than the encoder's {num_layers} layers")
    modules = [
        module
        for name, module in model.named_modules()
        if LAYER_PATTERN.search(f".{name}.") and 1 <= layer_depth(f".{name}.", num_layers) <= count
    ]
    for module in modules:
        for parameter in module.parameters(recurse=False):
            parameter._is_hf_initialized = False  # transformers skips weights with this mark
    for module in reversed(modules):  # children first: the parent may initialize them differently
        model._init_weights(module)
