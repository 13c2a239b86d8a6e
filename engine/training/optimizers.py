"""Optimizers over named parameters with a rate of their own each, and the learning-rate schedule as a pure function."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import nn

from engine.training.settings import Train


def lr_at(step: int, total_steps: int, train: Train) -> float:
    """The rate of optimizer step `step` (from 0) of `total_steps`: linear warm-up to `train.lr`, then `train.schedule`."""
    warmup = round(train.warmup_fraction * total_steps)
    if step < warmup:
        return train.lr * (step + 1) / warmup
    done = (step - warmup) / max(1, total_steps - warmup)
    return (
        train.lr * {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1.0}[train.schedule]
    )


def adamw(
    parameters: Iterable[tuple[str, nn.Parameter]], train: Train, lr_scale: Callable[[str], float] = lambda name: 1.0
) -> torch.optim.AdamW:
    """Fused AdamW (Loshchilov and Hutter 2019). Vectors (biases, norms) are not decayed.

    Each group carries `lr_scale`, the factor its parameters' rate has over the schedule's.
    """
    groups: dict[tuple[float, bool], dict] = {}
    for name, parameter in parameters:
        scale, decayed = lr_scale(name), parameter.ndim > 1
        group = groups.setdefault(
            (scale, decayed), {"params": [], "lr_scale": scale, "weight_decay": train.weight_decay if decayed else 0.0}
        )
        group["params"].append(parameter)
    return torch.optim.AdamW(list(groups.values()), lr=train.lr, betas=(0.9, train.beta2), fused=True)


def unwrap_optimizer(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The optimizer that Accelerate has wrapped, which does nothing that is needed here; or itself."""
    return getattr(optimizer, "optimizer", optimizer)


def step_unless(skip: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Step, unless `skip`, a boolean scalar on the parameters' device: then weights and state stay bit for bit.

    AdamW's fused kernel reads it where it lies. Muon has no such kernel, and waits for it.
    """
    optimizer = unwrap_optimizer(optimizer)
    for part in getattr(optimizer, "optimizers", [optimizer]):
        if isinstance(part, torch.optim.AdamW):
            part.found_inf = skip.float()
            part.step()
        elif not skip:
            part.step()


class OptimizersContainer(torch.optim.Optimizer):
    """Two optimizers as one: their groups in a row, one state; each still steps its own parameters."""

    def __init__(self, *optimizers: torch.optim.Optimizer):
        self.optimizers = optimizers
        super().__init__([group for optimizer in optimizers for group in optimizer.param_groups], {})
        self.assign_param_groups()

    def assign_param_groups(self) -> None:
        """Let each have its part of the groups, and all the one state."""
        start = 0
        for optimizer in self.optimizers:
            end = start + len(optimizer.param_groups)
            optimizer.param_groups, optimizer.state = self.param_groups[start:end], self.state
            start = end

    def load_state_dict(self, state_dict: dict) -> None:
        """As every optimizer's, which puts new groups and a new state in place of the old."""
        super().load_state_dict(state_dict)
        self.assign_param_groups()

    def step(self, closure: None = None) -> None:
        """One step of each."""
        for optimizer in self.optimizers:
            optimizer.step()


def muon(
    parameters: Iterable[tuple[str, nn.Parameter]],
    train: Train,
    matrix_lr: float,
    matrices: set[nn.Parameter],
    lr_scale: Callable[[str], float] = lambda name: 1.0,
) -> OptimizersContainer:
    """Muon for `matrices`, AdamW for the rest.

    Muon (Jordan et al. 2024) steps along the momentum's nearest orthogonal matrix, so that all its directions are learned
    at one pace; `matrix_lr` is its peak rate for a square matrix.
    """
    parameters = list(parameters)
    groups: dict[float, dict] = {}
    for name, parameter in parameters:
        if parameter in matrices:
            scale = lr_scale(name) * matrix_lr / train.lr
            groups.setdefault(scale, {"params": [], "lr_scale": scale})["params"].append(parameter)
    rest = adamw([(name, parameter) for name, parameter in parameters if parameter not in matrices], train, lr_scale)
    return OptimizersContainer(
        torch.optim.Muon(list(groups.values()), lr=matrix_lr, weight_decay=train.weight_decay, momentum=0.95), rest
    )
