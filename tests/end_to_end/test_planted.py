"""A corpus of real reviews in which everything that can be wrong has been planted: what is found of it."""

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
    """How much of everything is planted, among how many reviews."""

    untouched: int
    copies: int
    hidden: int
    personal: int
    longest: int
    """Characters of the longest line."""


SMALL, LARGE = Sizes(500, 100, 20, 50, 2**21), Sizes(4_000, 1_000, 200, 500, 50 * 2**20)


def reviews(count: int) -> list[str]:
    """So many different reviews, as training meets them."""
    source = load_config(Prepare, ["configs/corpus/reviews.yaml"]).corpus.sources[0]
    found: dict[str, str] = {}
    for row in iter_rows(CorpusSource(**source.model_dump())):
        text = clean_text(row["text"])
        if len(text.split()) >= 40:
            found.setdefault(" ".join(WORD.findall(text.lower())), text)
        if len(found) == count:
            break
    return list(found.values())


def hidden_sentences(count: int, random: np.random.Generator) -> list[str]:
    """Sentences of the sentiment task's test set of five words and more; none of more than one row."""
    rows = read_task(load_config(TaskFile, ["configs/finetune/sentiment.yaml"]).task)["test"]
    plain = {" ".join(WORD.findall(example.texts[0].lower())): example.texts[0] for example in rows}
    long_enough = [text for words, text in plain.items() if len(words.split()) >= 5 and "_" not in text]
    return [long_enough[place] for place in random.choice(len(long_enough), count, replace=False)]


def inserted(text: str, piece: str, random: np.random.Generator) -> str:
    words = text.split(" ")
    place = random.integers(0, len(words) + 1)
    return " ".join([*words[:place], piece, *words[place:]])


def nearly(text: str, vocabulary: list[str], random: np.random.Generator) -> str:
    """A copy with three words of a hundred changed."""
    words = text.split(" ")
    for place in random.choice(len(words), max(1, round(0.03 * len(words))), replace=False):
        words[place] = vocabulary[random.integers(len(vocabulary))]
    return " ".join(words)


def personal(number: int, random: np.random.Generator) -> str:
    """An e-mail address or a telephone number, as people write them."""
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


def grams(text: str) -> set[tuple[str, ...]]:
    words = WORD.findall(text.lower().replace("_", " "))
    return {tuple(words[at : at + 5]) for at in range(len(words) - 4)}


def planted(folder: Path, sizes: Sizes) -> dict[str, list]:
    """Write the files; returns {kind: [(id, text)]} of what stands in the .jsonl files, and the planted strings."""
    random = np.random.default_rng(0)
    every = reviews(sizes.untouched + sizes.hidden + sizes.personal)
    untouched, rest = every[: sizes.untouched], every[sizes.untouched :]
    vocabulary = sorted({word for text in untouched[:200] for word in text.split()})
    sentences = hidden_sentences(sizes.hidden, random)
    strings = [personal(number, random) for number in range(sizes.personal)]
    chosen = random.choice(sizes.untouched, min(2 * sizes.copies, sizes.untouched), replace=False)
    exact, near = np.array_split(chosen, 2)
    # Of the copies some are set otherwise: case, white space and punctuation do not count.
    set_otherwise = [str, str.upper, lambda text: text.replace(" ", "  "), lambda text: text.replace(",", " ,") + "!!"]
    texts = {
        "untouched": untouched,
        "hidden": [inserted(text, sentence, random) for text, sentence in zip(rest, sentences)],
        "personal": [inserted(text, piece, random) for text, piece in zip(rest[sizes.hidden :], strings)],
        "exact": [set_otherwise[at % 4](untouched[place]) for at, place in enumerate(np.resize(exact, sizes.copies))],
        "near": [nearly(untouched[place], vocabulary, random) for place in np.resize(near, sizes.copies)],
    }
    folder.mkdir()
    for order, (kind, own) in enumerate(texts.items()):
        for part in range(3):
            content = "".join(
                json.dumps({"name": f"{kind}-{number}", "text": text}) + "\n"
                for number, text in enumerate(own)
                if number % 3 == part
            ).encode()
            path = folder / f"{order}-{kind}-{part}.jsonl{'.gz' * (part == 2)}"
            path.write_bytes(gzip.compress(content) if part == 2 else content)
    return {**texts, "sentences": sentences, "strings": strings}


def broken(folder: Path, random: np.random.Generator, longest: int) -> None:
    """Write files with everything wrong that a file can have."""

    def sentence(count: int = 12) -> str:
        return " ".join("".join(random.choice(list("abdegilmnorstu"), random.integers(2, 9))) for _ in range(count))

    folder.mkdir()
    (folder / "empty.txt").write_bytes(b"")
    (folder / "blank.txt").write_text("\n\n  \n")
    (folder / "nothing.txt.gz").write_bytes(gzip.compress(b""))
    packed = gzip.compress("\n\n".join(sentence() for _ in range(2_000)).encode())
    (folder / "truncated.txt.gz").write_bytes(packed[: len(packed) // 2])
    (folder / "latin.txt").write_bytes(f"{sentence()} caf\u00e9 {sentence()}\n\n{sentence()}\n".encode("latin-1"))
    mojibake = "The caf\u00e9\u2019s na\u00efve owner said \u201cno\u201d.".encode().decode("cp1252", "ignore")
    (folder / "mojibake.txt").write_text(f"{mojibake} {sentence()}\n", encoding="utf-8")
    (folder / "nulls.txt").write_bytes(f"Null\0 by\0tes stand he\0re {sentence()}\n".encode())
    words = np.array([sentence(1) for _ in range(3_000)])
    (folder / "long.txt").write_text(" ".join(random.choice(words, longest // 6))[:longest] + "\n")


@pytest.mark.parametrize("sizes", [SMALL, pytest.param(LARGE, marks=pytest.mark.slow)], ids=["small", "large"])
def test_what_is_planted_is_found(workspace, sizes):
    texts = planted(workspace / "text", sizes)
    broken(workspace / "broken", np.random.default_rng(1), sizes.longest)
    done = run_module(
        "data",
        "corpus.name=planted",
        "corpus.sources=[{files: text, id: name}, {files: broken}]",
        "corpus.clean.personal=true",
        "corpus.decontaminate.tasks=[configs/finetune/sentiment.yaml]",
        "corpus.decontaminate.action=remove",
        "tokenizer.vocab_size=2000",
        "tokenizer.sample=2000000",
        "max_length=64",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Traceback" not in done.stderr and "in shards" in done.stdout
    (shards,) = Path("out/shards").iterdir()
    report = json.loads((shards / "report.json").read_text())
    (corpus,) = Path("out/corpus").iterdir()
    told = read_manifest(corpus)
    dropped, why, read, start = np.fromfile(corpus / "dropped.bin", np.uint8), {}, {}, 0
    rest: list[str] = []
    for part in told["text_folders"]:
        table = pyarrow.parquet.read_table(list_text_files(Path("out/text") / part["folder"])).to_pydict()
        reasons = [told["reasons"][number] for number in dropped[start : start + part["documents"]]]
        start += part["documents"]
        rest += [] if "id" in table else table["text"]
        why |= dict(zip(table.get("id", []), reasons))
        read |= dict(zip(table.get("id", []), table["text"]))
    assert start == len(dropped)
    assert len(why) == sum(len(texts[kind]) for kind in ("untouched", "hidden", "personal", "exact", "near"))

    def reasons_of(kind: str) -> list[str]:
        return [why[f"{kind}-{number}"] for number in range(len(texts[kind]))]

    assert set(reasons_of("exact")) == {"exact duplicate"}
    gone = reasons_of("near")
    assert gone.count("near duplicate") + gone.count("exact duplicate") >= 0.95 * len(gone)

    # Every hidden sentence is found whole, and no document that holds one is left.
    (task,) = report["contamination"]
    assert set(reasons_of("hidden")) <= {"contains test text", "near duplicate"}
    assert reasons_of("hidden").count("contains test text") >= 0.99 * sizes.hidden
    kept = [f" {' '.join(WORD.findall(read[name].lower()))} " for name, reason in why.items() if reason == "kept"]
    for sentence in texts["sentences"]:
        plain = f" {' '.join(WORD.findall(clean_text(sentence).lower()))} "
        assert not any(plain in text for text in kept), plain
    assert task["full_matches"] >= reasons_of("hidden").count("contains test text") and task["removed"]

    # Of the untouched hardly any goes as a near duplicate that is none.
    own = {name: grams(text) for name, text in read.items() if name.startswith(("untouched", "hidden", "personal"))}
    wrong = [
        name
        for name, reason in why.items()
        if name.startswith("untouched")
        and reason == "near duplicate"
        and not any(
            other != name and len(own[name] & grams) / max(1, len(own[name] | grams)) >= 0.6
            for other, grams in own.items()
        )
    ]
    assert len(wrong) < max(1, 0.001 * sizes.untouched), wrong
    assert not {"exact duplicate"} & set(reasons_of("untouched"))

    everything = "\n".join(read.values())
    print(
        {
            "near": f"{gone.count('near duplicate') + gone.count('exact duplicate')} of {len(gone)}",
            "hidden": f"{reasons_of('hidden').count('contains test text')} of {sizes.hidden}",
            "wrongly dropped": f"{len(wrong)} of {sizes.untouched}",
            "personal left": f"{sum(piece in everything for piece in texts['strings'])} of {len(texts['strings'])}",
        }
    )
    left = [piece for piece in texts["strings"] if piece in everything]
    assert len(left) <= 0.02 * len(texts["strings"]), left
    mended = report["read"]["fixed"]
    assert mended["email"] >= 0.98 * sum("@" in piece for piece in texts["strings"])
    assert mended["phone"] >= 0.98 * sum("@" not in piece for piece in texts["strings"])

    # Bad files are named where a person looks; what is sound in them is kept.
    problems = report["read"]["problems"]
    for name in ("empty.txt", "truncated.txt.gz", "latin.txt"):
        assert any(name in problem for problem in problems), (name, problems)
        assert name in done.stdout and name in (shards / "report.html").read_text()
    assert not any("nulls.txt" in problem or "jsonl" in problem for problem in problems)
    # ftfy leaves quotation marks curly when it mends the encoding only.
    assert any(text.startswith("The caf\u00e9\u2019s na\u00efve owner") for text in rest)
    assert any(text.startswith("Null bytes stand here") for text in rest)
    assert any(" caf\u00e9 " in text for text in rest)
    assert not any("\0" in text for text in [*rest, *read.values()])
    assert len([text for text in rest if len(text) > 0.99 * sizes.longest]) == 1
    assert sum(len(text.split()) == 12 for text in rest) > 500, "half of the truncated file is to be read"
