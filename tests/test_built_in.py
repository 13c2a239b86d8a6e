"""The built-in corpus, tasks and encoder are what README and their YAMLs say."""

from __future__ import annotations

import pytest

from data.config import Prepare
from data.curate import documents
from data.derived import manifest
from data.encoders import built_in, locate, pooling_of
from data.labelled import label_list, read
from engine.config import load
from finetune.config import Finetune


@pytest.mark.parametrize("task, sizes, labels", [
    ("sentiment", (6398, 1066, 1066), ["negative", "positive"]),
    pytest.param("topics", (4798, 687, 2189), ["acq", "crude", "earn", "grain", "interest", "money-fx", "ship", "trade"],
                 marks=pytest.mark.slow),
    pytest.param("spam", (3383, 564, 564), ["ham", "spam"], marks=pytest.mark.slow),
])
def test_task(workplace, task, sizes, labels):
    config = load(Finetune, [f"configs/finetune/{task}.yaml"])
    rows = read(config.task)
    assert tuple(len(rows[split]) for split in ("train", "validation", "test")) == sizes
    assert label_list(config.task, rows) == labels and config.task.labels == 500


@pytest.mark.slow
def test_imdb(workplace):
    """The published split: what is left of the mixed file when the training rows are taken away is the test half."""
    config = load(Finetune, ["configs/finetune/imdb.yaml"])
    rows = read(config.task)
    assert len(rows["test"]) == 25_000 and len(rows["train"]) + len(rows["validation"]) == 25_000
    assert label_list(config.task, rows) == ["negative", "positive"]


@pytest.mark.slow
def test_reviews(workplace):
    found = manifest(documents(load(Prepare, ["configs/corpus/reviews.yaml"]).corpus))
    dropped = sum(each["documents"] for each in found["dropped"].values())
    assert found["read"]["rows"] == 25_000 and found["read"]["empty"] == 0 and not found["read"]["problems"]
    assert found["read"]["documents"] == found["kept"]["documents"] + dropped
    assert 24_500 < found["kept"]["documents"] < 25_000 and 5.5e6 < found["kept"]["words"] < 6e6


def test_encoder(workplace):
    assert built_in() == ["minilm"] and pooling_of(locate("minilm")) == "mean"
