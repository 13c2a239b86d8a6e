"""Thresholds for a precision, shares of classes, distances to training rows: against plain computations."""

import numpy as np
import pytest
from scipy.stats import binom

from data.tasks.confidence import (
    Confidence,
    find_threshold,
    fit_thresholds,
    load_confidence,
    measure_confidence,
    save_confidence,
)
from data.tasks.novelty import fit_novelty, load_novelty, score_vectors
from data.tasks.prevalence import estimate_shares, fit_shares, mean_by_class
from data.tasks.problem_types import load_problem_type
from data.tasks.splits import Example
from engine.errors import DataError


def make_decisions(seed, count):
    rng = np.random.default_rng(seed)
    probabilities = rng.uniform(0.3, 1, count).round(2).astype(np.float32)
    return probabilities, rng.uniform(size=count) < probabilities


@pytest.mark.parametrize("seed", range(5))
def test_a_threshold_is_the_lowest_that_the_rows_support(seed):
    probabilities, correct = make_decisions(seed, 400)

    def supports(threshold):
        chosen = probabilities >= threshold
        k, n = int(correct[chosen].sum()), int(chosen.sum())
        # With a true precision of 0.9, as many right decisions would be rarer than one in ten.
        return binom.sf(k - 1, n, 0.9) <= 0.1

    supported = [value for value in np.unique(probabilities) if supports(value)]
    threshold = find_threshold(probabilities, correct, 0.9)
    if supported:
        kept = np.flatnonzero(probabilities >= threshold)
        assert sorted(kept) == np.flatnonzero(probabilities >= min(supported)).tolist()
    else:
        assert threshold == np.inf


def test_asked_for_a_precision_other_rows_reach_it():
    reached = []
    for seed in range(20):
        probabilities, correct = make_decisions(seed, 2_000)
        threshold = find_threshold(probabilities[:1_000], correct[:1_000], 0.9)
        chosen = probabilities[1_000:] >= threshold
        reached.append(correct[1_000:][chosen].mean() if chosen.any() else 1.0)
    assert np.mean(reached) >= 0.9


def test_rare_names_share_a_threshold():
    names = np.array([0] * 100 + [1] * 20 + [2] * 20, np.int32)
    confidence = Confidence("test", ["a", "b", "c"], 1.0, names, np.full(140, 0.9, np.float32), np.ones(140, bool))
    thresholds = fit_thresholds(confidence, 0.9)
    assert thresholds["b"] == thresholds["c"] < 0.9
    confidence.decision_correct[:50] = False
    changed = fit_thresholds(confidence, 0.9)
    assert changed["a"] == np.inf and changed["b"] == thresholds["b"]


def test_a_file_gives_back_what_was_written(tmp_path):
    probabilities, correct = make_decisions(0, 10)
    written = Confidence("validation", ["a", "b"], 1.5, np.zeros(10, np.int32), probabilities, correct)
    save_confidence(written, tmp_path / "confidence.safetensors", {"novelty_center": np.ones(3, np.float32)})
    read, arrays = load_confidence(tmp_path)
    for name, value in vars(written).items():
        assert np.array_equal(getattr(read, name), value), name
    assert arrays.keys() == {"novelty_center"}
    (tmp_path / "confidence.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(DataError, match="cannot be read"):
        load_confidence(tmp_path)


def test_of_many_decisions_those_of_every_class_are_kept(monkeypatch):
    """Rows are sorted by label."""
    monkeypatch.setattr("data.tasks.confidence.MAX_DECISIONS", 10)
    outputs = np.repeat([[0.9, 0.1], [0.2, 0.8]], 20, axis=0).astype(np.float32)
    examples = [Example((str(row),), "ab"[row // 20]) for row in range(40)]
    problem_type = load_problem_type("single_label_classification")
    found = measure_confidence(problem_type, "validation", outputs, examples, ["a", "b"], {})
    assert found.decision_names.tolist() == [0] * 5 + [1] * 5 and found.decision_correct.all()


def sample_class_probabilities(rng, labels):
    """Return exact class probabilities of a mixture of two normal distributions under equal shares."""
    values = rng.normal(labels * 2.0 - 1, 1.5)
    odds = np.exp(values * 2 / 1.5**2)
    return np.stack([1 / (1 + odds), odds / (1 + odds)], 1)


def test_corrected_shares_find_a_rare_class_where_counting_does_not():
    rng = np.random.default_rng(0)
    held_labels = np.repeat([0, 1], 500)
    held_out = sample_class_probabilities(rng, held_labels)
    labels = (rng.uniform(size=4_000) < 0.1).astype(int)
    probabilities = sample_class_probabilities(rng, labels)
    shares, low, high = estimate_shares(probabilities, held_out, held_labels)
    counted = (probabilities.argmax(1) == 1).mean()
    assert abs(counted - 0.1) > 0.1 and abs(shares[1] - 0.1) < 0.06
    assert low[1] <= shares[1] <= high[1] and low[1] < 0.1 < high[1] and high[1] - low[1] < 0.2


def test_few_held_out_rows_give_wide_intervals():
    """The estimate alone may be 0 or 1 where the share is neither."""
    rng, inside, widths = np.random.default_rng(2), [], []
    for share in np.repeat([0.02, 0.1, 0.3, 0.5], 20):
        held_labels = np.repeat([0, 1], 8)
        held_out = sample_class_probabilities(rng, held_labels)
        labels = (np.arange(1_000) < 1_000 * share).astype(int)
        _, low, high = estimate_shares(sample_class_probabilities(rng, labels), held_out, held_labels)
        inside.append(low[1] <= share <= high[1])
        widths.append(high[1] - low[1])
    assert np.mean(inside) > 0.85 and np.mean(widths) > 0.3


def test_a_bias_of_the_model_is_corrected():
    rng = np.random.default_rng(0)

    def bias(probabilities):  # a model that overrates the second class
        odds = probabilities * [1, 6]
        return odds / odds.sum(1, keepdims=True)

    held_labels = np.repeat([0, 1], 500)
    held_out = bias(sample_class_probabilities(rng, held_labels))
    probabilities = bias(sample_class_probabilities(rng, (rng.uniform(size=4_000) < 0.1).astype(int)))
    shares, _, _ = estimate_shares(probabilities, held_out, held_labels)
    assert abs(shares[1] - 0.1) < 0.06 < abs(probabilities.mean(0)[1] - 0.1)


def test_shares_of_exact_mixtures_are_found():
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(4), 50)
    held_out = rng.dirichlet(np.ones(4), 200) + 2 * np.eye(4)[labels]
    held_out /= held_out.sum(1, keepdims=True)
    expected = np.array([0.7, 0.2, 0.1, 0.0])
    means = mean_by_class(held_out, labels)
    assert np.allclose(means[:, 2], held_out[100:150].mean(0))
    assert fit_shares(means @ expected, means) == pytest.approx(expected, abs=1e-6)


def test_scores_are_the_mean_distance_to_the_nearest_rows():
    import torch

    rng = np.random.default_rng(0)
    train, held_out = (rng.normal(5, 1, size=(n, 4)).astype(np.float32) for n in (300, 400))
    novelty = fit_novelty(train, np.arange(300), held_out)
    both = np.concatenate([held_out[:5], held_out[:5] + [0, 0, 6, 0]]).astype(np.float32)
    scored = score_vectors(torch.from_numpy(both), novelty.to_tensors("cpu")).numpy()
    for row, vector in enumerate(both):
        distances = np.linalg.norm(train - vector, axis=1)
        nearest = np.argsort(distances)
        assert scored[row, 0] == pytest.approx(distances[nearest[:5]].mean(), rel=0.02)
        assert scored[row, 1] in nearest[:2]
    assert (scored[5:, 0] > novelty.threshold).all() and (scored[:5, 0] < novelty.threshold).all()
    assert vars(load_novelty(novelty.to_arrays())).keys() == vars(novelty).keys() and load_novelty({}) is None
    assert fit_novelty(train[:9], np.arange(9), held_out) is None
