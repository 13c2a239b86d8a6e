"""Test texts in a corpus: whole, in part or not at all, against a slow search; what is counted and done about them."""

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
    "and nobody in the village believed him until the water stood at their own doors"
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
    """Words that stand in no test text."""
    return " ".join(map("".join, np.random.default_rng(seed).choice(list("bcdfghjk"), (count, 7))))


def task(folder: Path, tests: list[str], name: str = "villages") -> str:
    """The YAML of a task with these test texts."""
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


def corpus_of(folder: Path, texts: list[str], tasks: list[str], **decontaminate) -> Corpus:
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return Corpus(
        name="made", sources=[{"files": str(folder / "texts.jsonl")}], decontaminate={"tasks": tasks, **decontaminate}
    )


def part(text: str, start: int, count: int) -> str:
    return " ".join(text.split()[start : start + count])


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def found_in(texts: list[str], tests: list[str], words: int = 13, shortest: int = 5) -> list[dict[int, bool]]:
    """For each text {test text: whether whole}, by trying every window; all of it plain lower-case words."""
    own = [test.split() for test in tests]
    result = []
    for text in texts:
        line, found = f" {text} ", {}
        for number, test in enumerate(own):
            if shortest <= len(test) < words and f" {' '.join(test)} " in line:
                found[number] = True
            if len(test) >= words:
                hits = [f" {' '.join(test[at : at + words])} " in line for at in range(len(test) - words + 1)]
                if any(hits):
                    found[number] = all(hits)
        result.append(found)
    return result


@pytest.mark.parametrize("seed, words, shortest", [(0, 13, 5), (1, 13, 5), (2, 6, 3), (3, 5, 5), (4, 8, 8), (5, 7, 9)])
def test_the_finder_agrees_with_a_search_of_every_window(tmp_path, seed, words, shortest):
    import pyarrow

    random = np.random.default_rng(seed)
    # Few words, so that parts of test texts stand in each other and a test text repeats itself.
    few = [f"v{number}" for number in range(3)]
    tests = [" ".join(random.choice(few, random.integers(1, 25))) for _ in range(60)]
    tests = list(dict.fromkeys(tests))
    texts = []
    for number in range(300):
        test = tests[random.integers(len(tests))].split()
        start = random.integers(0, max(1, len(test) // 2))
        inside = test if number % 2 else test[start : start + random.integers(1, 25)]
        texts.append(" ".join([*random.choice(few, random.integers(0, 4)), *inside, *random.choice(few, 2)]))
    texts += ["", "v0", tests[0]]
    folder = decontaminate.build_index(
        corpus_of(tmp_path, texts, [task(tmp_path, tests)], words=words, shortest=shortest)
    )
    finder = decontaminate.NgramIndex(folder)
    found = finder.find(WordHashes.from_arrow(pyarrow.array(texts, pyarrow.large_string())))
    # The test rows come in the order of the file.
    expected = {
        number: {test: whole for test, whole in own.items()}
        for number, own in enumerate(found_in(texts, tests, words, shortest))
        if own
    }
    assert {number: {hit // 2: bool(hit % 2) for hit in hits} for number, hits in found.items()} == expected
    assert (
        len(expected) > 20
        and len({whole for own in expected.values() for whole in own.values()}) == 2
        or shortest >= words
        or words == 5
    )
    counts = [len(test.split()) for test in tests]
    assert read_manifest(folder)["tasks"] == [
        {
            "name": "villages",
            "num_test_texts": len(tests),
            "too_short": sum(count < min(shortest, words) or count < words and count < shortest for count in counts),
        }
    ]


def counted(tmp_path: Path, texts: list[str], **decontaminate) -> tuple[dict, list[str]]:
    """(what the manifest says of the one task, the texts that are kept)."""
    folder = build_corpus(corpus_of(tmp_path, texts, [task(tmp_path, TESTS)], **decontaminate))
    (own,) = read_manifest(folder)["contamination"]
    return own, [document["text"] for document in iter_documents(folder)]


@pytest.mark.parametrize(
    "inside, whole, in_part",
    [
        (LONG, 1, 0),
        (LONG.upper().replace(" ", ",  "), 1, 0),
        (part(LONG, 0, 13), 0, 1),
        (part(LONG, 18, 13), 0, 1),
        (part(LONG, 5, 25), 0, 1),
        (part(LONG, 0, 12), 0, 0),
        (part(LONG, 3, 12) + " x " + part(LONG, 15, 12), 0, 0),
        (SIX, 1, 0),
        (SIX.upper(), 1, 0),
        (part(SIX, 0, 5), 0, 0),
        (SIX.replace("geese", "ducks"), 0, 0),
        (TWELVE, 1, 0),
        (part(TWELVE, 0, 11), 0, 0),
        (part(TWELVE, 1, 11), 0, 0),
        (FOUR, 0, 0),
        (LONG + " " + SIX + " " + SECOND, 3, 0),
        (SIX + " " + part(SECOND, 2, 14), 1, 1),
    ],
)
@pytest.mark.parametrize("around", [True, False])
def test_a_test_text_is_found_whole_in_part_or_not(tmp_path, inside, whole, in_part, around):
    text = f"{filler(1)} {inside} {filler(2)}" if around else inside
    own, kept = counted(tmp_path, [filler(3), text, filler(4)])
    assert own == {
        "name": "villages",
        "num_test_texts": 5,
        "too_short": 1,
        "full_matches": whole,
        "partial_matches": in_part,
        "documents": int(whole + in_part > 0),
        "removed": False,
    }
    assert len(kept) == 3


def test_one_found_whole_here_and_in_part_there_counts_once_as_whole(tmp_path):
    own, _ = counted(
        tmp_path, [f"{filler(1)} {LONG}", f"{filler(2)} {part(LONG, 0, 15)}", f"{filler(3)} {part(SECOND, 0, 15)}"]
    )
    assert (own["full_matches"], own["partial_matches"], own["documents"]) == (1, 1, 3)


def test_remove_drops_what_report_only_counts(tmp_path):
    texts = [filler(1), f"{filler(2)} {LONG}", f"{filler(3)} {part(SECOND, 4, 13)} {filler(4)}", FOUR + filler(5)]
    told, kept = counted(tmp_path, texts)
    removed, left = counted(tmp_path, texts, action="remove")
    assert kept == texts and left == [texts[0], texts[3]]
    assert removed == told | {"removed": True} and told["documents"] == 2
    reports = [read_manifest(path) for path in (tmp_path / "out/corpus").iterdir()]
    assert sorted(each["dropped"]["contains test text"]["documents"] for each in reports) == [0, 2]
    for each in reports:
        assert sorted(each["examples"]["contamination"]) == sorted(text[:300] for text in texts[1:3])


@pytest.mark.parametrize("action", ["report", "remove"])
def test_of_copies_the_one_that_is_kept_counts(tmp_path, action):
    text = f"{filler(1)} {SIX} {filler(2)}"
    own, kept = counted(
        tmp_path, [text, filler(3), text.upper(), text + " and one", "###! " + SIX + " 1" * 400], action=action
    )
    # The copies go as duplicates, the last for its few letters: one document is left that holds the test text.
    assert own["documents"] == own["full_matches"] == 1
    told = read_manifest(next((tmp_path / "out/corpus").iterdir()))["dropped"]
    assert told["exact duplicate"]["documents"] == told["near duplicate"]["documents"] == 1
    assert told["contains test text"]["documents"] == (action == "remove") and len(kept) == 1 + (action == "report")


def test_two_tasks_are_counted_apart(tmp_path):
    first, second = task(tmp_path, TESTS), task(tmp_path, [SECOND + " again", "nothing of this stands in it"], "other")
    folder = build_corpus(
        corpus_of(tmp_path, [f"{filler(1)} {SECOND}", filler(2), f"{SIX} {filler(3)}"], [first, second])
    )
    told = {
        own["name"]: (own["full_matches"], own["partial_matches"], own["documents"], own["num_test_texts"])
        for own in read_manifest(folder)["contamination"]
    }
    assert told == {"villages": (2, 0, 2, 5), "other": (0, 1, 1, 2)}


def test_the_answer_follows_the_test_set(tmp_path):
    texts = [f"{filler(1)} {SIX}", filler(2)]
    tasks = [task(tmp_path, TESTS)]
    one = build_corpus(corpus_of(tmp_path, texts, tasks))
    assert build_corpus(corpus_of(tmp_path, texts, tasks)) == one
    task(tmp_path, [LONG, SECOND])
    other = build_corpus(corpus_of(tmp_path, texts, tasks))
    assert [read_manifest(folder)["contamination"][0]["documents"] for folder in (one, other)] == [1, 0]


def test_only_texts_too_short_to_look_for(tmp_path):
    folder = build_corpus(corpus_of(tmp_path, [filler(1), FOUR], [task(tmp_path, [FOUR, "so good"])]))
    (own,) = read_manifest(folder)["contamination"]
    assert (own["num_test_texts"], own["too_short"], own["documents"]) == (2, 2, 0)


def test_a_task_that_is_not_there(tmp_path):
    tasks = [task(tmp_path, TESTS)]
    (tmp_path / "villages-test.csv").unlink()
    with pytest.raises(DataError, match="villages-test.csv: no such file"):
        build_corpus(corpus_of(tmp_path, [filler(1)], tasks))


@pytest.mark.slow
def test_the_texts_that_stand_in_both_splits_of_imdb(workspace):
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
    (own,) = read_manifest(folder)["contamination"]
    assert own["num_test_texts"] == 25_000 and own["full_matches"] >= 123 and own["documents"] >= 123
    assert not shared & {normalize((document["text"],)) for document in iter_documents(folder)}
