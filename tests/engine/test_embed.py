"""Running a network over many inputs."""

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from engine.models.embed import pool, run_batches, run_stream


class Lengths:
    """Inputs that are numbers, each as long as its value."""

    def __init__(self, values: list[int]):
        self.values, self.lengths = values, np.array(values)

    def get_inputs(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        return {"values": torch.tensor([self.values[index] for index in indices])}


class Double(nn.Module):
    """Doubles its inputs and stores the batches."""

    def __init__(self):
        super().__init__()
        self.batches: list[list[int]] = []

    def predict(self, values: torch.Tensor) -> torch.Tensor:
        self.batches.append(values.tolist())
        return 2 * values


def test_outputs_are_in_order_and_batches_of_similar_length():
    values, module = [5, 1, 9, 3, 7, 2, 8], Double()
    outputs = run_batches(module, Lengths(values), Accelerator(cpu=True), batch_size=3)
    assert [int(output) for output in outputs] == [2 * value for value in values]
    assert module.batches == [[1, 2, 3], [5, 7, 8], [9]]


class Both(nn.Module):
    """Returns its inputs and twice their number."""

    def predict(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return values, torch.stack([2 * values, values], 1)


def test_several_outputs_of_an_input_stay_together():
    values = [5, 1, 9, 3]
    outputs = run_batches(Both(), Lengths(values), Accelerator(cpu=True), batch_size=3)
    assert [(int(first), second.tolist()) for first, second in outputs] == [(each, [2 * each, each]) for each in values]


def test_a_stream_is_read_one_window_at_a_time():
    module, consumed = Double(), []

    def items():
        for value in range(10, 0, -1):
            consumed.append(value)
            yield value

    def run(part):
        return run_batches(module, Lengths(part), Accelerator(cpu=True), batch_size=2)

    stream = run_stream(items(), run, window=4)
    first = next(stream)
    assert first[0] == 10 and int(first[1]) == 20 and len(consumed) == 4
    assert [(item, int(output)) for item, output in stream] == [(value, 2 * value) for value in range(9, 0, -1)]
    assert module.batches == [[7, 8], [9, 10], [3, 4], [5, 6], [1, 2]]


def test_pooling_leaves_out_padding():
    states = torch.arange(12.0).view(1, 4, 3)
    mask = torch.tensor([[1, 1, 0, 0]])
    assert torch.equal(pool(states, mask), states[:, :2].mean(1))
    assert torch.equal(pool(states, mask, "cls"), states[:, 0])
