"""Anomaly detection: the metrics and the threshold against slow versions, the choice of normal rows, and the score."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from tiny_models import SMALL
from transformers import BertConfig, BertModel

from data.tasks.detector import FILENAME, Detector, load_detector, save_detector
from data.tasks.problem_types.anomaly_detection import PROBLEM_TYPE, AnomalyDetection
from data.tasks.splits import Example
from engine.config.loader import validate
from engine.errors import ConfigError, DataError
from finetune.config import Finetune
from finetune.detector import DetectorModule, cross_score, make_detector, score, select_normal_rows
from finetune.heads.anomaly import Config
from finetune.modalities import load_modality
from finetune.model.network import Network


def test_metrics_are_those_of_a_slow_version():
    rng = np.random.default_rng(0)
    labels = (rng.random(300) < 0.3).astype(np.int64)
    scores = np.round(rng.normal(size=300) + labels, 1)  # with ties
    found = PROBLEM_TYPE.compute_metrics(list(scores), labels, ["good"], {"threshold": 1.0})
    assert found["auroc"] == pytest.approx(roc_auc_score(labels, scores))
    assert found["average_precision"] == pytest.approx(average_precision_score(labels, scores))
    normal, anomalous = np.sort(scores[labels == 0]), scores[labels == 1]
    shares = [(np.mean(normal > cut), np.mean(anomalous > cut)) for cut in normal]
    assert found["recall_at_5_fpr"] == max(recall for rate, recall in shares if rate <= 0.05)
    assert found["recall"] == np.mean(anomalous > 1) and found["false_alarm_rate"] == np.mean(normal > 1)
    assert found["n"] == 300 and found["n_anomalous"] == len(anomalous)


def test_without_anomalous_rows_only_false_alarms_are_known():
    found = PROBLEM_TYPE.compute_metrics([0.1, 0.2, 0.3], np.zeros(3, int), ["good"], {"threshold": 0.25})
    assert found == {"n": 3, "n_anomalous": 0, "false_alarm_rate": pytest.approx(1 / 3)}
    assert PROBLEM_TYPE.list_report_metrics(found) == ("false_alarm_rate",)


@pytest.mark.parametrize("false_alarms, needed", [(0.05, 19), (0.1, 9), (0.3, 3)])
def test_normal_rows_exceed_the_threshold_at_most_as_often_as_asked(false_alarms, needed):
    problem_type, rng = AnomalyDetection(false_alarms), np.random.default_rng(0)
    scores = rng.exponential(size=(3_000, needed + 1))
    rate = np.mean([row[-1] > problem_type.find_threshold(row[:-1]) for row in scores])
    assert 0.7 * false_alarms <= rate <= false_alarms + 0.02
    with pytest.raises(DataError, match=f"takes {needed} normal training rows or more, and there are {needed - 1}; "):
        problem_type.find_rank(needed - 1)


def test_the_scores_of_the_threshold_are_of_rows_that_were_not_fitted():
    layers = {0: np.random.default_rng(0).normal(size=(60, 40)).astype(np.float32)}
    held_out = cross_score(layers, head("mahalanobis"), seed=0)
    others = np.random.default_rng(1).normal(size=(600, 40)).astype(np.float32)
    detector = make_detector(layers, np.arange(60), head("mahalanobis"))
    fitted, new = score(detector, layers[0]), score(detector, others)
    assert fitted.mean() < held_out.mean() == pytest.approx(new.mean(), rel=0.1)
    assert np.array_equal(held_out, cross_score(layers, head("mahalanobis"), seed=0))


def test_labels_other_than_the_normal_one_are_anomalous():
    examples = [Example(("a",), name) for name in ("good", "broken", "never seen", "good")]
    assert PROBLEM_TYPE.encode_labels(examples, ["good"]).tolist() == [0, 1, 1, 0]


def slow_covariance(vectors: np.ndarray) -> np.ndarray:
    """Return the covariance of vectors with mean 0, shrunk as Ledoit and Wolf (2004) derive, by loops over the rows."""
    rows, width = vectors.shape
    sample = sum(np.outer(row, row) for row in vectors) / rows
    target = np.trace(sample) / width * np.eye(width)
    distance = np.square(sample - target).sum()
    noise = sum(np.square(np.outer(row, row) - sample).sum() for row in vectors) / rows**2
    shrinkage = min(noise, distance) / distance
    return shrinkage * target + (1 - shrinkage) * sample


def head(name: str, neighbors: int = 5) -> Config:
    return Config(score=name, neighbors=neighbors)


@pytest.mark.parametrize("rows", [200, 12])  # more and fewer rows than coordinates
def test_the_score_is_that_of_a_slow_version(rows):
    rng = np.random.default_rng(0)
    mixing = {3: rng.normal(size=(16, 16)), 6: rng.normal(size=(8, 8))}
    normal = {layer: (rng.normal(size=(rows, len(m))) @ m * 3 + 7).astype(np.float32) for layer, m in mixing.items()}
    others = {layer: (rng.normal(size=(9, len(m))) @ m * 3 + 9).astype(np.float32) for layer, m in mixing.items()}
    spread = {layer: values.astype(np.float64).std(0) for layer, values in normal.items()}
    center = {layer: values.astype(np.float64).mean(0) for layer, values in normal.items()}
    precision = {
        layer: np.linalg.inv(slow_covariance((values - center[layer]) / spread[layer]))
        for layer, values in normal.items()
    }

    def distance(one: dict, other: dict) -> float:
        total = 0.0
        for layer in mixing:
            difference = (one[layer].astype(np.float64) - other[layer]) / spread[layer]
            total += difference @ precision[layer] @ difference / len(difference)
        return float(np.sqrt(total / 2))

    def row(of: dict, index: int) -> dict:
        return {layer: values[index] for layer, values in of.items()}

    distances = np.array([[distance(row(others, i), row(normal, j)) for j in range(rows)] for i in range(9)])
    expected = {
        "mahalanobis": [distance(row(others, i), center) for i in range(9)],
        "neighbors": np.sort(distances, 1)[:, :4].mean(1),
    }
    for name, values in expected.items():
        detector = make_detector(normal, np.arange(rows), head(name, 4))
        vectors = torch.from_numpy(np.concatenate(list(others.values()), 1))
        found = detector.score_vectors(vectors, detector.to_tensors("cpu")).numpy()
        assert found[:, 0] == pytest.approx(values, rel=2e-3), "float16 vectors"
        assert found[:, 1].tolist() == distances.argmin(1).tolist() and detector.layers.tolist() == [3, 6]


def test_a_normal_row_has_a_score_of_about_one():
    layers = {number: np.random.default_rng(number).normal(size=(400, 20)).astype(np.float32) for number in (0, 1)}
    detector = make_detector(layers, np.arange(400), head("mahalanobis"))
    vectors = torch.from_numpy(np.concatenate(list(layers.values()), 1))
    scores = detector.score_vectors(vectors, detector.to_tensors("cpu"))[:, 0]
    assert scores.square().mean().item() == pytest.approx(1, abs=0.02)


def random_detector() -> Detector:
    layers = {2: np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)}
    return make_detector(layers, np.arange(30), head("mahalanobis"))


def test_a_constant_coordinate_and_equal_rows_give_finite_scores():
    constant = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32) * [1, 1, 0, 1]
    for vectors in (constant.astype(np.float32), np.ones((30, 4), np.float32)):
        detector = make_detector({0: vectors}, np.arange(30), head("mahalanobis"))
        scores = detector.score_vectors(torch.from_numpy(vectors) + 1, detector.to_tensors("cpu"))
        assert scores.isfinite().all() and (scores[:, 0] > 0.5).all()


def test_the_p_value_counts_the_normal_rows_with_as_high_a_score():
    detector = random_detector()
    detector.scores = np.array([1, 2, 2, 3], np.float32)
    assert [detector.p_value(score) for score in (0.5, 1, 2, 2.5, 3, 4)] == [1, 1, 0.8, 0.4, 0.4, 0.2]


def test_a_damaged_file_is_one_line(tmp_path):
    detector = random_detector()
    save_detector(detector, tmp_path)
    loaded = load_detector(tmp_path)
    assert all(np.array_equal(value, vars(loaded)[name]) for name, value in vars(detector).items())
    for change in (
        {"vectors": detector.vectors[:, :3]},
        {"neighbors": np.zeros(2, int)},
        {"projection": np.full((4, 4), np.nan)},
    ):
        save_detector(replace(detector, **change), tmp_path)
        with pytest.raises(DataError, match="normal_rows.safetensors: cannot be read"):
            load_detector(tmp_path)
    (tmp_path / FILENAME).write_bytes(b"no safetensors")
    with pytest.raises(DataError, match="normal_rows.safetensors: cannot be read"):
        load_detector(tmp_path)


def rows_of(**counts: int) -> dict[str, list[Example]]:
    """Return training and validation rows with so many of each class."""
    rows = [Example((f"{name} {number}",), name) for name, count in counts.items() for number in range(count)]
    return {"train": rows, "validation": list(rows), "test": list(rows)}


def select(rows: dict[str, list[Example]], **settings: str) -> tuple[Finetune, list[str]]:
    """Select the normal rows of a task."""
    task = {"name": "t", "problem_type": "anomaly_detection", "train": {"files": "x.csv"}}
    config = validate(Finetune.choose_schema({}), {"run": "r", "task": task, "head": {"name": "anomaly", **settings}})
    return select_normal_rows(config, rows, sorted({row.label for row in rows["train"]}))


def test_only_normal_rows_are_fitted_on_and_all_are_tested():
    rows = rows_of(good=6, cracked=3, stained=2)
    config, names = select(rows)
    assert config.head.normal == "good" and names == ["good"]
    assert {row.label for row in rows["train"] + rows["validation"]} == {"good"} and len(rows["test"]) == 11
    rows = rows_of(good=6, cracked=3, stained=2)
    assert select(rows, normal="stained")[1] == ["stained"] and len(rows["train"]) == 2
    with pytest.raises(ConfigError, match="which class is normal.* There are bad, good; set head.normal=CLASS"):
        select(rows_of(good=3, bad=3))
    with pytest.raises(ConfigError, match=r"no training row has the label 'god' \(nearest: good\)"):
        select(rows_of(good=3, bad=2), normal="god")
    with pytest.raises(DataError, match="^x.csv: its labeled rows are too few to leave any for training; label more$"):
        select({"train": [], "validation": [], "test": []})


def test_the_normal_class_may_be_a_number():
    rows = [Example((f"text {number}",), "01"[number > 6]) for number in range(9)]
    assert select({"train": rows}, normal=0)[1] == ["0"]


class OneRow:
    """A text of three tokens."""

    lengths = np.array([3])

    def get_inputs(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        return {"input_ids": torch.ones(len(indices), 3, dtype=torch.long)}


def test_the_calibration_of_an_earlier_classifier_is_not_that_of_the_detector():
    settings = {"calibration": {"temperature": 2.0}, "thresholds": {"good": 0.3}}
    model, task = BertModel(BertConfig(**SMALL, **settings)).eval(), {"name": "t", "train": {"files": "x.csv"}}
    config = validate(Finetune.choose_schema({}), {"run": "r", "task": task})
    module = DetectorModule(Network(model), load_modality(config), [0.5, 1.0], OneRow())
    assert module.layers == [2, 4] and not settings.keys() & module.model.config.to_dict().keys()
