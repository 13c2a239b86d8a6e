"""A corpus of real reviews with planted duplicates, test sentences, personal data and damaged files: all are found."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet
import pytest
from helpers import run_module

from data.cache import read_manifest
from data.config import Prepare
from data.corpus.clean import clean_text
from data.corpus.config import CorpusSource
from data.corpus.extract import list_text_files
from data.sources.source import iter_rows
from data.tasks.task import TaskFile, read_task
from engine.config.loader import load_config

WORD = re.compile(r"\w+")


class Sizes(NamedTuple):
    """Numbers of planted documents and of untouched reviews."""

    untouched: int
    copies: int
    hidden: int
    personal: int
    longest: int
    """Characters in the longest line."""


SMALL, LARGE = Sizes(500, 100, 20, 50, 2**21), Sizes(4_000, 1_000, 200, 500, 50 * 2**20)


def normalized(text: str) -> str:
    """The lowercase words of a text."""
    return " ".join(WORD.findall(text.lower()))


def load_reviews(count: int) -> list[str]:
    """Distinct reviews, cleaned as for training."""
    source = load_config(Prepare, ["configs/corpus/reviews.yaml"]).corpus.sources[0]
    reviews: dict[str, str] = {}
    for row in iter_rows(CorpusSource(**source.model_dump())):
        text = clean_text(row["text"])
        if len(text.split()) >= 40:
            reviews.setdefault(normalized(text), text)
        if len(reviews) == count:
            break
    return list(reviews.values())


def sample_test_sentences(count: int, random: np.random.Generator) -> list[str]:
    """Distinct sentences of at least five words from the sentiment task's test set."""
    rows = read_task(load_config(TaskFile, ["configs/finetune/sentiment.yaml"]).task)["test"]
    distinct = {normalized(example.texts[0]): example.texts[0] for example in rows}
    long_enough = [text for words, text in distinct.items() if len(words.split()) >= 5 and "_" not in text]
    return [long_enough[index] for index in random.choice(len(long_enough), count, replace=False)]


def insert(text: str, piece: str, random: np.random.Generator) -> str:
    words = text.split(" ")
    at = random.integers(0, len(words) + 1)
    return " ".join([*words[:at], piece, *words[at:]])


def change_words(text: str, vocabulary: list[str], random: np.random.Generator) -> str:
    """A copy with 3 % of the words changed."""
    words = text.split(" ")
    for index in random.choice(len(words), max(1, round(0.03 * len(words))), replace=False):
        words[index] = vocabulary[random.integers(len(vocabulary))]
    return " ".join(words)


def random_contact(number: int, random: np.random.Generator) -> str:
    """An email address or a telephone number in a common format."""
    name = "".join(random.choice(list("abcdefghij"), 7))
    digits = "".join(map(str, random.integers(2, 10, 12)))
    return [
        f"{name}.{number}@example.org",
        f"{name}+news@mail.example.co.uk",
        f"{name}_{number}@example-host.com",
        f"+44 20 {digits[:4]} {digits[4:8]}",
        f"({digits[:3]}) {digits[3:6]}-{digits[6:10]}",
        f"{digits[:3]}-{digits[3:6]}-{digits[6:10]}",
        f"{digits[:3]}.{digits[3:6]}.{digits[6:10]}",
        f"+1 {digits[:3]} {digits[3:6]} {digits[6:10]}",
    ][number % 8]


def five_grams(text: str) -> set[tuple[str, ...]]:
    words = WORD.findall(text.lower().replace("_", " "))
    return {tuple(words[at : at + 5]) for at in range(len(words) - 4)}


def write_planted_files(folder: Path, sizes: Sizes) -> dict[str, list]:
    """Write .jsonl files and return {kind: texts}, with the test sentences and the contacts in them."""
    random = np.random.default_rng(0)
    reviews = load_reviews(sizes.untouched + sizes.hidden + sizes.personal)
    untouched, rest = reviews[: sizes.untouched], reviews[sizes.untouched :]
    vocabulary = sorted({word for text in untouched[:200] for word in text.split()})
    sentences = sample_test_sentences(sizes.hidden, random)
    contacts = [random_contact(number, random) for number in range(sizes.personal)]
    copied = random.choice(sizes.untouched, min(2 * sizes.copies, sizes.untouched), replace=False)
    exact, near = (np.resize(indices, sizes.copies) for indices in np.array_split(copied, 2))
    # Exact copies may differ in case, whitespace and punctuation.
    variants = [str, str.upper, lambda text: text.replace(" ", "  "), lambda text: text.replace(",", " ,") + "!!"]
    texts = {
        "untouched": untouched,
        "hidden": [insert(text, piece, random) for text, piece in zip(rest, sentences, strict=False)],
        "personal": [insert(text, piece, random) for text, piece in zip(rest[sizes.hidden :], contacts, strict=True)],
        "exact": [variants[number % 4](untouched[index]) for number, index in enumerate(exact)],
        "near": [change_words(untouched[index], vocabulary, random) for index in near],
    }
    folder.mkdir()
    for order, (kind, kind_texts) in enumerate(texts.items()):
        rows = [json.dumps({"name": f"{kind}-{i}", "text": text}) + "\n" for i, text in enumerate(kind_texts)]
        for part in range(3):
            content = "".join(rows[part::3]).encode()
            path = folder / f"{order}-{kind}-{part}.jsonl{'.gz' * (part == 2)}"
            path.write_bytes(gzip.compress(content) if part == 2 else content)
    return {**texts, "sentences": sentences, "contacts": contacts}


def write_damaged_files(folder: Path, random: np.random.Generator, longest: int) -> None:
    """Write empty, truncated and wrongly encoded files, and one with a very long line."""

    def sentence(count: int = 12) -> str:
        return " ".join("".join(random.choice(list("abdegilmnorstu"), random.integers(2, 9))) for _ in range(count))

    folder.mkdir()
    (folder / "empty.txt").write_bytes(b"")
    (folder / "blank.txt").write_text("\n\n  \n")
    (folder / "nothing.txt.gz").write_bytes(gzip.compress(b""))
    packed = gzip.compress("\n\n".join(sentence() for _ in range(2_000)).encode())
    (folder / "truncated.txt.gz").write_bytes(packed[: len(packed) // 2])
    (folder / "latin.txt").write_bytes(f"{sentence()} caf\u00e9 {sentence()}\n\n{sentence()}\n".encode("latin-1"))
    mojibake = "The caf\u00e9\u2019s na\u00efve owner wrote \u201cno\u201d.".encode().decode("cp1252", "ignore")
    (folder / "mojibake.txt").write_text(f"{mojibake} {sentence()}\n", encoding="utf-8")
    (folder / "nulls.txt").write_bytes(f"Null\0 by\0tes he\0re {sentence()}\n".encode())
    words = np.array([sentence(1) for _ in range(3_000)])
    (folder / "long.txt").write_text(" ".join(random.choice(words, longest // 6))[:longest] + "\n")


class Result(NamedTuple):
    """Output of `python -m data` on the planted documents."""

    output: str
    report: dict
    page: str
    reasons: dict[str, str]
    """{id: reason} of the documents with an id: kept, or why they were dropped."""
    texts: dict[str, str]
    """{id: cleaned text} of the same documents."""
    other_texts: list[str]
    """Cleaned texts of the documents without an id."""

    def reasons_of(self, kind: str) -> list[str]:
        """The reasons of one kind of documents, in order."""
        by_number = {name: reason for name, reason in self.reasons.items() if name.startswith(f"{kind}-")}
        return [by_number[f"{kind}-{number}"] for number in range(len(by_number))]


def prepare_planted_corpus() -> Result:
    """Run `python -m data` on the folders text and damaged."""
    result = run_module(
        "data",
        "corpus.name=planted",
        "corpus.sources=[{files: text, id: name}, {files: damaged}]",
        "corpus.clean.mask_pii=true",
        "corpus.decontaminate.tasks=[configs/finetune/sentiment.yaml]",
        "corpus.decontaminate.action=remove",
        "tokenizer.vocab_size=2000",
        "tokenizer.sample=2000000",
        "max_length=64",
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert "Traceback" not in result.stderr and "in shards" in result.stdout
    (shards,), (corpus,) = Path("out/shards").iterdir(), Path("out/corpus").iterdir()
    manifest = read_manifest(corpus)
    dropped, start = np.fromfile(corpus / "dropped.bin", np.uint8), 0
    reasons, texts, other_texts = {}, {}, []
    for part in manifest["text_folders"]:
        table = pyarrow.parquet.read_table(list_text_files(Path("out/text") / part["folder"])).to_pydict()
        part_reasons = [manifest["reasons"][number] for number in dropped[start : start + part["documents"]]]
        start += part["documents"]
        if "id" in table:
            reasons |= dict(zip(table["id"], part_reasons, strict=True))
            texts |= dict(zip(table["id"], table["text"], strict=True))
        else:
            other_texts += table["text"]
    assert start == len(dropped)
    report = json.loads((shards / "report.json").read_text())
    return Result(result.stdout, report, (shards / "report.html").read_text(), reasons, texts, other_texts)


def false_near_duplicates(result: Result) -> list[str]:
    """Untouched documents dropped as near duplicates although no other shares 60 % of the 5-grams."""
    kinds = ("untouched", "hidden", "personal")
    ngrams = {name: five_grams(text) for name, text in result.texts.items() if name.startswith(kinds)}

    def has_near_duplicate(name: str) -> bool:
        others = (other for other_name, other in ngrams.items() if other_name != name)
        return any(len(ngrams[name] & other) / max(1, len(ngrams[name] | other)) >= 0.6 for other in others)

    dropped = [name for name, reason in result.reasons.items() if reason == "near duplicate"]
    return [name for name in dropped if name.startswith("untouched") and not has_near_duplicate(name)]


@pytest.mark.parametrize("sizes", [SMALL, pytest.param(LARGE, marks=pytest.mark.slow)], ids=["small", "large"])
def test_planted_defects_are_found(workspace, sizes):
    planted = write_planted_files(workspace / "text", sizes)
    write_damaged_files(workspace / "damaged", np.random.default_rng(1), sizes.longest)
    result = prepare_planted_corpus()
    report, reasons_of = result.report, result.reasons_of
    kinds = ("untouched", "hidden", "personal", "exact", "near")
    assert all(len(reasons_of(kind)) == len(planted[kind]) for kind in kinds)
    assert len(result.reasons) == sum(len(planted[kind]) for kind in kinds)

    assert set(reasons_of("exact")) == {"exact duplicate"}
    near = reasons_of("near")
    num_near = near.count("near duplicate") + near.count("exact duplicate")
    assert num_near >= 0.95 * len(near)

    # Every test sentence is found, and no kept document contains one.
    (task,) = report["contamination"]
    assert set(reasons_of("hidden")) <= {"contains test text", "near duplicate"}
    num_hidden = reasons_of("hidden").count("contains test text")
    assert num_hidden >= 0.99 * sizes.hidden
    kept = [f" {normalized(result.texts[name])} " for name, reason in result.reasons.items() if reason == "kept"]
    for sentence in planted["sentences"]:
        plain = f" {normalized(clean_text(sentence))} "
        assert not any(plain in text for text in kept), plain
    assert task["full_matches"] >= num_hidden and task["removed"]

    false_positives = false_near_duplicates(result)
    assert len(false_positives) < max(1, 0.001 * sizes.untouched), false_positives
    assert not {"exact duplicate"} & set(reasons_of("untouched"))

    contacts, all_text = planted["contacts"], "\n".join(result.texts.values())
    left = [contact for contact in contacts if contact in all_text]
    print(
        f"near duplicates {num_near} of {len(near)}, test sentences {num_hidden} of {sizes.hidden}, falsely dropped"
        f" {len(false_positives)} of {sizes.untouched}, contacts left {len(left)} of {len(contacts)}"
    )
    assert len(left) <= 0.02 * len(contacts), left
    fixed = report["read"]["fixed"]
    assert fixed["email"] >= 0.98 * sum("@" in contact for contact in contacts)
    assert fixed["phone"] >= 0.98 * sum("@" not in contact for contact in contacts)

    # Damaged files are reported, and their intact parts kept.
    problems = report["read"]["problems"]
    for name in ("empty.txt", "truncated.txt.gz", "latin.txt"):
        assert any(name in problem for problem in problems), (name, problems)
        assert name in result.output and name in result.page
    assert not any("nulls.txt" in problem or "jsonl" in problem for problem in problems)
    texts = result.other_texts
    # ftfy only repairs the encoding and keeps curly quotation marks.
    assert any(text.startswith("The caf\u00e9\u2019s na\u00efve owner") for text in texts)
    assert any(text.startswith("Null bytes here") for text in texts)
    assert any(" caf\u00e9 " in text for text in texts)
    assert not any("\0" in text for text in [*texts, *result.texts.values()])
    assert len([text for text in texts if len(text) > 0.99 * sizes.longest]) == 1
    assert sum(len(text.split()) == 12 for text in texts) > 500, "half of the truncated file must be read"
