"""Strided 1 x 1 convolutions of a few channels: the same outputs and gradients from every second position alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from engine.kernels.pointwise import SubsampledPointwiseConv2d, use_subsampled_pointwise


@pytest.mark.parametrize("size", [8, 7])
def test_outputs_and_gradients_are_those_of_the_convolution(size):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(4, 8, 1, 2))
    changed = copy.deepcopy(plain)
    use_subsampled_pointwise(changed)
    assert isinstance(changed[0], SubsampledPointwiseConv2d) and list(changed.state_dict()) == list(plain.state_dict())
    images = torch.randn(3, 4, size, size)  # not in channels_last, where the plain one may crash
    results = []
    for network in (plain, changed):
        inputs = images.clone().requires_grad_()
        outputs = network(inputs)
        outputs.square().sum().backward()
        results.append([outputs, inputs.grad, network[0].weight.grad, network[0].bias.grad])
    assert all(torch.allclose(one, other, atol=1e-5) for one, other in zip(*results, strict=True))


def test_other_convolutions_stay():
    layers = nn.Sequential(
        nn.Conv2d(8, 8, 1, 2), nn.Conv2d(4, 8, 1), nn.Conv2d(4, 8, 3, 2), nn.Conv2d(4, 4, 1, 2, groups=4)
    )
    use_subsampled_pointwise(layers)
    assert all(type(layer) is nn.Conv2d for layer in layers)
