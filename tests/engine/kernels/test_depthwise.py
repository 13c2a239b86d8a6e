"""Depthwise convolutions under autocast compute as in float32."""

import copy

import torch
from torch import nn

from engine.kernels.depthwise import Float32DepthwiseConv2d, use_float32_depthwise


def test_output_and_gradient_are_those_of_float32_under_autocast():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(8, 8, 5, 2, groups=8), nn.Conv2d(8, 4, 1), nn.Conv2d(4, 4, 3, groups=2))
    fast = copy.deepcopy(plain)
    use_float32_depthwise(fast)
    assert [type(module) for module in fast] == [Float32DepthwiseConv2d, nn.Conv2d, nn.Conv2d]
    assert copy.deepcopy(fast).state_dict().keys() == plain.state_dict().keys()
    images = torch.randn(2, 8, 9, 9)
    expected = plain[0](images)
    expected.square().sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        output = fast[0](images)
        assert fast(images).dtype == torch.bfloat16
    output.square().sum().backward()
    assert torch.equal(output, expected)
    assert torch.equal(fast[0].weight.grad, plain[0].weight.grad)
    assert fast[0](images.bfloat16()).dtype == torch.bfloat16
