"""Images: their map with pictures, copies, labels by pixels, the next round, and what can be labeled after it."""

from __future__ import annotations

import base64
import csv
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch
from browser import Browser, load_page
from helpers import error_lines
from PIL import Image
from tiny_images import draw_images, tiny_image_encoder
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from explore.__main__ import main
from explore.pictures import make_sheets
from label.config import Label
from label.items import read_items
from label.run import load_task
from pretrain.model.image_encoder import save_image_encoder

COUNT, COPY_OF = 48, 5
COLORS = {"red": (200, 30, 30), "green": (30, 190, 40), "blue": (20, 40, 210)}


def read_csv(path) -> list[dict]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def paint(folder: Path) -> list[Path]:
    """Write tinted images in folders of their colors, one of them also scaled, and a broken file."""
    paths = []
    for number, pixels in enumerate(draw_images(COUNT, size=40)):
        color = list(COLORS)[number % 3]
        mixed = 0.4 * pixels + 0.6 * np.array(COLORS[color])
        paths.append(folder / color / f"{number:02}.png")
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mixed.astype(np.uint8)).save(paths[-1])
    Image.open(paths[COPY_OF]).resize((64, 64)).save(folder / "blue" / "copy.png")
    (folder / "red" / "broken.png").write_bytes(b"no image")
    return paths


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    save_image_encoder(tiny_image_encoder("vit"), folder, {}, "")
    return folder


@pytest.fixture(scope="module")
def explored(encoder, tmp_path_factory) -> Path:
    """Return the folder in which a folder of photos is explored."""
    folder = tmp_path_factory.mktemp("explored")
    paint(folder / "photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        main(["images=photos", f"encoder={encoder}"])
    return folder


def test_every_image_is_on_the_map_once_and_copies_are_found(explored):
    folder = explored / "out/explore/photos"
    table = pyarrow.parquet.read_table(folder / "map.parquet").to_pydict()
    assert len(table["image"]) == COUNT + 1 and all((explored / path).is_file() for path in table["image"])
    grouped = {Path(path).name for path, first in zip(table["image"], table["duplicate_of"], strict=True) if first >= 0}
    assert grouped == {f"{COPY_OF:02}.png", "copy.png"}
    report = json.loads((folder / "report.json").read_text())
    assert report["sentence"].startswith(f"{COUNT + 1} images in ")
    assert np.load(folder / "vectors.npy").shape[0] == COUNT + 1
    assert {row["image"] for row in read_csv(folder / "queue.csv")} == set(table["image"])


def test_images_of_another_size_are_embedded_again(explored, tmp_path, monkeypatch):
    monkeypatch.chdir(explored)
    save_image_encoder(tiny_image_encoder("resnet"), tmp_path, {}, "")
    vectors = []
    for size in (16, 32):
        main(["images=photos", f"encoder={tmp_path}", "name=sizes", f"pixels.size={size}", "baselines=false"])
        vectors.append(np.load("out/explore/sizes/vectors.npy").astype(np.float32))
    assert vectors[0].shape == vectors[1].shape and np.abs(vectors[0] - vectors[1]).max() > 1e-3


def test_clusters_follow_what_images_look_like(explored):
    table = pyarrow.parquet.read_table(explored / "out/explore/photos/map.parquet").to_pydict()
    colors = [Path(path).parent.name for path in table["image"]]
    nearest = [colors[ids["ids"][0]] for ids in table["neighbors"] if ids["ids"]]
    assert np.mean([one == other for one, other in zip(colors, nearest, strict=False)]) > 0.6


def test_the_page_shows_pictures_and_makes_no_request(explored, tmp_path):
    page = explored / "out/explore/photos/map.html"
    dom, requests = load_page(page, tmp_path / "profile")
    assert set(requests) <= {"/map.html", "/favicon.ico"}
    assert f'data-drawn="{COUNT + 1}"' in dom and dom.count('<img src="data:image/jpeg') > COUNT
    assert "<th>image</th>" in dom.replace("\n", "") and "similar images" in dom and "similar texts" not in dom


def test_a_picture_is_that_of_the_point(explored, tmp_path):
    browser = Browser(tmp_path / "profile")
    try:
        browser.open((explored / "out/explore/photos/map.html").as_uri())
        browser.wait_for("document.querySelectorAll('#pictures i').length > 2")
        colors = browser.evaluate("""(async () => {
            const load = async (url) => { const i = new Image(); i.src = url; await i.decode(); return i; };
            const sheet = await load(sheets[0]), found = [];
            const canvas = document.createElement("canvas"); canvas.width = canvas.height = side;
            for (let at = 0; at < shown.length; at++) {
                show(at);
                const style = under.firstElementChild.style, scale = 128 / side;
                const [x, y] = style.backgroundPosition.split(" ").map((part) => -parseFloat(part) / scale);
                const context = canvas.getContext("2d");
                context.drawImage(sheet, -x, -y);
                found.push([texts[at], [...context.getImageData(side / 2, side / 2, 1, 1).data]]);
            }
            return found;
        })()""")
    finally:
        browser.close()
    assert len(colors) == COUNT + 1
    for path, pixel in colors:
        assert list(COLORS)[int(np.argmax(pixel[:3]))] == Path(path).parent.name, path


def test_sheets_hold_all_pictures_in_order_and_shrink_to_fit():
    images = [Image.new("RGB", (64, 64), (5 * number, 100, 250 - 5 * number)) for number in range(50)]

    def draw(index: int, side: int) -> Image.Image:
        return images[index].resize((side, side))

    sheets = make_sheets(draw, np.arange(50), 10**6)
    assert (sheets.side, len(sheets.urls)) == (64, 1)
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(sheets.urls[0].partition(",")[2]))), float)
    for number in range(50):
        row, column = divmod(number, 32)
        assert np.abs(sheet[64 * row + 32, 64 * column + 32] - images[number].getpixel((0, 0))).max() < 12
    assert make_sheets(draw, np.arange(50), len(sheets.urls[0]) - 1).side < 64
    assert make_sheets(draw, np.arange(50), 100).urls == []


def test_images_of_an_archive_are_labeled_as_files_and_known_again(explored, encoder, monkeypatch):
    """By their pixels: an answer about the file belongs to the image in the archive."""
    monkeypatch.chdir(explored)
    with zipfile.ZipFile("photos.zip", "w") as archive:
        for path in sorted(Path("photos").rglob("*.png")):
            archive.write(path)
    task = {"name": "colors", "modality": "images", "role": "role", "label": "label", "pixels": {"size": 32}}
    task |= {"train": {"files": "labels/colors.csv"}, "unlabeled": {"folder": "photos.zip"}}
    Path("colors.yaml").write_text(json.dumps({"task": task}))
    args = ["images=photos.zip", "name=colors", f"encoder={encoder}", "pixels.size=32"]
    main(args)
    queue = read_csv("out/explore/colors/queue.csv")
    assert all(Path(row["image"]).is_file() and "out/explore/colors/images" in row["image"] for row in queue)
    items = read_items(Label(), load_task(Path("colors.yaml")), "colors", Path("labels/colors.csv"))
    assert [item.text for item in items] == [row["image"] for row in queue] and items[0].load().size == (40, 40)
    Path("labels").mkdir()
    answers = [
        [item.text, list(COLORS)[item.id % 3], item.role, "2026-01-01T00:00:00Z", "1", "label"] for item in items
    ]
    with open("labels/colors.csv", "w", newline="") as file:
        csv.writer(file).writerows([["image", "label", "role", "time", "seconds", "answer"], *answers[:30]])
    main(["task=colors.yaml", f"encoder={encoder}"])
    report = json.loads(Path("out/explore/colors/report.json").read_text())
    assert report["inputs"] == COUNT + 1 and report["labeled"] == 30
    again = read_csv("out/explore/colors/queue.csv")
    asked = {row["image"] for row in again if row["reason"] != "suspect"}
    assert asked == {row["image"] for row in queue[30:]}


def test_files_of_an_archive_are_those_of_their_rows_after_images_were_added(encoder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = {f"{number:02}.png": pixels for number, pixels in enumerate(draw_images(14))}
    for names in (list(images)[2:], list(images)):  # two more, before the others
        with zipfile.ZipFile("photos.zip", "w") as archive:
            for name in names:
                with archive.open(name, "w") as file:
                    Image.fromarray(images[name]).save(file, "PNG")
        main(["images=photos.zip", f"encoder={encoder}", "baselines=false"])
        queue = read_csv("out/explore/photos/queue.csv")
        assert len(queue) == len(names)
        for row in queue:
            assert np.array_equal(np.asarray(Image.open(row["image"])), images[names[int(row["id"])]])


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    """Return the folder of a classifier of colors with random weights."""
    folder = tmp_path_factory.mktemp("classifier")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    labels = {"id2label": dict(enumerate(COLORS)), "label2id": {name: index for index, name in enumerate(COLORS)}}
    ViTForImageClassification(ViTConfig(**sizes, image_size=32, patch_size=8, **labels)).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def test_the_next_round_asks_the_model(explored, encoder, classifier, monkeypatch):
    monkeypatch.chdir(explored)
    files = sorted(str(path) for path in Path("photos").rglob("[0-9]*.png"))
    rows = [[path, Path(path).parent.name, "measure" if n % 4 == 0 else "train"] for n, path in enumerate(files[:44])]
    with open("rated.csv", "w", newline="") as file:
        csv.writer(file).writerows([["image", "label", "role"], *rows])
    task = {"name": "rated", "modality": "images", "role": "role", "label": "label", "pixels": {"size": 32}}
    task |= {"train": {"files": "rated.csv"}, "unlabeled": {"folder": "photos"}}
    Path("rated.yaml").write_text(json.dumps({"task": task}))
    monkeypatch.setattr("explore.modalities.images.Modality.part_inputs", 20)
    main(["task=rated.yaml", f"encoder={encoder}", f"model={classifier}", "num_suspects=0", "baselines=false"])
    report = json.loads(Path("out/explore/rated/report.json").read_text())
    queue = read_csv("out/explore/rated/queue.csv")
    assert report["suggested_by"] == "model" and report["measured"]["rows"] == 11 and report["baselines"] == []
    assert "uncertain" in {row["reason"] for row in queue} and {row["suggestion"] for row in queue} <= set(COLORS)
    assert len(queue) == COUNT + 1 - 44
    names = [row["name"] for row in read_csv("out/explore/rated/clusters.csv")]
    assert {name.partition(": ")[2] for name in names} >= set(COLORS), "the most frequent label"


def test_a_corpus_is_read_as_pretraining_reads_it(explored, encoder, monkeypatch):
    monkeypatch.chdir(explored)
    corpus = {"name": "tints", "sources": [{"folder": "photos"}], "held_out": 0.2}
    Path("tints.yaml").write_text(json.dumps({"modality": "images", "corpus": corpus, "pixels": {"size": 32}}))
    main(["corpus=tints.yaml", f"encoder={encoder}"])
    report = json.loads(Path("out/explore/tints/report.json").read_text())
    assert report["inputs"] == COUNT and report["duplicates"] == 0, "without the copy"
    names = [each["name"] for each in report["baselines"]]
    assert names == ["encoder", "16 x 16 pixels"]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["images=nothing"], "nothing: no such file"),
        (["images=photos", "clusters=lda"], "clusters: 'lda' is none of"),
        (["images=photos", "sentences=true"], "sentences: no such key"),
        (["modality=image", "source.files=photos"], "modality: no 'image' (nearest: images)"),
        (["images=photos", "task=topics.yaml"], "task: explore reads images with one class each; topics is another"),
        (["images=photos", "model=texts"], "does not give one class to each image"),
    ],
)
def test_mistakes_are_one_line(explored, encoder, classifiers, monkeypatch, capsys, args, expected):
    monkeypatch.chdir(explored)
    Path("topics.yaml").write_text(json.dumps({"task": {"name": "topics", "train": {"files": "t.csv"}}}))
    args = [each.replace("model=texts", f"model={classifiers['single']}") for each in args]
    assert expected in error_lines(main, [*args, f"encoder={encoder}", "name=wrong"], capsys, monkeypatch)[-1]
    assert not Path("out/explore/wrong").exists()
