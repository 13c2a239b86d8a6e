"""Sentences that stand in more than one document; the first to hold one keeps it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np

from data.duplicates import same
from data.extract import read_texts
from data.joined import Joined

SENTENCE = re.compile(r".+?(?:[.!?…]+[\"')\]]*\s+|[。！？]+|\n+|$)", re.DOTALL)
SENTENCE_WORDS = 10  # shorter ones repeat by chance


def sentences(text: str) -> list[str]:
    """The text cut after every sentence and line; joined they are the text again."""
    return SENTENCE.findall(text)


def repeated_sentences(folder: Path, texts: list[Path], sizes: list[int], dropped: np.ndarray) -> dict:
    """Mark the sentences of kept documents that stood in one before; returns how many."""
    count, start = 0, 0
    with open(folder / "hashes.bin", "wb") as file:
        for text, size in zip(texts, sizes):
            for batch in read_texts(text):
                kept = dropped[start:start + len(batch)] == 0
                start += len(batch)
                for document in (document for document, keep in zip(batch, kept) if keep):
                    plain = [" ".join(re.findall(r"\w+", sentence)).casefold() for sentence in sentences(document)]
                    count += len(plain)
                    file.write(b"".join(
                        hashlib.blake2b(sentence.encode(), digest_size=8).digest()
                        if sentence.count(" ") >= SENTENCE_WORDS - 1 else bytes(8) for sentence in plain))
    hashes = Joined([folder / "hashes.bin"], np.uint64)
    again = np.zeros(count, np.uint8)
    for start, block in hashes.blocks(2**16):
        again[start:start + len(block)] = block[:, 0] != 0
    alive = again.astype(bool)
    again[:] = 0
    for _, later in same(hashes, alive):
        again[later] = 1
    (folder / "sentences.bin").write_bytes(again.tobytes())
    del hashes
    (folder / "hashes.bin").unlink()
    return {"read": count, "dropped": int(again.sum())}
