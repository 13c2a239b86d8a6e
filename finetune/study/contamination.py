"""Test rows whose text the encoder or the head may have seen: looked for before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.cache import OUTPUT_DIR, get_or_build, is_cached, read_manifest
from data.corpus.build import build_corpus
from data.corpus.clean import clean_text
from data.corpus.config import Clean, Corpus
from data.corpus.documents import iter_documents
from data.encoders import original_init, pretraining_history
from data.tasks import overlap
from data.tasks.task import Example, Task, fingerprint_inputs
from engine.config.loader import validate
from engine.errors import UserError
from finetune.study.config import StudySettings

MAX_EXAMPLES, MAX_EXAMPLE_CHARS = 3, 300  # pairs of texts kept for the report, and characters of each


class Contamination(NamedTuple):
    """What was found."""

    in_training: np.ndarray
    """uint8 (test rows,): how each stands in the training rows, as data.tasks.overlap says it."""
    in_pretraining: np.ndarray
    """uint8 (test rows,): how each stands in the text that was pretrained on."""
    counts: dict
    """The counts, for the report."""


def find_documents(record: dict) -> Path:
    """The folder of the documents a pretraining read, made again where it is gone. Raises UserError if it cannot."""
    shards = OUTPUT_DIR / "shards" / record.get("shards", "none")
    if is_cached(shards):
        folder = OUTPUT_DIR / "corpus" / str(read_manifest(shards).get("inputs", {}).get("documents"))
        if is_cached(folder):
            told = read_manifest(folder)
            texts = told.get("texts", [{"folder": "none"}])  # an older version kept its texts elsewhere
            if "stream" in told or all(is_cached(OUTPUT_DIR / "text" / part["folder"]) for part in texts):
                return folder
    return build_corpus(validate(Corpus, record["config"]["corpus"]))


def count_overlaps(overlaps: np.ndarray) -> dict[str, int]:
    """{"rows", "exact", "near"}."""
    exact, near = (int((overlaps == how).sum()) for how in (overlap.EXACT, overlap.NEAR))
    return {"rows": len(overlaps), "exact": exact, "near": near}


def search_training_rows(task: Task, rows: dict[str, list[Example]]) -> Path:
    """The folder with `found.npy` of the test rows in the training rows, those split off for validation among them."""

    def make(folder: Path) -> dict:
        texts = {split: ["\n".join(example.texts) for example in examples] for split, examples in rows.items()}
        search = overlap.OverlapIndex(texts["test"])
        search.search(texts["train"] + texts["validation"])
        np.save(folder / "found.npy", search.matches)
        near = [place for place in sorted(search.matched_texts) if search.matches[place] == overlap.NEAR][:MAX_EXAMPLES]
        return {
            **count_overlaps(search.matches),
            "too_short": int(search.too_short.sum()),
            "examples": [
                [text[:MAX_EXAMPLE_CHARS] for text in (texts["test"][place], search.matched_texts[place])]
                for place in near
            ],
        }

    return get_or_build("overlap", task.name, {"task": fingerprint_inputs(task), "version": 2}, make, quiet=True)


def search_pretraining_corpus(task: Task, rows: dict[str, list[Example]], record: dict) -> Path:
    """The folder with `found.npy` of the test rows in a pretraining's documents; training rows there are counted."""
    documents = find_documents(record)
    config = validate(Clean, record["config"]["corpus"].get("clean", {}))

    def make(folder: Path) -> dict:
        print(f"looking for the texts of {task.name} in {documents}", flush=True)
        splits = ("test", "train")
        search = overlap.OverlapIndex(
            [clean_text("\n".join(example.texts), config) for split in splits for example in rows[split]]
        )
        count = search.search(document["text"] for document in iter_documents(documents))
        test = search.matches[: len(rows["test"])]
        np.save(folder / "found.npy", test)
        return {"documents": count, "test": count_overlaps(test), "train": count_overlaps(search.matches[len(test) :])}

    inputs = {"task": fingerprint_inputs(task), "documents": documents.name, "clean": config.model_dump(), "version": 1}
    return get_or_build("overlap", f"{task.name}-{documents.name.rsplit('-', 1)[0]}", inputs, make, quiet=True)


def check_contamination(
    task: Task, rows: dict[str, list[Example]], record: dict, settings: StudySettings
) -> tuple[Contamination, list[int]]:
    """(what was found, the places of the test rows that are measured). record: of the encoder, empty if it has none."""
    folder = search_training_rows(task, rows)
    labels, corpus, told = np.load(folder / "found.npy"), np.zeros(len(rows["test"]), np.uint8), []
    for own in pretraining_history(record):
        name = own["config"]["corpus"].get("name", "?")
        try:
            beside = search_pretraining_corpus(task, rows, own)
        except (UserError, OSError) as error:
            told.append({"corpus": name, "not_searched": str(error).splitlines()[0]})
            continue
        corpus = np.maximum(corpus, np.load(beside / "found.npy"))
        told.append({"corpus": name, **{key: value for key, value in read_manifest(beside).items() if key != "inputs"}})
    dropped = (labels > 0) & (settings.contamination == "drop") | (corpus > 0) & (
        settings.corpus_contamination == "drop"
    )
    measured = np.flatnonzero(~dropped).tolist()
    counts = {key: value for key, value in read_manifest(folder).items() if key != "inputs"}
    return Contamination(
        labels,
        corpus,
        {
            "labels": counts,
            "corpora": told,
            "original_init": original_init(record),
            "test_rows": len(labels),
            "dropped": int(dropped.sum()),
            "measured": len(measured),
            "dropped_for_labels": settings.contamination == "drop",
            "dropped_for_corpus": settings.corpus_contamination == "drop",
        },
    ), measured


def describe_contamination(counts: dict) -> list[str]:
    """What a person should know, a line each."""
    labels, rows = counts["labels"], counts["test_rows"]
    what = (
        ""
        if not labels["exact"] + labels["near"]
        else ("; they are not measured" if counts["dropped_for_labels"] else "; they are measured all the same")
    )
    found = [
        f"{labels['exact']:,} of {rows:,} test rows also stand in the training and validation rows,"
        f" {labels['near']:,} nearly ({labels['too_short']:,} too short to look for in part){what}"
    ]
    for each in counts["corpora"]:
        if "not_searched" in each:
            found.append(f"the corpus {each['corpus']} could not be looked at: {each['not_searched']}")
            continue
        test, train = each["test"], each["train"]
        what = (
            ""
            if not test["exact"] + test["near"]
            else (
                "; they are not measured"
                if counts["dropped_for_corpus"]
                else "; they bore no labels there and are measured"
            )
        )
        found.append(
            f"{test['exact']:,} test rows stand in the {each['documents']:,} documents of the corpus"
            f" {each['corpus']}, {test['near']:,} nearly{what}"
        )
        found.append(f"{train['exact']:,} of {train['rows']:,} training texts stand in it, {train['near']:,} nearly")
    if counts["original_init"]:
        found.append(
            f"what {counts['original_init']} was trained on, which the pretraining began with, is not known here"
        )
    elif not counts["corpora"]:
        found.append("the encoder has no record of ours: what it was trained on is not known here")
    return [*found, f"{counts['measured']:,} test rows are measured"]
