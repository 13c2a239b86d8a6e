"""The mean of the weights over the last steps (Polyak and Juditsky 1992; Izmailov et al. 2018)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from engine.checkpointing import checkpoint


class WeightAverage:
    """A running mean, float32, of a module's parameters after each step from `begins` on."""

    def __init__(self, module: nn.Module, start_step: int):
        left_out = getattr(module, "keys_to_ignore_on_save", ())
        self.parameters = {name: parameter for name, parameter in module.named_parameters() if name not in left_out}
        self.start_step, self.count, self.means = start_step, 0, {}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Count the weights that optimizer step `step` left; nothing before `begins`."""
        if step < self.start_step:
            return
        if not self.count:
            self.means = {name: parameter.detach().float().clone() for name, parameter in self.parameters.items()}
        self.count += 1
        # A weight that never moves stays bit for bit: the mean goes towards it by a share of nothing.
        torch._foreach_lerp_(
            list(self.means.values()), [p.detach().float() for p in self.parameters.values()], 1 / self.count
        )

    @torch.no_grad()
    def copy_to_module(self) -> None:
        """Make the mean the module's weights, if anything was counted."""
        for name, mean in self.means.items():
            self.parameters[name].copy_(mean)

    @contextmanager
    def average_parameters(self) -> Iterator[None]:
        """Within it the module's weights are the mean."""
        own = {name: self.parameters[name].detach().clone() for name in self.means}
        self.copy_to_module()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, weight in own.items():
                    self.parameters[name].copy_(weight)

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint keeps: the means by name, and the count; nothing before `begins`."""
        means = {name: mean.cpu().contiguous() for name, mean in self.means.items()}
        return {**means, "|count": torch.tensor(self.count)} if means else {}

    def load_latest(self, folder: Path) -> None:
        """Take up what the newest checkpoint of a run kept."""
        path = next((step / "average.safetensors" for step in checkpoint.list_checkpoints(folder)[-1:]), None)
        if path is None or not path.is_file():
            return
        kept = load_file(path)
        self.count = int(kept.pop("|count"))
        self.means = {name: kept[name].to(parameter.device) for name, parameter in self.parameters.items()}
