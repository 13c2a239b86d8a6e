"""Average of the weights over the last steps (Polyak and Juditsky 1992; Izmailov et al. 2018)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from engine.checkpointing import checkpoint


class WeightAverage:
    """Running float32 mean of the parameters. Unlike torch's AveragedModel, it does not copy the module."""

    def __init__(self, module: nn.Module, start_step: int):
        ignored = getattr(module, "keys_to_ignore_on_save", ())
        self.parameters = {name: parameter for name, parameter in module.named_parameters() if name not in ignored}
        self.start_step, self.count, self.means = start_step, 0, {}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the weights after `step` to the mean, if `start_step` is reached."""
        if step < self.start_step:
            return
        if not self.count:
            self.means = {name: parameter.detach().float().clone() for name, parameter in self.parameters.items()}
        self.count += 1
        # A weight that never changes stays bit-identical: lerp moves the mean by a fraction of zero.
        weights = [parameter.detach().float() for parameter in self.parameters.values()]
        torch._foreach_lerp_(list(self.means.values()), weights, 1 / self.count)

    @torch.no_grad()
    def copy_to_module(self) -> None:
        """Replace the module's weights by the mean, if there is one."""
        for name, mean in self.means.items():
            self.parameters[name].copy_(mean)

    @contextmanager
    def average_parameters(self) -> Iterator[None]:
        """Replace the module's weights by the mean inside the context."""
        originals = {name: self.parameters[name].detach().clone() for name in self.means}
        self.copy_to_module()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, weight in originals.items():
                    self.parameters[name].copy_(weight)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the means by name and their count for a checkpoint; nothing before `start_step`."""
        means = {name: mean.cpu().contiguous() for name, mean in self.means.items()}
        return {**means, "|count": torch.tensor(self.count)} if means else {}

    def load_latest(self, folder: Path) -> None:
        """Load the state from a run's newest checkpoint, if it has one."""
        paths = [step / checkpoint.AVERAGE_NAME for step in checkpoint.list_checkpoints(folder)[-1:]]
        if not paths or not paths[0].is_file():
            return
        means = load_file(paths[0])
        self.count = int(means.pop("|count"))
        self.means = {name: means[name].to(parameter.device) for name, parameter in self.parameters.items()}
