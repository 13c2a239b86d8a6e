"""Fine-tuning on images through real processes: from a folder of pictures to a model that plain transformers loads."""

from __future__ import annotations

import csv
import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from helpers import ROOT, run_module, start_module
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from transformers import (
    AutoModelForImageClassification,
    ConvNextV2Config,
    ConvNextV2Model,
    ResNetConfig,
    ResNetModel,
    ViTConfig,
    ViTModel,
    pipeline,
)

from data.images.processor import Processor, write_processor
from data.tasks.confidence import FILENAME, load_confidence
from data.tasks.novelty import load_novelty
from data.tasks.task import read_task
from engine.config.loader import load_config
from finetune.config import Finetune
from finetune.modalities import load_modality

CLASSES = {"circle": "ellipse", "square": "rectangle"}
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
ENCODERS = {
    "resnet": ResNetModel(ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic")),
    "convnextv2": ConvNextV2Model(ConvNextV2Config(hidden_sizes=[16, 32], depths=[1, 1], num_stages=2, patch_size=4)),
    "vit": ViTModel(ViTConfig(**SIZES, image_size=32, patch_size=8)),
}
ARGS = (
    *(
        str(ROOT / "configs/finetune/images.yaml"),
        "task.name=shapes",
        "task.modality=images",
        "task.train.folder=pictures",
    ),
    *("task.pixels.size=32", "train.precision=float32", "train.lr=3e-3", "train.min_steps=12", "train.max_steps=24"),
)


def draw(shape: str, color: tuple[int, ...], rng: np.random.Generator) -> Image.Image:
    """Return a shape on noise."""
    image = Image.fromarray(rng.integers(90, 160, (40, 48, 3), dtype=np.uint8))
    x, y = rng.integers(2, 20, 2).tolist()
    getattr(ImageDraw.Draw(image), CLASSES[shape])([x, y, x + 18, y + 18], fill=color)
    return image


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return a folder with pictures of two classes, tables about them, and small encoders."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    lines = ["file,amount,things"]
    for number in range(96):
        shape, amount = ("circle", "square")[number % 2], int(rng.integers(0, 255))
        path = folder / "pictures" / shape / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(shape, (amount, 255 * (shape == "circle"), 60), rng).save(path)
        things = [shape] + ["red"] * (amount > 128)
        lines.append(f'pictures/{shape}/{number}.png,{amount},"{", ".join(things)}"')
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    for name, model in ENCODERS.items():
        torch.manual_seed(0)
        model.init_weights()
        model.save_pretrained(folder / name)
        write_processor(folder / name, Processor(32))
    return folder


def finetune(folder: Path, run: str, *args: str) -> tuple[dict, str]:
    """Run the command; return the contents of metrics.json and the output."""
    result = run_module("finetune", *ARGS, f"run={run}", *args, cwd=folder)
    assert result.returncode == 0, result.stdout + result.stderr
    return json.loads((folder / f"out/runs/{run}/metrics.json").read_text()), result.stdout


@pytest.fixture(scope="module")
def whole(folder) -> tuple[dict, str]:
    """Fine-tune on all pictures, in the run `whole`."""
    return finetune(folder, "whole", "encoder=resnet", "train.max_steps=40", "train.epochs=20")


def test_a_folder_of_class_folders_becomes_a_model(folder, whole):
    metrics, output = whole
    assert metrics["modality"] == "images" and metrics["report_metrics"] == ["accuracy", "f1_macro", "auroc"]
    assert metrics["test"]["auroc"] > 0.9 and metrics["baselines"]["pixels"]["test"]["auroc"] > 0.5
    assert "the same network from random weights" in output and "16 x 16 pixels + logistic regression" in output
    assert metrics["test_rows"]["overlap"]["num_rows"] == metrics["test"]["n"] == 12
    run = folder / "out/runs/whole"
    assert "An image classifier with the labels circle, square." in (run / "model/README.md").read_text()
    names = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json", "record.json"} | {FILENAME}
    assert {path.name for path in (run / "model").iterdir()} == names
    assert not any(b"PNG" in path.read_bytes() for path in (run / "model").iterdir()), "no image is published"
    classify = pipeline("image-classification", str(run / "model"))
    paths = sorted((folder / "pictures").rglob("*.png"))
    right = [classify(str(path))[0]["label"] == path.parent.name for path in paths]
    assert np.mean(right) > 0.9
    buffers = {name: value for name, value in load_file(run / "model/model.safetensors").items() if "running" in name}
    before = load_file(folder / "resnet/model.safetensors")
    assert buffers and all(value.equal(before[name.removeprefix("resnet.")]) for name, value in buffers.items())


def test_predictions_of_an_own_run_have_their_doubt_and_nearest_images(folder, whole):
    metrics, _ = whole
    confidence, arrays = load_confidence(folder / "out/runs/whole/model")
    assert len(confidence.labels) == metrics["test"]["n"] and confidence.train_counts.sum() > 60
    assert load_novelty(arrays).vectors.shape == (metrics["num_train_examples"], 16)
    (folder / "new").mkdir()
    rng = np.random.default_rng(1)
    for number in range(20):
        draw(("circle", "square")[number % 2], (99, 255 * (number % 2 == 0), 60), rng).save(
            folder / f"new/{number}.png"
        )
    Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(folder / "new/noise.png")
    args = ("model=whole", "file=new", "output=labels.csv", "precision=0.8", "why=true")
    result = run_module("predict", *args, cwd=folder)
    assert result.returncode == 0, result.stdout + result.stderr
    with open(folder / "labels.csv", encoding="utf-8", newline="") as file:
        rows = {Path(row["path"]).stem: row for row in csv.DictReader(file)}
    assert list(rows["0"]) == ["path", "label", "probability", "unsure", "unlike", "why"]
    right = [rows[str(number)]["label"] == ("circle", "square")[number % 2] for number in range(20)]
    assert np.mean(right) > 0.8 and rows["noise"]["unlike"] == "True"
    assert sum(row["unlike"] == "True" for row in rows.values()) < 10
    nearest = json.loads(rows["0"]["why"])["nearest"]
    assert len(nearest) == 3 and all((folder / row["image"]).is_file() for row in nearest)
    assert all(Path(row["image"]).parent.name == row["label"] for row in nearest)
    page = (folder / "labels.html").read_text()
    assert 2 * len(rows) == page.count("data:image/png") and "like circle: pictures/circle/" in page


def test_a_study_compares_with_pixels_and_shows_mistakes(folder, whole):
    args = ("study.shots=[0,4]", "study.seeds=1", "study.variants=[ours,probe,tfidf]", "train.max_steps=6")
    result = run_module("finetune.study", *ARGS, "run=labels", "encoder=resnet", *args, cwd=folder)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "test rows also occur in the training and validation rows" in result.stdout
    assert "16 x 16 pixels + logistic regression" in result.stdout and "0 labels: not measured" in result.stderr
    study = json.loads((folder / "out/studies/labels/study.json").read_text())
    assert {name: len(points) for name, points in study["curve"].items()} == {"ours": 1, "probe": 1, "tfidf": 1}
    mistakes, page = study["errors"]["mistakes"], (folder / "out/studies/labels/report.html").read_text()
    assert page.count("data:image/png") == len(mistakes) and "data:image" not in json.dumps(study)
    config = load_config(Finetune, [str(folder / "out/runs/whole/config.yaml")])
    assert config.task.modality == "images", "a saved configuration is read as one of images"


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_killed_run_ends_with_the_same_model(folder, encoder):
    args = (
        f"encoder={encoder}",
        "method=fewshot",
        "baselines=false",
        "train.save_every=3",
        "train.keep_checkpoints=99",
    )
    finetune(folder, f"whole-{encoder}", *args)
    run = folder / f"out/runs/killed-{encoder}"
    process = start_module("finetune", *ARGS, f"run={run.name}", *args, cwd=folder)
    while not any(run.glob("step-*")) and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    while process.poll() is None:
        time.sleep(0.002)
    finetune(folder, run.name, *args)
    one, other = (
        load_file(folder / f"out/runs/{kind}-{encoder}/model/model.safetensors") for kind in ("whole", "killed")
    )
    assert one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


@pytest.mark.parametrize(
    "args, metric, least",
    [
        (["encoder=resnet", "method=probe", "train.load_best=false"], "accuracy", 0.9),
        (["encoder=resnet", "task.num_examples=16", "method=selftrain", "selftrain.min_steps=20"], "accuracy", 0.9),
        (["encoder=vit", "method=lora"], "accuracy", 0.9),
        (["encoder=resnet", "method=gradual", "layers.unfreeze_group=1"], "accuracy", 0.9),
        (["task.label=things", "task.problem_type=multi_label_classification", "encoder=resnet"], "f1_micro", 0.9),
        (["task.label=amount", "task.problem_type=regression", "encoder=resnet"], "spearman", 0.8),
    ],
    ids=["probe", "selftrain", "lora", "gradual", "multilabel", "regression"],
)
def test_every_way_to_learn_gives_a_model_that_transformers_loads(folder, request, args, metric, least):
    run = request.node.callspec.id
    source = ["task.train={files: table.csv, image: file}"] if "task.label" in args[0] else []
    metrics, _ = finetune(folder, run, "baselines=false", "train.max_steps=60", "train.epochs=30", *source, *args)
    assert metrics["test"][metric] >= least, metrics["test"]
    AutoModelForImageClassification.from_pretrained(folder / f"out/runs/{run}/model")


def test_mistakes_are_one_line_before_anything_is_written(folder):
    for args, message in (
        (["task.train.folder=picture"], "picture: no such folder (nearest: pictures)"),
        (["task.train={files: table.csv, image: fil}"], "table.csv row 1: no column 'fil' (nearest: file)"),
        (["encoder=vit", "task.pixels.size=48"], "vit: with head.name=classification, its architecture cannot be"),
        (["encoder=resnet", "adapter.name=lora"], "adapter.name: the encoder has no linear layers"),
        (["task.num_examples=0"], "task.num_examples=0: images have no texts"),
        (["tapt.steps=10"], "tapt.steps: only for text"),
        (["max_length=64"], "max_length: no such key"),
        (["task.pixels.size=4"], "task.pixels.size: "),
    ):
        given = [] if any(arg.startswith("encoder=") for arg in args) else ["encoder=resnet"]
        result = run_module("finetune", *ARGS, "run=no", "method=none", *given, *args, cwd=folder)
        lines = [line for line in result.stderr.strip().splitlines() if not line.startswith(("built", "note"))]
        assert result.returncode == 2 and len(lines) == 1 and lines[0].startswith(message), result.stderr
        assert not (folder / "out/runs/no").exists()


def test_random_weights_are_labeled_by_random_weights(folder, monkeypatch):
    monkeypatch.chdir(folder)
    modality = load_modality(load_config(Finetune, [*ARGS, "run=random", "encoder=resnet", "method=none"]))
    rows = read_task(modality.config.task)["train"][:12]
    trained, random, again = (
        modality.embed_layers(rows, folder / "resnet", Accelerator(), random_init)
        for random_init in (False, True, True)
    )
    assert np.isfinite(random).all() and np.array_equal(random, again) and not np.allclose(trained, random)
