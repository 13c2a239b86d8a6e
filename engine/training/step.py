"""The gradient of one step.

A module's `forward(**inputs)` returns the *summed* loss and its count. Gradients are divided once, by the count over
all micro-batches and processes, so the split of a batch has no effect. Other losses: `engine.training.gradcache`.
"""

from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from engine.system.stop_signals import StopRequest
from engine.training.distributed import DDPStrategy


class Output(NamedTuple):
    """Output of a trainable module; a NamedTuple, which DDP can traverse."""

    loss: Tensor
    """Scalar: the loss summed over all counted items."""
    count: Tensor
    """Scalar: the number of items (masked tokens, pairs, examples)."""
    metrics: dict[str, Tensor] = {}
    """Further metrics for the log, each (2,): a sum and its count."""


class MicroBatch(NamedTuple):
    """One micro-batch of one process."""

    inputs: dict[str, Tensor]
    """Arguments of `forward` by name."""
    num_tokens: int
    """Tokens without padding."""


def seed_step(seed: int, step: int, micro_batch_index: int, process_index: int) -> None:
    """Seed dropout as a function of (seed, step, process), so that no generator state needs saving."""
    # Without CUDA, torch.manual_seed queues a lazy CUDA call with a stack trace (2 ms): seed the CPU generator only.
    manual_seed = torch.manual_seed if torch.cuda.is_initialized() else torch.default_generator.manual_seed
    manual_seed(((seed * 1_000_003 + step) * 1_000_003 + micro_batch_index * 4_099 + process_index) % 2**63)


def forward_backward(
    strategy: DDPStrategy,
    micro_batches: list[MicroBatch],
    accelerator: Accelerator,
    seed: int,
    step: int,
    is_accumulating: bool,
    stop_request: StopRequest,
) -> tuple[dict[str, Tensor], int]:
    """Add up the gradients of one step; return sums over all processes and this process's number of tokens.

    The sums, float64 (2,) with their count, are "loss", the module's metrics and "stop_requests", the processes with a
    signal. is_accumulating: whether any process has several micro-batches; all processes must agree on it.
    """
    device, totals, module = accelerator.device, 0, strategy.train_module
    batches = [{name: t.to(device, non_blocking=True) for name, t in batch.inputs.items()} for batch in micro_batches]
    if is_accumulating and hasattr(module, "cache_gradients"):
        embeddings = []
        for index, inputs in enumerate(batches):
            seed_step(seed, step, index, accelerator.process_index)
            with torch.no_grad(), accelerator.autocast():
                embeddings.append(module.embed(**inputs))
        cached = module.cache_gradients(embeddings)
        batches = [inputs | gradients for inputs, gradients in zip(batches, cached, strict=True)]
    for index, inputs in enumerate(batches):
        seed_step(seed, step, index, accelerator.process_index)
        with strategy.accumulate(is_last=index == len(batches) - 1):
            output = strategy(**inputs)
            accelerator.backward(output.loss)
        loss = torch.stack([output.loss.detach().double(), output.count.double()])
        totals += torch.stack([loss, *(pair.double() for pair in output.metrics.values())])
    stop_requests = totals.new_full((1, 2), stop_request.signal is not None)
    reduced = accelerator.reduce(torch.cat([totals, stop_requests]), "sum")
    names = ["loss", *output.metrics, "stop_requests"]
    return dict(zip(names, reduced, strict=True)), sum(batch.num_tokens for batch in micro_batches)


def scale_and_clip_gradients(parameters: list[nn.Parameter], factor: Tensor, max_norm: float) -> Tensor:
    """Scale gradients by `factor` (one over the count) and clip their norm, in one pass; return the unclipped norm."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    norm = (norm.full_tensor() if isinstance(norm, DTensor) else norm) * factor
    scale = factor * (max_norm / (norm + 1e-6)).clamp(max=1)
    local = [gradient.to_local() if isinstance(gradient, DTensor) else gradient for gradient in gradients]
    torch._foreach_mul_(local, scale.float())  # one launch on a GPU instead of one for each parameter
    return norm
