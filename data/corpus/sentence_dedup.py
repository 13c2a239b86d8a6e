"""Sentences that stand in more than one document; the first to hold one keeps it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np

from data.arrays import ConcatenatedArray
from data.corpus.deduplicate import find_equal_keys
from data.corpus.extract import iter_text_batches

SENTENCE_PATTERN = re.compile(r".+?(?:[.!?…]+[\"')\]]*\s+|[。！？]+|\n+|$)", re.DOTALL)
MIN_SENTENCE_WORDS = 10  # shorter ones repeat by chance


def split_sentences(text: str) -> list[str]:
    """The text cut after every sentence and line; joined they are the text again."""
    return SENTENCE_PATTERN.findall(text)


def deduplicate_sentences(
    corpus_folder: Path, text_folders: list[Path], document_counts: list[int], dropped: np.ndarray
) -> dict:
    """Mark the sentences of kept documents that stood in one before; returns how many."""
    count, start = 0, 0
    with open(corpus_folder / "hashes.bin", "wb") as file:
        for text, size in zip(text_folders, document_counts):
            for batch in iter_text_batches(text):
                kept = dropped[start : start + len(batch)] == 0
                start += len(batch)
                for document in (document for document, keep in zip(batch, kept) if keep):
                    plain = [
                        " ".join(re.findall(r"\w+", sentence)).casefold() for sentence in split_sentences(document)
                    ]
                    count += len(plain)
                    file.write(
                        b"".join(
                            hashlib.blake2b(sentence.encode(), digest_size=8).digest()
                            if sentence.count(" ") >= MIN_SENTENCE_WORDS - 1
                            else bytes(8)
                            for sentence in plain
                        )
                    )
    hashes = ConcatenatedArray([corpus_folder / "hashes.bin"], np.uint64)
    again = np.zeros(count, np.uint8)
    for start, block in hashes.iter_blocks(2**16):
        again[start : start + len(block)] = block[:, 0] != 0
    alive = again.astype(bool)
    again[:] = 0
    for _, later in find_equal_keys(hashes, alive):
        again[later] = 1
    (corpus_folder / "sentences.bin").write_bytes(again.tobytes())
    del hashes
    (corpus_folder / "hashes.bin").unlink()
    return {"read": count, "dropped": int(again.sum())}
