"""Access to the documents of a corpus folder, which `data.corpus.build` describes."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data.cache import OUTPUT_DIR, read_manifest
from data.corpus.config import Corpus
from data.corpus.extract import BucketReader, iter_text_batches, split_corpus
from data.corpus.select import empty_corpus_message, initial_manifest
from engine.errors import DataError
from engine.files import write_json


def count_copies(text: str, weight: float) -> int:
    """Return how often a document is seen per epoch: a fractional weight selects documents by their hash."""
    fraction = weight % 1
    if not fraction:
        return int(weight)
    uniform = int.from_bytes(hashlib.sha256(b"weight" + text.encode()).digest()[:8], "big") / 2**64
    return int(weight) + (uniform < fraction)


def iter_documents(folder: Path) -> Iterator[dict]:
    """Yield the kept documents of a corpus folder in order: {"text", "copies"}."""
    manifest = read_manifest(folder)
    iter_texts = iter_streamed_texts if "streamed_corpus" in manifest else iter_kept_texts
    for text, weight in iter_texts(folder, manifest):
        if text and (copies := count_copies(text, weight)):
            yield {"text": text, "copies": copies}


def iter_kept_texts(folder: Path, manifest: dict) -> Iterator[tuple[str, float]]:
    """Yield (text, weight) of the kept texts, without dropped sentences."""
    start, sentence = 0, 0
    dropped = np.fromfile(folder / "dropped.bin", np.uint8)
    repeated = np.memmap(folder / "sentences.bin", np.uint8, "r") if "sentences" in manifest else None
    for part in manifest["text_folders"]:
        for batch in iter_text_batches(OUTPUT_DIR / "text" / part["folder"]):
            for text, reason in zip(batch, dropped[start : start + len(batch)].tolist(), strict=True):
                if reason:
                    continue
                if repeated is not None:
                    from data.corpus.sentence_dedup import split_sentences

                    pieces = split_sentences(text)
                    flags = repeated[sentence : sentence + len(pieces)]
                    text = "".join(piece for piece, again in zip(pieces, flags, strict=True) if not again).strip()
                    sentence += len(pieces)
                yield text, part["weight"]
            start += len(batch)


def iter_streamed_texts(folder: Path, manifest: dict) -> Iterator[tuple[str, float]]:
    """Yield (text, weight) of every text, read from its source, and write the counts at the end."""
    corpus = Corpus(**manifest["streamed_corpus"])
    buckets = split_corpus(corpus)
    readers = [BucketReader(bucket) for bucket in buckets]
    for bucket, reader in zip(buckets, readers, strict=True):
        for text, _ in reader.iter_texts():
            yield text, bucket.source.weight
    stats = [reader.stats() for reader in readers]
    if not sum(each["documents"] for each in stats):
        raise DataError(empty_corpus_message(corpus, buckets, stats))
    write_json(folder / "counts.json", initial_manifest(buckets, [""] * len(buckets), stats))


def read_corpus_manifest(folder: Path) -> dict:
    """Read the manifest of a corpus folder with all counts; a streamed corpus has them only after a pass."""
    manifest = read_manifest(folder)
    if "streamed_corpus" in manifest:
        manifest |= json.loads((folder / "counts.json").read_text(encoding="utf-8"))
    return manifest


def estimate_characters(folder: Path) -> int:
    """Estimate the number of characters of all documents; for a streamed corpus, the size of its files."""
    manifest = read_manifest(folder)
    if "streamed_corpus" in manifest:
        corpus = Corpus(**manifest["streamed_corpus"])
        return sum(bucket.total_bytes for bucket in split_corpus(corpus))
    return sum(read_manifest(OUTPUT_DIR / "text" / part["folder"])["characters"] for part in manifest["text_folders"])
