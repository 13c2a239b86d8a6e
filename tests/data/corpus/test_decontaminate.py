"""Test texts in a corpus: full and partial matches compared with a slow search, their counts and their removal."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from data.cache import read_manifest
from data.config import Prepare
from data.corpus import decontaminate
from data.corpus.build import build_corpus
from data.corpus.config import Corpus
from data.corpus.documents import iter_documents
from data.ngrams import WordHashes
from data.tasks.task import TaskFile, normalize, read_task
from engine.config.loader import load_config
from engine.errors import DataError

LONG = (
    "the old miller counted every sack of grain before the river rose over the lower steps "
    "and everyone in the village doubted him until the water reached up to their doors"
)  # 31 words
SECOND = (
    "a tin box of buttons under the stairs was all that she had kept from the house by the sea "
    "where the lamps were lit at four"
)
SIX = "Seven geese walked across the bridge."
TWELVE = "On Sunday the baker sold nothing but plain bread and salted butter."
FOUR = "I liked it well."
TESTS = [LONG, SECOND, SIX, TWELVE, FOUR]


def filler(seed: int, count: int = 20) -> str:
    """Return words that are in no test text."""
    return " ".join(map("".join, np.random.default_rng(seed).choice(list("bcdfghjk"), (count, 7))))


def task(folder: Path, tests: list[str], name: str = "villages") -> str:
    """Write a task with these test texts and return its YAML file."""
    train = [filler(number, 9) for number in range(1000, 1020)]
    for split, texts in (("train", train), ("test", tests)):
        with open(folder / f"{name}-{split}.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["text", "label"], *([text, "ab"[at % 2]] for at, text in enumerate(texts))])
    (folder / f"{name}.yaml").write_text(
        yaml.safe_dump(
            {
                "task": {
                    "name": name,
                    **{split: {"files": str(folder / f"{name}-{split}.csv")} for split in ("train", "test")},
                }
            }
        )
    )
    return str(folder / f"{name}.yaml")


def make_corpus(folder: Path, texts: list[str], tasks: list[str], **decontaminate) -> Corpus:
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return Corpus(
        name="made", sources=[{"files": str(folder / "texts.jsonl")}], decontaminate={"tasks": tasks, **decontaminate}
    )


def words_of(text: str, start: int, count: int) -> str:
    return " ".join(text.split()[start : start + count])


@pytest.fixture(autouse=True)
def work_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def reference_matches(texts: list[str], tests: list[str], ngram: int, min_words: int) -> list[dict[int, bool]]:
    """Return {test text: whether in full} of each text, by trying every window of lower-case words."""
    tokens = [test.split() for test in tests]
    result = []
    for text in texts:
        line, found = f" {text} ", {}
        for number, test in enumerate(tokens):
            if min_words <= len(test) < ngram and f" {' '.join(test)} " in line:
                found[number] = True
            if len(test) >= ngram:
                hits = [f" {' '.join(test[at : at + ngram])} " in line for at in range(len(test) - ngram + 1)]
                if any(hits):
                    found[number] = all(hits)
        result.append(found)
    return result


@pytest.mark.parametrize("seed, ngram, min_words", [(0, 13, 5), (1, 13, 5), (2, 6, 3), (3, 5, 5), (4, 8, 8), (5, 7, 9)])
def test_the_index_agrees_with_a_search_of_every_window(tmp_path, seed, ngram, min_words):
    import pyarrow

    random = np.random.default_rng(seed)
    # A small vocabulary, so that test texts share parts and repeat themselves.
    vocabulary = [f"v{number}" for number in range(3)]
    tests = [" ".join(random.choice(vocabulary, random.integers(1, 25))) for _ in range(60)]
    tests = list(dict.fromkeys(tests))
    texts = []
    for number in range(300):
        test = tests[random.integers(len(tests))].split()
        start = random.integers(0, max(1, len(test) // 2))
        inside = test if number % 2 else test[start : start + random.integers(1, 25)]
        texts.append(
            " ".join([*random.choice(vocabulary, random.integers(0, 4)), *inside, *random.choice(vocabulary, 2)])
        )
    texts += ["", "v0", tests[0]]
    folder = decontaminate.build_index(
        make_corpus(tmp_path, texts, [task(tmp_path, tests)], ngram=ngram, min_words=min_words)
    )
    index = decontaminate.NgramIndex(folder)
    found = index.find(WordHashes.from_arrow(pyarrow.array(texts, pyarrow.large_string())))
    # Test rows keep the order of the file.
    expected = {
        number: matches for number, matches in enumerate(reference_matches(texts, tests, ngram, min_words)) if matches
    }
    assert {number: {hit // 2: bool(hit % 2) for hit in hits} for number, hits in found.items()} == expected
    assert (
        len(expected) > 20
        and len({full for matches in expected.values() for full in matches.values()}) == 2
        or min_words >= ngram
        or ngram == 5
    )
    counts = [len(test.split()) for test in tests]
    assert read_manifest(folder)["tasks"] == [
        {
            "name": "villages",
            "num_test_texts": len(tests),
            "num_too_short": sum(
                count < min(min_words, ngram) or count < ngram and count < min_words for count in counts
            ),
        }
    ]


def build(tmp_path: Path, texts: list[str], **decontaminate) -> tuple[dict, list[str]]:
    """Return (the contamination of the task, the kept texts)."""
    folder = build_corpus(make_corpus(tmp_path, texts, [task(tmp_path, TESTS)], **decontaminate))
    (task_counts,) = read_manifest(folder)["contamination"]
    return task_counts, [document["text"] for document in iter_documents(folder)]


@pytest.mark.parametrize(
    "inside, full, partial",
    [
        (LONG, 1, 0),
        (LONG.upper().replace(" ", ",  "), 1, 0),
        (words_of(LONG, 0, 13), 0, 1),
        (words_of(LONG, 18, 13), 0, 1),
        (words_of(LONG, 5, 25), 0, 1),
        (words_of(LONG, 0, 12), 0, 0),
        (words_of(LONG, 3, 12) + " x " + words_of(LONG, 15, 12), 0, 0),
        (SIX, 1, 0),
        (SIX.upper(), 1, 0),
        (words_of(SIX, 0, 5), 0, 0),
        (SIX.replace("geese", "ducks"), 0, 0),
        (TWELVE, 1, 0),
        (words_of(TWELVE, 0, 11), 0, 0),
        (words_of(TWELVE, 1, 11), 0, 0),
        (FOUR, 0, 0),
        (LONG + " " + SIX + " " + SECOND, 3, 0),
        (SIX + " " + words_of(SECOND, 2, 14), 1, 1),
    ],
)
@pytest.mark.parametrize("around", [True, False])
def test_full_partial_and_no_matches(tmp_path, inside, full, partial, around):
    text = f"{filler(1)} {inside} {filler(2)}" if around else inside
    counts, kept = build(tmp_path, [filler(3), text, filler(4)])
    assert counts == {
        "name": "villages",
        "num_test_texts": 5,
        "num_too_short": 1,
        "full_matches": full,
        "partial_matches": partial,
        "documents": int(full + partial > 0),
        "removed": False,
    }
    assert len(kept) == 3


def test_a_full_and_a_partial_match_count_as_one_full_match(tmp_path):
    counts, _ = build(
        tmp_path,
        [f"{filler(1)} {LONG}", f"{filler(2)} {words_of(LONG, 0, 15)}", f"{filler(3)} {words_of(SECOND, 0, 15)}"],
    )
    assert (counts["full_matches"], counts["partial_matches"], counts["documents"]) == (1, 1, 3)


def test_remove_drops_what_report_only_counts(tmp_path):
    texts = [filler(1), f"{filler(2)} {LONG}", f"{filler(3)} {words_of(SECOND, 4, 13)} {filler(4)}", FOUR + filler(5)]
    reported, kept = build(tmp_path, texts)
    removed, left = build(tmp_path, texts, action="remove")
    assert kept == texts and left == [texts[0], texts[3]]
    assert removed == reported | {"removed": True} and reported["documents"] == 2
    manifests = [read_manifest(path) for path in (tmp_path / "out/corpus").iterdir()]
    assert sorted(each["dropped"]["contains test text"]["documents"] for each in manifests) == [0, 2]
    for each in manifests:
        assert sorted(each["examples"]["contamination"]) == sorted(text[:300] for text in texts[1:3])


@pytest.mark.parametrize("action", ["report", "remove"])
def test_only_the_kept_one_of_duplicates_counts(tmp_path, action):
    text = f"{filler(1)} {SIX} {filler(2)}"
    counts, kept = build(
        tmp_path, [text, filler(3), text.upper(), text + " and one", "###! " + SIX + " 1" * 400], action=action
    )
    # The copies are dropped as duplicates and the last for too few letters: one document has the test text.
    assert counts["documents"] == counts["full_matches"] == 1
    dropped = read_manifest(next((tmp_path / "out/corpus").iterdir()))["dropped"]
    assert dropped["exact duplicate"]["documents"] == dropped["near duplicate"]["documents"] == 1
    assert dropped["contains test text"]["documents"] == (action == "remove") and len(kept) == 1 + (action == "report")


def test_tasks_are_counted_separately(tmp_path):
    first, second = task(tmp_path, TESTS), task(tmp_path, [SECOND + " again", "nothing of this is in it"], "other")
    folder = build_corpus(
        make_corpus(tmp_path, [f"{filler(1)} {SECOND}", filler(2), f"{SIX} {filler(3)}"], [first, second])
    )
    counts = {
        each["name"]: (each["full_matches"], each["partial_matches"], each["documents"], each["num_test_texts"])
        for each in read_manifest(folder)["contamination"]
    }
    assert counts == {"villages": (2, 0, 2, 5), "other": (0, 1, 1, 2)}


def test_a_changed_test_set_rebuilds_the_corpus(tmp_path):
    texts = [f"{filler(1)} {SIX}", filler(2)]
    tasks = [task(tmp_path, TESTS)]
    before = build_corpus(make_corpus(tmp_path, texts, tasks))
    assert build_corpus(make_corpus(tmp_path, texts, tasks)) == before
    task(tmp_path, [LONG, SECOND])
    after = build_corpus(make_corpus(tmp_path, texts, tasks))
    assert [read_manifest(folder)["contamination"][0]["documents"] for folder in (before, after)] == [1, 0]


def test_texts_that_are_too_short_are_not_searched(tmp_path):
    folder = build_corpus(make_corpus(tmp_path, [filler(1), FOUR], [task(tmp_path, [FOUR, "so good"])]))
    (counts,) = read_manifest(folder)["contamination"]
    assert (counts["num_test_texts"], counts["num_too_short"], counts["documents"]) == (2, 2, 0)


def test_missing_test_files_are_an_error(tmp_path):
    tasks = [task(tmp_path, TESTS)]
    (tmp_path / "villages-test.csv").unlink()
    with pytest.raises(DataError, match="villages-test.csv: no such file"):
        build_corpus(make_corpus(tmp_path, [filler(1)], tasks))


@pytest.mark.slow
def test_texts_in_both_splits_of_imdb_are_found(workspace):
    name = "configs/finetune/imdb.yaml"
    splits = read_task(load_config(TaskFile, [name]).task)
    train = {normalize(example.texts) for split in ("train", "validation") for example in splits[split]}
    shared = {normalize(example.texts) for example in splits["test"]} & train
    assert len(shared) == 123
    corpus = load_config(
        Prepare,
        ["configs/corpus/reviews.yaml", f"corpus.decontaminate.tasks=[{name}]", "corpus.decontaminate.action=remove"],
    ).corpus
    folder = build_corpus(corpus)
    (counts,) = read_manifest(folder)["contamination"]
    assert counts["num_test_texts"] == 25_000 and counts["full_matches"] >= 123 and counts["documents"] >= 123
    assert not shared & {normalize((document["text"],)) for document in iter_documents(folder)}
