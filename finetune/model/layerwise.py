"""Layer-wise fine-tuning: the depth of a parameter, its learning rate, and the layers trained at each step."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel

from engine.errors import ConfigError
from finetune.config import Layers


class Depths(NamedTuple):
    """Depths: 0 for the head, 1 for the top layer, the number of layers for the lowest, one more for the embeddings."""

    parameters: dict[nn.Parameter, int]
    modules: dict[nn.Module, int]
    """Of modules that contain no layer."""


def split_layers(model: PreTrainedModel) -> list[list[nn.Module]]:
    """Return the modules of each layer of a model's encoder, the lowest first, from the lists of modules that it has.

    Lists of one parent and of the same length run in parallel (XLM has four), others one after the other (decoders).
    """
    lists: dict[tuple[nn.Module, int], list[nn.ModuleList]] = {}

    def visit(module: nn.Module) -> None:
        for child in module.children():
            if isinstance(child, nn.ModuleList) and len(child):
                lists.setdefault((module, len(child)), []).append(child)
            else:
                visit(child)

    visit(model.base_model)
    return [list(parts) for parallel in lists.values() for parts in zip(*parallel, strict=True)]


@contextmanager
def record_modules_below(model: PreTrainedModel) -> Iterator[set[nn.Module]]:
    """Collect the modules that a forward pass uses before the lowest layer, such as a norm of relative positions."""
    used: set[nn.Module] = set()
    lowest = {module for parts in split_layers(model)[:1] for part in parts for module in part.modules()}
    is_below = True

    def record(module: nn.Module, args: tuple) -> None:
        nonlocal is_below
        is_below &= module not in lowest
        if is_below:
            used.add(module)

    hooks = [module.register_forward_pre_hook(record) for module in model.base_model.modules()]
    try:
        yield used
    finally:
        for hook in hooks:
            hook.remove()


def find_depths(model: PreTrainedModel, num_layers: int, below: Collection[nn.Module] = ()) -> Depths:
    """Return the depths of a model's modules and parameters, by the order of the modules and never by their names.

    num_layers: layers above the first `num_layers`, and the encoder's pooler, belong to the head. What is below the
    first layer has the depth of the embeddings, and what is above the last one that of the top layer. below: modules
    used before the first layer, wherever they are.
    """
    depths = Depths(dict.fromkeys(model.parameters(), 0), dict.fromkeys(model.modules(), 0))
    layers = split_layers(model)
    inside = {
        module: max(0, num_layers - index)
        for index, parts in enumerate(layers)
        for part in parts
        for module in part.modules()
    }
    containers = {module for module in model.modules() if inside.keys() & set(module.modules())} - inside.keys()
    if pooler := getattr(model.base_model, "pooler", None):
        inside |= dict.fromkeys(pooler.modules(), 0)
    lowest, is_below = layers[0][0] if layers else None, True
    for module in model.base_model.modules():
        is_below &= module is not lowest
        if (depth := inside.get(module)) is None:
            is_deepest = is_below or module in below or isinstance(module, nn.Embedding)
            depth = num_layers + 1 if is_deepest else 1
        if module not in containers:
            depths.modules[module] = depth
        # A parameter that several modules share is as deep as the deepest.
        for parameter in module.parameters(recurse=False):
            depths.parameters[parameter] = max(depth, depths.parameters[parameter])
    return depths


def lr_scale(depth: int, config: Layers, lr: float, encoder_scale: float = 1.0) -> float:
    """Return the factor of a parameter's learning rate on `lr`, times `encoder_scale` if it is the encoder's."""
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


def freeze_below(depths: Depths, max_depth: int, always_frozen: set[nn.Parameter]) -> None:
    """Freeze parameters deeper than `max_depth`, without dropout in their layers, and those in `always_frozen`."""
    for parameter, depth in depths.parameters.items():
        parameter.requires_grad_(parameter not in always_frozen and depth <= max_depth)
    for module, depth in depths.modules.items():
        if depth > max_depth:
            module.training = False


@torch.no_grad()
def reinitialize_top_layers(model: PreTrainedModel, count: int, num_layers: int) -> None:
    """Reinitialize the top `count` layers with random weights. Raise ConfigError if there are fewer."""
    if count > num_layers:
        raise ConfigError(f"layers.reinit_layers: {count} is more than the encoder's {num_layers} layers")
    layers = split_layers(model)[num_layers - count : num_layers]
    modules = [module for parts in layers for part in parts for module in part.modules()]
    for module in modules:
        for parameter in module.parameters(recurse=False):
            parameter._is_hf_initialized = False  # transformers skips weights with this mark
    for module in reversed(modules):  # children first: the parent may initialize them differently
        model._init_weights(module)
