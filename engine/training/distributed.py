"""What several processes share: a module, all of it on each (DDP) or a share on each (FSDP2; Zhao et al. 2023); lists that are
divided among them; figures that they agree on.

Both ways of spreading a module offer `trained`, the one that learns; calling it; `follow()` before a step, `pull()` before the
caller's own module is looked at, and `save`. All processes call them together.
"""

from __future__ import annotations

import copy
import os
import time
import uuid
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, distributed, nn

from engine.checkpointing import checkpoint
from engine.checkpointing.async_saver import AsyncSaver
from engine.files import atomic_folder
from engine.system import hardware
from engine.training.optimizers import unwrap_optimizer

RENDEZVOUS_TIMEOUT = timedelta(minutes=10)  # to find each other
POLL_ATTEMPTS = 20  # that an answer is looked for, a tenth of a second apart, before the name is read again
PROCESS_GROUP_TIMEOUT = timedelta(hours=12)  # for each other, once connected: one prepares a corpus while the others do


def init_distributed(use_gpu: bool) -> None:
    """Connect the processes of a distributed run, as Accelerate would, but so that a restart finds no trace of those before it.

    torchrun keeps one store through all restarts, and in it the addresses of dead processes, which the new ones would wait for,
    for ever (seen: LOG.md). Here they meet under a name of their own first.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        store, rank, size = next(distributed.rendezvous("env://"))
        distributed.init_process_group(
            "nccl" if use_gpu else "gloo",
            store=distributed.PrefixStore(agree_on_store_prefix(store, rank, size), store),
            rank=rank,
            world_size=size,
            timeout=PROCESS_GROUP_TIMEOUT,
        )


def agree_on_store_prefix(store: distributed.Store, rank: int, size: int) -> str:
    """A name that all processes know, and none that is dead. Raises what the store does when one does not come.

    Rank 0 makes it up and answers each that reports under it. Who has read an older name is not answered, and reads again.
    """
    own = uuid.uuid4().hex
    if rank == 0:
        store.set("headstart/name", own)
        others = [f"{own}/{other}" for other in range(1, size)]
        store.wait(others, RENDEZVOUS_TIMEOUT)
        for other in others:
            store.set(f"{other}/{store.get(other).decode()}", "")
        return own
    ends = time.monotonic() + RENDEZVOUS_TIMEOUT.total_seconds()
    while time.monotonic() < ends:
        name = store.get("headstart/name").decode()
        store.set(f"{name}/{rank}", own)
        for _ in range(POLL_ATTEMPTS):
            if store.check([f"{name}/{rank}/{own}"]):
                return name
            time.sleep(0.1)
    raise TimeoutError(f"rank {rank} was not answered by rank 0")


def make_strategy(
    module: nn.Module, optimizer: torch.optim.Optimizer, accelerator: Accelerator, sharded: bool
) -> DDPStrategy:
    """`module`, and what the optimizer knows of it by now, on all processes."""
    return (FSDPStrategy if sharded and accelerator.num_processes > 1 else DDPStrategy)(module, optimizer, accelerator)


class DDPStrategy:
    """All weights on every process; gradients are averaged (DDP)."""

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, accelerator: Accelerator):
        self.module, self.train_module, self.accelerator = module, module, accelerator
        self.wrapped_module, self.optimizer = accelerator.prepare(module, optimizer)

    def __call__(self, **inputs: Tensor):
        return self.wrapped_module(**inputs)

    def sync_frozen(self) -> None:
        """What the caller has frozen is frozen."""

    def gather_weights(self) -> None:
        """The caller's module has the weights of now."""

    def save_checkpoint(self, saver: AsyncSaver, state: dict, averaged_weights: dict[str, Tensor]) -> None:
        """Begin a checkpoint."""
        if self.accelerator.is_main_process:
            saver.save(self.module, unwrap_optimizer(self.optimizer), state, averaged_weights)


class FSDPStrategy(DDPStrategy):
    """A share of weights, gradients and optimizer state on every process; layers are gathered as they are needed.

    What is sharded is a copy: the caller's module stays whole, for evaluation and for what is saved at the end. AdamW only.
    """

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, accelerator: Accelerator):
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
        from torch.distributed.tensor import distribute_tensor

        self.module, self.accelerator = module.to(accelerator.device), accelerator
        self.train_module = self.wrapped_module = copy.deepcopy(self.module)
        self.optimizer = optimizer
        mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
        for stack in [part for part in self.train_module.modules() if isinstance(part, nn.ModuleList)]:
            for layer in stack:
                fully_shard(layer, mesh=mesh)
        fully_shard(self.train_module, mesh=mesh)
        if hasattr(self.train_module, "embed"):  # the other way into it (engine.training.gradcache)
            register_fsdp_forward_method(self.train_module, "embed")
        self.parameter_pairs = list(zip(module.parameters(), self.train_module.parameters()))
        shares = dict(self.parameter_pairs)
        for group in optimizer.param_groups:
            group["params"] = [shares[parameter] for parameter in group["params"]]
        for parameter, known in list(optimizer.state.items()):
            share = shares[parameter]
            optimizer.state[share] = {
                what: distribute_tensor(tensor, mesh, share.placements) if tensor.ndim else tensor
                for what, tensor in optimizer.state.pop(parameter).items()
            }

    def __call__(self, **inputs: Tensor):
        with self.accelerator.autocast():
            return self.train_module(**inputs)

    def sync_frozen(self) -> None:
        for parameter, share in self.parameter_pairs:
            share.requires_grad_(parameter.requires_grad)

    @torch.no_grad()
    def gather_weights(self) -> None:
        for parameter, share in self.parameter_pairs:
            parameter.copy_(share.full_tensor())

    def save_checkpoint(self, saver: AsyncSaver, state: dict, averaged_weights: dict[str, Tensor]) -> None:
        """Write a checkpoint, each process its own share (torch.distributed.checkpoint, as safetensors: nothing is pickled)."""
        import torch.distributed.checkpoint as sharded
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

        tensors = checkpoint.model_state(self.train_module) | checkpoint.optimizer_state(
            self.train_module, self.optimizer
        )
        main, folder = self.accelerator.is_main_process, saver.checkpoint_path(state)
        with atomic_folder(folder) if main else nullcontext() as beside:
            path = Path(broadcast_object_list([str(beside)])[0])
            sharded.save(tensors, storage_writer=HuggingFaceStorageWriter(str(path), save_distributed=True))
            if main:
                checkpoint.finalize(path, state)
        if main:
            saver.prune()
        self.accelerator.wait_for_everyone()


def shard_list(items: list, accelerator: Accelerator) -> list:
    """This process's share of a list that all processes hold."""
    return items[accelerator.process_index :: accelerator.num_processes]


def gather_list(items: list, accelerator: Accelerator) -> list:
    """The lists of all processes, joined: the inverse of `shard_list` but for the order."""
    return gather_object(items) if accelerator.num_processes > 1 else items


def broadcast_metrics(metrics: dict[str, float], accelerator: Accelerator) -> dict[str, float]:
    """The main process's figures, on all: what follows from them is decided by none alone."""
    return broadcast_object_list([metrics])[0] if accelerator.num_processes > 1 else metrics


def make_accelerator(precision: str) -> Accelerator:
    """Accelerate for this machine. Everything is trainable when wrapped; freezing later needs find_unused_parameters."""
    on_gpu = torch.cuda.is_available()
    init_distributed(on_gpu)
    if precision == "native":
        precision = "bf16" if hardware.has_native_bf16() else "float32"
    return Accelerator(
        cpu=not on_gpu,
        mixed_precision="bf16" if precision == "bf16" else "no",
        kwargs_handlers=[
            DistributedDataParallelKwargs(find_unused_parameters=True),
            InitProcessGroupKwargs(timeout=PROCESS_GROUP_TIMEOUT),
        ],
    )
