"""Losses that tie all examples of a step together, such as one in which every example is held against every other.

Such a loss is no sum over micro-batches. It is reached in two passes (GradCache; Gao et al. 2021): the module represents
each micro-batch without gradients, the loss's gradient with respect to all representations follows, and training's own pass
takes each micro-batch's share of it further back. Memory is that of one micro-batch, and the gradient is exact.

A module with such a loss has, beside `forward`:

    represent(**inputs) -> tensors of one micro-batch, examples first
    tie(represented)    -> what `forward` takes besides, for each micro-batch
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def all_gather_rows(rows: Tensor) -> tuple[Tensor, slice]:
    """The rows of all processes' tensors laid end to end, and which of them are `rows`; no gradient goes through.

    The processes may bring different numbers of rows.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return rows, slice(0, len(rows))
    sizes = [torch.zeros(1, dtype=torch.long, device=rows.device) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(rows)], device=rows.device))
    sizes = [int(size) for size in sizes]
    padded = rows.new_zeros(max(sizes), *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    before = sum(sizes[: dist.get_rank()])
    return torch.cat([part[:size] for part, size in zip(parts, sizes)]), slice(before, before + len(rows))
