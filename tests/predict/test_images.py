"""Predict images of every kind of source: the labels of plain transformers, broken ones kept, resumed after a kill."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from helpers import error_lines, start_module
from PIL import Image
from tiny_images import draw_images, write_idx
from transformers import (
    AutoModelForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    pipeline,
)

from engine.models import LOAD_WEIGHTS_KWARGS
from predict import pictures, run as predict_run
from predict.__main__ import main

NAMES = ["bright", "dark", "odd"]
COUNT, BROKEN = 40, 7


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(predict_run, "PART_ROWS", 16)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """Return the folder of a classifier as a hub has them: no record, another image processor than ours."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    labels = {"id2label": dict(enumerate(NAMES)), "label2id": {name: index for index, name in enumerate(NAMES)}}
    config = ViTConfig(**sizes, image_size=32, patch_size=8, initializer_range=0.5, **labels)
    network = ViTForImageClassification(config)
    torch.nn.init.normal_(network.classifier.weight, std=1.0)
    with torch.no_grad():  # so that the labels differ
        pixels = torch.from_numpy(draw_images(20)).permute(0, 3, 1, 2) / 127.5 - 1
        network.classifier.bias -= network.eval()(pixels).logits.mean(0)
    network.save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture
def photos(workspace) -> list[str]:
    """Write photos of several modes, one of them broken, in two folders; return their paths in order."""
    paths = []
    for number, pixels in enumerate(draw_images(COUNT, size=48)):
        path = workspace / "photos" / ("a" if number < 20 else "b") / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(pixels // (1 + number % 4)).resize((48, 40 + number % 9))
        (image.convert("L") if number % 5 == 0 else image).save(path)
        paths.append(str(path.relative_to(workspace)))
    Path(paths[BROKEN]).write_bytes(Path(paths[BROKEN]).read_bytes()[:60])
    return paths


def read_csv(path) -> list[dict]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_gets_the_labels_of_plain_transformers_and_broken_images_stay(model, photos, capsys):
    main([f"model={model}", "file=photos", "output=out/labels.csv", "batch_size=6"])
    rows = read_csv("out/labels.csv")
    assert list(rows[0]) == ["path", "label", "probability"] and [row["path"] for row in rows] == photos
    assert rows[BROKEN]["label"] == rows[BROKEN]["probability"] == ""
    classify = pipeline("image-classification", str(model), trust_remote_code=False)
    good = [row for index, row in enumerate(rows) if index != BROKEN]
    for row in good:
        plain = classify(row["path"], top_k=1)[0]
        assert row["label"] == plain["label"] and abs(float(row["probability"]) - plain["score"]) < 1e-3
    assert len({row["label"] for row in good}) > 1
    output = capsys.readouterr()
    assert "40 rows" in output.out and "1 of them broken" in output.out
    assert f"note: {photos[BROKEN]}: " in output.out + output.err
    page = Path("out/labels.html").read_text()
    assert page.count("data:image/png") == 39 and "The most doubtful rows" in page
    summary = json.loads(Path("out/labels.summary.json").read_text())
    assert summary["empty"] == 1 and "data:image" not in json.dumps(summary)


def write_sources(photos: list[str]) -> dict[str, tuple[str, list[str]]]:
    """Write the photos in other forms: name -> (argument, columns of the rows)."""
    with zipfile.ZipFile("all.zip", "w") as archive, tarfile.open("all.tar", "w") as shard:
        for path in photos:
            archive.write(path)
            shard.add(path, Path(path).name)
            info = tarfile.TarInfo(f"{Path(path).stem}.json")
            content = json.dumps({"place": path[7]}).encode()
            info.size = len(content)
            shard.addfile(info, io.BytesIO(content))
    with open("all.csv", "w", newline="") as file:
        csv.writer(file).writerows([["id", "file"], *((number, path) for number, path in enumerate(photos))])
    table = {"id": list(range(COUNT)), "picture": [Path(path).read_bytes() for path in photos]}
    pyarrow.parquet.write_table(pyarrow.table(table), "all.parquet")
    return {
        "glob": ("file=photos/*/*.png", ["path"]),
        "zip": ("file=all.zip", ["path"]),
        "tar": ("file=all.tar", ["path", "json", "place"]),
        "csv": ("file=all.csv", ["id", "file"]),
        "parquet": ("file=all.parquet", ["id"]),
    }


def test_every_source_gives_the_same_labels(model, photos):
    main([f"model={model}", "file=photos", "output=out/labels.csv"])
    expected = [(row["label"], row["probability"]) for row in read_csv("out/labels.csv")]
    for name, (argument, columns) in write_sources(photos).items():
        main([f"model={model}", argument, f"output=out/{name}.csv"])
        rows = read_csv(f"out/{name}.csv")
        assert list(rows[0]) == [*columns, "label", "probability"], name
        for row, (label, probability) in zip(rows, expected, strict=True):
            assert row["label"] == label, name
            assert label == "" or abs(float(row["probability"]) - float(probability)) < 1e-3, name
    write_idx(Path("digits-ubyte.gz"), draw_images(20, channels=1)[..., 0])
    main([f"model={model}", "file=digits-ubyte.gz", "output=out/idx.jsonl"])
    rows = [json.loads(line) for line in open("out/idx.jsonl")]
    assert len(rows) == 20 and rows[4]["path"] == "digits-ubyte.gz image 5" and rows[4]["label"] in NAMES


def test_single_images_are_printed(model, photos, capsys):
    main([f"model={model}", photos[0], photos[BROKEN]])
    first, second = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"({'|'.join(NAMES)})  0\.\d+  {photos[0]}", first) and second.startswith("none  photos/a/07")


def test_a_killed_prediction_ends_with_the_same_bytes(model, photos):
    args = ("predict", f"model={model}", "file=photos/*/*.png", "batch_size=5", "format=jsonl")
    script = (
        "import sys; from predict import run; run.PART_ROWS = 16; from predict.__main__ import main; main(sys.argv[1:])"
    )
    main([*args[1:], "output=out/whole.jsonl"])
    process = start_module(script, *args[1:], "output=out/killed.jsonl", prefix=("-c",), cwd=Path.cwd())
    while not Path("out/.killed.jsonl.parts/part-000000.json").is_file() and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    while process.poll() is None:
        time.sleep(0.001)
    assert Path("out/.killed.jsonl.parts").is_dir()
    main([*args[1:], "output=out/killed.jsonl"])
    assert Path("out/killed.jsonl").read_bytes() == Path("out/whole.jsonl").read_bytes()


def test_reasons_are_on_the_page_only(model, photos):
    main([f"model={model}", "file=photos", "output=out/labels.csv", "why=true", "num_doubtful=3"])
    assert Path("out/labels.html").read_text().count("data:image/png") == 6
    assert {row["why"] for row in read_csv("out/labels.csv")} <= {"", "{}"}


def test_attributions_add_up_to_the_difference_of_the_logit(model, monkeypatch):
    monkeypatch.setattr(pictures, "NUM_STEPS", 400)  # random weights vary more along the path than trained ones
    network = AutoModelForImageClassification.from_pretrained(model, **LOAD_WEIGHTS_KWARGS).eval()
    values = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) / 4
    map_ = pictures.attribute_pixels(network, values, 1)
    with torch.no_grad():
        difference = (network(values).logits - network(torch.zeros_like(values)).logits)[0, 1].item()
    assert map_.shape == (32, 32) and map_.sum() == pytest.approx(difference, abs=0.05 * abs(difference) + 1e-3)
    drawn = np.asarray(
        pictures.draw_heat_map(values[0].numpy(), np.pad(np.ones((8, 8), np.float32), (0, 24))).convert("RGB")
    )
    assert drawn.shape == (128, 128, 3) and drawn[:24, :24, 0].mean() > drawn[:24, :24, 2].mean() + 50
    assert (
        pictures.find_target("dark", NAMES) == pictures.find_target(["dark", "odd"], NAMES) == 1
        and pictures.find_target(0.5, NAMES) == 0
    )


def test_mistakes_are_one_line(model, photos, classifiers, capsys, monkeypatch):
    def error(*args: str) -> str:
        (line,) = error_lines(main, [f"model={model}", *args], capsys, monkeypatch)
        return line

    Path("table.csv").write_text("a,b\nphotos/a/00.png,1\n")
    assert error("file=photoz") == "photoz: no such file (nearest: photos)"
    assert error("file=table.csv") == "text: which column has the image? There are a, b; set text=COLUMN"
    assert error("file=table.csv", "text=c").startswith("table.csv row 1: no column 'c'")
    assert error("file=photos", "max_length=8") == f"max_length: {model} reads images"
    assert error("table.csv").startswith("table.csv: no extension of images; give file=table.csv")
    main([f"model={model}", "file=table.csv", "text=a", "output=out/a.csv"])
    assert read_csv("out/a.csv")[0]["label"] in NAMES
    (model / "preprocessor_config.json").rename(model / "gone.json")
    assert error("file=photos").startswith(f"{model}: cannot load its image processor")
    (model / "gone.json").rename(model / "preprocessor_config.json")
    (line,) = error_lines(main, [f"model={classifiers['single']}", "source.folder=photos"], capsys, monkeypatch)
    assert line == "source.folder: is for images, and this model reads text"
