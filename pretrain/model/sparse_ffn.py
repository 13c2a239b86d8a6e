"""Compute the last layer's feed-forward part only at the masked positions, with the same loss and gradient.

After the last attention tokens no longer interact. With four layers and 15 % masked this saves a tenth of a step's
FLOPs.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from engine.kernels.take_rows import take_rows


def get_layers(model: PreTrainedModel) -> list[nn.Module]:
    """Return the layers of ModernBERT or a BERT-like model, an empty list for other architectures."""
    base = model.base_model
    return list(getattr(base, "layers", None) or getattr(getattr(base, "encoder", None), "layer", ()))


def last_feed_forward(model: PreTrainedModel) -> tuple[nn.Module, ...]:
    """Return the modules after the last layer's attention, in order, or none if the architecture is unknown."""
    for layer in get_layers(model)[-1:]:
        for names in (("mlp",), ("intermediate", "output")):
            if all(hasattr(layer, name) for name in names):
                return tuple(getattr(layer, name) for name in names)
    return ()


@contextmanager
def sparse_forward(indices: Tensor, modules: tuple[nn.Module, ...]) -> Iterator[None]:
    """Make `modules`, which follow each other, compute only the states at `indices`; the other outputs are zero.

    The first module takes states (rows, length, width). `indices` are unique int64 indices into the flattened rows.
    """
    shape: list[torch.Size] = []

    def pick(module, arguments):
        shape[:] = shape or [arguments[0].shape[:2]]
        return tuple(take_rows(states.flatten(0, 1), indices) if states.ndim == 3 else states for states in arguments)

    def scatter(module, arguments, states):
        full = states.new_zeros(shape[0].numel(), states.shape[-1])
        return full.index_put((indices,), states).view(*shape[0], -1)

    hooks = [module.register_forward_pre_hook(pick) for module in modules]
    hooks += [module.register_forward_hook(scatter) for module in modules[-1:]]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
