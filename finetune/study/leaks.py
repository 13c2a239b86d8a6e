"""Test rows whose text the encoder or the head may have seen: looked for before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from data import curate, labelled, overlap
from data.clean import clean
from data.config import Clean, Corpus
from data.derived import OUT, derive, is_made, manifest
from data.encoders import began_with, pretrainings
from data.labelled import Example
from engine.config import check
from engine.errors import UserError
from finetune.study.config import Studied

EXAMPLES, SHOWN = 3, 300  # pairs of texts kept for the report, and characters of each


class Leaks(NamedTuple):
    """What was found."""

    labels: np.ndarray
    """uint8 (test rows,): how each stands in the training rows, as data.overlap says it."""
    corpus: np.ndarray
    """uint8 (test rows,): how each stands in the text that was pretrained on."""
    told: dict
    """The counts, for the report."""


def documents_of(record: dict) -> Path:
    """The folder of the documents a pretraining read, made again where it is gone. Raises UserError if it cannot."""
    shards = OUT / "shards" / record.get("shards", "none")
    if is_made(shards):
        folder = OUT / "corpus" / str(manifest(shards).get("inputs", {}).get("documents"))
        if is_made(folder):
            told = manifest(folder)
            texts = told.get("texts", [{"folder": "none"}])  # an older version kept its texts elsewhere
            if "stream" in told or all(is_made(OUT / "text" / part["folder"]) for part in texts):
                return folder
    return curate.documents(check(Corpus, record["config"]["corpus"]))


def counted(found: np.ndarray) -> dict[str, int]:
    """{"rows", "exact", "near"}."""
    exact, near = (int((found == how).sum()) for how in (overlap.EXACT, overlap.NEAR))
    return {"rows": len(found), "exact": exact, "near": near}


def in_labels(task: labelled.Task, rows: dict[str, list[Example]]) -> Path:
    """The folder with `found.npy` of the test rows in the training rows, those split off for validation among them."""
    def make(folder: Path) -> dict:
        texts = {split: ["\n".join(example.texts) for example in examples] for split, examples in rows.items()}
        search = overlap.Overlap(texts["test"])
        search.look(texts["train"] + texts["validation"])
        np.save(folder / "found.npy", search.found)
        near = [place for place in sorted(search.where) if search.found[place] == overlap.NEAR][:EXAMPLES]
        return {**counted(search.found), "too_short": int(search.too_short.sum()),
                "examples": [[text[:SHOWN] for text in (texts["test"][place], search.where[place])] for place in near]}

    return derive("overlap", task.name, {"task": labelled.identity(task), "version": 2}, make, quiet=True)


def in_corpus(task: labelled.Task, rows: dict[str, list[Example]], record: dict) -> Path:
    """The folder with `found.npy` of the test rows in a pretraining's documents; training rows there are counted."""
    documents = documents_of(record)
    config = check(Clean, record["config"]["corpus"].get("clean", {}))

    def make(folder: Path) -> dict:
        print(f"looking for the texts of {task.name} in {documents}", flush=True)
        splits = ("test", "train")
        search = overlap.Overlap([clean("\n".join(example.texts), config)
                                  for split in splits for example in rows[split]])
        count = search.look(document["text"] for document in curate.read_documents(documents))
        test = search.found[:len(rows["test"])]
        np.save(folder / "found.npy", test)
        return {"documents": count, "test": counted(test), "train": counted(search.found[len(test):])}

    inputs = {"task": labelled.identity(task), "documents": documents.name, "clean": config.model_dump(), "version": 1}
    return derive("overlap", f"{task.name}-{documents.name.rsplit('-', 1)[0]}", inputs, make, quiet=True)


def look(task: labelled.Task, rows: dict[str, list[Example]], record: dict, config: Studied) -> tuple[Leaks, list[int]]:
    """(what was found, the places of the test rows that are measured). record: of the encoder, empty if it has none."""
    folder = in_labels(task, rows)
    labels, corpus, told = np.load(folder / "found.npy"), np.zeros(len(rows["test"]), np.uint8), []
    for own in pretrainings(record):
        name = own["config"]["corpus"].get("name", "?")
        try:
            beside = in_corpus(task, rows, own)
        except (UserError, OSError) as error:
            told.append({"corpus": name, "not_looked_at": str(error).splitlines()[0]})
            continue
        corpus = np.maximum(corpus, np.load(beside / "found.npy"))
        told.append({"corpus": name, **{key: value for key, value in manifest(beside).items() if key != "inputs"}})
    dropped = (labels > 0) & (config.contamination == "drop") | (corpus > 0) & (config.corpus_contamination == "drop")
    measured = np.flatnonzero(~dropped).tolist()
    counts = {key: value for key, value in manifest(folder).items() if key != "inputs"}
    return Leaks(labels, corpus, {
        "labels": counts, "corpora": told, "began_with": began_with(record), "test_rows": len(labels),
        "dropped": int(dropped.sum()), "measured": len(measured), "dropped_for_labels": config.contamination == "drop",
        "dropped_for_corpus": config.corpus_contamination == "drop"}), measured


def lines(told: dict) -> list[str]:
    """What a person should know, a line each."""
    labels, rows = told["labels"], told["test_rows"]
    what = "" if not labels["exact"] + labels["near"] else (
        "; they are not measured" if told["dropped_for_labels"] else "; they are measured all the same")
    found = [f"{labels['exact']:,} of {rows:,} test rows also stand in the training and validation rows,"
             f" {labels['near']:,} nearly ({labels['too_short']:,} too short to look for in part){what}"]
    for each in told["corpora"]:
        if "not_looked_at" in each:
            found.append(f"the corpus {each['corpus']} could not be looked at: {each['not_looked_at']}")
            continue
        test, train = each["test"], each["train"]
        what = "" if not test["exact"] + test["near"] else (
            "; they are not measured" if told["dropped_for_corpus"] else "; they bore no labels there and are measured")
        found.append(f"{test['exact']:,} test rows stand in the {each['documents']:,} documents of the corpus"
                     f" {each['corpus']}, {test['near']:,} nearly{what}")
        found.append(f"{train['exact']:,} of {train['rows']:,} training texts stand in it, {train['near']:,} nearly")
    if told["began_with"]:
        found.append(f"what {told['began_with']} was trained on, which the pretraining began with, is not known here")
    elif not told["corpora"]:
        found.append("the encoder has no record of ours: what it was trained on is not known here")
    return [*found, f"{told['measured']:,} test rows are measured"]
