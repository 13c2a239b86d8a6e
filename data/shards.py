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

from data import report
from data.config import Corpus
from data.curate import characters, curated, read_documents
from data.derived import derive, file_hash, manifest
from data.encoders import SAFELY
from data.joined import ahead, grouped
from data.packing import pack, pieces_of, sentence_ends
from data.tokenise import Tokeniser
from engine.errors import DataError, first_line
from engine.record import Progress

SPLITS = ("train", "held_out")
AT_ONCE = 2**22  # characters tokenised together
THREADS = min(8, (os.cpu_count() or 1) + 1)
WINDOW = 2**22  # tokens packed together
SMALL = 100_000  # characters held out on average, from which on chance does not leave none
SPECIAL = {"pad": ("pad_token",), "cls": ("cls_token", "bos_token"), "sep": ("sep_token", "eos_token"),
           "mask": ("mask_token",)}


def place(text: str) -> float:
    """Where a document's hash lies in [0, 1). Below the held-out share it is kept for evaluation: adding moves none."""
    return int.from_bytes(hashlib.sha256(b"held out" + text.encode("utf-8", "replace")).digest()[:8], "big") / 2**64


class Writer:
    """The four files of one split, written as the text comes."""

    def __init__(self, folder: Path, dtype: np.dtype, length: int, ends: np.ndarray):
        """ends: bool (vocabulary,), the tokens after which a long document is best cut."""
        folder.mkdir()
        self.files = {name: open(folder / f"{name}.bin", "wb") for name in ("tokens", "documents", "pieces", "rows")}
        self.dtype, self.length, self.ends = dtype, length, ends
        self.documents = self.tokens = self.pieces = self.rows = self.positions = self.seen = self.held = 0
        self.waiting: list[np.ndarray] = []
        self.copies: list[int] = []
        self.files["documents"].write(np.int64(0).tobytes())
        self.files["rows"].write(np.int64(0).tobytes())

    def add(self, ids: np.ndarray, copies: int) -> None:
        """One document, seen `copies` times in a pass."""
        self.waiting.append(ids.astype(self.dtype))  # a copy: a view would keep its whole batch
        self.copies.append(copies)
        self.held += len(ids)
        if self.held > WINDOW:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting, its rows packed."""
        if not self.waiting:
            return
        ids = np.concatenate(self.waiting)
        lengths = np.array([len(each) for each in self.waiting])
        bounds = np.concatenate([[0], np.cumsum(lengths)])
        pieces = pieces_of(bounds, self.length - 2, np.flatnonzero(self.ends[ids]))
        copies = np.array(self.copies)[np.searchsorted(bounds, pieces[:, 0], side="right") - 1]
        pieces = np.repeat(pieces, copies, axis=0)
        order, starts = pack(pieces[:, 1] + 2, self.length)
        self.files["tokens"].write(ids.tobytes())
        self.files["documents"].write((bounds[1:] + self.tokens).tobytes())
        self.files["pieces"].write((pieces[order] + [self.tokens, 0]).astype(np.int64).tobytes())
        self.files["rows"].write((starts[1:] + self.pieces).astype(np.int64).tobytes())
        self.documents += len(lengths)
        self.tokens += len(ids)
        self.pieces += len(pieces)
        self.rows += len(starts) - 1
        self.seen += int(pieces[:, 1].sum())
        self.positions += int((pieces[:, 1] + 2).sum())
        self.waiting, self.copies, self.held = [], [], 0

    def close(self) -> dict:
        """Finish; returns what the manifest says of the split."""
        self.flush()
        for file in self.files.values():
            file.close()
        return {"documents": self.documents, "tokens": self.tokens, "tokens_in_a_pass": self.seen, "rows": self.rows,
                "pieces": self.pieces, "fill": round(self.positions / max(1, self.rows * self.length), 4)}


def build(corpus: Corpus, documents: Path, tokenizer: Path, length: int, encoder: Path | None = None) -> Path:
    """The folder of shards, for rows of `length` positions, and a report beside them.

    encoder: the folder the tokenizer was taken from, whose config.json may say what kind it is. Raises DataError when a
    split holds no tokens.
    """
    def make(folder: Path) -> dict:
        tokeniser = Tokeniser(tokenizer)
        vocabulary = tokeniser.vocabulary
        vocab_size, special = max(vocabulary.values()) + 1, special_ids(tokenizer, vocabulary, encoder)
        dtype, is_end = np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32), np.zeros(vocab_size, bool)
        is_end[sentence_ends(vocabulary)] = True
        unknown = vocabulary.get(getattr(tokeniser.tokenizer.model, "unk_token", None) or "[UNK]")
        writers = {split: Writer(folder / split, dtype, length, is_end) for split in SPLITS}
        # Of a corpus so small that the share holds none, one document is held out all the same.
        limit, size = corpus.held_out, characters(documents)
        if size * corpus.held_out < SMALL:
            limit = max(limit, min((place(document["text"]) for document in read_documents(documents)), default=0))
        unknowns = tokens = read = 0
        lengths = np.zeros(40, np.int64)

        def encoded(batch: list[dict]) -> tuple[list[dict], np.ndarray, np.ndarray]:
            return batch, *tokeniser.encode([document["text"] for document in batch])

        with Progress(f"tokenise {corpus.name}", size // 10**6 + 1, 0, True, "MB") as progress:
            batches = grouped(read_documents(documents), lambda document: document["text"], AT_ONCE)
            for batch, ids, bounds in ahead(encoded, batches, THREADS):
                for document, start, end in zip(batch, bounds[:-1].tolist(), bounds[1:].tolist()):
                    held = place(document["text"]) <= limit
                    writers["held_out" if held else "train"].add(ids[start:end], 1 if held else document["copies"])
                    read += len(document["text"])
                tokens += len(ids)
                unknowns += int((ids == unknown).sum()) if unknown is not None else 0
                half_powers = (2 * np.log2(np.maximum(1, np.diff(bounds)))).astype(int).clip(max=len(lengths) - 1)
                lengths += np.bincount(half_powers, minlength=len(lengths))
                progress.update(min(read // 10**6, progress.steps), f"{progress.rate(tokens):,.0f} tokens/s")
        counts = {split: writer.close() for split, writer in writers.items()}
        described = curated(documents)
        for split, told in counts.items():
            if not told["rows"]:
                raise DataError(f"corpus {corpus.name}: no {split.replace('_', '-')} text"
                                f" ({described['kept']['documents']} documents, held_out={corpus.held_out})")
        told = {"length": length, "dtype": dtype.name, "vocab_size": vocab_size, "special": special, **counts,
                "tokenizer": {"tokens_per_word": round(tokens / max(1, described["kept"]["words"]), 4),
                              "tokens_per_character": round(tokens / max(1, read), 4),
                              "unknown": round(unknowns / max(1, tokens), 6)},
                "lengths": lengths.tolist()}
        report.write(folder, corpus.name, described, told)
        return told

    return derive("shards", corpus.name, {"documents": documents.name, "length": length, "held_out": corpus.held_out,
                                          "tokenizer": file_hash(tokenizer / "tokenizer.json"), "version": 3}, make)


def special_ids(tokenizer: Path, vocabulary: dict[str, int], encoder: Path | None = None) -> dict[str, int]:
    """The ids of the special tokens a row is built with. Raises DataError when the tokenizer lacks one."""
    told = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (tokenizer / name).is_file():
            told |= json.loads((tokenizer / name).read_text(encoding="utf-8"))
    if not all(any(told.get(key) for key in keys) for keys in SPECIAL.values()):
        # Some folders leave it to transformers to know what their kind of tokenizer has.
        from transformers import AutoTokenizer
        try:
            known = AutoTokenizer.from_pretrained(encoder or tokenizer, **SAFELY)
        except Exception as error:
            raise DataError(f"{encoder or tokenizer}: transformers cannot load its tokenizer ({first_line(error)})") from None
        told = {key: getattr(known, key, None) for keys in SPECIAL.values() for key in keys}
    found = {}
    for name, keys in SPECIAL.items():
        tokens = [told[key]["content"] if isinstance(told[key], dict) else told[key] for key in keys if told.get(key)]
        if not tokens or tokens[0] not in vocabulary:
            raise DataError(f"{tokenizer}: the tokenizer has no {name} token, which masked language modelling needs")
        found[name] = vocabulary[tokens[0]]
    return found


class Shards:
    """One split of a shards folder, read by memory map. Raises DataError, naming the folder, for one that has been damaged."""

    def __init__(self, folder: Path, split: str):
        self.folder = folder / split
        try:
            described = manifest(folder)
            told, self.special = described[split], {name: int(described["special"][name]) for name in SPECIAL}
            self.length, self.vocab_size = int(described["length"]), int(described["vocab_size"])
            self.tokens = self.mapped("tokens", np.dtype(described["dtype"]), told["tokens"])
            self.documents = self.mapped("documents", np.dtype(np.int64), told["documents"] + 1)
            self.pieces = self.mapped("pieces", np.dtype(np.int64), 2 * told["pieces"]).reshape(-1, 2)
            self.rows = self.mapped("rows", np.dtype(np.int64), told["rows"] + 1)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, OSError) as error:
            raise self.damaged(f"its manifest does not fit ({first_line(error)})") from None

    def mapped(self, name: str, dtype: np.dtype, count: int) -> np.ndarray:
        """One of the split's files, `count` numbers."""
        path = self.folder / f"{name}.bin"
        if dtype.kind not in "iu" or path.stat().st_size != count * dtype.itemsize:
            raise self.damaged(f"{name}.bin holds other than {count} numbers")
        return np.memmap(path, dtype, "r")

    def damaged(self, why: str) -> DataError:
        """What is raised."""
        return DataError(f"{self.folder}: {why}; remove {self.folder.parent}, and it is made again")

    def __len__(self) -> int:
        return len(self.rows) - 1

    def frequencies(self) -> np.ndarray:
        """int64 (vocabulary,): how often each token stands in the text, each document taken once."""
        counts = np.zeros(self.vocab_size, dtype=np.int64)
        for part in np.array_split(self.tokens, -(-len(self.tokens) // 2**24)):
            if part.size and not 0 <= part.min() <= part.max() < self.vocab_size:
                raise self.damaged("tokens.bin holds tokens that the vocabulary has not")
            counts += np.bincount(part, minlength=self.vocab_size)
        return counts

    def row(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(ids, position, document) of one row, each int64 (length,). Padding belongs to document -1."""
        ids = np.full(self.length, self.special["pad"], dtype=np.int64)
        position = np.zeros(self.length, dtype=np.int64)
        document = np.full(self.length, -1, dtype=np.int64)
        pieces = self.pieces[self.rows[index]:self.rows[index + 1]]
        starts, sizes = pieces.T
        if (not len(pieces) or sizes.min() < 0 or starts.min() < 0 or (starts + sizes).max() > len(self.tokens)
                or (sizes + 2).sum() > self.length):
            raise self.damaged(f"row {index} is not whole")
        at = 0
        for number, (start, size) in enumerate(pieces):
            end = at + size + 2
            ids[at], ids[end - 1] = self.special["cls"], self.special["sep"]
            ids[at + 1:end - 1] = self.tokens[start:start + size]
            position[at:end] = np.arange(size + 2)
            document[at:end] = number
            at = end
        if ids.max() >= self.vocab_size:
            raise self.damaged(f"row {index} holds tokens that the vocabulary has not")
        return ids, position, document
