"""Raw text becomes documents: read, cleaned, filtered, deduplicated, held against test sets; every step counted.

    documents(corpus) -> out/corpus/NAME-FINGERPRINT/
        dropped.bin     uint8    why each text is left out, in the order of the text folders: 0, it is kept; else its
                                 number in the manifest's `reasons`
        sentences.bin   uint8    1 for each sentence that is left out, when sentences are deduplicated
        manifest.json   the text folders, and what every step counted

The texts themselves stay where `extract` put them: a step that drops some writes a byte a document. When nothing is to be
decided no texts are kept: the manifest says how to read them again, and read.json what was counted the last time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data import cluster, contamination, marks
from data.choose import choose, nothing_in, summed
from data.config import Corpus
from data.derived import OUT, derive, is_made, manifest, place, to_be_made
from data.extract import Bucket, Reading, buckets, extract, read_texts
from engine.errors import DataError
from engine.files import write_json


def inputs_of(corpus: Corpus, parts: list[Bucket]) -> dict:
    """What the fingerprint of the documents is made of."""
    told = corpus.model_dump(mode="json", include={"filter", "deduplicate", "decontaminate"})
    if corpus.decontaminate.tasks:
        told["index"] = contamination.index(corpus).name
    return {**told, "parts": [[part.inputs, part.source.weight, part.source.language] for part in parts], "version": 4}


def documents(corpus: Corpus) -> Path:
    """The folder of the corpus's documents. Raises DataError when none is left."""
    parts = [part for source in corpus.sources for part in buckets(source, corpus.clean)]
    inputs = inputs_of(corpus, parts)
    if is_made(place("corpus", corpus.name, inputs)):
        return place("corpus", corpus.name, inputs)
    if is_streamed(corpus, parts):
        return derive("corpus", corpus.name, inputs, lambda folder: {"stream": corpus.model_dump(mode="json")})
    to_be_made(place("corpus", corpus.name, inputs))
    cluster.start(corpus)
    texts = cluster.spread(extract, parts, [part.size for part in parts], corpus)
    return derive("corpus", corpus.name, inputs, lambda folder: choose(folder, corpus, parts, texts))


def is_streamed(corpus: Corpus, parts: list[Bucket]) -> bool:
    """Whether texts go straight from their files into shards: nothing is to be decided, so nothing needs to be kept."""
    return not (marks.wanted(corpus) or corpus.deduplicate.sentences or any(not part.files for part in parts))


def copies(text: str, weight: float) -> int:
    """How often a document is seen in a pass: a fraction is a share of the documents, chosen by hash."""
    fraction = weight % 1
    if not fraction:
        return int(weight)
    lies = int.from_bytes(hashlib.sha256(b"weight" + text.encode()).digest()[:8], "big") / 2**64
    return int(weight) + (lies < fraction)


def read_documents(folder: Path) -> Iterator[dict]:
    """The kept documents of a corpus folder, in order: {"text", "copies"}."""
    told = manifest(folder)
    for text, weight in streamed(folder, told) if "stream" in told else chosen(folder, told):
        if text and (times := copies(text, weight)):
            yield {"text": text, "copies": times}


def chosen(folder: Path, told: dict) -> Iterator[tuple[str, float]]:
    """(text, weight) of what was kept."""
    start, sentence = 0, 0
    dropped = np.fromfile(folder / "dropped.bin", np.uint8)
    cut = np.memmap(folder / "sentences.bin", np.uint8, "r") if "sentences" in told else None
    for part in told["texts"]:
        for batch in read_texts(OUT / "text" / part["folder"]):
            for text, why in zip(batch, dropped[start:start + len(batch)].tolist()):
                if why:
                    continue
                if cut is not None:
                    from data.sentences import sentences
                    pieces = sentences(text)
                    text = "".join(piece for piece, again in zip(pieces, cut[sentence:sentence + len(pieces)])
                                   if not again).strip()
                    sentence += len(pieces)
                yield text, part["weight"]
            start += len(batch)


def streamed(folder: Path, told: dict) -> Iterator[tuple[str, float]]:
    """(text, weight) of every text, read from its file; what was counted is written down at the end."""
    corpus = Corpus(**told["stream"])
    parts = [part for source in corpus.sources for part in buckets(source, corpus.clean)]
    readings = [Reading(part) for part in parts]
    for part, reading in zip(parts, readings):
        for text, _ in reading.texts():
            yield text, part.source.weight
    counted = [reading.told() for reading in readings]
    if not sum(each["documents"] for each in counted):
        raise DataError(nothing_in(corpus, parts, counted))
    write_json(folder / "read.json", summed(parts, [""] * len(parts), counted))


def curated(folder: Path) -> dict:
    """What was counted of a corpus; of a streamed one, after it has been read."""
    told = manifest(folder)
    return told | json.loads((folder / "read.json").read_text(encoding="utf-8")) if "stream" in told else told


def characters(folder: Path) -> int:
    """About how many characters the documents have together."""
    told = manifest(folder)
    if "stream" in told:
        corpus = Corpus(**told["stream"])
        return sum(part.size for source in corpus.sources for part in buckets(source, corpus.clean))
    return sum(manifest(OUT / "text" / part["folder"])["characters"] for part in told["texts"])
