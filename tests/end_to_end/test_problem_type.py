"""A problem type added by one new file goes through training, card, report, export and the check before publishing."""

import json
import random
import sys

import pytest
import torch
from helpers import run_module
from transformers import AutoTokenizer, BertConfig, BertModel

from data.encoders import resolve_encoder

FILE = '''
"""Proportions: a number between 0 and 1, such as the fraction of people who agree."""

import numpy as np
from torch.nn import functional as F

from data.sources.values import get_scalar
from data.tasks.problem_types import ProblemType


class Proportion(ProblemType):
    """A number between 0 and 1; a prediction is an array of one number for each input."""

    name, activation, transformers_problem_type = "proportion", "sigmoid", "multi_label_classification"
    metric_for_best, report_metrics, export_metric = "negative_error", ("error",), "1 - mean error"
    linear_baseline = "mean"
    card_description = "A model that predicts the proportion {labels} for a {input}."
    card_limitation = "It does not know how many people were asked about {inputs}."
    example_title = "Predict a proportion for each of some {inputs}"
    example_code = """for text, logits in zip(sys.argv[1:], outputs):
    print(f"{1 / (1 + np.exp(-logits[0])):.4f}  {text}")
"""

    def parse_label(self, row, task, location):
        return float(get_scalar(row, task.label, location))

    def list_label_names(self, task, present):
        return [task.label]

    def encode_labels(self, examples, label_names):
        return np.array([[example.label] for example in examples], dtype=np.float32)

    def loss(self, logits, labels, **options):
        return F.binary_cross_entropy_with_logits(logits, labels, **options)

    def quick_metrics(self, predictions, labels):
        error = float(np.abs(np.array(predictions) - labels).mean())
        return {"error": error, "negative_error": -error, "n": len(labels)}

    def fit_linear_model(self, c, features, labels, label_names):
        return lambda rows: np.full((rows.shape[0], 1), labels.mean())

    def decode_outputs(self, outputs, config, word_starts=None):
        return [float(1 / (1 + np.exp(-logits[0]))) for logits in outputs]

    def score_predictions(self, predictions, labels):
        return 1 - float(np.abs(np.array(predictions) - np.array(labels)).mean())

    def agreement(self, predictions, reference):
        return None


PROBLEM_TYPE = Proportion()
'''
RUN = """
import data.tasks.problem_types
data.tasks.problem_types.__path__.append("ADDED")
import headstart.__main__
headstart.__main__.main()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with the file, labeled rows, and a tiny encoder."""
    folder, rng = tmp_path_factory.mktemp("problem-type"), random.Random(0)
    (folder / "added").mkdir()
    (folder / "added/proportion.py").write_text(FILE, encoding="utf-8")
    (folder / "run.py").write_text(RUN.replace("ADDED", str(folder / "added")), encoding="utf-8")
    words, rows = "good fine well bad poor dull".split(), []
    for _ in range(200):
        text = rng.choices(words, k=8)
        share = sum(word in words[:3] for word in text) / 8
        rows.append(json.dumps({"text": " ".join(text), "label": share}))
    (folder / "rows.jsonl").write_text("\n".join(rows) + "\n")
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(resolve_encoder("minilm"))
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 32}
    BertModel(BertConfig(vocab_size=len(tokenizer), hidden_size=32, **sizes)).save_pretrained(folder / "encoder")
    tokenizer.save_pretrained(folder / "encoder")
    return folder


def run(folder, *args: str) -> str:
    """Return the output of a command that must succeed."""
    done = run_module(*args, prefix=(sys.executable,), cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_problem_type_of_one_file(folder):
    args = ("run=shares", "encoder=encoder", "task.name=shares", "task.problem_type=proportion", "max_length=16")
    training = ("task.train.files=rows.jsonl", "train.precision=float32", "train.lr=0.003", "train.epochs=12")
    output = run(folder, "run.py", "finetune", *args, *training, "layers.train_embeddings=true")
    assert "TF-IDF + mean" in output and "next    make predict MODEL=out/runs/shares FILE=FILE" in output
    metrics = json.loads((folder / "out/runs/shares/metrics.json").read_text())
    assert metrics["problem_type"] == "proportion"
    assert metrics["test"]["error"] < 0.5 * metrics["baselines"]["tfidf"]["test"]["error"]
    model = folder / "out/runs/shares/model"
    card = (model / "README.md").read_text()
    assert "A model that predicts the proportion label for a text." in card
    assert 'pipeline("text-classification", ' in card
    assert "It does not know how many people were asked about texts." in card
    report = (folder / "out/runs/shares/report.html").read_text()
    assert f"{metrics['test']['error']:.3f}" in report and "TF-IDF + mean" in report

    output = run(folder, "run.py", "export", "out/runs/shares")
    assert "1 - mean error" in output
    exported = json.loads((model / "onnx/export.json").read_text())
    assert exported["problem_type"] == "proportion"
    assert exported["backends"]["float32"]["score"] == pytest.approx(1 - metrics["test"]["error"], abs=1e-3)
    printed = run(folder, str(model / "onnx/example.py"), "good fine well good")
    assert 0.5 < float(printed.split()[0]) <= 1 and printed.rstrip().endswith("good fine well good")

    licenses = ("license.model=mit", "license.labels=mit", "license.base=mit")
    output = run(folder, "run.py", "publish", "run=shares", "repo=me/shares", "dry_run=true", *licenses)
    assert "loads with transformers alone and reproduces the recorded outputs" in output
