"""Tokenize texts, each distinct word once.

Text repeats its words: of seven million in a corpus, one in a hundred is new. So texts are split into words, Arrow
numbers them, and only new ones go through the tokenizer; the rest is table lookup. The ids match the tokenizer's own
wherever it never looks across a split. A trial on the first texts checks that; otherwise whole texts are tokenized.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from threading import Lock

import numpy as np

from data.arrays import to_int64_array, to_string_array
from engine.errors import DataError

MAX_ENCODE_CHARS = 100_000  # characters per text given to the tokenizer, which takes some hundred bytes per token
CHUNK_CHARS = 2**22  # characters processed together
MAX_CACHED_WORDS = 2**20
TRIAL_TEXTS = 256
LETTER, WHITESPACE, PUNCTUATION = 0, 1, 2
BYTE_CLASS = np.zeros(256, np.uint8)  # every byte of a non-ASCII character counts as a letter
BYTE_CLASS[list(b" \n")] = WHITESPACE
BYTE_CLASS[list(b"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")] = PUNCTUATION
LOWERCASE = np.arange(256, dtype=np.uint8)
LOWERCASE[65:91] += 32


def split_long_text(text: str, max_chars: int) -> list[str]:
    """Split a text into parts of at most `max_chars` characters, before a space where possible."""
    parts = []
    while len(text) > max_chars:
        space = text.rfind(" ", max_chars // 2, max_chars)
        at = space if space > 0 else max_chars
        parts.append(text[:at])
        text = text[at:]
    return [*parts, text]


@dataclass(frozen=True)
class Splitter:
    """A rule that splits texts into words.

    kind: "punctuation" drops whitespace and makes each ASCII punctuation mark a word, as BERT does; "whitespace" splits
    before each space, which stays with its word, but not before a newline, where some tokenizers reset.
    """

    kind: str
    lowercase: bool = False

    def split(self, data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (bytes to look up, uint8; whether a word starts there, bool) of uint8 (bytes,)."""
        data = LOWERCASE[data] if self.lowercase else data
        if self.kind == "whitespace":
            return data, data == ord(" ")
        classes = BYTE_CLASS[data]
        starts = classes == PUNCTUATION
        starts[1:] |= classes[1:] != classes[:-1]
        return data, starts


class CachedTokenizer:
    """The tokenizer in a folder, with a cache of words. Raises DataError when it cannot be read."""

    def __init__(self, folder: Path):
        import tokenizers

        try:
            config = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
            self.tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:
            reason = str(error).strip().splitlines()[0]
            raise DataError(f"{folder}: its tokenizer.json cannot be read ({reason})") from None
        self.tokenizer.no_truncation()  # some published tokenizers have both enabled
        self.tokenizer.no_padding()
        self.tokenizer.encode_special_tokens = True  # text that spells a special token is text
        self.vocab = self.tokenizer.get_vocab(with_added_tokens=True)
        self.splitters = [Splitter("whitespace")]
        normalizer, pre_tokenizer = config.get("normalizer") or {}, config.get("pre_tokenizer") or {}
        while pre_tokenizer.get("type") == "Sequence" and len(pre_tokenizer["pretokenizers"]) == 1:
            pre_tokenizer = pre_tokenizer["pretokenizers"][0]
        cleaning = [
            step for step in normalizer.get("normalizers", [normalizer]) if step.get("type") == "BertNormalizer"
        ]
        if cleaning and pre_tokenizer.get("type") == "BertPreTokenizer":
            self.splitters.insert(0, Splitter("punctuation", cleaning[0]["lowercase"]))
        self.splitter: Splitter | None = None
        self.is_tried = False
        self.cache_lock, self.trial_lock = Lock(), Lock()
        self.clear()

    def clear(self) -> None:
        """Empty the cache of words."""
        self.word_index: dict[str, int] = {}
        self.cached_ids, self.cached_starts = np.zeros(0, np.int64), np.zeros(1, np.int64)

    def encode_full(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Encode like `encode`, without the cache."""
        has_long_text = max(map(len, texts), default=0) > MAX_ENCODE_CHARS
        parts = [split_long_text(text, MAX_ENCODE_CHARS) for text in texts] if has_long_text else None
        flat = list(chain.from_iterable(parts)) if parts else texts
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch_fast(flat, add_special_tokens=False)]
        bounds = np.concatenate([[0], np.cumsum(np.fromiter(map(len, ids), np.int64, len(ids)))])
        if parts:
            bounds = bounds[np.cumsum([0, *map(len, parts)])]
        return np.fromiter(chain.from_iterable(ids), np.int64, int(bounds[-1])), bounds

    def encode_words(self, texts: list[str], splitter: Splitter) -> tuple[np.ndarray, np.ndarray]:
        """Encode like `encode`, word by word."""
        import pyarrow

        array = to_string_array(texts)
        bounds = np.frombuffer(array.buffers()[1], np.int64)[: len(texts) + 1]
        data = np.frombuffer(array.buffers()[2] or b"", np.uint8)[: bounds[-1]]
        if not len(data):
            return np.zeros(0, np.int64), np.zeros(len(texts) + 1, np.int64)
        data, starts = splitter.split(data)
        starts[bounds[:-1][bounds[:-1] < len(data)]] = True
        first = np.flatnonzero(starts)
        offsets = np.append(first, len(data)).astype(np.int32)
        words = pyarrow.StringArray.from_buffers(len(first), pyarrow.py_buffer(offsets), pyarrow.py_buffer(data))
        if splitter.kind == "punctuation":
            kept = np.flatnonzero(BYTE_CLASS[data[first]] != WHITESPACE)
            words, first = words.take(to_int64_array(kept)), first[kept]
        words = words.dictionary_encode()
        indices, ids, offsets = self.lookup(words.dictionary.to_pylist())
        word = words.indices.to_numpy()
        lengths = (offsets[indices + 1] - offsets[indices])[word]
        ends = np.concatenate([[0], np.cumsum(lengths)])
        positions = np.arange(ends[-1]) + np.repeat(offsets[indices][word] - ends[:-1], lengths)
        return ids[positions], ends[np.searchsorted(first, bounds)]

    def lookup(self, words: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokenize new words; return (index of each word, ids of all cached words, offset of each index in the ids)."""
        with self.cache_lock:
            if len(self.word_index) > MAX_CACHED_WORDS:
                self.clear()
            new = [word for word in words if word not in self.word_index]
            if new:
                ids, bounds = self.encode_full(new)
                self.word_index |= {word: index for index, word in enumerate(new, len(self.word_index))}
                self.cached_starts = np.concatenate([self.cached_starts, bounds[1:] + self.cached_starts[-1]])
                self.cached_ids = np.concatenate([self.cached_ids, ids])
            indices = np.fromiter(map(self.word_index.__getitem__, words), np.int64, len(words))
            return indices, self.cached_ids, self.cached_starts

    def choose_splitter(self, texts: list[str]) -> None:
        """Choose the first splitter that gives the tokenizer's own ids on a sample of texts; None if none does."""
        sample = [text[:MAX_ENCODE_CHARS] for text in texts[:TRIAL_TEXTS]]
        expected = self.encode_full(sample)
        exact = (rule for rule in self.splitters if all(map(np.array_equal, self.encode_words(sample, rule), expected)))
        self.splitter, self.is_tried = next(exact, None), True
        self.clear()

    def encode(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return (token ids of all texts, concatenated, int64; offset of each text, int64 (texts + 1,))."""
        with self.trial_lock:
            if not self.is_tried and texts:
                self.choose_splitter(texts)
        if self.splitter is None:
            return self.encode_full(texts)
        all_ids, bounds, total = [np.zeros(0, np.int64)], [np.zeros(1, np.int64)], 0
        for chunk, is_complete in chunk_texts(texts):
            ids, ends = self.encode_words(chunk, self.splitter)
            bounds.append((ends[1:] if is_complete else ends[1:-1]) + total)
            all_ids.append(ids)
            total += len(ids)
        return np.concatenate(all_ids), np.concatenate(bounds)


def chunk_texts(texts: list[str]) -> Iterator[tuple[list[str], bool]]:
    """Yield (chunk of about CHUNK_CHARS characters, whether its last text ends there); long texts are split."""
    chunk, characters = [], 0
    for parts in (split_long_text(text, CHUNK_CHARS) for text in texts):
        for number, part in enumerate(parts, 1):
            chunk.append(part)
            characters += len(part)
            if number < len(parts) or characters > CHUNK_CHARS:
                yield chunk, number == len(parts)
                chunk, characters = [], 0
    if chunk:
        yield chunk, True
