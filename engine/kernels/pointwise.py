"""Strided 1 x 1 convolutions of a few channels, as in the shortcuts of a tiny ResNet.

On CPUs without AVX-512, oneDNN 3.12 (torch 2.13) writes beyond the memory of their gradients, with fewer than eight
input channels in the layout channels_last, and the process crashes later. Convolving the positions that are kept alone
gives the same outputs.
"""

from torch import Tensor, nn

MIN_CHANNELS = 8


class SubsampledPointwiseConv2d(nn.Conv2d):
    """A strided 1 x 1 convolution that leaves out positions before it convolves, on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """Convolve a tensor, (images, channels, height, width)."""
        if input.device.type != "cpu":
            return super().forward(input)
        rows, columns = self.stride
        return nn.functional.conv2d(input[:, :, ::rows, ::columns], self.weight, self.bias)


def use_subsampled_pointwise(model: nn.Module) -> None:
    """Change the class of the strided 1 x 1 convolutions of few channels of `model`; weights and their names stay."""
    for module in model.modules():
        is_plain = isinstance(module, nn.Conv2d) and type(module).forward is nn.Conv2d.forward
        is_pointwise = is_plain and module.kernel_size == (1, 1) and module.groups == 1 and not any(module.padding)
        if is_pointwise and max(module.stride) > 1 and module.in_channels < MIN_CHANNELS:
            module.__class__ = SubsampledPointwiseConv2d
