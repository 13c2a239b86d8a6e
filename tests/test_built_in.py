"""The built-in corpus, tasks and encoder are what README and their YAMLs say."""

from __future__ import annotations

import pytest

from data.curate import Corpus, documents
from data.derived import manifest
from data.encoders import built_in, locate, pooling_of
from data.labelled import label_list, read
from engine.config import Section, load
from finetune.config import Finetune


class CorpusFile(Section):
    corpus: Corpus


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


def test_reviews(workplace):
    found = manifest(documents(load(CorpusFile, ["configs/corpus/reviews.yaml"]).corpus))
    assert found["read"] == 25_000 and found["read"] == found["kept"] + found["repeated"] + found["empty"]
    assert found["empty"] == 0 and 24_800 < found["kept"] < 25_000 and 5.6e6 < found["words"] < 6e6


def test_encoder(workplace):
    assert built_in() == ["minilm"] and pooling_of(locate("minilm")) == "mean"
