"""The examples of docs/formats.md: each is read, to the same texts and labels."""

from __future__ import annotations

import importlib.util
import re

import pytest
import yaml
from helpers import ROOT

from data.corpus.config import Clean, CorpusSource
from data.corpus.extract import BucketReader, split_into_buckets
from data.sources.compression import COMPRESSED_EXTENSIONS
from data.sources.readers import EXTENSION_TO_FORMAT
from data.tasks.task import Example, Task, read_examples

PAGE = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
FENCE = re.compile(r"```(\w+) (\S+)\n(.*?)```.*?```yaml\n(.*?)```", re.DOTALL)
SECTIONS = {title: FENCE.findall(body) for title, body in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)}
TEXTS = ("a fine film", "dull, and slow")
EXPECTED = {
    "single_label_classification": [Example((TEXTS[0],), "good"), Example((TEXTS[1],), "bad")],
    "multi_label_classification": [Example((TEXTS[0],), ("praise", "film")), Example((TEXTS[1],), ())],
    "token_classification": [Example(("Anna in Rome",), ("B-person", "O", "B-place"))],
}
PAIRS = [Example((TEXTS[0], "I liked it"), "yes"), Example((TEXTS[1], "I liked it"), "no")]


@pytest.mark.parametrize("title", SECTIONS)
def test_the_example_of_a_format_is_read(title, tmp_path, monkeypatch):
    ((language, name, content, config),) = SECTIONS[title]
    assert len(content.strip().splitlines()) <= 6
    monkeypatch.chdir(tmp_path)
    if title == "Excel" and not importlib.util.find_spec("openpyxl"):
        pytest.skip("needs openpyxl")
    if language == "python":
        exec(content, {})
    else:
        (tmp_path / name).write_text(content, encoding="utf-8")
    config = yaml.safe_load(config)
    if "sources" in config:
        (bucket,) = split_into_buckets(CorpusSource(**config["sources"][0]), Clean())
        texts = [text for text, _ in BucketReader(bucket).iter_texts()]
        assert texts == list(TEXTS) or language == "html" and TEXTS[0] in texts[0] and "<" not in texts[0]
        return
    task = Task(name="t", **config)
    assert read_examples(task, task.train) == (PAIRS if title == "Pairs of texts" else EXPECTED[task.problem_type])


def test_every_format_has_a_row_and_an_example():
    rows = [row for row in PAGE.splitlines() if row.startswith("| [")]
    assert [re.match(r"\| \[(.+?)\]", row)[1].lower() for row in rows] == [title.lower() for title in SECTIONS]
    named = set(re.findall(r"\.\w+", " ".join(re.findall(r"`(\.[^`]*)`", " ".join(rows)))))
    assert {*EXTENSION_TO_FORMAT, *COMPRESSED_EXTENSIONS, ".zip"} <= named
