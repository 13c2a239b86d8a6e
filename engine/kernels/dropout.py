"""Dropout in bf16 on a CPU, by four values a draw.

torch draws each value by itself there, which is a tenth of a fine-tuning step (LOG.md). 64 random bits are four numbers of
16 instead: a value is kept where its own is not among the smallest, a share of 65,536 of them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

NUM_LEVELS = 2**16


def scaled_dropout_mask(shape: torch.Size, p: float) -> Tensor:
    """bf16 of that shape: 0 at a share `p` of the places, 1 / (1 - rate) at the others. By torch's own generator."""
    count = shape.numel()
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:count].view(shape)
    kept = torch.tensor(1 / (1 - p), dtype=torch.bfloat16).view(torch.int16).item()
    # 1 or 0, times the bits of the factor: the number itself, without a pass that converts.
    return bits.ge_(round(p * NUM_LEVELS) - NUM_LEVELS // 2).mul_(kept).view(torch.bfloat16)


class FastDropout(nn.Dropout):
    """torch's dropout (Srivastava et al. 2014), faster where it can be."""

    def forward(self, states: Tensor) -> Tensor:
        """States of any shape."""
        drawn = self.training and 0 < self.p < 1 and states.dtype == torch.bfloat16 and states.device.type == "cpu"
        if not drawn or torch.compiler.is_compiling():
            return super().forward(states)
        return states * scaled_dropout_mask(states.shape, self.p)


def replace_dropout(model: nn.Module, rate_by_name: Callable[[str], float]) -> None:
    """Let every dropout of `model` be this one, and drop the share that `rate_by_name` gives for its name."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Dropout):
            model.set_submodule(name, FastDropout(rate_by_name(name)).train(module.training))
