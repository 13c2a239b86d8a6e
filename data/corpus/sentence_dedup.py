"""Removal of sentences that occur in more than one document; the first occurrence is kept."""

import hashlib
import re
from pathlib import Path

import numpy as np

from data.arrays import ConcatenatedArray
from data.corpus.deduplicate import find_equal_keys
from data.corpus.extract import iter_text_batches

SENTENCE_END = r"[.!?…]++[\"')\]]*+\s+"
# A run of punctuation is tried once, at its start or after the first character: linear time for "....".
SENTENCE_PATTERN = re.compile(rf".(?:{SENTENCE_END}|.*?(?:(?<![.!?…]){SENTENCE_END}|[。！？]+|\n+|$))", re.DOTALL)
MIN_SENTENCE_WORDS = 10  # shorter sentences repeat by chance


def split_sentences(text: str) -> list[str]:
    """Split a text after every sentence and line; the pieces joined are the text."""
    return SENTENCE_PATTERN.findall(text)


def hash_sentence(sentence: str) -> bytes:
    """Return an 8-byte hash of the words of a sentence, or zeros for a short sentence."""
    words = re.findall(r"\w+", sentence)
    if len(words) < MIN_SENTENCE_WORDS:
        return bytes(8)
    return hashlib.blake2b(" ".join(words).casefold().encode(), digest_size=8).digest()


def deduplicate_sentences(corpus_folder: Path, text_folders: list[Path], dropped: np.ndarray) -> dict:
    """Write sentences.bin, uint8 with 1 per repeated sentence of the kept documents, and return the counts."""
    path, count, start = corpus_folder / "hashes.bin", 0, 0
    with open(path, "wb") as file:
        for batch in (batch for folder in text_folders for batch in iter_text_batches(folder)):
            for text, reason in zip(batch, dropped[start : start + len(batch)], strict=True):
                if not reason:
                    sentences = split_sentences(text)
                    count += len(sentences)
                    file.write(b"".join(map(hash_sentence, sentences)))
            start += len(batch)
    hashes = ConcatenatedArray([path], np.uint64)
    is_candidate, repeated = np.zeros(count, bool), np.zeros(count, np.uint8)
    for start, block in hashes.iter_blocks(2**16):
        is_candidate[start : start + len(block)] = block[:, 0] != 0
    for _, later in find_equal_keys(hashes, is_candidate):
        repeated[later] = 1
    (corpus_folder / "sentences.bin").write_bytes(repeated.tobytes())
    del hashes
    path.unlink()
    return {"read": count, "dropped": int(repeated.sum())}
