"""Projection onto the vocabulary and its cross-entropy as one function, which never holds scores in float32.

Over 30,000 tokens this is as much work as the encoder, most of it spent on passes over memory; here each score is written
once, turned into a probability where it lies, and serves as its own gradient (as Liger's fused kernel does; Hsu et al. 2024).
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 2**28  # bytes of scores held at once
IN_CACHE = 2**19  # scores that a CPU turns into probabilities while they lie in its cache (measured: LOG.md)


class LinearCrossEntropy(torch.autograd.Function):
    """The gradient is made on the way forward, block by block, in the precision of the products (autocast's, if any)."""

    @staticmethod
    def forward(ctx, states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
        device = states.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype
        wanted, length = ctx.needs_input_grad, max(1, BLOCK // (weight.shape[0] * dtype.itemsize))
        with torch.autocast(device, enabled=False):
            projection, offset = weight.to(dtype), None if bias is None else bias.to(dtype)
            loss = torch.zeros((), device=states.device)
            gradients = [torch.zeros_like(tensor) if tensor is not None and needed else None
                         for tensor, needed in zip((states, weight, bias), wanted)]
            for start in range(0, len(states), length):
                block, target = states[start:start + length].to(dtype), targets[start:start + length]
                scores = probabilities(block @ projection.T, offset)
                own = torch.arange(len(block), device=states.device), target
                right = scores[own]
                loss -= right.float().clamp(min=torch.finfo(torch.float32).tiny).log().sum()
                scores[own] = right - 1  # `scatter_` would copy all of the scores
                if wanted[0]:
                    gradients[0][start:start + length] = scores @ projection
                if wanted[1]:
                    gradients[1] += scores.T @ block
                if gradients[2] is not None:
                    # A product sums the columns faster than `sum` does.
                    gradients[2] += (scores.new_ones(1, len(scores)) @ scores)[0]
        ctx.gradients = gradients
        return loss

    @staticmethod
    def backward(ctx, factor: Tensor):
        return (*(None if gradient is None else gradient * factor for gradient in ctx.gradients), None)


def probabilities(scores: Tensor, offset: Tensor | None) -> Tensor:
    """Softmax of `scores + offset` over the last axis, in place; scores (places, vocabulary), offset (vocabulary,)."""
    together = max(1, IN_CACHE // scores.shape[1]) if scores.device.type == "cpu" else max(1, len(scores))
    for part in scores.split(together):
        if offset is not None:
            part += offset
        part.copy_(part.softmax(-1))
    return scores


def linear_cross_entropy(states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """Cross-entropy in nats of the linear scores `states @ weight.T + bias`, summed.

    states (places, width), weight (vocabulary, width), bias (vocabulary,) or None, targets int64 (places,). In bf16 the
    loss of a place is good to some 0.3 %, as its probability is; the gradient is what bf16 products give either way.
    Differentiable once.
    """
    return LinearCrossEntropy.apply(states, weight, bias, targets)
