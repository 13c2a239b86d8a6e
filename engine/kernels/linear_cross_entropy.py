"""Projection onto the vocabulary and its cross-entropy as one function, which never holds scores in float32.

Over 30,000 tokens this is as much work as the encoder, most of it spent on passes over memory; here each score is written
once, turned into a probability where it lies, and serves as its own gradient (as Liger's fused kernel does; Hsu et al. 2024).
"""

from __future__ import annotations

import torch
from torch import Tensor

MAX_LOGIT_BYTES = 2**28  # bytes of scores held at once
CACHED_LOGITS = 2**19  # scores that a CPU turns into probabilities while they lie in its cache (measured: LOG.md)


class LinearCrossEntropy(torch.autograd.Function):
    """The gradient is made on the way forward, block by block, in the precision of the products (autocast's, if any)."""

    @staticmethod
    def forward(ctx, hidden_states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
        device = hidden_states.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_states.dtype
        wanted, length = ctx.needs_input_grad, max(1, MAX_LOGIT_BYTES // (weight.shape[0] * dtype.itemsize))
        with torch.autocast(device, enabled=False):
            projection, offset = weight.to(dtype), None if bias is None else bias.to(dtype)
            loss = torch.zeros((), device=hidden_states.device)
            gradients = [
                torch.zeros_like(tensor) if tensor is not None and needed else None
                for tensor, needed in zip((hidden_states, weight, bias), wanted)
            ]
            for start in range(0, len(hidden_states), length):
                block, target = hidden_states[start : start + length].to(dtype), targets[start : start + length]
                scores = softmax_inplace(block @ projection.T, offset)
                own = torch.arange(len(block), device=hidden_states.device), target
                right = scores[own]
                loss -= right.float().clamp(min=torch.finfo(torch.float32).tiny).log().sum()
                scores[own] = right - 1  # `scatter_` would copy all of the scores
                if wanted[0]:
                    gradients[0][start : start + length] = scores @ projection
                if wanted[1]:
                    gradients[1] += scores.T @ block
                if gradients[2] is not None:
                    # A product sums the columns faster than `sum` does.
                    gradients[2] += (scores.new_ones(1, len(scores)) @ scores)[0]
        ctx.gradients = gradients
        return loss

    @staticmethod
    def backward(ctx, grad_output: Tensor):
        return (*(None if gradient is None else gradient * grad_output for gradient in ctx.gradients), None)


def softmax_inplace(logits: Tensor, bias: Tensor | None) -> Tensor:
    """Softmax of `scores + offset` over the last axis, in place; scores (places, vocabulary), offset (vocabulary,)."""
    together = max(1, CACHED_LOGITS // logits.shape[1]) if logits.device.type == "cpu" else max(1, len(logits))
    for part in logits.split(together):
        if bias is not None:
            part += bias
        part.copy_(part.softmax(-1))
    return logits


def linear_cross_entropy(hidden_states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """Cross-entropy in nats of the linear scores `states @ weight.T + bias`, summed.

    states (places, width), weight (vocabulary, width), bias (vocabulary,) or None, targets int64 (places,). In bf16 the
    loss of a place is good to some 0.3 %, as its probability is; the gradient is what bf16 products give either way.
    Differentiable once.
    """
    return LinearCrossEntropy.apply(hidden_states, weight, bias, targets)
