"""Atomic checkpoints: `step-000200/` with weights, optimizer state, counters and the hashes of all files.

Files are safetensors and JSON, so nothing is unpickled. Folders that do not match their manifest are skipped.
"""

import json
import re
import shutil
from collections import defaultdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from engine.errors import DataError
from engine.files import file_hash, write_folder, write_json
from engine.log import get_logger

logger = get_logger(__name__)

WEIGHTS_NAME, OPTIMIZER_NAME, AVERAGE_NAME = "model.safetensors", "optimizer.safetensors", "average.safetensors"


def model_state(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters (tied ones once) and persistent buffers by name, without `module.keys_to_ignore_on_save`."""
    ignored = getattr(module, "keys_to_ignore_on_save", ())
    parameters = {name for name, _ in module.named_parameters()}
    duplicates = {name for name, _ in module.named_parameters(remove_duplicate=False)} - parameters
    state = module.state_dict().items()
    return {name: tensor.detach() for name, tensor in state if name not in ignored and name not in duplicates}


def load_model_state(module: nn.Module, state_dict: dict[str, Tensor], path: Path) -> None:
    """Load a `model_state` in place. Raises DataError, naming `path`, if names or shapes differ."""
    targets = module.state_dict()
    if names := sorted(state_dict.keys() ^ model_state(module).keys()):
        raise DataError(f"{path}: not the weights of this network ({names[0]} and {len(names) - 1} more differ)")
    with torch.no_grad():
        for name, tensor in state_dict.items():
            shape, expected = tuple(tensor.shape), tuple(targets[name].shape)
            if shape != expected:
                raise DataError(f"{path}: {name} has shape {shape}, this network {expected}")
            targets[name].copy_(tensor)


def optimizer_state(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's tensors, keyed `parameter name|state key`. Parameters never updated have none."""
    return {
        f"{name}|{key}": tensor.detach()
        for name, parameter in module.named_parameters()
        if parameter in optimizer.state
        for key, tensor in optimizer.state[parameter].items()
    }


def load_optimizer_state(module: nn.Module, optimizer: torch.optim.Optimizer, state_dict: dict[str, Tensor]) -> None:
    """Load an `optimizer_state`, without that of parameters that were updated by another optimizer, with a warning."""
    parameters, states = dict(module.named_parameters()), defaultdict(dict)
    for full_key, tensor in state_dict.items():
        name, key = full_key.split("|")
        states[name][key] = tensor.to(parameters[name].device)
    own_keys = {
        parameter: "momentum_buffer" if "momentum" in group else "exp_avg"
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    kept = {name: state for name, state in states.items() if own_keys.get(parameters[name]) in state}
    for name, state in kept.items():
        optimizer.state[parameters[name]] = state
    if len(kept) < len(states):
        message = "not the one of the checkpoint; weights that the other one updated start without moments"
        logger.warning(f"train.optimizer: {message}")


def copy_to_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors to host memory, where training does not change them."""
    return {name: tensor.to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


def save(folder: Path, tensors_by_file: dict[str, dict[str, Tensor]], state: dict) -> None:
    """Write tensors by file name, `state.json` and the manifest to `folder`, atomically."""

    def fill(path: Path) -> None:
        for name, tensors in tensors_by_file.items():
            save_file(tensors, path / name)
        finalize(path, state)

    write_folder(folder, fill)


def finalize(folder: Path, state: dict) -> None:
    """Write the state and the manifest, after the tensors."""
    write_json(folder / "state.json", state)
    write_json(folder / "manifest.json", {"sha256": {file.name: file_hash(file) for file in sorted(folder.iterdir())}})


def find_damage(folder: Path) -> str | None:
    """Describe the damage of a checkpoint; None if its files match the manifest."""
    try:
        hashes = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["sha256"]
        for name, expected in hashes.items():
            if file_hash(folder / Path(name).name) != expected:
                return f"{name} does not match its hash"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None if WEIGHTS_NAME in hashes or any(name.startswith("shard-") for name in hashes) else "no weights"


def list_checkpoints(folder: Path) -> list[Path]:
    """List the finished checkpoints of a run, oldest first."""
    paths = [path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{6,}", path.name)]
    return sorted(paths, key=lambda path: int(path.name[5:]))


def quarantine_damaged(folder: Path) -> None:
    """Rename damaged checkpoints to `step-000200.damaged` until the newest is intact. Raises DataError if none is."""
    paths = list_checkpoints(folder)
    for path in reversed(paths):
        if (damage := find_damage(path)) is None:
            return
        logger.warning(f"{path}: damaged ({damage}); skipped")
        if path == paths[0]:
            raise DataError(
                f"{folder}: all checkpoints are damaged; the last one is {path.name}.\n"
                "Restore one from a backup, or remove the folder to start over."
            )
        damaged = path.with_name(f"{path.name}.damaged")
        shutil.rmtree(damaged, ignore_errors=True)  # of the same step, from an earlier start
        path.rename(damaged)


def load_best(module: nn.Module, folder: Path) -> bool:
    """Load the best weights of a run; warn and return False if they are damaged."""
    if damage := find_damage(folder / "best"):
        logger.warning(f"{folder / 'best'}: damaged ({damage}); using the last weights instead")
        return False
    load_model_state(module, load_file(folder / "best" / WEIGHTS_NAME), folder / "best")
    return True


def load_latest(folder: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> dict | None:
    """Load the newest checkpoint of a run; return its state, or None if there is none."""
    paths = list_checkpoints(folder)
    if not paths:
        return None
    path = paths[-1]
    if (path / WEIGHTS_NAME).is_file():
        load_model_state(module, load_file(path / WEIGHTS_NAME), path)
        load_optimizer_state(module, optimizer, load_file(path / OPTIMIZER_NAME))
    else:
        tensors = load_sharded(path)
        load_model_state(module, {name: tensor for name, tensor in tensors.items() if "|" not in name}, path)
        load_optimizer_state(module, optimizer, {name: tensor for name, tensor in tensors.items() if "|" in name})
    return json.loads((path / "state.json").read_text(encoding="utf-8"))


def load_sharded(folder: Path) -> dict[str, Tensor]:
    """Load the full tensors of a sharded checkpoint, for any number of processes."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    infos = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    tensors = {name: torch.empty(info.size, dtype=info.properties.dtype) for name, info in infos.items()}
    dcp.load(tensors, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    return tensors
