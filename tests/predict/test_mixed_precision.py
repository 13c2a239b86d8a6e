"""Predictions in bf16 decide as float32 does."""

import numpy as np
import pytest
import torch
from torch import nn

from data.tasks.problem_types import load_problem_type
from engine.training.distributed import make_accelerator
from predict.mixed_precision import measure_lead, predict_inputs, relative_logits


class Vectors:
    def __init__(self, values):
        self.values, self.lengths = values, np.arange(len(values))

    def get_inputs(self, indices):
        return {"vectors": self.values[indices]}


class Linear(nn.Module):
    """A classifier of vectors that counts what it computes in float32."""

    def __init__(self, name, config, width=64, outputs=3):
        super().__init__()
        self.problem_type, self.config = load_problem_type(name), config
        self.layers = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, outputs))
        self.num_exact = 0

    def predict(self, vectors):
        self.num_exact += 0 if torch.is_autocast_enabled("cpu") else len(vectors)
        return self.problem_type.activate(self.layers(vectors).float())

    def split_output(self, output):
        return output, None, []


CONFIG = {"id2label": {"0": "a", "1": "b", "2": "c"}, "thresholds": {"a": 0.6, "b": 0.45}}


@pytest.mark.parametrize("name", ["single_label_classification", "multi_label_classification"])
def test_decisions_are_those_of_float32_and_few_inputs_are_computed_twice(name):
    torch.manual_seed(0)
    module, inputs = Linear(name, CONFIG), Vectors(torch.randn(4_000, 64))
    exact = predict_inputs(module, inputs, make_accelerator("float32"), 64)
    assert module.num_exact == 4_000
    module.num_exact = 0
    mixed = predict_inputs(module, inputs, make_accelerator("bf16"), 64)
    assert 32 <= module.num_exact < 1_000
    names = ["a", "b", "c"]

    def decide(output):
        return [decision.label for decision in module.problem_type.list_decisions(output, names, CONFIG)]

    assert list(map(decide, mixed)) == list(map(decide, exact))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rough = module.predict(inputs.values).numpy()
    assert sum(decide(one) != decide(other) for one, other in zip(rough, exact, strict=True)) > 3


def test_numbers_are_computed_in_float32():
    module, inputs = Linear("regression", {}, outputs=1), Vectors(torch.randn(10, 64))
    predict_inputs(module, inputs, make_accelerator("bf16"), 4)
    assert module.num_exact == 10


def test_the_lead_is_the_change_that_a_decision_takes():
    softmax, sigmoid = (load_problem_type(f"{name}_label_classification") for name in ("single", "multi"))
    logits = torch.tensor([[2.0, 1.5, -3.0], [0.0, 4.0, 1.0]])
    relative = relative_logits(logits.softmax(-1).numpy(), softmax, CONFIG)
    assert measure_lead(relative, "softmax") == pytest.approx(0.5, abs=1e-5)
    lead = measure_lead(relative_logits(np.array([0.9, 0.4, 0.2]), sigmoid, CONFIG), "sigmoid")
    assert lead == pytest.approx(np.log(0.45 / 0.55) - np.log(0.4 / 0.6))


def test_one_input_is_enough():
    module = Linear("single_label_classification", CONFIG)
    assert len(predict_inputs(module, Vectors(torch.randn(1, 64)), make_accelerator("bf16"), 4)) == 1
