"""The built-in corpus, tasks and encoder match their descriptions."""

from __future__ import annotations

import pytest

from data.cache import read_manifest
from data.config import Prepare
from data.corpus.build import build_corpus
from data.encoders import list_built_in, read_pooling, resolve_encoder
from data.tasks.task import list_label_names, read_task
from engine.config.loader import load_config
from finetune.config import Finetune


@pytest.mark.parametrize(
    "task, sizes, labels",
    [
        ("sentiment", (6398, 1066, 1066), ["negative", "positive"]),
        pytest.param(
            "topics",
            (4798, 687, 2189),
            ["acq", "crude", "earn", "grain", "interest", "money-fx", "ship", "trade"],
            marks=pytest.mark.slow,
        ),
        pytest.param("spam", (3383, 564, 564), ["ham", "spam"], marks=pytest.mark.slow),
    ],
)
def test_built_in_tasks(workspace, task, sizes, labels):
    config = load_config(Finetune, [f"configs/finetune/{task}.yaml"])
    rows = read_task(config.task)
    assert tuple(len(rows[split]) for split in ("train", "validation", "test")) == sizes
    assert list_label_names(config.task, rows) == labels and config.task.num_examples == 500


@pytest.mark.slow
def test_imdb_has_the_published_split(workspace):
    """The published split: the test half is the mixed file without the training rows."""
    config = load_config(Finetune, ["configs/finetune/imdb.yaml"])
    rows = read_task(config.task)
    assert len(rows["test"]) == 25_000 and len(rows["train"]) + len(rows["validation"]) == 25_000
    assert list_label_names(config.task, rows) == ["negative", "positive"]


@pytest.mark.slow
def test_reviews_corpus(workspace):
    manifest = read_manifest(build_corpus(load_config(Prepare, ["configs/corpus/reviews.yaml"]).corpus))
    read, kept = manifest["read"], manifest["kept"]
    dropped = sum(counts["documents"] for counts in manifest["dropped"].values())
    assert read["rows"] == 25_000 and read["empty_rows"] == 0 and not read["problems"]
    assert read["documents"] == kept["documents"] + dropped
    assert 24_500 < kept["documents"] < 25_000 and 5.5e6 < kept["words"] < 6e6


def test_built_in_encoders(workspace):
    assert list_built_in() == ["efficientnet-lite0", "minilm"] and read_pooling(resolve_encoder("minilm")) == "mean"
