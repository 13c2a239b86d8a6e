"""Batch normalization on stored statistics, where weights were brought: an input's output depends on no other input."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def freeze_batch_norm(model: nn.Module) -> None:
    """Keep every batch normalization of a model in evaluation mode, also after `train()`; scale and shift train."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval().train = lambda mode=True, module=module: module
