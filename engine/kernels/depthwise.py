"""Depthwise convolutions in float32 on a CPU, where their backward pass in bf16 takes five times as long.

Measured on the sixteen blocks of EfficientNet-Lite0 at 128 pixels: 697 ms and 143 ms; the other convolutions are faster
in bf16 (docs/lab-notebook).
"""

import torch
from torch import Tensor, nn


class Float32DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution that leaves autocast on a CPU; its output has the type of its input."""

    def forward(self, input: Tensor) -> Tensor:
        """Convolve a tensor, (images, channels, height, width)."""
        if input.device.type != "cpu":
            return super().forward(input)
        with torch.autocast("cpu", enabled=False):
            return super().forward(input.to(self.weight.dtype)).to(input.dtype)


def use_float32_depthwise(model: nn.Module) -> None:
    """Change the class of the depthwise convolutions of `model`; weights and their names stay."""
    for module in model.modules():
        is_plain = isinstance(module, nn.Conv2d) and type(module).forward is nn.Conv2d.forward
        if is_plain and module.groups == module.in_channels > 1:
            module.__class__ = Float32DepthwiseConv2d
