"""Checkpoints that are whole or absent: `step-000200/` with weights, optimizer state and counters.

Only safetensors and JSON, so nothing is ever unpickled. A folder is written beside, synced, then renamed.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from engine.errors import DataError
from engine.files import write_whole


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters (tied ones once, under their first name) and saved buffers, by name.

    Left out are the names in `module.unchanging`, if it has such a set: what building the module anew gives again.
    """
    state = {name: tensor for name, tensor in module.state_dict().items() if name not in getattr(module, "unchanging", ())}
    parameters = dict(module.named_parameters())
    every_name = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()
            if name in parameters or name not in every_name}


def save_weights(module: nn.Module, folder: Path) -> None:
    """Write `folder/model.safetensors`."""
    save_file(weights(module), folder / "model.safetensors")


def load_weights(module: nn.Module, path: Path) -> None:
    """Copy weights saved by `weights` into the module. Raises DataError when the names or shapes differ."""
    saved, own = load_file(path), module.state_dict()
    expected = weights(module)
    if differing := sorted(saved.keys() ^ expected.keys()):
        raise DataError(f"{path}: not the weights of this network ({differing[0]} and {len(differing) - 1} more differ)")
    with torch.no_grad():
        for name, tensor in saved.items():
            if own[name].shape != tensor.shape:
                raise DataError(f"{path}: {name} has shape {tuple(tensor.shape)}, this network {tuple(own[name].shape)}")
            own[name].copy_(tensor)


def optimizer_state(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's tensors, keyed `parameter name|what`. Parameters never updated have none."""
    return {f"{name}|{what}": tensor.detach().cpu().contiguous()
            for name, parameter in module.named_parameters() if parameter in optimizer.state
            for what, tensor in optimizer.state[parameter].items()}


def load_optimizer(module: nn.Module, optimizer: torch.optim.Optimizer, path: Path) -> None:
    """Put back what `optimizer_state` saved."""
    parameters = dict(module.named_parameters())
    for key, tensor in load_file(path).items():
        name, what = key.split("|")
        optimizer.state[parameters[name]][what] = tensor.to(parameters[name].device)


def save(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer, state: dict, keep: int,
         average: dict[str, torch.Tensor] | None = None) -> None:
    """Write `folder/step-XXXXXX/` for `state["step"]` and drop all but the newest `keep`; `average`: as of the weights."""
    def fill(path: Path) -> None:
        save_weights(module, path)
        save_file(optimizer_state(module, optimizer), path / "optimizer.safetensors")
        if average:
            save_file(average, path / "average.safetensors")
        (path / "state.json").write_text(json.dumps(state))

    write_whole(folder / f"step-{state['step']:06d}", fill)
    for old in steps_in(folder)[:-keep]:
        shutil.rmtree(old)


def steps_in(folder: Path) -> list[Path]:
    """The finished checkpoints of a run, oldest first."""
    found = [path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{6,}", path.name)]
    return sorted(found, key=lambda path: int(path.name[5:]))


def restore(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> dict | None:
    """Load the newest checkpoint of a run; returns its state, or None when there is none."""
    found = steps_in(folder)
    if not found:
        return None
    load_weights(module, found[-1] / "model.safetensors")
    load_optimizer(module, optimizer, found[-1] / "optimizer.safetensors")
    return json.loads((found[-1] / "state.json").read_text())
