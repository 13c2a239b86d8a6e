"""Optimizers with a learning-rate scale per parameter, and the learning-rate schedule as a pure function."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import nn

from engine.errors import ConfigError
from engine.training.muon import Muon
from engine.training.settings import Train


def lr_at(step: int, total_steps: int, train: Train) -> float:
    """Return the learning rate of `step` (from 0): linear warmup to `train.lr`, then `train.schedule`."""
    warmup = round(train.warmup_fraction * total_steps)
    if step < warmup:
        return train.lr * (step + 1) / warmup
    done = (step - warmup) / max(1, total_steps - warmup)
    factors = {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1.0}
    return train.lr * factors[train.schedule]


def adamw(
    parameters: Iterable[tuple[str, nn.Parameter]], train: Train, lr_scale: Callable[[str], float] = lambda name: 1.0
) -> torch.optim.AdamW:
    """Make a fused AdamW (Loshchilov and Hutter 2019) without weight decay on vectors; lr_scale: multiplier by name."""
    groups: dict[tuple[float, bool], dict] = {}
    for name, parameter in parameters:
        scale, decayed = lr_scale(name), parameter.ndim > 1
        group = {"params": [], "lr_scale": scale, "weight_decay": train.weight_decay if decayed else 0.0}
        groups.setdefault((scale, decayed), group)["params"].append(parameter)
    return torch.optim.AdamW(list(groups.values()), lr=train.lr, betas=(train.beta1, train.beta2), fused=True)


def unwrap_optimizer(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Return the optimizer inside Accelerate's wrapper, which is not needed here."""
    return getattr(optimizer, "optimizer", optimizer)


def step_unless(skip: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Update the weights unless `skip`, a boolean scalar on their device; then weights and state do not change."""
    optimizer = unwrap_optimizer(optimizer)
    for part in getattr(optimizer, "optimizers", [optimizer]):
        part.found_inf = skip.float()
        part.step()


class OptimizersContainer(torch.optim.Optimizer):
    """Several optimizers as one, with concatenated groups and a shared state; each steps its own parameters."""

    def __init__(self, *optimizers: torch.optim.Optimizer):
        self.optimizers = optimizers
        super().__init__([group for optimizer in optimizers for group in optimizer.param_groups], {})
        self.assign_param_groups()

    def assign_param_groups(self) -> None:
        """Give each optimizer its groups and the shared state."""
        start = 0
        for optimizer in self.optimizers:
            end = start + len(optimizer.param_groups)
            optimizer.param_groups, optimizer.state = self.param_groups[start:end], self.state
            start = end

    def load_state_dict(self, state_dict: dict) -> None:
        """Load a state, which replaces the groups and state of all optimizers."""
        super().load_state_dict(state_dict)
        self.assign_param_groups()

    def step(self, closure: None = None) -> None:
        """Step each optimizer."""
        for optimizer in self.optimizers:
            optimizer.step()


def muon(
    parameters: Iterable[tuple[str, nn.Parameter]],
    train: Train,
    matrix_lr: float,
    matrices: set[nn.Parameter],
    lr_scale: Callable[[str], float] = lambda name: 1.0,
) -> OptimizersContainer:
    """Make Muon (Jordan et al. 2024) for `matrices`, AdamW for the rest; matrix_lr: peak rate of a square matrix.

    Raises ConfigError if there are no matrices.
    """
    parameters = list(parameters)
    groups: dict[float, dict] = {}
    for name, parameter in parameters:
        if parameter in matrices:
            scale = lr_scale(name) * matrix_lr / train.lr
            groups.setdefault(scale, {"params": [], "lr_scale": scale})["params"].append(parameter)
    if not groups:
        raise ConfigError("train.optimizer: muon is for linear layers, and this network has none; set adamw")
    optimizer = Muon(list(groups.values()), lr=matrix_lr, weight_decay=train.weight_decay, momentum=0.95)
    others = [(name, parameter) for name, parameter in parameters if parameter not in matrices]
    return OptimizersContainer(optimizer, adamw(others, train, lr_scale))
