"""Shards: flat arrays of token ids read by memory map, document bounds, and a plan of packed rows.

    out/shards/NAME-FINGERPRINT/{train,held_out}/
        tokens.bin     token ids without special tokens, the smallest sufficient unsigned integers
        documents.bin  int64 (documents + 1): where each document starts in tokens.bin
        pieces.bin     int64 (pieces, 2): start and length of each piece of a document, ordered by row
        rows.bin       int64 (rows + 1): where each row's pieces start in pieces.bin

A row of `length` positions holds whole pieces, each between its own first and last special token; attention never
crosses from one piece to another. Whatever the corpus, memory stays bounded: rows are packed a window of text at a time.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np

from data.arrays import batch_by_characters, threaded_map
from data.cache import file_hash, get_or_build, read_manifest
from data.corpus import report
from data.corpus.config import Corpus
from data.corpus.documents import estimate_characters, iter_documents, read_corpus_manifest
from data.encoders import LOAD_KWARGS
from data.tokens.encode import CachedTokenizer
from data.tokens.packing import pack_rows, sentence_end_ids, split_documents
from engine.errors import DataError, first_line
from engine.runs.progress import Progress

SPLITS = ("train", "held_out")
CHUNK_CHARS = 2**22  # characters tokenised together
NUM_THREADS = min(8, (os.cpu_count() or 1) + 1)
PACKING_WINDOW = 2**22  # tokens packed together
MIN_HELD_OUT_CHARS = 100_000  # characters held out on average, from which on chance does not leave none
SPECIAL_TOKEN_KEYS = {
    "pad": ("pad_token",),
    "cls": ("cls_token", "bos_token"),
    "sep": ("sep_token", "eos_token"),
    "mask": ("mask_token",),
}


def hash_fraction(text: str) -> float:
    """Where a document's hash lies in [0, 1). Below the held-out share it is kept for evaluation: adding moves none."""
    return int.from_bytes(hashlib.sha256(b"held out" + text.encode("utf-8", "replace")).digest()[:8], "big") / 2**64


class ShardWriter:
    """The four files of one split, written as the text comes."""

    def __init__(self, folder: Path, dtype: np.dtype, max_length: int, is_sentence_end: np.ndarray):
        """ends: bool (vocabulary,), the tokens after which a long document is best cut."""
        folder.mkdir()
        self.files = {name: open(folder / f"{name}.bin", "wb") for name in ("tokens", "documents", "pieces", "rows")}
        self.dtype, self.max_length, self.is_sentence_end = dtype, max_length, is_sentence_end
        self.documents = self.tokens = self.pieces = self.rows = self.positions = self.tokens_per_epoch = (
            self.pending_tokens
        ) = 0
        self.pending: list[np.ndarray] = []
        self.pending_copies: list[int] = []
        self.files["documents"].write(np.int64(0).tobytes())
        self.files["rows"].write(np.int64(0).tobytes())

    def add(self, ids: np.ndarray, copies: int) -> None:
        """One document, seen `copies` times in a pass."""
        self.pending.append(ids.astype(self.dtype))  # a copy: a view would keep its whole batch
        self.pending_copies.append(copies)
        self.pending_tokens += len(ids)
        if self.pending_tokens > PACKING_WINDOW:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting, its rows packed."""
        if not self.pending:
            return
        ids = np.concatenate(self.pending)
        lengths = np.array([len(each) for each in self.pending])
        bounds = np.concatenate([[0], np.cumsum(lengths)])
        pieces = split_documents(bounds, self.max_length - 2, np.flatnonzero(self.is_sentence_end[ids]))
        copies = np.array(self.pending_copies)[np.searchsorted(bounds, pieces[:, 0], side="right") - 1]
        pieces = np.repeat(pieces, copies, axis=0)
        order, starts = pack_rows(pieces[:, 1] + 2, self.max_length)
        self.files["tokens"].write(ids.tobytes())
        self.files["documents"].write((bounds[1:] + self.tokens).tobytes())
        self.files["pieces"].write((pieces[order] + [self.tokens, 0]).astype(np.int64).tobytes())
        self.files["rows"].write((starts[1:] + self.pieces).astype(np.int64).tobytes())
        self.documents += len(lengths)
        self.tokens += len(ids)
        self.pieces += len(pieces)
        self.rows += len(starts) - 1
        self.tokens_per_epoch += int(pieces[:, 1].sum())
        self.positions += int((pieces[:, 1] + 2).sum())
        self.pending, self.pending_copies, self.pending_tokens = [], [], 0

    def close(self) -> dict:
        """Finish; returns what the manifest says of the split."""
        self.flush()
        for file in self.files.values():
            file.close()
        return {
            "documents": self.documents,
            "tokens": self.tokens,
            "tokens_per_epoch": self.tokens_per_epoch,
            "rows": self.rows,
            "pieces": self.pieces,
            "fill": round(self.positions / max(1, self.rows * self.max_length), 4),
        }


def build_shards(
    corpus: Corpus, documents_folder: Path, tokenizer_folder: Path, max_length: int, encoder_folder: Path | None = None
) -> Path:
    """The folder of shards, for rows of `max_length` positions, and a report beside them.

    encoder_folder: the folder the tokenizer was taken from, whose config.json may say what kind it is. Raises DataError when a
    split holds no tokens.
    """

    def make(folder: Path) -> dict:
        tokeniser = CachedTokenizer(tokenizer_folder)
        vocabulary = tokeniser.vocab
        vocab_size, special = (
            max(vocabulary.values()) + 1,
            find_special_ids(tokenizer_folder, vocabulary, encoder_folder),
        )
        dtype, is_end = np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32), np.zeros(vocab_size, bool)
        is_end[sentence_end_ids(vocabulary)] = True
        unknown = vocabulary.get(getattr(tokeniser.tokenizer.model, "unk_token", None) or "[UNK]")
        writers = {split: ShardWriter(folder / split, dtype, max_length, is_end) for split in SPLITS}
        # Of a corpus so small that the share holds none, one document is held out all the same.
        limit, size = corpus.held_out, estimate_characters(documents_folder)
        if size * corpus.held_out < MIN_HELD_OUT_CHARS:
            limit = max(
                limit,
                min((hash_fraction(document["text"]) for document in iter_documents(documents_folder)), default=0),
            )
        unknowns = tokens = read = 0
        lengths = np.zeros(40, np.int64)

        def encoded(batch: list[dict]) -> tuple[list[dict], np.ndarray, np.ndarray]:
            return batch, *tokeniser.encode([document["text"] for document in batch])

        with Progress(f"tokenise {corpus.name}", size // 10**6 + 1, 0, True, "MB") as progress:
            batches = batch_by_characters(
                iter_documents(documents_folder), lambda document: document["text"], CHUNK_CHARS
            )
            for batch, ids, bounds in threaded_map(encoded, batches, NUM_THREADS):
                for document, start, end in zip(batch, bounds[:-1].tolist(), bounds[1:].tolist()):
                    held = hash_fraction(document["text"]) <= limit
                    writers["held_out" if held else "train"].add(ids[start:end], 1 if held else document["copies"])
                    read += len(document["text"])
                tokens += len(ids)
                unknowns += int((ids == unknown).sum()) if unknown is not None else 0
                half_powers = (2 * np.log2(np.maximum(1, np.diff(bounds)))).astype(int).clip(max=len(lengths) - 1)
                lengths += np.bincount(half_powers, minlength=len(lengths))
                progress.update(min(read // 10**6, progress.total), f"{progress.rate(tokens):,.0f} tokens/s")
        counts = {split: writer.close() for split, writer in writers.items()}
        described = read_corpus_manifest(documents_folder)
        for split, told in counts.items():
            if not told["rows"]:
                raise DataError(
                    f"corpus {corpus.name}: no {split.replace('_', '-')} text"
                    f" ({described['kept']['documents']} documents, held_out={corpus.held_out})"
                )
        told = {
            "length": max_length,
            "dtype": dtype.name,
            "vocab_size": vocab_size,
            "special": special,
            **counts,
            "tokenizer": {
                "tokens_per_word": round(tokens / max(1, described["kept"]["words"]), 4),
                "tokens_per_character": round(tokens / max(1, read), 4),
                "unknown": round(unknowns / max(1, tokens), 6),
            },
            "lengths": lengths.tolist(),
        }
        report.write_report(folder, corpus.name, described, told)
        return told

    return get_or_build(
        "shards",
        corpus.name,
        {
            "documents": documents_folder.name,
            "length": max_length,
            "held_out": corpus.held_out,
            "tokenizer": file_hash(tokenizer_folder / "tokenizer.json"),
            "version": 3,
        },
        make,
    )


def find_special_ids(
    tokenizer_folder: Path, vocab: dict[str, int], encoder_folder: Path | None = None
) -> dict[str, int]:
    """The ids of the special tokens a row is built with. Raises DataError when the tokenizer lacks one."""
    told = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (tokenizer_folder / name).is_file():
            told |= json.loads((tokenizer_folder / name).read_text(encoding="utf-8"))
    if not all(any(told.get(key) for key in keys) for keys in SPECIAL_TOKEN_KEYS.values()):
        # Some folders leave it to transformers to know what their kind of tokenizer has.
        from transformers import AutoTokenizer

        try:
            known = AutoTokenizer.from_pretrained(encoder_folder or tokenizer_folder, **LOAD_KWARGS)
        except Exception as error:
            raise DataError(
                f"{encoder_folder or tokenizer_folder}: transformers cannot load its tokenizer ({first_line(error)})"
            ) from None
        told = {key: getattr(known, key, None) for keys in SPECIAL_TOKEN_KEYS.values() for key in keys}
    found = {}
    for name, keys in SPECIAL_TOKEN_KEYS.items():
        tokens = [told[key]["content"] if isinstance(told[key], dict) else told[key] for key in keys if told.get(key)]
        if not tokens or tokens[0] not in vocab:
            raise DataError(
                f"{tokenizer_folder}: the tokenizer has no {name} token, which masked language modelling needs"
            )
        found[name] = vocab[tokens[0]]
    return found


class Shards:
    """One split of a shards folder, read by memory map. Raises DataError, naming the folder, for one that has been damaged."""

    def __init__(self, folder: Path, split: str):
        self.folder = folder / split
        try:
            described = read_manifest(folder)
            told, self.special_ids = (
                described[split],
                {name: int(described["special"][name]) for name in SPECIAL_TOKEN_KEYS},
            )
            self.max_length, self.vocab_size = int(described["length"]), int(described["vocab_size"])
            self.tokens = self.open_array("tokens", np.dtype(described["dtype"]), told["tokens"])
            self.documents = self.open_array("documents", np.dtype(np.int64), told["documents"] + 1)
            self.pieces = self.open_array("pieces", np.dtype(np.int64), 2 * told["pieces"]).reshape(-1, 2)
            self.rows = self.open_array("rows", np.dtype(np.int64), told["rows"] + 1)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, OSError) as error:
            raise self.damage_error(f"its manifest does not fit ({first_line(error)})") from None

    def open_array(self, name: str, dtype: np.dtype, count: int) -> np.ndarray:
        """One of the split's files, `count` numbers."""
        path = self.folder / f"{name}.bin"
        if dtype.kind not in "iu" or path.stat().st_size != count * dtype.itemsize:
            raise self.damage_error(f"{name}.bin holds other than {count} numbers")
        return np.memmap(path, dtype, "r")

    def damage_error(self, reason: str) -> DataError:
        """What is raised."""
        return DataError(f"{self.folder}: {reason}; remove {self.folder.parent}, and it is made again")

    def __len__(self) -> int:
        return len(self.rows) - 1

    def token_counts(self) -> np.ndarray:
        """int64 (vocabulary,): how often each token stands in the text, each document taken once."""
        counts = np.zeros(self.vocab_size, dtype=np.int64)
        for part in np.array_split(self.tokens, -(-len(self.tokens) // 2**24)):
            if part.size and not 0 <= part.min() <= part.max() < self.vocab_size:
                raise self.damage_error("tokens.bin holds tokens that the vocabulary has not")
            counts += np.bincount(part, minlength=self.vocab_size)
        return counts

    def get_row(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(ids, position, document) of one row, each int64 (length,). Padding belongs to document -1."""
        ids = np.full(self.max_length, self.special_ids["pad"], dtype=np.int64)
        position = np.zeros(self.max_length, dtype=np.int64)
        document = np.full(self.max_length, -1, dtype=np.int64)
        pieces = self.pieces[self.rows[index] : self.rows[index + 1]]
        starts, sizes = pieces.T
        if (
            not len(pieces)
            or sizes.min() < 0
            or starts.min() < 0
            or (starts + sizes).max() > len(self.tokens)
            or (sizes + 2).sum() > self.max_length
        ):
            raise self.damage_error(f"row {index} is not whole")
        at = 0
        for number, (start, size) in enumerate(pieces):
            end = at + size + 2
            ids[at], ids[end - 1] = self.special_ids["cls"], self.special_ids["sep"]
            ids[at + 1 : end - 1] = self.tokens[start : start + size]
            position[at:end] = np.arange(size + 2)
            document[at:end] = number
            at = end
        if ids.max() >= self.vocab_size:
            raise self.damage_error(f"row {index} holds tokens that the vocabulary has not")
        return ids, position, document
