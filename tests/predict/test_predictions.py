"""Predictions from the outputs of a model."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from data.tasks.problem_types import load_problem_type
from data.tasks.splits import Example
from predict.predictions import Decider
from predict.rows import Item


def decide(problem_type: str, names: list[str], output: list[float], **config: object):
    """Return the prediction for an output."""
    classifier = SimpleNamespace(
        problem_type=load_problem_type(problem_type),
        config={"id2label": {str(index): name for index, name in enumerate(names)}, **config},
        names=names,
        split_output=lambda output: (output, None, []),
    )
    return Decider(classifier, None).decide(Item({}, Example(("a text",), "")), np.array(output))


@pytest.mark.parametrize(
    ("probabilities", "doubt"), [((0.5, 0.05), 0.625), ((0.79, 0.0), 0.9875), ((0.9, 1.0), 0.5), ((0.0, 1.0), 0.0)]
)
def test_the_doubt_about_labels_is_greatest_at_their_thresholds(probabilities, doubt):
    thresholds = {"thresholds": {"long": 0.8, "odd": 0.5}}
    found = decide("multi_label_classification", ["long", "odd"], probabilities, **thresholds)
    assert found.doubt == pytest.approx(doubt)
    assert decide("multi_label_classification", ["long", "odd"], (0.4, 0.9)).doubt == pytest.approx(0.8)


def test_numbers_with_a_scale_keep_their_digits():
    scale = {"label_scale": {"mean": 1.7e9, "std": 1000.0}}
    assert [decide("regression", ["time"], [value], **scale).label for value in (-0.5, 0.25)] == [
        1699999500,
        1700000250,
    ]
    assert decide("regression", ["time"], [1 / 3]).label == 0.333333
