"""Checkpoints that are whole or absent: `step-000200/` with weights, optimizer state, counters, and the hashes of them all.

Only safetensors and JSON, so nothing is ever unpickled. A folder is written beside, synced, then renamed; one whose files
are not what its manifest says, a disk having lost a part, is named and passed over. Written by `engine.checkpointing.async_saver`.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from engine.errors import DataError
from engine.files import file_hash, write_folder, write_json

WEIGHTS_NAME, OPTIMIZER_NAME, AVERAGE_NAME = "model.safetensors", "optimizer.safetensors", "average.safetensors"


def model_state(module: nn.Module) -> dict[str, Tensor]:
    """Parameters (tied ones once, under their first name) and saved buffers, by name.

    Left out are the names in `module.keys_to_ignore_on_save`, if it has such a set: what building the module anew gives again.
    """
    state = {
        name: tensor
        for name, tensor in module.state_dict().items()
        if name not in getattr(module, "keys_to_ignore_on_save", ())
    }
    parameters = dict(module.named_parameters())
    every_name = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    return {name: tensor.detach() for name, tensor in state.items() if name in parameters or name not in every_name}


def load_model_state(module: nn.Module, state_dict: dict[str, Tensor], path: Path) -> None:
    """Copy what `model_state` gave into the module. Raises DataError when names or shapes differ, naming `path`."""
    own, expected = module.state_dict(), model_state(module)
    if differing := sorted(state_dict.keys() ^ expected.keys()):
        raise DataError(
            f"{path}: not the weights of this network ({differing[0]} and {len(differing) - 1} more differ)"
        )
    with torch.no_grad():
        for name, tensor in state_dict.items():
            if own[name].shape != tensor.shape:
                raise DataError(
                    f"{path}: {name} has shape {tuple(tensor.shape)}, this network {tuple(own[name].shape)}"
                )
            own[name].copy_(tensor)


def optimizer_state(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's tensors, keyed `parameter name|what`. Parameters never updated have none."""
    return {
        f"{name}|{what}": tensor.detach()
        for name, parameter in module.named_parameters()
        if parameter in optimizer.state
        for what, tensor in optimizer.state[parameter].items()
    }


def load_optimizer_state(module: nn.Module, optimizer: torch.optim.Optimizer, state_dict: dict[str, Tensor]) -> None:
    """Put back what `optimizer_state` gave."""
    parameters = dict(module.named_parameters())
    for key, tensor in state_dict.items():
        name, what = key.split("|")
        optimizer.state[parameters[name]][what] = tensor.to(parameters[name].device)


def copy_to_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies in memory of this machine, which training does not change."""
    return {name: tensor.to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def save(folder: Path, tensors_by_file: dict[str, dict[str, Tensor]], state: dict) -> None:
    """Make `folder` hold tensors by the name of their file, `state.json`, and the manifest; whole or not at all."""

    def fill(path: Path) -> None:
        for name, tensors in tensors_by_file.items():
            save_file(tensors, path / name)
        finalize(path, state)

    write_folder(folder, fill)


def finalize(folder: Path, state: dict) -> None:
    """Finish a checkpoint whose tensors are written."""
    write_json(folder / "state.json", state)
    write_json(folder / "manifest.json", {"sha256": {file.name: file_hash(file) for file in sorted(folder.iterdir())}})


def find_damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint; None when its files are what its manifest says."""
    try:
        told = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["sha256"]
        for name, expected in told.items():
            if file_hash(folder / Path(name).name) != expected:
                return f"{name} is not what was written"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None if WEIGHTS_NAME in told or any(name.startswith("shard-") for name in told) else "no weights"


def list_checkpoints(folder: Path) -> list[Path]:
    """The finished checkpoints of a run, oldest first."""
    found = [path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{6,}", path.name)]
    return sorted(found, key=lambda path: int(path.name[5:]))


def quarantine_damaged(folder: Path) -> None:
    """Set damaged checkpoints of a run aside, as `step-000200.damaged`, and say so. The newest that is left is whole.

    Raises DataError when none is left: beginning anew is for a person to decide.
    """
    found = list_checkpoints(folder)
    for number, path in enumerate(reversed(found)):
        if (wrong := find_damage(path)) is None:
            return
        print(f"{path}: damaged ({wrong}); passed over", file=sys.stderr, flush=True)
        if number + 1 == len(found):
            raise DataError(
                f"{folder}: no checkpoint is whole, {path.name} being the last of them.\n"
                "Put one back from a copy, or remove the folder to begin anew."
            )
        path.rename(path.with_name(f"{path.name}.damaged"))


def load_best(module: nn.Module, folder: Path) -> bool:
    """Load the best weights of a run; False, and said so, when they are damaged."""
    if wrong := find_damage(folder / "best"):
        print(f"{folder / 'best'}: damaged ({wrong}); the last weights are taken instead", file=sys.stderr, flush=True)
        return False
    load_model_state(module, load_file(folder / "best" / WEIGHTS_NAME), folder / "best")
    return True


def load_latest(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> dict | None:
    """Load the newest checkpoint of a run; returns its state, or None when there is none."""
    found = list_checkpoints(folder)
    if not found:
        return None
    if (found[-1] / WEIGHTS_NAME).is_file():
        load_model_state(module, load_file(found[-1] / WEIGHTS_NAME), found[-1])
        load_optimizer_state(module, optimizer, load_file(found[-1] / OPTIMIZER_NAME))
    else:
        together = load_sharded(found[-1])
        load_model_state(module, {name: tensor for name, tensor in together.items() if "|" not in name}, found[-1])
        load_optimizer_state(module, optimizer, {name: tensor for name, tensor in together.items() if "|" in name})
    return json.loads((found[-1] / "state.json").read_text(encoding="utf-8"))


def load_sharded(folder: Path) -> dict[str, Tensor]:
    """The whole tensors of a checkpoint that several processes wrote their shares of, however many are there now."""
    import torch.distributed.checkpoint as distributed
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    known = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    found = {name: torch.empty(told.size, dtype=told.properties.dtype) for name, told in known.items()}
    distributed.load(found, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    return found
