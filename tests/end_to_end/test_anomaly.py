"""Anomaly detection through real processes: from rows to a folder that plain transformers scores with."""

from __future__ import annotations

import csv
import json
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import ROOT, run_module
from PIL import Image, ImageDraw
from safetensors.numpy import load_file
from transformers import AutoTokenizer, BertConfig, BertModel, ResNetConfig, ResNetModel

from data.encoders import resolve_encoder
from data.images.processor import Processor, write_processor
from data.tasks.detector import FILENAME

WORDS = {"normal": "ham egg bread milk rice", "strange": "bolt nut wrench screw drill"}
TEXT = (str(ROOT / "configs/finetune/default.yaml"), "method=anomaly", "task.name=words", "task.train.files=rows.csv")
IMAGES = (
    *(str(ROOT / "configs/finetune/images.yaml"), "method=anomaly", "task.name=shapes", "task.modality=images"),
    *("task.train.folder=pictures", "task.pixels.size=32", "head.normal=circle"),
)
COMMON = ("train.precision=float32", "baselines=false")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return a folder with texts and pictures, more than half of them normal, and encoders with random weights."""
    folder, rng = tmp_path_factory.mktemp("anomaly"), random.Random(0)
    with open(folder / "rows.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for number in range(280):
            label = "strange" if number % 4 == 0 else "normal"
            writer.writerow([" ".join(rng.choices(WORDS[label].split(), k=rng.randint(4, 12))), label])
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(resolve_encoder("minilm"), trust_remote_code=False)
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 32}
    BertModel(BertConfig(vocab_size=len(tokenizer), hidden_size=32, **sizes)).save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "bert")
    noise = np.random.default_rng(0)
    for number in range(90):
        shape = "square" if number % 3 == 0 else "circle"
        image = Image.fromarray(noise.integers(90, 160, (40, 40, 3), dtype=np.uint8))
        color = (230, 40, 40) if shape == "square" else (40, 200, 60)
        getattr(ImageDraw.Draw(image), "rectangle" if shape == "square" else "ellipse")([8, 8, 28, 28], fill=color)
        path = folder / "pictures" / shape / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    torch.manual_seed(0)
    ResNetModel(
        ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic")
    ).save_pretrained(folder / "resnet")
    write_processor(folder / "resnet", Processor(32))
    return folder


def run(folder: Path, *args: str, code: int = 0) -> str:
    """Run a command; return its output, or its errors if it must fail."""
    result = run_module(*args, cwd=folder)
    assert result.returncode == code, result.stdout + result.stderr
    return result.stderr.strip() if code else result.stdout


def run_card(model: Path, replacements: dict[str, str]) -> tuple[str, dict]:
    """Run the example of a model's card with other inputs; return the card and the example's variables."""
    card, variables = (model / "README.md").read_text(), {}
    block = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
    for old, new in {"PATH_OR_NAME": str(model), **replacements}.items():
        assert old in block
        block = block.replace(old, new)
    exec(block, variables)
    return card, variables


def test_texts_unlike_the_normal_ones_are_found(folder):
    output = run(folder, "finetune", *TEXT, *COMMON[:1], "run=words", "encoder=bert", "max_length=16")
    assert "normal  'normal', the class of" in output and "make predict MODEL=out/runs/words FILE=FILE" in output
    metrics = json.loads((folder / "out/runs/words/metrics.json").read_text())
    test, baselines = metrics["test"], metrics["baselines"]
    assert test["auroc"] > 0.9 and test["n"] == 35 and test["n_anomalous"] == 9 and metrics["steps"] == 0
    assert metrics["evaluation"]["rows"]["train"] == metrics["num_train_examples"] == 184
    assert baselines["tfidf"]["name"] == "TF-IDF + nearest neighbors" and baselines["tfidf"]["test"]["auroc"] > 0.9
    assert baselines["without_pretraining"]["test"]["n"] == 35
    model = folder / "out/runs/words/model"
    names = {"README.md", "config.json", "model.safetensors", "record.json", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in model.iterdir()} == names | {FILENAME}
    assert not any(b"wrench" in (model / name).read_bytes() for name in names - {"tokenizer.json"} | {FILENAME})
    arrays = load_file(model / FILENAME)
    assert arrays["layers"].tolist() == [1, 2] and len(arrays["scores"]) == len(arrays["vectors"]) == 184

    run(folder, "predict", "model=out/runs/words", "file=rows.csv", "output=labels.jsonl", "why=true")
    rows = [json.loads(line) for line in (folder / "labels.jsonl").read_text().splitlines()]
    found = {row["predicted_label"] for row in rows if row["label"] == "strange"}
    assert found <= {"normal", "anomalous"} and "anomalous" in found
    assert all(
        (row["predicted_score"] > arrays["threshold"][0]) == (row["predicted_label"] == "anomalous") for row in rows
    )
    assert all(0 < row["predicted_p_value"] <= 1 and row["predicted_why"]["nearest"] for row in rows)
    assert {near["label"] for row in rows for near in row["predicted_why"]["nearest"]} == {"normal"}
    card, variables = run_card(model, {"your text": rows[0]["text"]})
    assert variables["score"] == pytest.approx(rows[0]["predicted_score"], rel=1e-3)
    assert "how unlike the normal class, `normal`, a text is" in card and "184 normal rows" in card
    assert "The rows with the highest scores" in (folder / "labels.html").read_text()

    output = run(folder, "publish", "run=out/runs/words", "repo=me/words", "dry_run=true", *LICENSES)
    assert "reproduces the recorded outputs" in output and "pipeline_tag: feature-extraction" in output
    message = "out/runs/words/model: an anomaly detector compares inputs with its normal rows, which is no graph"
    assert run(folder, "publish.export", "run=out/runs/words", code=2).startswith(message)
    study = run(folder, "finetune.study", *TEXT, "run=study", "encoder=bert", code=2)
    assert study == "task.problem_type: a study needs single classes, not anomaly_detection"
    assert "is finished" in run(folder, "finetune", *TEXT, *COMMON[:1], "run=words", "encoder=bert", "max_length=16")


LICENSES = ("license.labels=unknown", "license.base=unknown", "license.model=mit")


def test_images_unlike_the_normal_ones_are_found(folder):
    run(folder, "finetune", *IMAGES, *COMMON[:1], "run=shapes", "encoder=resnet", "head.score=neighbors")
    metrics = json.loads((folder / "out/runs/shapes/metrics.json").read_text())
    assert metrics["test"]["auroc"] > 0.9 and metrics["report_metrics"][0] == "auroc"
    assert metrics["baselines"]["pixels"]["name"] == "16 x 16 pixels + nearest neighbors"
    model, paths = folder / "out/runs/shapes/model", sorted((folder / "pictures").rglob("*.png"))
    assert not any(b"PNG" in path.read_bytes() for path in model.iterdir())
    scores = {}
    for path in paths[:3] + paths[-3:]:
        scores[path.parent.name] = run_card(model, {"photo.jpg": str(path)})[1]["score"]
        if path == paths[-1]:
            last = scores["square"]
    assert scores["square"] > scores["circle"]
    run(folder, "predict", "model=out/runs/shapes", "source.folder=pictures/square", "output=squares.csv", "why=true")
    with open(folder / "squares.csv") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    found = next(float(row["score"]) for path, row in rows.items() if Path(path).name == paths[-1].name)
    assert found == pytest.approx(last, rel=1e-3)
    output = run(folder, "publish", "run=out/runs/shapes", "repo=me/shapes", "dry_run=true", *LICENSES)
    assert "reproduces the recorded outputs" in output and "anomaly-detection" in output
    page = (folder / "out/runs/shapes/report.html").read_text()
    assert "nearest neighbors" in page and "normal rows" in page


def test_no_anomalous_row_is_needed(folder):
    (folder / "good.csv").write_text(
        "image,label\n" + "".join(f"{path},good\n" for path in sorted((folder / "pictures/circle").glob("*.png")))
    )
    pictures = ["task.train={files: good.csv}", "head.normal=good"]
    run(folder, "finetune", *IMAGES, *COMMON, *pictures, "run=good", "encoder=resnet")
    metrics = json.loads((folder / "out/runs/good/metrics.json").read_text())
    assert metrics["report_metrics"] == ["false_alarm_rate"] and 0 <= metrics["test"]["false_alarm_rate"] <= 1
    paths = sorted((folder / "pictures").rglob("*.png"))
    (folder / "other.csv").write_text(
        "image,label\n"
        + "".join(f"{path},{'good' if path.parent.name == 'circle' else 'bad'}\n" for path in paths[::5])
    )
    tests = ["task.train={files: good.csv}", "task.test={files: other.csv}", "head.normal=good"]
    run(folder, "finetune", *IMAGES, *COMMON, *tests, "run=other", "encoder=resnet")
    assert json.loads((folder / "out/runs/other/metrics.json").read_text())["test"]["n_anomalous"] == 6


def test_mistakes_are_one_line_before_anything_is_written(folder):
    for args, message in (
        (["head.normal=norml"], "head.normal: no training row has the label 'norml' (nearest: normal)"),
        (["task.num_examples=18"], "head.false_alarms: 0.05 takes 19 normal training rows or more, and there are 18"),
        (["head.neighbors=93"], "head.neighbors: 184 normal training rows are too few"),
        (["train.load_best=true"], "train.load_best: head.name=anomaly uses no validation rows"),
        (["adapter.name=lora"], "adapter.name: head.name=anomaly trains nothing; leave it out"),
        (["head.layers=[]"], "head.layers: "),
        (["head.name=standard"], "head.name: task.problem_type=anomaly_detection needs head.name=anomaly"),
        (["method=none", "head.name=anomaly"], "head.name: anomaly is for anomaly_detection, and task.problem_type is"),
    ):
        error = run(folder, "finetune", *TEXT, *COMMON, "run=no", "encoder=bert", *args, code=2)
        lines = [line for line in error.splitlines() if not line.startswith("note")]
        assert len(lines) == 1 and lines[0].startswith(message), error
        assert not (folder / "out/runs/no").exists()
