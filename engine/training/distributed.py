"""Distributed training: process groups, DDP and FSDP2 (Zhao et al. 2023), and helpers for lists and metrics."""

import copy
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn
from torch.distributed.distributed_c10d import _set_pg_timeout

from engine.checkpointing import checkpoint
from engine.checkpointing.async_saver import AsyncSaver
from engine.files import atomic_folder
from engine.system import garbage_collection, hardware
from engine.training.optimizers import unwrap_optimizer

Value = TypeVar("Value")

RENDEZVOUS_TIMEOUT = timedelta(minutes=10)
POLL_ATTEMPTS = 20  # checks for an answer, 0.1 s apart, before the prefix is read again
PROCESS_GROUP_TIMEOUT = timedelta(hours=12)  # long, because one process prepares a corpus while the others wait
STEP_TIMEOUT = timedelta(minutes=30)  # the longest wait in training is for an evaluation in one process


def init_distributed(use_gpu: bool) -> None:
    """Initialize the process group of a distributed run under a fresh store prefix.

    torchrun keeps the addresses of dead processes in its store across restarts; new ones would wait for them forever.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        store, rank, size = next(dist.rendezvous("env://"))
        store = dist.PrefixStore(agree_on_store_prefix(store, rank, size), store)
        backend = "nccl" if use_gpu else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PROCESS_GROUP_TIMEOUT)


@contextmanager
def limit_waiting(timeout: timedelta) -> Iterator[None]:
    """Raise an error in all processes when one of them does not answer for this long, instead of waiting for hours.

    Without it a process that hangs would keep the devices of all others busy.
    """
    if not dist.is_initialized():
        yield
        return
    _set_pg_timeout(timeout, dist.group.WORLD)
    try:
        yield
    finally:
        _set_pg_timeout(PROCESS_GROUP_TIMEOUT, dist.group.WORLD)


def agree_on_store_prefix(store: dist.Store, rank: int, size: int) -> str:
    """Return a prefix that only live processes know. Raises the store's error on a timeout.

    Rank 0 chooses it and answers each process that reports under it; one that read an older prefix reads again.
    """
    own_id = uuid.uuid4().hex
    if rank == 0:
        store.set("headstart/name", own_id)
        reports = [f"{own_id}/{other}" for other in range(1, size)]
        store.wait(reports, RENDEZVOUS_TIMEOUT)
        for report in reports:
            store.set(f"{report}/{store.get(report).decode()}", "")
        return own_id
    deadline = time.monotonic() + RENDEZVOUS_TIMEOUT.total_seconds()
    while time.monotonic() < deadline:
        prefix = store.get("headstart/name").decode()
        store.set(f"{prefix}/{rank}", own_id)
        for _ in range(POLL_ATTEMPTS):
            if store.check([f"{prefix}/{rank}/{own_id}"]):
                return prefix
            time.sleep(0.1)
    raise TimeoutError(f"rank {rank}: no answer from rank 0")


class DDPStrategy:
    """Replicates weights on every process and averages gradients (DDP). All processes call its methods together."""

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, accelerator: Accelerator):
        self.module, self.train_module, self.accelerator = module, module, accelerator
        self.wrapped_module, self.optimizer = accelerator.prepare(module, optimizer)
        self.parameter_pairs = []  # (of the caller's module, of a sharded copy)

    def __call__(self, **inputs: Tensor):
        """Run a forward pass."""
        return self.wrapped_module(**inputs)

    def accumulate(self, is_last: bool) -> AbstractContextManager:
        """Return a context for a micro-batch; gradients are reduced over the processes only in that of the last."""
        return nullcontext() if is_last else self.accelerator.no_sync(self.wrapped_module)

    def sync_frozen(self) -> None:
        """Freeze in `train_module` what the caller froze in its own module; call it before each step."""
        for parameter, shard in self.parameter_pairs:
            shard.requires_grad_(parameter.requires_grad)

    @torch.no_grad()
    def gather_weights(self) -> None:
        """Update the caller's own module to the current weights; call it before reading them."""
        for parameter, shard in self.parameter_pairs:
            parameter.copy_(shard.full_tensor())

    def save_checkpoint(self, saver: AsyncSaver, state: dict, averaged_weights: dict[str, Tensor]) -> None:
        """Start writing a checkpoint."""
        if self.accelerator.is_main_process:
            saver.save(self.module, unwrap_optimizer(self.optimizer), state, averaged_weights)


class FSDPStrategy(DDPStrategy):
    """Shards a copy of the module, with gradients and AdamW state; the caller's module stays whole for evaluation."""

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, accelerator: Accelerator):
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        self.module, self.accelerator, self.optimizer = module.to(accelerator.device), accelerator, optimizer
        self.train_module = self.wrapped_module = copy.deepcopy(self.module)
        mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
        for layer in list_layers(self.train_module):
            fully_shard(layer, mesh=mesh)
        fully_shard(self.train_module, mesh=mesh)
        if hasattr(self.train_module, "embed"):  # a second forward method (engine.training.gradcache)
            register_fsdp_forward_method(self.train_module, "embed")
        self.parameter_pairs = list(zip(module.parameters(), self.train_module.parameters(), strict=True))
        shards = dict(self.parameter_pairs)
        for group in optimizer.param_groups:
            group["params"] = [shards[parameter] for parameter in group["params"]]
        for parameter in list(optimizer.state):
            shard = shards[parameter]
            optimizer.state[shard] = shard_state(optimizer.state.pop(parameter), shard)

    def __call__(self, **inputs: Tensor):
        """Run a forward pass."""
        with self.accelerator.autocast():
            return self.train_module(**inputs)

    def accumulate(self, is_last: bool) -> AbstractContextManager:
        """As for DDP; until the last micro-batch, each process holds the whole gradient."""
        self.train_module.set_requires_gradient_sync(is_last)
        return nullcontext()

    def save_checkpoint(self, saver: AsyncSaver, state: dict, averaged_weights: dict[str, Tensor]) -> None:
        """Write a checkpoint; each process writes its shards, as safetensors, by torch.distributed.checkpoint."""
        import torch.distributed.checkpoint as dcp
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

        start, is_main = time.perf_counter(), self.accelerator.is_main_process
        tensors = checkpoint.model_state(self.train_module)
        tensors |= checkpoint.optimizer_state(self.train_module, self.optimizer)
        if is_main:
            saver.sync_log()
        with atomic_folder(saver.checkpoint_path(state)) if is_main else nullcontext() as temp:
            path = Path(broadcast_object_list([str(temp)])[0])
            dcp.save(tensors, storage_writer=HuggingFaceStorageWriter(str(path), save_distributed=True))
            if is_main:
                checkpoint.finalize(path, state)
        if is_main:
            saver.prune()
        self.accelerator.wait_for_everyone()
        saver.checkpoint_seconds += time.perf_counter() - start


def list_layers(module: nn.Module) -> list[nn.Module]:
    """Return the layers in the lists of `module`, each once, and those inside others first, as `fully_shard` needs."""
    parts: list[nn.Module] = []
    module.apply(parts.append)  # from the inside to the outside, unlike modules()
    layers = {layer for part in parts if isinstance(part, nn.ModuleList) for layer in part}
    return [part for part in dict.fromkeys(parts) if part in layers and not isinstance(part, nn.ModuleList)]


def shard_state(state: dict[str, Tensor], shard: Tensor) -> dict[str, Tensor]:
    """Return a parameter's optimizer state, sharded as the DTensor `shard`; scalars are copied to its device."""
    from torch.distributed.tensor import distribute_tensor

    return {
        key: distribute_tensor(tensor, shard.device_mesh, shard.placements) if tensor.ndim else tensor.to(shard.device)
        for key, tensor in state.items()
    }


def shard_list(items: list, accelerator: Accelerator) -> list:
    """Return this process's share of a list that all processes hold."""
    return items[accelerator.process_index :: accelerator.num_processes]


def gather_list(items: list, accelerator: Accelerator) -> list:
    """Concatenate the lists of all processes: the inverse of `shard_list` except for the order."""
    return gather_object(items) if accelerator.num_processes > 1 else items


def broadcast_from_main(value: Value, accelerator: Accelerator) -> Value:
    """Return the main process's value on all processes, so that all take the same decisions."""
    return broadcast_object_list([value])[0] if accelerator.num_processes > 1 else value


def make_accelerator(precision: str) -> Accelerator:
    """Make an Accelerator for this machine; find_unused_parameters allows freezing layers after wrapping."""
    garbage_collection.resume()  # what is imported late is small, and cycles may hold memory of a device
    use_gpu = torch.cuda.is_available()
    init_distributed(use_gpu)
    if precision == "native":
        precision = "bf16" if hardware.has_native_bf16() else "float32"
    AcceleratorState._reset_state()  # a process that trains twice may do so in two precisions
    ddp = DistributedDataParallelKwargs(find_unused_parameters=True, gradient_as_bucket_view=True)
    kwargs = [ddp, InitProcessGroupKwargs(timeout=PROCESS_GROUP_TIMEOUT)]
    return Accelerator(cpu=not use_gpu, mixed_precision="bf16" if precision == "bf16" else "no", kwargs_handlers=kwargs)
