"""Documents become shards: one flat array of token ids read by memory map, document bounds, and a plan of packed rows.

    out/shards/NAME-FINGERPRINT/{train,held_out}/
        tokens.bin     token ids without special tokens, the smallest sufficient unsigned integers
        documents.npy  int64 (documents + 1): where each document starts in tokens.bin
        pieces.npy     int64 (pieces, 2): start and length of each piece of a document, ordered by row
        rows.npy       int64 (rows + 1): where each row's pieces start in pieces.npy

A row of `length` positions holds whole pieces, each between its own first and last special token; attention never
crosses from one piece to another.
"""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import numpy as np

from data.curate import Corpus, read_documents
from data.derived import derive, file_hash, manifest
from engine.errors import DataError

SPLITS = ("train", "held_out")


def place(text: str) -> float:
    """Where a document's hash lies in [0, 1). Below the held-out share it is kept for evaluation: adding moves none."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "replace")).digest()[:8], "big") / 2**64


def pieces_of(bounds: np.ndarray, size: int) -> np.ndarray:
    """int64 (pieces, 2): documents cut into pieces of at most `size` tokens; empty documents give none."""
    lengths = np.diff(bounds)
    counts = -(-lengths // size)
    document = np.repeat(np.arange(len(lengths)), counts)
    place = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    start = bounds[:-1][document] + place * size
    return np.stack([start, np.minimum(size, bounds[1:][document] - start)], 1)


def pack(costs: np.ndarray, length: int) -> list[list[int]]:
    """Best-fit decreasing (Johnson 1973): which pieces share a row of `length` positions, none longer than it."""
    with_room: list[list[int]] = [[] for _ in range(length + 1)]
    packed: list[list[int]] = []
    # Pieces of one length in random order: repeats of a document stand side by side and would share a row.
    ties = np.random.Generator(np.random.Philox(key=[0, 0])).permutation(len(costs))
    for piece in np.lexsort((ties, -costs)).tolist():
        cost = int(costs[piece])
        room = next((room for room in range(cost, length) if with_room[room]), length)
        if room == length:
            packed.append([piece])
            row = len(packed) - 1
        else:
            row = with_room[room].pop()
            packed[row].append(piece)
        with_room[room - cost].append(row)
    return packed


def build(corpus: Corpus, documents: Path, tokenizer: Path, length: int, encoder: Path | None = None) -> Path:
    """The folder of shards, for rows of `length` positions.

    encoder: the folder the tokenizer was taken from, whose config.json may say what kind it is. Raises DataError when a
    split holds no tokens.
    """
    def make(folder: Path) -> dict:
        import tokenizers

        tok = tokenizers.Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
        tok.no_truncation()  # some published tokenizers carry both, and would cut every document
        tok.no_padding()
        vocab_size = max(tok.get_vocab(with_added_tokens=True).values()) + 1
        special = special_ids(encoder or tokenizer)
        dtype = np.uint16 if vocab_size <= 2**16 else np.uint32
        lengths: dict[str, list[int]] = {split: [] for split in SPLITS}
        files = {}
        for split in SPLITS:
            (folder / split).mkdir()
            files[split] = open(folder / split / "tokens.bin", "wb")
        # Of a corpus so small that the share holds none, one document is held out all the same.
        limit = max(corpus.held_out, min(place(document["text"]) for document in read_documents(documents)))
        every = read_documents(documents)
        while batch := list(itertools.islice(every, 1_000)):
            for document, encoding in zip(batch, tok.encode_batch_fast([d["text"] for d in batch],
                                                                        add_special_tokens=False)):
                split = "held_out" if place(document["text"]) <= limit else "train"
                for _ in range(1 if split == "held_out" else document["repeat"]):
                    files[split].write(np.asarray(encoding.ids, dtype=dtype).tobytes())
                    lengths[split].append(len(encoding.ids))
        counts: dict = {"length": length, "dtype": np.dtype(dtype).name, "vocab_size": vocab_size, "special": special}
        for split in SPLITS:
            files[split].close()
            bounds = np.concatenate([[0], np.cumsum(lengths[split], dtype=np.int64)])
            pieces = pieces_of(bounds, length - 2)
            packed = pack(pieces[:, 1] + 2, length)
            if not packed:
                raise DataError(f"corpus {corpus.name}: no {split.replace('_', '-')} text"
                                f" ({sum(map(len, lengths.values()))} documents, held_out={corpus.held_out})")
            order = np.array([piece for row in packed for piece in row], dtype=np.int64)
            np.save(folder / split / "documents.npy", bounds)
            np.save(folder / split / "pieces.npy", pieces[order])
            np.save(folder / split / "rows.npy", np.concatenate([[0], np.cumsum([len(row) for row in packed])]))
            counts[split] = {"documents": len(lengths[split]), "tokens": int(bounds[-1]), "rows": len(packed),
                             "fill": round(float((pieces[:, 1] + 2).sum() / (len(packed) * length)), 4)}
        return counts

    return derive("shards", corpus.name, {"documents": documents.name, "length": length, "held_out": corpus.held_out,
                                          "tokenizer": file_hash(tokenizer / "tokenizer.json"), "version": 2}, make)


def special_ids(tokenizer: Path) -> dict[str, int]:
    """The ids of the special tokens a row is built with. Raises DataError when the tokenizer lacks one."""
    from transformers import AutoTokenizer

    tok = AutoTokenizer.from_pretrained(tokenizer)
    found = {"pad": tok.pad_token_id, "cls": tok.cls_token_id, "sep": tok.sep_token_id, "mask": tok.mask_token_id}
    if missing := [name for name, value in found.items() if value is None]:
        raise DataError(f"{tokenizer}: the tokenizer has no {missing[0]} token, which masked language modelling needs")
    return found


class Shards:
    """One split of a shards folder, read by memory map."""

    def __init__(self, folder: Path, split: str):
        described = manifest(folder)
        self.length, self.vocab_size, self.special = (described[key] for key in ("length", "vocab_size", "special"))
        self.tokens = np.memmap(folder / split / "tokens.bin", dtype=described["dtype"], mode="r")
        self.pieces = np.load(folder / split / "pieces.npy", mmap_mode="r")
        self.rows = np.load(folder / split / "rows.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self.rows) - 1

    def frequencies(self) -> np.ndarray:
        """int64 (vocabulary,): how often each token stands in the text."""
        counts = np.zeros(self.vocab_size, dtype=np.int64)
        for part in np.array_split(self.tokens, -(-len(self.tokens) // 2**24)):
            counts += np.bincount(part, minlength=self.vocab_size)
        return counts

    def row(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(ids, position, document) of one row, each int64 (length,). Padding belongs to document -1."""
        ids = np.full(self.length, self.special["pad"], dtype=np.int64)
        position = np.zeros(self.length, dtype=np.int64)
        document = np.full(self.length, -1, dtype=np.int64)
        at = 0
        for number, (start, size) in enumerate(self.pieces[self.rows[index]:self.rows[index + 1]]):
            end = at + size + 2
            ids[at], ids[end - 1] = self.special["cls"], self.special["sep"]
            ids[at + 1:end - 1] = self.tokens[start:start + size]
            position[at:end] = np.arange(size + 2)
            document[at:end] = number
            at = end
        return ids, position, document
