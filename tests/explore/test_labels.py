"""What labels are good for: labels that look wrong, suggestions, and the interval of an accuracy."""

from __future__ import annotations

import numpy as np
import pytest

from explore.inputs import Inputs
from explore.labels import (
    SUSPECT_FRACTION,
    describe_measured,
    find_suspects,
    measure_accuracy,
    predict_from_labels,
    predict_out_of_fold,
    rate_labels,
)
from explore.queue import split_unlabeled
from explore.report import mean_known


def make_classes(rows: int = 120, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % 3
    vectors = np.eye(3)[labels] + 0.25 * rng.normal(size=(rows, 3))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), labels


def test_flipped_labels_are_found_first():
    vectors, labels = make_classes()
    flipped = np.arange(0, 120, 12)
    given = labels.copy()
    given[flipped] = (labels[flipped] + 1) % 3
    suspects = find_suspects(vectors, np.arange(120), given, 3, 10, 0)
    assert len(set(flipped) & {each.index for each in suspects}) >= 8
    assert all(each.suggestion != given[each.index] for each in suspects)
    assert [each.confidence for each in suspects] == sorted(each.confidence for each in suspects)
    assert find_suspects(vectors, np.arange(10), given[:10], 3, 10, 0) == [], "too few to say"


def test_the_most_suspect_labels_do_not_rate_the_others():
    """Without the labels that look worst, all of them wrong here, the right ones are likelier."""
    vectors, labels = make_classes(100)
    given = np.where(np.arange(100) < 10, (labels + 1) % 3, labels)
    first = predict_out_of_fold(vectors, given, 3, 0)
    worst = np.argsort(first[np.arange(100), given], kind="stable")[: round(100 * SUSPECT_FRACTION)]
    second = predict_out_of_fold(vectors, given, 3, 0, left_out=worst)
    assert len(worst) == 5 and set(worst) < set(range(10)) and np.allclose(second.sum(1), 1)
    assert np.array_equal(rate_labels(vectors, given, 3, 0), (first + second) / 2)
    assert second[np.arange(100), labels].mean() > first[np.arange(100), labels].mean() + 0.01


def test_the_only_row_of_a_class_is_no_suspect():
    """No model has seen its class, so nothing is known of it, and it does not come before those that look wrong."""
    vectors, labels = make_classes(60)
    given = np.where(np.arange(60) == 7, 3, labels)
    given[12] = (labels[12] + 1) % 3
    suspects = [each.index for each in find_suspects(vectors, np.arange(60), given, 4, 60, 0)]
    assert suspects[0] == 12 and 7 not in suspects


def test_labels_that_are_all_different_are_no_error():
    vectors, _ = make_classes(25)
    assert find_suspects(vectors, np.arange(25), np.arange(25), 25, 10, 0) == []


def test_predictions_have_a_column_for_every_class():
    vectors, labels = make_classes(30)
    found = predict_from_labels(vectors, np.arange(10), labels[:10] * 2, 5)
    assert found.shape == (30, 5) and (found[:, [1, 3]] == 0).all()
    assert (found.argmax(1) == labels * 2).mean() > 0.8
    assert (predict_from_labels(vectors, np.arange(1), labels[:1], 3)[:, labels[0]] == 1).all()


def test_a_class_with_few_labels_is_suggested_as_often_as_it_occurs():
    rng = np.random.default_rng(0)
    labels = (rng.random(2_000) < 0.2).astype(int)
    vectors = rng.normal(size=(2_000, 32))
    vectors[:, 0] += 3 * labels
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    suggested = predict_from_labels(vectors, np.arange(40), labels[:40], 2).argmax(1)
    assert 0.7 < suggested.mean() / labels.mean() < 1.3 and (suggested == labels).mean() > 0.85


@pytest.mark.parametrize("accuracy", [0.55, 0.82, 0.97])
def test_the_interval_holds_the_accuracy(accuracy):
    rng = np.random.default_rng(0)
    found = [measure_accuracy(int(hits), 32) for hits in rng.binomial(32, accuracy, 300)]
    assert np.mean([each.low <= accuracy <= each.high for each in found]) >= 0.95


def test_the_rows_that_halve_the_interval():
    found = measure_accuracy(27, 32)
    total = 32 + found.rows_to_halve
    again = measure_accuracy(round(27 / 32 * total), total)
    assert again.high - again.low <= (found.high - found.low) / 2 + 1e-9
    assert 2 * 32 < found.rows_to_halve < 5 * 32
    assert describe_measured(found).startswith("27 of 32 randomly drawn rows are correct: accuracy 67% to 95%")
    assert "accuracy 99% to 100% (95% interval)" in describe_measured(measure_accuracy(1_000, 1_000))


def test_a_mean_over_inputs_weighs_clusters_by_their_size():
    values, sizes = np.array([0.5, np.nan, -0.3]), np.array([1_000, 9, 5])
    assert mean_known(values, sizes) == 0.496 and mean_known(values) == 0.1
    assert mean_known(values[1:2], sizes[1:2]) is None


def test_equal_texts_are_listed_once_and_labeled_ones_not_at_all():
    inputs = Inputs()
    for number in range(100):
        inputs.add(f"text {number % 50}")
    inputs.add("Text  7", "a")
    unlabeled = split_unlabeled(inputs, 0)
    listed = [*unlabeled.chosen.tolist(), *unlabeled.measure.tolist()]
    assert sorted(listed) == [number for number in range(50) if number != 7]
    assert len(unlabeled.measure) > 4


@pytest.mark.parametrize(("correct", "rows"), [(0, 5), (5, 5), (27, 32), (180, 200)])
def test_the_interval_is_the_exact_one_of_scipy(correct, rows):
    from scipy.stats import binomtest

    exact = binomtest(correct, rows).proportion_ci(0.95, "exact")
    found = measure_accuracy(correct, rows)
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=1e-9)
