"""Texts to token ids, each different word of the text tokenised once.

Text repeats its words: of seven million in a corpus, one in a hundred is new. So texts are cut into words, Arrow numbers
them, and only those not seen before go through the tokenizer; the rest is table lookup. That gives the tokenizer's own
ids wherever it never looks across a cut, which is tried on the first texts: one that does is given whole texts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from threading import Lock

import numpy as np

from data.arrays import to_int64_array, to_string_array
from engine.errors import DataError

MAX_ENCODE_CHARS = 100_000  # characters the tokenizer is given at once: it holds some hundred bytes for each token
CHUNK_CHARS = 2**22  # characters looked at together
MAX_CACHED_WORDS = 2**20  # words remembered
TRIAL_TEXTS = 256  # texts on which both ways are compared
LETTER, WHITESPACE, PUNCTUATION = 0, 1, 2
BYTE_CLASS = np.zeros(256, np.uint8)  # of a byte; all of a character beyond ASCII count as letters
BYTE_CLASS[list(b" \n")] = WHITESPACE
BYTE_CLASS[list(b"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")] = PUNCTUATION
LOWERCASE = np.arange(256, dtype=np.uint8)
LOWERCASE[65:91] += 32


def split_long_text(text: str, max_chars: int) -> list[str]:
    """A text in parts of at most `max_chars` characters, cut before a space where there is one."""
    parts = []
    while len(text) > max_chars:
        blank = text.rfind(" ", max_chars // 2, max_chars)
        at = blank if blank > 0 else max_chars
        parts.append(text[:at])
        text = text[at:]
    return [*parts, text]


class Splitter:
    """A way to cut texts into words."""

    def __init__(self, kind: str, lowercase: bool = False):
        """name: marks (white space dropped, each mark of ASCII a word, as BERT's tokenizers do) or spaces (cut before each,
        which stays with its word; not before a new line, where some tokenizers would begin anew).
        """
        self.kind, self.lowercase = kind, lowercase

    def split_long_text(self, data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(bytes as they are looked up, uint8; whether a word begins there, bool) of uint8 (bytes,)."""
        data = LOWERCASE[data] if self.lowercase else data
        if self.kind == "marks":
            kind = BYTE_CLASS[data]
            starts = kind == PUNCTUATION
            starts[1:] |= kind[1:] != kind[:-1]
        else:
            starts = data == ord(" ")
        return data, starts


class CachedTokenizer:
    """The tokenizer in a folder. Raises DataError when there is none that can be read."""

    def __init__(self, folder: Path):
        import tokenizers

        try:
            told = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
            self.tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:
            raise DataError(
                f"{folder}: its tokenizer.json cannot be read ({str(error).strip().splitlines()[0]})"
            ) from None
        self.tokenizer.no_truncation()  # some published tokenizers carry both, and would cut every document
        self.tokenizer.no_padding()
        self.tokenizer.encode_special_tokens = True  # text that spells one is text
        self.vocab = self.tokenizer.get_vocab(with_added_tokens=True)
        self.splitters = [Splitter("spaces")]
        normalizer, splitter = told.get("normalizer") or {}, told.get("pre_tokenizer") or {}
        while splitter.get("type") == "Sequence" and len(splitter["pretokenizers"]) == 1:
            splitter = splitter["pretokenizers"][0]
        if normalizer.get("type") == "BertNormalizer" and splitter.get("type") == "BertPreTokenizer":
            self.splitters.insert(0, Splitter("marks", normalizer["lowercase"]))
        self.splitter: Splitter | None = None
        self.is_tried = False
        self.cache_lock, self.trial_lock = Lock(), Lock()
        self.clear()

    def clear(self) -> None:
        """Begin with no words."""
        self.word_index: dict[str, int] = {}
        self.cached_ids, self.cached_starts = np.zeros(0, np.int64), np.zeros(1, np.int64)

    def encode_full(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """As `encode`, every text through the tokenizer."""
        parts = (
            [split_long_text(text, MAX_ENCODE_CHARS) for text in texts]
            if max(map(len, texts), default=0) > MAX_ENCODE_CHARS
            else None
        )
        encoded = self.tokenizer.encode_batch_fast(
            [part for own in parts for part in own] if parts else texts, add_special_tokens=False
        )
        ids = [encoding.ids for encoding in encoded]
        ends = np.concatenate([[0], np.cumsum(np.fromiter(map(len, ids), np.int64, len(ids)))])
        if parts:
            ends = ends[np.cumsum([0, *(len(own) for own in parts)])]
        return np.fromiter((number for each in ids for number in each), np.int64, int(ends[-1])), ends

    def encode_words(self, texts: list[str], splitter: Splitter) -> tuple[np.ndarray, np.ndarray]:
        """As `encode`, by the words of the texts."""
        import pyarrow

        array = to_string_array(texts)
        bounds = np.frombuffer(array.buffers()[1], np.int64)[: len(texts) + 1]
        data = np.frombuffer(array.buffers()[2] or b"", np.uint8)[: bounds[-1]]
        if not len(data):
            return np.zeros(0, np.int64), np.zeros(len(texts) + 1, np.int64)
        data, starts = splitter.split_long_text(data)
        starts[bounds[:-1][bounds[:-1] < len(data)]] = True
        first = np.flatnonzero(starts)
        words = pyarrow.StringArray.from_buffers(
            len(first), pyarrow.py_buffer(np.append(first, len(data)).astype(np.int32)), pyarrow.py_buffer(data)
        )
        if splitter.kind == "marks":
            kept = np.flatnonzero(BYTE_CLASS[data[first]] != WHITESPACE)
            words, first = words.take(to_int64_array(kept)), first[kept]
        words = words.dictionary_encode()
        number, ids, begins = self.lookup(words.dictionary.to_pylist())
        place = words.indices.to_numpy()
        lengths = (begins[number + 1] - begins[number])[place]
        ends = np.concatenate([[0], np.cumsum(lengths)])
        places = np.arange(ends[-1]) + np.repeat(begins[number][place] - ends[:-1], lengths)
        return ids[places], ends[np.searchsorted(first, bounds)]

    def lookup(self, words: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(the numbers of words, and by number the ids of all words known and where each word's start).

        Tokenises the words not seen before.
        """
        with self.cache_lock:
            if len(self.word_index) > MAX_CACHED_WORDS:
                self.clear()
            new = [word for word in words if word not in self.word_index]
            if new:
                ids, ends = self.encode_full(new)
                self.word_index.update(zip(new, range(len(self.word_index), len(self.word_index) + len(new))))
                self.cached_starts = np.concatenate([self.cached_starts, ends[1:] + self.cached_starts[-1]])
                self.cached_ids = np.concatenate([self.cached_ids, ids])
            return (
                np.fromiter(map(self.word_index.__getitem__, words), np.int64, len(words)),
                self.cached_ids,
                self.cached_starts,
            )

    def encode(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """(token ids of the texts one after another, int64; where each text starts, int64 (texts + 1,))."""
        with self.trial_lock:
            if not self.is_tried and texts:
                tried = [text[:MAX_ENCODE_CHARS] for text in texts[:TRIAL_TEXTS]]
                expected = self.encode_full(tried)
                self.splitter = next(
                    (
                        way
                        for way in self.splitters
                        if all(map(np.array_equal, self.encode_words(tried, way), expected))
                    ),
                    None,
                )
                self.is_tried = True
                self.clear()
        if self.splitter is None:
            return self.encode_full(texts)
        found, bounds = [], [np.zeros(1, np.int64)]
        for some, complete in chunk_texts(texts):
            ids, ends = self.encode_words(some, self.splitter)
            found.append(ids)
            bounds.append((ends[1:] if complete else ends[1:-1]) + sum(map(len, found[:-1])))
        return np.concatenate(found or [np.zeros(0, np.int64)]), np.concatenate(bounds)


def chunk_texts(texts: list[str]) -> Iterator[tuple[list[str], bool]]:
    """The texts in blocks of about BLOCK characters, long ones in parts, and whether a block's last text ends there."""
    waiting: list[str] = []
    characters = 0
    for text in texts:
        *parts, last = split_long_text(text, CHUNK_CHARS)
        for part in parts:
            yield [*waiting, part], False
            waiting, characters = [], 0
        waiting.append(last)
        characters += len(last)
        if characters > CHUNK_CHARS:
            yield waiting, True
            waiting, characters = [], 0
    if waiting:
        yield waiting, True
