"""Muon in batches, compared with torch's, one matrix after the other."""

import pytest
import torch

from engine.training.muon import Muon

SHAPES = [(24, 8), (8, 8), (24, 8), (8, 16), (8, 8)]


def make_optimizers(kind: type) -> tuple[list[torch.nn.Parameter], torch.optim.Optimizer]:
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]
    groups = [{"params": parameters[:3]}, {"params": parameters[3:], "lr": 0.1}]
    return parameters, kind(groups, lr=0.03, weight_decay=0.2, momentum=0.9)


def set_gradients(parameters: list[torch.nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    parameters[step % len(parameters)].grad = None  # frozen in this step


def test_updates_are_those_of_torch():
    ours, theirs = make_optimizers(Muon), make_optimizers(torch.optim.Muon)
    for step in range(6):
        for parameters, optimizer in (ours, theirs):
            set_gradients(parameters, step)
            optimizer.step()
    for found, expected in zip(ours[0], theirs[0], strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)  # of changes of .03 to .1, in bf16
        torch.testing.assert_close(ours[1].state[found], theirs[1].state[expected], rtol=0, atol=1e-6)


@pytest.mark.parametrize("waits", [True, False])
def test_a_skipped_step_changes_nothing(waits):
    parameters, optimizer = make_optimizers(Muon)

    def step(number: int, skip: float) -> list[torch.Tensor]:
        set_gradients(parameters, number)
        if skip:
            parameters[0].grad[0, 0] = torch.nan
        optimizer.found_inf = torch.tensor(skip)
        if waits:
            optimizer.step()
        else:  # as on a GPU
            for group in optimizer.param_groups:
                optimizer.update(group, optimizer.found_inf)
        momentum = [optimizer.state[parameter]["momentum_buffer"].clone() for parameter in parameters[:2]]
        return [parameter.detach().clone() for parameter in parameters] + momentum

    step(4, 0.0)
    before = step(2, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(before, step(3, 1.0), strict=True))
    after = step(3, 0.0)
    assert not any(torch.equal(a, b) for a, b in zip(before[:3], after[:3], strict=True))
    # Waiting or not, the step is the same.
    reference, other = make_optimizers(Muon)
    for number in (4, 2, 3):
        set_gradients(reference, number)
        other.step()
    for found, expected in zip(parameters, reference, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
