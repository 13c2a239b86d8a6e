"""Raw text becomes documents: read, cleaned, filtered, deduplicated, held against test sets; every step counted.

    build_corpus(corpus) -> out/corpus/NAME-FINGERPRINT/
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

from data.cache import OUTPUT_DIR, read_manifest
from data.corpus.config import Corpus
from data.corpus.extract import BucketReader, iter_text_batches, split_into_buckets
from data.corpus.select import empty_corpus_message, initial_manifest
from engine.errors import DataError
from engine.files import write_json


def count_copies(text: str, weight: float) -> int:
    """How often a document is seen in a pass: a fraction is a share of the documents, chosen by hash."""
    fraction = weight % 1
    if not fraction:
        return int(weight)
    lies = int.from_bytes(hashlib.sha256(b"weight" + text.encode()).digest()[:8], "big") / 2**64
    return int(weight) + (lies < fraction)


def iter_documents(folder: Path) -> Iterator[dict]:
    """The kept documents of a corpus folder, in order: {"text", "copies"}."""
    told = read_manifest(folder)
    for text, weight in iter_streamed_texts(folder, told) if "stream" in told else iter_kept_texts(folder, told):
        if text and (times := count_copies(text, weight)):
            yield {"text": text, "copies": times}


def iter_kept_texts(folder: Path, manifest: dict) -> Iterator[tuple[str, float]]:
    """(text, weight) of what was kept."""
    start, sentence = 0, 0
    dropped = np.fromfile(folder / "dropped.bin", np.uint8)
    cut = np.memmap(folder / "sentences.bin", np.uint8, "r") if "sentences" in manifest else None
    for part in manifest["texts"]:
        for batch in iter_text_batches(OUTPUT_DIR / "text" / part["folder"]):
            for text, why in zip(batch, dropped[start : start + len(batch)].tolist()):
                if why:
                    continue
                if cut is not None:
                    from data.corpus.sentence_dedup import split_sentences

                    pieces = split_sentences(text)
                    text = "".join(
                        piece for piece, again in zip(pieces, cut[sentence : sentence + len(pieces)]) if not again
                    ).strip()
                    sentence += len(pieces)
                yield text, part["weight"]
            start += len(batch)


def iter_streamed_texts(folder: Path, manifest: dict) -> Iterator[tuple[str, float]]:
    """(text, weight) of every text, read from its file; what was counted is written down at the end."""
    corpus = Corpus(**manifest["stream"])
    parts = [part for source in corpus.sources for part in split_into_buckets(source, corpus.clean)]
    readings = [BucketReader(part) for part in parts]
    for part, reading in zip(parts, readings):
        for text, _ in reading.iter_texts():
            yield text, part.source.weight
    counted = [reading.stats() for reading in readings]
    if not sum(each["documents"] for each in counted):
        raise DataError(empty_corpus_message(corpus, parts, counted))
    write_json(folder / "read.json", initial_manifest(parts, [""] * len(parts), counted))


def read_corpus_manifest(folder: Path) -> dict:
    """What was counted of a corpus; of a streamed one, after it has been read."""
    told = read_manifest(folder)
    return told | json.loads((folder / "read.json").read_text(encoding="utf-8")) if "stream" in told else told


def estimate_characters(folder: Path) -> int:
    """About how many characters the documents have together."""
    told = read_manifest(folder)
    if "stream" in told:
        corpus = Corpus(**told["stream"])
        return sum(part.total_bytes for source in corpus.sources for part in split_into_buckets(source, corpus.clean))
    return sum(read_manifest(OUTPUT_DIR / "text" / part["folder"])["characters"] for part in told["texts"])
