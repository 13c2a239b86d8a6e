"""The gradient of one step. A module's `forward(**inputs)` returns `Output(loss, count)`: the loss *summed* over what it counts,
and that count. The gradient is divided once, by the count over all micro-batches and processes, so the numbers are the same
however the batch is cut. A loss that is no such sum: see `engine.training.gradcache`.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from engine.training.distributed import DDPStrategy
from engine.training.stop_signals import StopRequest


class Output(NamedTuple):
    """What a module returns. A NamedTuple, so that DDP can look inside."""

    loss: Tensor
    """Scalar: the loss summed over what is counted."""
    count: Tensor
    """Scalar: how many were counted (masked tokens, pairs, examples)."""
    metrics: dict[str, Tensor] = {}
    """What the log tells besides the loss, each (2,): a sum and how many it was added up from."""


class MicroBatch(NamedTuple):
    """One micro-batch of one process."""

    inputs: dict[str, Tensor]
    """What `forward` takes, by name."""
    num_tokens: int
    """Real tokens in it, padding left out."""


def seed_step(seed: int, step: int, micro_batch_index: int, process_index: int) -> None:
    """Dropout too is a function of (seed, step, process): no generator state needs saving."""
    # Where no GPU is in use, torch.manual_seed writes down for it, with its stack, what it is to do should one be: 2 ms.
    put = torch.manual_seed if torch.cuda.is_initialized() else torch.default_generator.manual_seed
    put(((seed * 1_000_003 + step) * 1_000_003 + micro_batch_index * 4_099 + process_index) % 2**63)


def forward_backward(
    strategy: DDPStrategy,
    micro_batches: list[MicroBatch],
    accelerator: Accelerator,
    seed: int,
    step: int,
    is_accumulating: bool,
    stop_request: StopRequest,
) -> tuple[dict[str, Tensor], int]:
    """Add up the gradients of one step. Returns sums over all processes, float64 (2,) each: "loss", with what is counted,
    the module's figures, and "asked", how many processes were asked to stop; and the tokens of this process.

    is_accumulating: whether some process has more than one micro-batch. All processes must take the same way to a tied loss.
    """
    device, counted, module = accelerator.device, 0, strategy.train_module
    every = [
        {name: tensor.to(device, non_blocking=True) for name, tensor in batch.inputs.items()} for batch in micro_batches
    ]
    if is_accumulating and hasattr(module, "cache_gradients"):
        represented = []
        for index, inputs in enumerate(every):
            seed_step(seed, step, index, accelerator.process_index)
            with torch.no_grad(), accelerator.autocast():
                represented.append(module.embed(**inputs))
        every = [inputs | more for inputs, more in zip(every, module.cache_gradients(represented))]
    for index, inputs in enumerate(every):
        seed_step(seed, step, index, accelerator.process_index)
        with nullcontext() if index == len(every) - 1 else accelerator.no_sync(strategy.wrapped_module):
            output = strategy(**inputs)
            accelerator.backward(output.loss)
        counted += torch.stack(
            [
                torch.stack([output.loss.detach().double(), output.count.double()]),
                *(sums.double() for sums in output.metrics.values()),
            ]
        )
    to_stop = counted.new_full((1, 2), stop_request.signal is not None)
    names = ["loss", *output.metrics, "asked"]
    return (
        dict(zip(names, accelerator.reduce(torch.cat([counted, to_stop]), "sum"))),
        sum(batch.num_tokens for batch in micro_batches),
    )


def scale_and_clip_gradients(parameters: list[nn.Parameter], factor: Tensor, max_norm: float) -> Tensor:
    """Multiply every gradient by `factor` (one over the count), clip the norm to `max_norm`; returns the norm before clipping.

    One pass over the gradients instead of two.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    norm = (norm.full_tensor() if isinstance(norm, DTensor) else norm) * factor
    scale = factor * (max_norm / (norm + 1e-6)).clamp(max=1)
    for gradient in gradients:
        (gradient.to_local() if isinstance(gradient, DTensor) else gradient).mul_(scale)
    return norm
