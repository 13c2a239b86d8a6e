"""The gradient of one step. A module's `forward(**inputs)` returns `Output(loss, count)`: the loss *summed* over what it counts,
and that count. The gradient is divided once, by the count over all micro-batches and processes, so the numbers are the same
however the batch is cut. A loss that is no such sum: see `engine.tied`.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from engine.parallel import Replicated
from engine.stopping import Asked


class Output(NamedTuple):
    """What a module returns. A NamedTuple, so that DDP can look inside."""

    loss: Tensor
    """Scalar: the loss summed over what is counted."""
    count: Tensor
    """Scalar: how many were counted (masked tokens, pairs, examples)."""
    figures: dict[str, Tensor] = {}
    """What the log tells besides the loss, each (2,): a sum and how many it was added up from."""


class Batch(NamedTuple):
    """One micro-batch of one process."""

    inputs: dict[str, Tensor]
    """What `forward` takes, by name."""
    tokens: int
    """Real tokens in it, padding left out."""


def seed_step(seed: int, step: int, micro: int, process: int) -> None:
    """Dropout too is a function of (seed, step, process): no generator state needs saving."""
    # Where no GPU is in use, torch.manual_seed writes down for it, with its stack, what it is to do should one be: 2 ms.
    put = torch.manual_seed if torch.cuda.is_initialized() else torch.default_generator.manual_seed
    put(((seed * 1_000_003 + step) * 1_000_003 + micro * 4_099 + process) % 2**63)


def accumulate(way: Replicated, micro_batches: list[Batch], accelerator: Accelerator, seed: int, step: int,
               in_parts: bool, asked: Asked) -> tuple[dict[str, Tensor], int]:
    """Add up the gradients of one step. Returns sums over all processes, float64 (2,) each: "loss", with what is counted,
    the module's figures, and "asked", how many processes were asked to stop; and the tokens of this process.

    in_parts: whether some process has more than one micro-batch. All processes must take the same way to a tied loss.
    """
    device, counted, module = accelerator.device, 0, way.trained
    every = [{name: tensor.to(device, non_blocking=True) for name, tensor in batch.inputs.items()}
             for batch in micro_batches]
    if in_parts and hasattr(module, "tie"):
        represented = []
        for index, inputs in enumerate(every):
            seed_step(seed, step, index, accelerator.process_index)
            with torch.no_grad(), accelerator.autocast():
                represented.append(module.represent(**inputs))
        every = [inputs | more for inputs, more in zip(every, module.tie(represented))]
    for index, inputs in enumerate(every):
        seed_step(seed, step, index, accelerator.process_index)
        with nullcontext() if index == len(every) - 1 else accelerator.no_sync(way.wrapped):
            output = way(**inputs)
            accelerator.backward(output.loss)
        counted += torch.stack([torch.stack([output.loss.detach().double(), output.count.double()]),
                                *(sums.double() for sums in output.figures.values())])
    to_stop = counted.new_full((1, 2), asked.signal is not None)
    names = ["loss", *output.figures, "asked"]
    return (dict(zip(names, accelerator.reduce(torch.cat([counted, to_stop]), "sum"))),
            sum(batch.tokens for batch in micro_batches))


def scale_gradients(parameters: list[nn.Parameter], factor: Tensor, clip: float) -> Tensor:
    """Multiply every gradient by `factor` (one over the count), clip the norm to `clip`; returns the norm before clipping.

    One pass over the gradients instead of two.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    norm = (norm.full_tensor() if isinstance(norm, DTensor) else norm) * factor
    scale = factor * (clip / (norm + 1e-6)).clamp(max=1)
    for gradient in gradients:
        (gradient.to_local() if isinstance(gradient, DTensor) else gradient).mul_(scale)
    return norm
