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
import torch.distributed as distributed
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn

from engine import checkpoint
from engine.files import whole
from engine.optim import inner
from engine.saver import Saver

PATIENCE = timedelta(minutes=10)  # to find each other
TIMES = 20  # that an answer is looked for, a tenth of a second apart, before the name is read again
WAIT = timedelta(hours=12)  # for each other, once connected: one prepares a corpus while the others do


def join(on_gpu: bool) -> None:
    """Connect the processes of a distributed run, as Accelerate would, but so that a restart finds no trace of those before it.

    torchrun keeps one store through all restarts, and in it the addresses of dead processes, which the new ones would wait for,
    for ever (seen: LOG.md). Here they meet under a name of their own first.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not distributed.is_initialized():
        store, rank, size = next(distributed.rendezvous("env://"))
        distributed.init_process_group("nccl" if on_gpu else "gloo", store=distributed.PrefixStore(meet(store, rank, size), store),
                                       rank=rank, world_size=size, timeout=WAIT)


def meet(store: distributed.Store, rank: int, size: int) -> str:
    """A name that all processes know, and none that is dead. Raises what the store does when one does not come.

    Rank 0 makes it up and answers each that reports under it. Who has read an older name is not answered, and reads again.
    """
    own = uuid.uuid4().hex
    if rank == 0:
        store.set("headstart/name", own)
        others = [f"{own}/{other}" for other in range(1, size)]
        store.wait(others, PATIENCE)
        for other in others:
            store.set(f"{other}/{store.get(other).decode()}", "")
        return own
    ends = time.monotonic() + PATIENCE.total_seconds()
    while time.monotonic() < ends:
        name = store.get("headstart/name").decode()
        store.set(f"{name}/{rank}", own)
        for _ in range(TIMES):
            if store.check([f"{name}/{rank}/{own}"]):
                return name
            time.sleep(0.1)
    raise TimeoutError(f"rank {rank} was not answered by rank 0")


def spread(module: nn.Module, optimizer: torch.optim.Optimizer, accelerator: Accelerator, sharded: bool) -> Replicated:
    """`module`, and what the optimizer knows of it by now, on all processes."""
    return (Sharded if sharded and accelerator.num_processes > 1 else Replicated)(module, optimizer, accelerator)


class Replicated:
    """All weights on every process; gradients are averaged (DDP)."""

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, accelerator: Accelerator):
        self.module, self.trained, self.accelerator = module, module, accelerator
        self.wrapped, self.optimizer = accelerator.prepare(module, optimizer)

    def __call__(self, **inputs: Tensor):
        return self.wrapped(**inputs)

    def follow(self) -> None:
        """What the caller has frozen is frozen."""

    def pull(self) -> None:
        """The caller's module has the weights of now."""

    def save(self, saver: Saver, state: dict, average: dict[str, Tensor]) -> None:
        """Begin a checkpoint."""
        if self.accelerator.is_main_process:
            saver.step(self.module, inner(self.optimizer), state, average)


class Sharded(Replicated):
    """A share of weights, gradients and optimizer state on every process; layers are gathered as they are needed.

    What is sharded is a copy: the caller's module stays whole, for evaluation and for what is saved at the end. AdamW only.
    """

    def __init__(self, module: nn.Module, optimizer: torch.optim.Optimizer, accelerator: Accelerator):
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
        from torch.distributed.tensor import distribute_tensor

        self.module, self.accelerator = module.to(accelerator.device), accelerator
        self.trained = self.wrapped = copy.deepcopy(self.module)
        self.optimizer = optimizer
        mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
        for stack in [part for part in self.trained.modules() if isinstance(part, nn.ModuleList)]:
            for layer in stack:
                fully_shard(layer, mesh=mesh)
        fully_shard(self.trained, mesh=mesh)
        if hasattr(self.trained, "represent"):  # the other way into it (engine.tied)
            register_fsdp_forward_method(self.trained, "represent")
        self.pairs = list(zip(module.parameters(), self.trained.parameters()))
        shares = dict(self.pairs)
        for group in optimizer.param_groups:
            group["params"] = [shares[parameter] for parameter in group["params"]]
        for parameter, known in list(optimizer.state.items()):
            share = shares[parameter]
            optimizer.state[share] = {what: distribute_tensor(tensor, mesh, share.placements) if tensor.ndim else tensor
                                      for what, tensor in optimizer.state.pop(parameter).items()}

    def __call__(self, **inputs: Tensor):
        with self.accelerator.autocast():
            return self.trained(**inputs)

    def follow(self) -> None:
        for parameter, share in self.pairs:
            share.requires_grad_(parameter.requires_grad)

    @torch.no_grad()
    def pull(self) -> None:
        for parameter, share in self.pairs:
            parameter.copy_(share.full_tensor())

    def save(self, saver: Saver, state: dict, average: dict[str, Tensor]) -> None:
        """Write a checkpoint, each process its own share (torch.distributed.checkpoint, as safetensors: nothing is pickled)."""
        import torch.distributed.checkpoint as sharded
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

        tensors = checkpoint.weights(self.trained) | checkpoint.optimizer_state(self.trained, self.optimizer)
        main, folder = self.accelerator.is_main_process, saver.place(state)
        with whole(folder) if main else nullcontext() as beside:
            path = Path(broadcast_object_list([str(beside)])[0])
            sharded.save(tensors, storage_writer=HuggingFaceStorageWriter(str(path), save_distributed=True))
            if main:
                checkpoint.describe(path, state)
        if main:
            saver.prune()
        self.accelerator.wait_for_everyone()


def share(items: list, accelerator: Accelerator) -> list:
    """This process's share of a list that all processes hold."""
    return items[accelerator.process_index::accelerator.num_processes]


def gather(items: list, accelerator: Accelerator) -> list:
    """The lists of all processes, joined: the inverse of `share` but for the order."""
    return gather_object(items) if accelerator.num_processes > 1 else items


def agreed(figures: dict[str, float], accelerator: Accelerator) -> dict[str, float]:
    """The main process's figures, on all: what follows from them is decided by none alone."""
    return broadcast_object_list([figures])[0] if accelerator.num_processes > 1 else figures
