"""Test images that occur in the training rows or in a pretraining corpus, as a study counts them."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from tiny_images import draw_images

from data.__main__ import main
from data.contamination import check_image_contamination, describe_contamination
from data.images.config import ImageCorpus, ImageSource
from data.images.shards import prepare_pixels
from data.images.task import ImageStore, ImageTask
from data.tasks.task import read_task


def write(image: Image.Image, *names: str) -> None:
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=70)


@pytest.fixture
def task(workspace) -> ImageTask:
    """Write training and test images: test 0 is also a training image, 1 nearly; 2 and 3 are so in the corpus."""
    images = [Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC) for pixels in draw_images(60)]
    for number, image in enumerate(images):
        label = ("a", "b")[number % 2]
        if number < 20:
            write(image, f"test/{label}/{number:02}.png")
        elif number < 50:
            write(image, f"train/{label}/{number:02}.png")
        else:
            write(image, f"corpus/{number}.png")
    write(images[0], "train/a/copy.png")
    write(images[1].resize((51, 51)), "train/b/copy.jpg")
    write(images[2], "corpus/copy.png")
    write(images[3].resize((51, 51)), "corpus/copy.jpg")
    write(images[31], "corpus/trained.png")
    sources = {"train": ImageSource(folder="train"), "test": ImageSource(folder="test")}
    return ImageTask(name="planted", **sources, label="label", pixels={"size": 32})


def test_planted_copies_are_found_and_dropped(task):
    rows, store = read_task(task), ImageStore(task)

    corpus = ImageCorpus(name="seen", sources=[ImageSource(folder="corpus")], held_out=0.3)
    pixels = prepare_pixels(corpus, 48)
    stage = {"config": {"corpus": {"name": "seen"}}, "pixels": f"elsewhere/{pixels.name}", "init": "base"}
    counts, measured = check_image_contamination(store, rows, stage, True, False)
    assert counts["training_overlap"] == {"num_rows": 20, "exact": 1, "near": 1}
    (seen,) = counts["corpora"]
    assert seen["test"] == {"num_rows": 20, "exact": 1, "near": 1} and seen["num_documents"] == 13
    assert seen["train"]["exact"] == 1 and counts["num_dropped_rows"] == 2 and len(measured) == 18
    assert len(check_image_contamination(store, rows, stage, True, True)[1]) == 16
    lines = describe_contamination(counts)
    assert "1 of 20 test rows also occur in the training and validation rows, 1 nearly" in lines[0]
    assert "in the 13 images of the corpus seen, 1 nearly" in lines[1] and "training images occur in it" in lines[2]
    missing = {**stage, "pixels": "gone-0"}
    (corpus,) = check_image_contamination(store, rows, missing, True, True)[0]["corpora"]
    assert corpus == {"corpus": "seen", "not_searched": "its images are not in out"}


def test_make_data_prepares_images(task, capsys):
    args = ["modality=images", "corpus={name: seen, held_out: 0.3, sources: [{folder: corpus}]}", "pixels.size=24"]
    main(args)
    output = capsys.readouterr().out
    assert "seen: 13 of 13" in output and "held out, of 24 x 24 pixels" in output and "out/pixels/seen-" in output
