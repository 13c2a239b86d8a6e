"""Raw rows become documents: cleaned, empty and repeated ones dropped, counted, in `out/corpus/NAME-FINGERPRINT/`."""

from __future__ import annotations

import hashlib
import html
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveInt

from data import labelled
from data.derived import derive
from data.sources import Source, identity, name_of, rows, text_of
from engine.config import Section, Share, load
from engine.errors import DataError

BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u200b\ufeff]")
BLANK = re.compile(r"[^\S\n]+")
LINES = re.compile(r"\s*\n\s*")


class CorpusSource(Source):
    """One source of a corpus: one of wheel, hub, files and task."""

    text: str = "text"
    """The column that holds the text."""
    task: str | None = None
    """The YAML of a labelled task, whose training texts are read without their labels."""
    repeat: PositiveInt = 1
    """How often each of its documents is seen in one pass over the corpus."""

    @classmethod
    def doors(cls) -> tuple[str, ...]:
        return ("wheel", "hub", "files", "task")


class Corpus(Section):
    """Unlabelled text."""

    name: str
    """What the corpus is called on disk."""
    sources: Annotated[list[CorpusSource], Field(min_length=1)]
    """Where its text comes from."""
    held_out: Share = 0.01
    """Share of the documents kept for evaluation, chosen by a hash of the text."""


class TaskFile(Section):
    """What a corpus reads of a fine-tuning YAML: its task."""

    model_config = {"extra": "ignore"}
    task: labelled.Task


def clean(text: str) -> str:
    """HTML breaks and entities undone, control characters dropped, NFC, white space folded (line ends are kept)."""
    text = BREAK.sub("\n", text)
    text = html.unescape(text) if "&" in text else text
    text = CONTROL.sub("", text) if CONTROL.search(text) else text
    return LINES.sub("\n", BLANK.sub(" ", unicodedata.normalize("NFC", text))).strip()


def texts(source: CorpusSource) -> Iterator[str]:
    """The raw texts of one source."""
    if source.task:
        task = load(TaskFile, [source.task]).task
        yield from (text for example in labelled.read(task)["train"] for text in example.texts)
    else:
        yield from (text_of(row, source.text, name_of(source)) for row in rows(source))


def source_identity(source: CorpusSource) -> dict:
    """What the fingerprint of a source's documents is made of."""
    if source.task:
        return {**source.model_dump(mode="json"), "rows": labelled.identity(load(TaskFile, [source.task]).task)}
    return identity(source)


def documents(corpus: Corpus) -> Path:
    """The folder with `documents.jsonl` ({"text", "repeat"} a line). Raises DataError when no document is left."""
    def make(folder: Path) -> dict:
        counts, seen = Counter(read=0, empty=0, repeated=0, kept=0, words=0), set()
        with open(folder / "documents.jsonl", "w", encoding="utf-8") as file:
            for source in corpus.sources:
                for raw in texts(source):
                    counts["read"] += 1
                    text = clean(raw)
                    digest = hashlib.sha256(text.casefold().encode("utf-8", "replace")).digest()
                    if not text:
                        counts["empty"] += 1
                    elif digest in seen:
                        counts["repeated"] += 1
                    else:
                        seen.add(digest)
                        counts["kept"] += 1
                        counts["words"] += text.count(" ") + text.count("\n") + 1
                        file.write(json.dumps({"text": text, "repeat": source.repeat}, ensure_ascii=False) + "\n")
        if not counts["kept"]:
            where = ", ".join(source.task or name_of(source) for source in corpus.sources)
            raise DataError(f"corpus {corpus.name}: no text in {where} ({counts['read']} rows read, all empty)")
        return dict(counts)

    return derive("corpus", corpus.name, {"sources": [source_identity(s) for s in corpus.sources], "version": 2}, make)


def read_documents(folder: Path) -> Iterator[dict]:
    """The documents of a corpus folder, in order."""
    with open(folder / "documents.jsonl", encoding="utf-8") as file:
        yield from map(json.loads, file)
