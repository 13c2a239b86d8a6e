"""Batch normalization of a new network: it trains with the statistics of each batch, and stored ones never move.

Running statistics would change by a forward pass alone: in a check before training, in a step that is left out, and
for weights other than the averaged ones that are evaluated. Instead they are computed for the current weights wherever
they are needed, from the same pictures, and put back afterwards ("precise" statistics; Wu and Johnson 2021).
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def list_batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """Return the modules that normalize by a batch."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def use_batch_statistics(model: nn.Module) -> None:
    """Train with the statistics of each batch without storing them; evaluation reads the stored ones."""
    for module in list_batch_norms(model):
        module.track_running_stats = False


@contextmanager
def computed_statistics(model: nn.Module, batches: Iterable[Tensor]) -> Iterator[None]:
    """Evaluate a network with the statistics of its current weights within a `with` block.

    The statistics are means over `batches`, inputs (images, channels, height, width), read once. Does nothing to a
    network without batch normalization, or with one on stored statistics.
    """
    modules = [module for module in list_batch_norms(model) if not module.track_running_stats]
    if not modules:
        yield
        return
    buffers = [buffer for module in modules for buffer in module.buffers(recurse=False)]
    before, was_training = [buffer.clone() for buffer in buffers], model.training
    momenta = [module.momentum for module in modules]
    try:
        model.eval()
        for module in modules:
            module.reset_running_stats()
            module.train()
            # The running mean over the batches instead of an exponential one.
            module.track_running_stats, module.momentum = True, None
        with torch.no_grad():
            for module in modules:
                for buffer in (module.running_mean, module.running_var, module.num_batches_tracked):
                    buffer.zero_()
            for batch in batches:
                model(pixel_values=batch)
        for module in modules:
            module.eval()
        yield
    finally:
        for module, momentum in zip(modules, momenta, strict=True):
            module.track_running_stats, module.momentum = False, momentum
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
        model.train(was_training)
