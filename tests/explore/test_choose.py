"""The choice of inputs to label: facility location, clustered margin, and the inputs reserved for measuring."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_info, threadpool_limits

from explore import choose
from explore.choose import (
    choose_inputs,
    choose_representative,
    choose_uncertain,
    margins_of,
    measuring_ranks,
    merge_rounds,
)
from explore.config import Explore
from explore.inputs import Inputs
from explore.queue import build_queue, split_unlabeled


def unit_vectors(count: int, width: int = 8, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def greedy(vectors: np.ndarray, allowed: list[int], labeled: list[int], count: int) -> list[int]:
    """Facility location by trying every input at every step."""
    similarities, chosen = np.maximum(vectors @ vectors.T, 0).astype(np.float64), []
    for _ in range(count):
        left = [index for index in allowed if index not in chosen]
        values = [similarities[[*labeled, *chosen, index]].max(0).sum() for index in left]
        chosen.append(left[int(np.argmax(values))])
    return chosen


@pytest.mark.parametrize("labeled", [[], [3, 17]])
def test_the_lazy_greedy_choice_is_the_greedy_one(labeled):
    vectors = unit_vectors(60)
    allowed = [index for index in range(60) if index % 4 and index not in labeled]
    found = choose_representative(vectors, np.array(allowed), np.array(labeled, int), 12, seed=0)
    assert found.tolist() == greedy(vectors, allowed, labeled, 12)


def test_the_order_is_nested_and_a_function_of_the_seed(monkeypatch):
    monkeypatch.setattr(choose, "MAX_CANDIDATES", 100)
    monkeypatch.setattr(choose, "MAX_REPRESENTED", 150)
    vectors, everything, none = unit_vectors(400), np.arange(400), np.zeros(0, int)
    long, short = (choose_representative(vectors, everything, none, count, 1) for count in (40, 10))
    assert long[:10].tolist() == short.tolist() and len(set(long.tolist())) == 40
    assert choose_representative(vectors, everything, none, 40, 2).tolist() != long.tolist()


def test_choices_are_of_every_cluster():
    centers = np.eye(6, dtype=np.float32)
    owners = np.repeat(np.arange(6), [200, 100, 50, 20, 20, 10])
    vectors = centers[owners] + np.random.default_rng(0).normal(0, 0.05, (400, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    chosen = choose_representative(vectors, np.arange(400), np.zeros(0, int), 6, 0)
    assert sorted(owners[chosen]) == list(range(6))


def test_all_are_chosen_where_there_are_fewer():
    vectors = unit_vectors(7)
    assert sorted(choose_representative(vectors, np.arange(7), np.zeros(0, int), 20, 0)) == list(range(7))
    assert sorted(choose_uncertain(vectors, np.arange(7), np.linspace(0, 1, 7), 20, 0)) == list(range(7))
    assert len(choose_representative(vectors, np.zeros(0, int), np.arange(7), 5, 0)) == 0


def test_uncertain_choices_have_small_margins_and_differ():
    owners = np.repeat(np.arange(5), 100)
    vectors = np.eye(5, dtype=np.float32)[owners]
    vectors += np.random.default_rng(0).normal(0, 0.01, vectors.shape).astype(np.float32)
    margins = np.random.default_rng(1).uniform(size=500)
    chosen = choose_uncertain(vectors, np.arange(500), margins, 5, 0)
    assert sorted(owners[chosen]) == list(range(5))
    assert margins[chosen].max() < np.sort(margins)[50]
    assert (np.diff(margins[chosen]) >= 0).all()


def test_uncertain_choices_are_clustered_by_one_thread(monkeypatch):
    """Others add in any order, so that the choice of the same command could differ."""
    threads, fit = [], KMeans.fit_predict

    def fit_predict(model, points):
        threads.extend(each["num_threads"] for each in threadpool_info() if each["user_api"] == "openmp")
        return fit(model, points)

    monkeypatch.setattr(KMeans, "fit_predict", fit_predict)
    with threadpool_limits(2, user_api="openmp"):
        choose_uncertain(unit_vectors(60), np.arange(60), np.linspace(0, 1, 60), 5, 0)
    assert set(threads) == {1}


def test_margins():
    assert np.allclose(margins_of(np.array([[0.5, 0.2, 0.3], [0.1, 0.1, 0.8]])), [0.2, 0.7])


def test_a_model_chooses_in_turn_once_the_classes_have_labels():
    vectors, allowed, labeled = unit_vectors(200), np.arange(40, 200), np.arange(40)
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), 200)

    def choose_six(labels, given=probabilities) -> choose.Choice:
        return choose_inputs(vectors, allowed, labeled[: len(labels)], np.array(labels), given, 6, 0)

    found = choose_six([0, 1] * 20)
    assert found.is_uncertain.tolist() == [True, False] * 3 and len(set(found.indices.tolist())) == 6
    margins = margins_of(probabilities)
    assert margins[found.indices[::2]].max() < np.sort(margins[allowed])[30]
    spread = choose_representative(vectors, allowed, labeled, 6, 0).tolist()
    for few in (choose_six(list(range(10)) * 4), choose_six([0, 1] * 20, None)):
        assert few.indices.tolist() == spread and not few.is_uncertain.any()
    assert not choose_six([0, 1] * 15).is_uncertain.any(), "under 32 labels"


def test_copies_of_labeled_texts_are_not_enough_labels():
    def reasons(copies: int) -> set[str]:
        inputs = Inputs()
        for number in range(40):
            inputs.add(f"Labeled {number // copies}", "ab"[number // copies % 2])
        for number in range(40, 200):
            inputs.add(f"text {number}")
        probabilities = np.random.default_rng(0).dirichlet(np.ones(2), 200)
        unlabeled, vectors = split_unlabeled(inputs, 0), unit_vectors(200)
        queue = build_queue(inputs, unlabeled, vectors, np.arange(200), probabilities, [], Explore(queue_size=20))
        return {entry.reason for entry in queue}

    assert reasons(1) == {"uncertain", "spread", "random"}
    assert reasons(10) == {"spread", "random"}, "four different labeled texts"


def test_a_random_quarter_is_reserved_by_its_text_alone():
    keys = [f"text {number}" for number in range(4_000)]
    ranks = measuring_ranks(keys, 0)
    assert abs((ranks < 0.25).mean() - 0.25) < 0.03
    assert measuring_ranks(keys[::-1], 0).tolist() == ranks[::-1].tolist()
    assert measuring_ranks(keys, 1).tolist() != ranks.tolist()


def test_one_of_four_measures_and_nothing_is_lost():
    order, is_measured = merge_rounds(np.arange(9), np.arange(100, 105))
    assert order.tolist() == [0, 1, 2, 100, 3, 4, 5, 101, 6, 7, 8, 102, 103, 104]
    assert (is_measured == (order >= 100)).all()
    assert merge_rounds(np.arange(2), np.zeros(0, int))[0].tolist() == [0, 1]
