"""Fused projection onto the vocabulary and cross-entropy, without float32 logits.

Each logit is written once, turned into a probability in place, and reused as its own gradient, because most of the time
goes to passes over memory (as in Liger's fused kernel; Hsu et al. 2024).
"""

import torch
from torch import Tensor

MAX_LOGIT_BYTES = 2**28  # logits in memory at once
CACHED_LOGITS = 2**19  # logits that a CPU normalizes while in its cache (docs/lab-notebook)


class LinearCrossEntropy(torch.autograd.Function):
    """Computes the gradient in the forward pass, block by block, in autocast's precision if it is enabled."""

    @staticmethod
    def forward(ctx, hidden_states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
        """Return the summed loss and store the gradients; shapes as in `linear_cross_entropy`."""
        device = hidden_states.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_states.dtype
        needs_grad, length = ctx.needs_input_grad[:3], max(1, MAX_LOGIT_BYTES // (weight.shape[0] * dtype.itemsize))
        with torch.autocast(device, enabled=False):
            projection, offset = weight.to(dtype), None if bias is None else bias.to(dtype)
            loss = torch.zeros((), device=hidden_states.device)
            gradients = [
                torch.zeros_like(tensor) if tensor is not None and needed else None
                for tensor, needed in zip((hidden_states, weight, bias), needs_grad, strict=True)
            ]
            for start in range(0, len(hidden_states), length):
                block, target = hidden_states[start : start + length].to(dtype), targets[start : start + length]
                probs = softmax_inplace(block @ projection.T, offset)
                index = torch.arange(len(block), device=hidden_states.device), target
                target_probs = probs[index]
                loss -= target_probs.float().clamp(min=torch.finfo(torch.float32).tiny).log().sum()
                probs[index] = target_probs - 1  # `scatter_` would copy the whole block
                if needs_grad[0]:
                    gradients[0][start : start + length] = probs @ projection
                if needs_grad[1]:
                    gradients[1] += probs.T @ block
                if gradients[2] is not None:
                    gradients[2] += (probs.new_ones(1, len(probs)) @ probs)[0]  # a product is faster than `sum`
        ctx.gradients = gradients
        return loss

    @staticmethod
    def backward(ctx, grad_output: Tensor):
        """Scale the stored gradients."""
        return (*(None if gradient is None else gradient * grad_output for gradient in ctx.gradients), None)


def softmax_inplace(logits: Tensor, bias: Tensor | None) -> Tensor:
    """Replace logits (tokens, vocabulary) by the softmax of `logits + bias`, bias (vocabulary,)."""
    rows = max(1, CACHED_LOGITS // logits.shape[1]) if logits.device.type == "cpu" else max(1, len(logits))
    for block in logits.split(rows):
        if bias is not None:
            block += bias
        block.copy_(block.softmax(-1))
    return logits


def linear_cross_entropy(hidden_states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """Compute the summed cross-entropy, in nats, of the logits `hidden_states @ weight.T + bias`; differentiable once.

    hidden_states (tokens, width), weight (vocabulary, width), bias (vocabulary,) or None, targets int64 (tokens,). In
    bf16 a token's loss is accurate to about 0.3 %, as is its probability. It is at most 87, the limit of float32.
    """
    if not torch.is_grad_enabled():  # PyTorch would have the function compute gradients of the weights all the same
        hidden_states, weight, bias = hidden_states.detach(), weight.detach(), None if bias is None else bias.detach()
    return LinearCrossEntropy.apply(hidden_states, weight, bias, targets)
