"""Baselines of the map: neighbors against a plain search, what is not known, and vectors of known quality."""

from __future__ import annotations

import numpy as np
import pytest

from explore import baselines
from explore.baselines import draw_sample, find_neighbors, measure_baselines, share_neighbors, tabulate
from explore.steps import Steps
from explore.vectors import fit_tfidf


def make_blobs(noise: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    vectors = np.repeat(4 * rng.normal(size=(4, 8)), 30, axis=0) + noise * rng.normal(size=(120, 8))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_neighbors_are_those_of_a_plain_search():
    vectors = make_blobs(1.0)
    for index, found in enumerate(find_neighbors(vectors)):
        order = sorted(set(range(120)) - {index}, key=lambda other: -float(vectors[other] @ vectors[index]))
        assert set(found.tolist()) == set(order[:10])
    assert find_neighbors(vectors[:5]).shape == (5, 4)


def test_shared_neighbors_are_counted():
    assert share_neighbors(np.array([[1, 2], [3, 4]]), np.array([[2, 9], [4, 3]])) == pytest.approx(0.75)


def test_better_vectors_have_better_numbers(tmp_path):
    labels = [f"{number // 30}" for number in range(120)]
    sample = draw_sample(np.arange(120), labels, 0)
    others = [("noisy", lambda: make_blobs(3.0)), ("noise", lambda: np.random.default_rng(1).normal(size=(120, 8)))]
    steps = Steps(tmp_path)
    found = measure_baselines(make_blobs(0.3), others, sample, labels, steps, ["a"], 0)
    assert [each.name for each in found] == ["encoder", "noisy", "noise"]
    assert found[0].shared_neighbors == 1 and found[0].same_label > 0.99
    for better, worse in zip(found, found[1:], strict=False):
        assert better.same_label > worse.same_label and better.shared_neighbors > worse.shared_neighbors
    assert found[2].same_label == pytest.approx(0.25, abs=0.06), "chance"
    assert found[0].silhouette > found[2].silhouette
    fails = [("noisy", None), ("noise", None)]
    assert measure_baselines(make_blobs(0.3), fails, sample, labels, steps, ["a"], 0) == found, "stored"


def test_without_labels_there_is_no_such_column(tmp_path):
    sample = draw_sample(np.arange(120), [""] * 120, 0)
    found = measure_baselines(make_blobs(0.3), [], sample, [""] * 120, Steps(tmp_path), ["a"], 0)
    header, rows = tabulate(found)
    assert header == ["vectors", "two seeds agree", "silhouette", "neighbors as the encoder's"]
    assert rows[0][0] == "encoder" and rows[0][-1] == "1.00" and found[0].to_json()["same_label"] is None


def test_samples_are_bounded_and_hold_labeled_inputs(monkeypatch):
    monkeypatch.setattr(baselines, "MAX_SAMPLE", 30)
    labels = ["a" if number % 10 == 3 else "" for number in range(400)]
    encoded = np.arange(0, 400, 1)[::1]
    sample = draw_sample(encoded, labels, 0)
    assert len(sample.drawn) == 30 and len(sample.labeled) == 30
    assert all(labels[sample.indices[position]] for position in sample.labeled)


def test_tfidf_puts_texts_of_the_same_words_together():
    texts = ["cat dog horse", "dog cat cow", "tax bank loan", "loan tax debt"] * 5
    vectors = fit_tfidf(texts, 0)(texts[:4])
    assert vectors[0] @ vectors[1] > 0.5 > vectors[0] @ vectors[2]
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
