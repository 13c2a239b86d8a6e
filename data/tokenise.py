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

from data.joined import numbers, strings
from engine.errors import DataError

LONGEST = 100_000  # characters the tokenizer is given at once: it holds some hundred bytes for each token
BLOCK = 2**22  # characters looked at together
MOST = 2**20  # words remembered
TRIED = 256  # texts on which both ways are compared
LETTER, BLANK, MARK = 0, 1, 2
KIND = np.zeros(256, np.uint8)  # of a byte; all of a character beyond ASCII count as letters
KIND[list(b" \n")] = BLANK
KIND[list(b"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")] = MARK
LOWER = np.arange(256, dtype=np.uint8)
LOWER[65:91] += 32


def cut(text: str, longest: int) -> list[str]:
    """A text in parts of at most `longest` characters, cut before a space where there is one."""
    parts = []
    while len(text) > longest:
        blank = text.rfind(" ", longest // 2, longest)
        at = blank if blank > 0 else longest
        parts.append(text[:at])
        text = text[at:]
    return [*parts, text]


class Way:
    """A way to cut texts into words."""

    def __init__(self, name: str, lowercase: bool = False):
        """name: marks (white space dropped, each mark of ASCII a word, as BERT's tokenizers do) or spaces (cut before each,
        which stays with its word; not before a new line, where some tokenizers would begin anew)."""
        self.name, self.lowercase = name, lowercase

    def cut(self, data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(bytes as they are looked up, uint8; whether a word begins there, bool) of uint8 (bytes,)."""
        data = LOWER[data] if self.lowercase else data
        if self.name == "marks":
            kind = KIND[data]
            starts = kind == MARK
            starts[1:] |= kind[1:] != kind[:-1]
        else:
            starts = data == ord(" ")
        return data, starts


class Tokeniser:
    """The tokenizer in a folder. Raises DataError when there is none that can be read."""

    def __init__(self, folder: Path):
        import tokenizers
        try:
            told = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
            self.tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:
            raise DataError(f"{folder}: its tokenizer.json cannot be read ({str(error).strip().splitlines()[0]})") from None
        self.tokenizer.no_truncation()  # some published tokenizers carry both, and would cut every document
        self.tokenizer.no_padding()
        self.tokenizer.encode_special_tokens = True  # text that spells one is text
        self.vocabulary = self.tokenizer.get_vocab(with_added_tokens=True)
        self.ways = [Way("spaces")]
        normalizer, splitter = told.get("normalizer") or {}, told.get("pre_tokenizer") or {}
        while splitter.get("type") == "Sequence" and len(splitter["pretokenizers"]) == 1:
            splitter = splitter["pretokenizers"][0]
        if normalizer.get("type") == "BertNormalizer" and splitter.get("type") == "BertPreTokenizer":
            self.ways.insert(0, Way("marks", normalizer["lowercase"]))
        self.way: Way | None = None
        self.tried = False
        self.lock, self.trying = Lock(), Lock()
        self.forget()

    def forget(self) -> None:
        """Begin with no words."""
        self.number: dict[str, int] = {}
        self.ids, self.starts = np.zeros(0, np.int64), np.zeros(1, np.int64)

    def whole(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """As `encode`, every text through the tokenizer."""
        parts = [cut(text, LONGEST) for text in texts] if max(map(len, texts), default=0) > LONGEST else None
        encoded = self.tokenizer.encode_batch_fast([part for own in parts for part in own] if parts else texts,
                                                   add_special_tokens=False)
        ids = [encoding.ids for encoding in encoded]
        ends = np.concatenate([[0], np.cumsum(np.fromiter(map(len, ids), np.int64, len(ids)))])
        if parts:
            ends = ends[np.cumsum([0, *(len(own) for own in parts)])]
        return np.fromiter((number for each in ids for number in each), np.int64, int(ends[-1])), ends

    def by_words(self, texts: list[str], way: Way) -> tuple[np.ndarray, np.ndarray]:
        """As `encode`, by the words of the texts."""
        import pyarrow

        array = strings(texts)
        bounds = np.frombuffer(array.buffers()[1], np.int64)[:len(texts) + 1]
        data = np.frombuffer(array.buffers()[2] or b"", np.uint8)[:bounds[-1]]
        if not len(data):
            return np.zeros(0, np.int64), np.zeros(len(texts) + 1, np.int64)
        data, starts = way.cut(data)
        starts[bounds[:-1][bounds[:-1] < len(data)]] = True
        first = np.flatnonzero(starts)
        words = pyarrow.StringArray.from_buffers(len(first), pyarrow.py_buffer(np.append(first, len(data)).astype(np.int32)),
                                                 pyarrow.py_buffer(data))
        if way.name == "marks":
            kept = np.flatnonzero(KIND[data[first]] != BLANK)
            words, first = words.take(numbers(kept)), first[kept]
        words = words.dictionary_encode()
        number, ids, begins = self.known(words.dictionary.to_pylist())
        place = words.indices.to_numpy()
        lengths = (begins[number + 1] - begins[number])[place]
        ends = np.concatenate([[0], np.cumsum(lengths)])
        places = np.arange(ends[-1]) + np.repeat(begins[number][place] - ends[:-1], lengths)
        return ids[places], ends[np.searchsorted(first, bounds)]

    def known(self, words: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(the numbers of words, and by number the ids of all words known and where each word's start).

        Tokenises the words not seen before.
        """
        with self.lock:
            if len(self.number) > MOST:
                self.forget()
            new = [word for word in words if word not in self.number]
            if new:
                ids, ends = self.whole(new)
                self.number.update(zip(new, range(len(self.number), len(self.number) + len(new))))
                self.starts = np.concatenate([self.starts, ends[1:] + self.starts[-1]])
                self.ids = np.concatenate([self.ids, ids])
            return np.fromiter(map(self.number.__getitem__, words), np.int64, len(words)), self.ids, self.starts

    def encode(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """(token ids of the texts one after another, int64; where each text starts, int64 (texts + 1,))."""
        with self.trying:
            if not self.tried and texts:
                tried = [text[:LONGEST] for text in texts[:TRIED]]
                expected = self.whole(tried)
                self.way = next((way for way in self.ways
                                 if all(map(np.array_equal, self.by_words(tried, way), expected))), None)
                self.tried = True
                self.forget()
        if self.way is None:
            return self.whole(texts)
        found, bounds = [], [np.zeros(1, np.int64)]
        for some, complete in blocks(texts):
            ids, ends = self.by_words(some, self.way)
            found.append(ids)
            bounds.append((ends[1:] if complete else ends[1:-1]) + sum(map(len, found[:-1])))
        return np.concatenate(found or [np.zeros(0, np.int64)]), np.concatenate(bounds)


def blocks(texts: list[str]) -> Iterator[tuple[list[str], bool]]:
    """The texts in blocks of about BLOCK characters, long ones in parts, and whether a block's last text ends there."""
    waiting: list[str] = []
    characters = 0
    for text in texts:
        *parts, last = cut(text, BLOCK)
        for part in parts:
            yield [*waiting, part], False
            waiting, characters = [], 0
        waiting.append(last)
        characters += len(last)
        if characters > BLOCK:
            yield waiting, True
            waiting, characters = [], 0
    if waiting:
        yield waiting, True
