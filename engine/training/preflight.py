"""Looked at before hours of work: room on the disk for checkpoints, memory for a batch.

What a batch needs is measured, not guessed: two rows go through the network once, and what its backward pass keeps of them is
added up. Weights, gradients, the optimizer's state and the copy a checkpoint is written from are counted beside it.
"""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from engine.checkpointing import checkpoint
from engine.checkpointing.async_saver import free_disk
from engine.errors import ConfigError
from engine.training.settings import Train

PROBE_ROWS = 2  # that are measured
OPTIMIZER_STATES = 2  # numbers that AdamW keeps for each weight; Muon keeps one


def check(module: nn.Module, inputs: dict[str, Tensor], folder: Path, train: Train, accelerator: Accelerator) -> str:
    """What `check_disk` and `check_memory` say. inputs: a micro-batch of `PROBE_ROWS` rows."""
    return "\n".join(
        [
            check_disk(folder, module, train),
            check_memory(module, inputs, rows_per_forward(train, accelerator), accelerator),
        ]
    )


def rows_per_forward(train: Train, accelerator: Accelerator) -> int:
    """Rows that a process puts through the network at once."""
    share = -(-train.batch_size // accelerator.num_processes)
    return min(share, train.micro_batch_size or share)


def parameter_bytes(module: nn.Module) -> int:
    """Bytes of all parameters."""
    return sum(parameter.nbytes for parameter in module.parameters())


def check_disk(folder: Path, module: nn.Module, train: Train) -> str:
    """What checkpoints need, in words. Raises ConfigError when the disk has less."""
    learning = sum(parameter.nbytes for parameter in module.parameters() if parameter.requires_grad)
    each = parameter_bytes(module) + learning * (OPTIMIZER_STATES + bool(train.average_fraction))
    there = sum(path.stat().st_size for kept in checkpoint.list_checkpoints(folder) for path in kept.iterdir())
    needed, left = each * (train.keep_checkpoints + 1) - there, free_disk(folder)
    told = f"{(train.keep_checkpoints + 1) * each / 1e9:,.2f} GB for {train.keep_checkpoints} checkpoints and one being written"
    if needed > left:
        raise ConfigError(
            f"train.keep_checkpoints: the disk of {folder.parent} has {left / 1e9:,.2f} GB left, fewer than {told}.\n"
            "Make room, or keep fewer."
        )
    return f"disk     {told}; {left / 1e9:,.1f} GB are free"


def activation_bytes(module: nn.Module, inputs: dict[str, Tensor], accelerator: Accelerator) -> int:
    """Bytes that a forward pass keeps for its backward pass, weights left out."""
    own = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    seen: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = max(seen.get(storage.data_ptr(), 0), storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), accelerator.autocast():
        module(**inputs)
    return sum(seen.values())


def free_memory(device: torch.device) -> int:
    """Bytes that can still be had of the device's memory, or of this machine's, or of its container's."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    left, limit, used = sys.maxsize, Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    with suppress(OSError, ValueError, IndexError):  # not on every system, nor in every container
        left = int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0]) * 1024
        left = min(left, int(limit.read_text()) - int(used.read_text()))
    return left


def check_memory(module: nn.Module, inputs: dict[str, Tensor], rows: int, accelerator: Accelerator) -> str:
    """What a step needs, in words. Raises ConfigError when the machine has less, naming the rows that would fit.

    inputs: a micro-batch of `PROBE_ROWS` rows; rows: how many the training puts through the network at once.
    """
    device, on_gpu = accelerator.device, accelerator.device.type == "cuda"
    module.to(device).train()
    inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
    a_row = activation_bytes(module, inputs, accelerator) / PROBE_ROWS
    # Weights, gradients, the optimizer's state; and a checkpoint's copy, which for a GPU lies in the machine's memory.
    standing = parameter_bytes(module) * (2 + OPTIMIZER_STATES if on_gpu else 3 + 2 * OPTIMIZER_STATES)
    processes = 1 if on_gpu else int(os.environ.get("LOCAL_WORLD_SIZE", accelerator.num_processes))
    left, needed = (free_memory(device) + parameter_bytes(module)) / processes, standing + a_row * rows
    said = f"{needed / 1e9:,.1f} GB for {rows} rows at once, {a_row / 1e6:,.1f} MB each"
    if needed > left:
        fitting = int((left - standing) / a_row)
        raise ConfigError(
            f"train.micro_batch_size: a step needs about {said}; {left / 1e9:,.1f} GB of memory are free.\n"
            + (
                f"{fitting} rows would fit: train.micro_batch_size={2 ** (fitting.bit_length() - 1)} gives the same result"
                if fitting > 0
                else "Not even one row would fit: take a shorter length or a smaller network."
            )
        )
    return f"memory   about {said}; {left / 1e9:,.1f} GB are free"


def explain_oom(error: RuntimeError, rows: int) -> RuntimeError | ConfigError:
    """What is raised when a step with that many rows at once has failed: a ConfigError when memory was what it lacked."""
    if not re.search("out of memory|allocate memory|not enough memory", str(error), re.IGNORECASE):
        return error
    smaller = (
        f"train.micro_batch_size={max(1, rows // 2)} gives the same result" if rows > 1 else "take a shorter length"
    )
    return ConfigError(
        f"train.micro_batch_size: memory ran out with {rows} rows at once; {smaller}, and the same command goes on from"
        " the last checkpoint"
    )
