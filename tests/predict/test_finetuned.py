"""What fine-tuning leaves for predictions: results on held-out rows, vectors of training rows, mistakes to read."""

from __future__ import annotations

import csv
import json
import re
import shutil

import numpy as np
import pytest
from helpers import ROOT, finetune_args, run_module
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from data.classifier import Classifier
from data.tasks.confidence import fit_thresholds, load_confidence
from data.tasks.novelty import hash_inputs, load_novelty
from data.tasks.splits import Example
from engine.errors import DataError
from predict.__main__ import main as predict


@pytest.fixture(scope="module")
def folder(tmp_path_factory, sentiment_files, tiny):
    """Fine-tune with and without validation rows in a folder, and predict the labeled rows."""
    folder = tmp_path_factory.mktemp("finetuned")
    (folder / "configs").symlink_to(ROOT / "configs")
    for name, load_best in (("with", "true"), ("without", "false")):
        args = [*finetune_args(sentiment_files), f"run={name}", f"encoder={tiny}", f"train.load_best={load_best}"]
        args += ["train.steps=30", "train.eval_every=30", "train.lr=1e-3", "baselines=false"]
        result = run_module("finetune", *args, cwd=folder)
        assert result.returncode == 0, result.stderr + result.stdout
    predict = ("predict", "model=with", f"file={sentiment_files}/labels.csv", "output=labels.csv", "precision=0.6")
    result = run_module(*predict, cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder


@pytest.mark.parametrize("name, split", [("with", "validation"), ("without", "test")])
def test_results_on_held_out_rows_are_those_of_the_saved_model(folder, name, split):
    model = folder / f"out/runs/{name}/model"
    confidence, arrays = load_confidence(model)
    metrics = json.loads((folder / f"out/runs/{name}/metrics.json").read_text())
    assert confidence.split == split and confidence.names == ["negative", "positive"]
    assert confidence.decision_correct.mean() == pytest.approx(metrics[split]["accuracy"])
    assert np.array_equal(confidence.probabilities.argmax(1), confidence.decision_names)
    assert np.array_equal(confidence.decision_correct, confidence.decision_names == confidence.labels)
    assert (confidence.temperature == 1) == (split == "validation")
    assert confidence.train_counts.sum() == metrics["num_train_examples"]
    assert load_novelty(arrays).vectors.shape[0] == metrics["num_train_examples"]


def test_the_file_holds_no_text(folder, sentiment_files):
    content = (folder / "out/runs/with/model/confidence.safetensors").read_bytes()
    with open(sentiment_files / "labels.csv", encoding="utf-8") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    assert len(content) < 500_000
    assert not any(text.encode()[:20] in content for text in texts)
    _, arrays = load_confidence(folder / "out/runs/with/model")
    hashes = set(arrays["novelty_hashes"].tolist())
    assert len(hashes & set(hash_inputs([Example((text,), "") for text in texts]).tolist())) > 200


def test_unsure_is_what_the_thresholds_leave_out(folder):
    thresholds = fit_thresholds(load_confidence(folder / "out/runs/with/model")[0], 0.6)
    with open(folder / "labels.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 400 and {"label", "predicted_label", "predicted_unsure", "predicted_unlike"} <= rows[0].keys()
    for row in rows:
        probability, threshold = float(row["predicted_probability"]), thresholds[row["predicted_label"]]
        assert abs(probability - threshold) < 1e-3 or (row["predicted_unsure"] == "True") == (probability < threshold)
    summary = json.loads((folder / "labels.summary.json").read_text())
    assert summary["unsure"] == sum(row["predicted_unsure"] == "True" for row in rows)
    assert sum(share["share"] for share in summary["shares"]) == pytest.approx(1)
    assert all(share["low"] <= share["corrected"] <= share["high"] for share in summary["shares"])


def test_mistakes_and_their_nearest_training_rows_are_in_the_report(folder):
    run = folder / "out/runs/with"
    mistakes = json.loads((run / "mistakes.json").read_text())["mistakes"]
    rows = {
        texts[0]: label
        for texts, label in zip(
            *(json.loads((run / "test.json").read_text())[key] for key in ("texts", "labels")), strict=True
        )
    }
    accuracy = json.loads((run / "metrics.json").read_text())["test"]["accuracy"]
    assert len(mistakes) == round((1 - accuracy) * len(rows)) > 0
    assert [mistake["probability"] for mistake in mistakes] == sorted(
        (m["probability"] for m in mistakes), reverse=True
    )
    for mistake in mistakes:
        assert rows[mistake["text"]] == mistake["label"] != mistake["predicted"]
        assert len(mistake["nearest"]) == 3
    page = (run / "report.html").read_text()
    assert "Mistakes on test rows" in page and page.count("<summary>") == len(mistakes) + 1


def change_confidence(model, changes):
    """Write the confidence.safetensors of a model again with other arrays or other values of its metadata."""
    path = model / "confidence.safetensors"
    with safe_open(path, "numpy") as file:
        plain = json.loads(file.metadata()["confidence"])
    arrays = load_file(path)
    for key, change in changes.items():
        (plain if key in plain else arrays)[key] = change((plain if key in plain else arrays)[key])
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    save_file(arrays, path, metadata={"confidence": json.dumps(plain)})


@pytest.mark.parametrize(
    "changes",
    [
        {"names": lambda names: names[:1]},
        {"temperature": lambda value: 1e-320},
        {"decision_names": lambda ids: ids + 99},
        {"decision_names": lambda ids: ids.astype(np.float32)},
        {"decision_probabilities": lambda values: values * np.nan},
        {"decision_probabilities": lambda values: np.stack([values, values])},
        {"labels": lambda ids: ids - 9},
        {"probabilities": lambda values: values[:3]},
        {"probabilities": lambda values: np.zeros(0, np.float32)},
        {"train_counts": lambda counts: counts[:1]},
        {"novelty_threshold": lambda values: values[:0]},
        {"novelty_center": lambda values: values * np.nan},
    ],
)
def test_results_that_do_not_fit_together_are_one_line(folder, tmp_path, changes):
    model = shutil.copytree(folder / "out/runs/with/model", tmp_path / "model")
    change_confidence(model, changes)
    with pytest.raises(DataError, match="fit together"):
        Classifier(str(model))


@pytest.mark.parametrize(
    "name, changes, expected",
    [
        ("config.json", {"architectures": 5}, None),
        ("config.json", {"id2label": {"0": 1, "1": None}}, None),
        ("config.json", {"problem_type": "regression"}, "its record has problem_type single_label_classification, and"),
        ("config.json", {"thresholds": {"positive": "high"}}, "thresholds in config.json holds no numbers by name"),
        ("config.json", {"label_scale": {"mean": 0}}, "label_scale in config.json holds no numbers by name"),
        ("config.json", {"label_scale": {"mean": 0, "std": float("nan")}}, "label_scale in config.json holds no"),
        ("config.json", {"label_scale": None, "thresholds": None}, None),
        ("record.json", {"modality": "../other"}, "its record names the modality '../other'"),
        ("record.json", {"config.max_length": "many"}, None),
        ("record.json", {"config.max_length": -1}, None),
        ("record.json", {"config.task": {"name": "t", "text": 5}}, None),
    ],
)
def test_unusual_values_of_a_model_folder_are_read_or_one_line(folder, tmp_path, name, changes, expected, capsys):
    path = shutil.copytree(folder / "out/runs/with/model", tmp_path / "model") / name
    content = json.loads(path.read_text())
    for key, value in changes.items():
        section, _, leaf = key.rpartition(".")
        (content[section] if section else content)[leaf] = value
    path.write_text(json.dumps(content))
    if expected:
        with pytest.raises(DataError, match=re.escape(expected)):
            Classifier(str(tmp_path / "model"))
        return
    (tmp_path / "rows.csv").write_text("text\na good film\na bad film\n")
    predict(["model=" + str(tmp_path / "model"), f"file={tmp_path}/rows.csv", f"output={tmp_path}/labels.csv"])
    with open(tmp_path / "labels.csv", encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 2
