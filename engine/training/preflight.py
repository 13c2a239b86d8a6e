"""Checks of disk space and memory before training."""

import os
import re
from contextlib import suppress
from pathlib import Path

import psutil
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from engine.checkpointing import checkpoint
from engine.checkpointing.async_saver import free_disk
from engine.errors import ConfigError
from engine.training.settings import Train

PROBE_ROWS = 2
OPTIMIZER_STATES = 2  # numbers per weight in AdamW; Muon has one


def check(
    module: nn.Module,
    inputs: dict[str, Tensor],
    folder: Path,
    train: Train,
    accelerator: Accelerator,
    num_shards: int = 1,
) -> str:
    """Run `check_disk` and `check_memory`; return their findings. inputs: a micro-batch of `PROBE_ROWS` rows."""
    disk = check_disk(folder, module, train)
    return f"{disk}\n{check_memory(module, inputs, rows_per_forward(train, accelerator), accelerator, num_shards)}"


def rows_per_forward(train: Train, accelerator: Accelerator) -> int:
    """Return how many rows a process runs through the network at once."""
    share = -(-train.batch_size // accelerator.num_processes)
    return min(share, train.micro_batch_size or share)


def parameter_bytes(module: nn.Module) -> int:
    """Return the size of all parameters in bytes."""
    return sum(parameter.nbytes for parameter in module.parameters())


def check_disk(folder: Path, module: nn.Module, train: Train) -> str:
    """Describe the disk space that checkpoints need. Raises ConfigError if less is free."""
    trainable = sum(parameter.nbytes for parameter in module.parameters() if parameter.requires_grad)
    size = parameter_bytes(module) + trainable * (OPTIMIZER_STATES + bool(train.average_fraction))
    existing = sum(file.stat().st_size for path in checkpoint.list_checkpoints(folder) for file in path.iterdir())
    keep, free = train.keep_checkpoints, free_disk(folder)
    needed = f"{(keep + 1) * size / 1e9:,.2f} GB for {keep} checkpoints and one being written"
    if size * (keep + 1) - existing > free:
        raise ConfigError(
            f"train.keep_checkpoints: the disk of {folder.parent} has {free / 1e9:,.2f} GB free but needs {needed}.\n"
            "Free some space, or keep fewer checkpoints."
        )
    return f"disk     {needed}; {free / 1e9:,.1f} GB free"


def activation_bytes(module: nn.Module, inputs: dict[str, Tensor], accelerator: Accelerator) -> int:
    """Return the bytes that a forward pass saves for the backward pass, without the weights.

    Compiled layers run uncompiled: compiled for these few rows, they would be compiled once more, and for any number of
    rows, at the first step.
    """
    weights = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    sizes: dict[int, int] = {}

    def record(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = max(sizes.get(storage.data_ptr(), 0), storage.nbytes())
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor)
    with torch.compiler.set_stance("force_eager"), hooks, accelerator.autocast():
        module(**inputs)
    return sum(sizes.values())


def free_memory(device: torch.device) -> int:
    """Return the free bytes of the GPU, or of this machine or its container, whichever has less."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free, limit, used = psutil.virtual_memory().available, "/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"
    with suppress(OSError, ValueError):  # no container, or one without a limit ("max")
        free = min(free, int(Path(limit).read_text()) - int(Path(used).read_text()))
    return free


def check_memory(
    module: nn.Module, inputs: dict[str, Tensor], rows: int, accelerator: Accelerator, num_shards: int = 1
) -> str:
    """Describe the memory of a step, measured on `PROBE_ROWS` rows. Raises ConfigError if less is free.

    num_shards: the processes among which weights, gradients and optimizer state are divided.
    """
    device, on_gpu = accelerator.device, accelerator.device.type == "cuda"
    module.to(device).train()
    inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
    row = activation_bytes(module, inputs, accelerator) / PROBE_ROWS
    # Weights, gradients, optimizer state, and a checkpoint's copy, which is in host memory when training on a GPU.
    copies = (2 + OPTIMIZER_STATES if on_gpu else 3 + 2 * OPTIMIZER_STATES) / num_shards
    # A process with a shard also has the whole network, and the whole gradient until the last micro-batch.
    fixed = parameter_bytes(module) * (copies + 2 * (num_shards > 1))
    processes = 1 if on_gpu else int(os.environ.get("LOCAL_WORLD_SIZE", accelerator.num_processes))
    # The free memory is shared with the other processes; each has its weights already.
    free, needed = free_memory(device) / processes + parameter_bytes(module), fixed + row * rows
    summary = f"about {needed / 1e9:,.1f} GB for {rows} rows at once, {row / 1e6:,.1f} MB each"
    if needed > free:
        fitting, advice = int((free - fixed) / row), "Not even one row fits: use a smaller max_length or network."
        if fitting > 0:
            fitting_batch = 2 ** (fitting.bit_length() - 1)
            advice = f"{fitting} rows would fit: train.micro_batch_size={fitting_batch} gives the same result"
        raise ConfigError(
            f"train.micro_batch_size: a step needs {summary}; {free / 1e9:,.1f} GB of memory are free.\n{advice}"
        )
    return f"memory   {summary}; {free / 1e9:,.1f} GB free"


def explain_oom(error: RuntimeError, rows: int) -> RuntimeError | ConfigError:
    """Return a ConfigError with advice if a step with `rows` rows at once ran out of memory, else `error` itself."""
    if not re.search("out of memory|allocate memory|not enough memory", str(error), re.IGNORECASE):
        return error
    smaller = f"train.micro_batch_size={rows // 2} gives the same result" if rows > 1 else "use a smaller max_length"
    message = f"out of memory with {rows} rows at once; {smaller}; rerun the command to resume from the last checkpoint"
    return ConfigError(f"train.micro_batch_size: {message}")
