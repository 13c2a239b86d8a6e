"""Rows of a matrix, with a backward that writes each gradient once.

That of indexing adds them up, for which a GPU sorts the indices; these are distinct.
"""

import torch
from torch import Tensor


class TakeRows(torch.autograd.Function):
    """Selects rows; differentiable once."""

    @staticmethod
    def forward(ctx, states: Tensor, indices: Tensor) -> Tensor:
        """Return the rows."""
        ctx.save_for_backward(indices)
        ctx.shape = states.shape
        return states.index_select(0, indices)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        """Put the rows' gradients in their places."""
        (indices,) = ctx.saved_tensors
        return gradient.new_zeros(ctx.shape).index_copy_(0, indices, gradient), None


def take_rows(states: Tensor, indices: Tensor) -> Tensor:
    """Return `states[indices]`, (taken, width); indices: distinct, int64 (taken,)."""
    return TakeRows.apply(states, indices)
