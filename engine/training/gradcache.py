"""Losses over all examples of a step, such as in-batch negatives, which are not a sum over micro-batches.

GradCache (Gao et al. 2021) computes their exact gradient with the memory of one micro-batch: embed all micro-batches
without gradients, compute the gradient with respect to all embeddings, and backpropagate it through each micro-batch.
Besides `forward`, a module with such a loss has:

    embed(**inputs)             -> tensors of one micro-batch, examples first
    cache_gradients(embeddings) -> further arguments of `forward` for each micro-batch
"""

import torch
import torch.distributed as dist
from torch import Tensor


def all_gather_rows(rows: Tensor) -> tuple[Tensor, slice]:
    """Concatenate the rows of all processes, of any number each; return them and the slice of `rows`. No gradients."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return rows, slice(0, len(rows))
    sizes = [torch.zeros(1, dtype=torch.long, device=rows.device) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, torch.tensor([len(rows)], device=rows.device))
    sizes = [int(size) for size in sizes]
    padded = rows.new_zeros(max(sizes), *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    start = sum(sizes[: dist.get_rank()])
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)]), slice(start, start + len(rows))
