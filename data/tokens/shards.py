"""Token shards: flat memory-mapped arrays of token ids, document offsets and the plan of packed rows.

    out/shards/NAME-FINGERPRINT/{train,held_out}/
        tokens.bin     token ids without special tokens, in the smallest unsigned integer type that fits
        documents.bin  int64 (documents + 1): offset of each document in tokens.bin
        pieces.bin     int64 (pieces, 2): start and length of each piece of a document, ordered by row
        rows.bin       int64 (rows + 1): offset of each row's pieces in pieces.bin

A row of `max_length` positions holds whole pieces, each between [CLS] and [SEP]; attention never crosses pieces.
Memory stays bounded for any corpus size: rows are packed one window of text at a time.
"""

import hashlib
import json
import os
from itertools import islice
from operator import itemgetter
from pathlib import Path

import numpy as np

from data.arrays import batch_by_characters, threaded_map
from data.cache import file_hash, get_or_build, read_manifest
from data.corpus import report
from data.corpus.config import Corpus
from data.corpus.documents import estimate_characters, iter_documents, read_corpus_manifest
from data.tokens.encode import CachedTokenizer
from data.tokens.packing import pack_rows, sentence_end_ids, split_documents
from engine.errors import DataError, first_line
from engine.files import read_json
from engine.log import warn_once
from engine.runs.progress import Progress

SPLITS = ("train", "held_out")
CHUNK_CHARS = 2**22  # characters tokenized together
NUM_THREADS = min(8, (os.cpu_count() or 1) + 1)
PACKING_WINDOW = 2**22  # tokens packed together
MIN_CUT_TOKENS = 128  # held out of a corpus of one document
MIN_HELD_OUT_CHARS = 100_000  # expected held-out characters, below which the held-out split could be empty by chance
SPECIAL_TOKEN_KEYS = {"pad": ["pad_token"], "cls": ["cls_token", "bos_token"], "sep": ["sep_token", "eos_token"]}
SPECIAL_TOKEN_KEYS["mask"] = ["mask_token"]
DECODER_TOKEN_KEYS = ["eos_token", "unk_token"]  # of a decoder, which has no masks, and often one special token only


def hash_fraction(text: str) -> float:
    """Return a hash of the text in [0, 1); documents below the held-out fraction are held out, whatever is added."""
    return int.from_bytes(hashlib.sha256(b"held out" + text.encode("utf-8", "replace")).digest()[:8], "big") / 2**64


class ShardWriter:
    """Streaming writer of the four files of one split; `is_sentence_end` is bool (vocabulary,)."""

    def __init__(self, folder: Path, dtype: np.dtype, max_length: int, is_sentence_end: np.ndarray):
        folder.mkdir()
        self.files = {name: open(folder / f"{name}.bin", "wb") for name in ("tokens", "documents", "pieces", "rows")}
        self.dtype, self.max_length, self.is_sentence_end = dtype, max_length, is_sentence_end
        self.counts = dict.fromkeys(("documents", "tokens", "tokens_per_epoch", "rows", "pieces"), 0)
        self.pending, self.pending_copies, self.pending_tokens = [], [], 0
        self.files["documents"].write(np.int64(0).tobytes())
        self.files["rows"].write(np.int64(0).tobytes())

    def add(self, ids: np.ndarray, copies: int) -> None:
        """Add a document that appears `copies` times per epoch."""
        self.pending.append(ids.astype(self.dtype))  # a copy: a view would keep its whole batch alive
        self.pending_copies.append(copies)
        self.pending_tokens += len(ids)
        if self.pending_tokens > PACKING_WINDOW:
            self.flush()

    def flush(self) -> None:
        """Pack the pending documents into rows and write them."""
        if not self.pending:
            return
        ids = np.concatenate(self.pending)
        bounds = np.concatenate([[0], np.cumsum([len(document) for document in self.pending])])
        pieces = split_documents(bounds, self.max_length - 2, np.flatnonzero(self.is_sentence_end[ids]))
        copies = np.array(self.pending_copies)[np.searchsorted(bounds, pieces[:, 0], side="right") - 1]
        pieces = np.repeat(pieces, copies, axis=0)
        order, starts = pack_rows(pieces[:, 1] + 2, self.max_length)
        counts = self.counts
        self.files["tokens"].write(ids.tobytes())
        self.files["documents"].write((bounds[1:] + counts["tokens"]).tobytes())
        self.files["pieces"].write((pieces[order] + [counts["tokens"], 0]).astype(np.int64).tobytes())
        self.files["rows"].write((starts[1:] + counts["pieces"]).astype(np.int64).tobytes())
        counts["documents"] += len(self.pending)
        counts["tokens"] += len(ids)
        counts["tokens_per_epoch"] += int(pieces[:, 1].sum())
        counts["rows"] += len(starts) - 1
        counts["pieces"] += len(pieces)
        self.pending, self.pending_copies, self.pending_tokens = [], [], 0

    def close(self) -> dict:
        """Write what is pending and return the split's entry of the manifest."""
        self.flush()
        for file in self.files.values():
            file.close()
        filled = self.counts["tokens_per_epoch"] + 2 * self.counts["pieces"]
        return {**self.counts, "fill_fraction": round(filled / max(1, self.counts["rows"] * self.max_length), 4)}


def build_shards(
    corpus: Corpus, documents_folder: Path, tokenizer_folder: Path, max_length: int, encoder_folder: Path | None = None
) -> Path:
    """Build shards of rows with `max_length` positions, and the report. Raises DataError when a split has no tokens."""

    def build(folder: Path) -> dict:
        tokenizer = CachedTokenizer(tokenizer_folder)
        vocab = tokenizer.vocab
        vocab_size = max(vocab.values()) + 1
        special_ids = find_special_ids(tokenizer_folder, vocab, encoder_folder)
        dtype, is_sentence_end = np.dtype(np.uint16 if vocab_size <= 2**16 else np.uint32), np.zeros(vocab_size, bool)
        is_sentence_end[sentence_end_ids(vocab)] = True
        unknown_id = vocab.get(getattr(tokenizer.tokenizer.model, "unk_token", None) or "[UNK]", -1)
        writers = {split: ShardWriter(folder / split, dtype, max_length, is_sentence_end) for split in SPLITS}
        total_chars = estimate_characters(documents_folder)
        limit = held_out_limit(corpus, documents_folder, total_chars)
        num_unknown = num_tokens = num_chars = 0
        lengths = np.zeros(40, np.int64)

        def encode(batch: list[dict]) -> tuple[list[dict], np.ndarray, np.ndarray]:
            return batch, *tokenizer.encode([document["text"] for document in batch])

        with Progress(f"tokenize {corpus.name}", total_chars // 10**6 + 1, 0, True, "MB") as progress:
            batches = batch_by_characters(iter_documents(documents_folder), itemgetter("text"), CHUNK_CHARS)
            for batch, ids, bounds in threaded_map(encode, batches, NUM_THREADS):
                for document, start, end in zip(batch, bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
                    for split, part, copies in assign_splits(document, ids[start:end], limit, corpus.held_out):
                        writers[split].add(part, copies)
                    num_chars += len(document["text"])
                num_tokens += len(ids)
                num_unknown += int((ids == unknown_id).sum())
                half_powers = (2 * np.log2(np.maximum(1, np.diff(bounds)))).astype(int).clip(max=len(lengths) - 1)
                lengths += np.bincount(half_powers, minlength=len(lengths))
                progress.update(min(num_chars // 10**6, progress.total), f"{progress.rate(num_tokens):,.0f} tokens/s")
        counts = {split: writer.close() for split, writer in writers.items()}
        corpus_manifest = read_corpus_manifest(documents_folder)
        kept = corpus_manifest["kept"]
        for name in (split.replace("_", "-") for split in SPLITS if not counts[split]["rows"]):
            details = f"{kept['documents']} documents, held_out={corpus.held_out}"
            raise DataError(f"corpus {corpus.name}: no {name} text ({details}); {describe_units(corpus)}")
        tokenizer_stats = {
            "tokens_per_word": round(num_tokens / max(1, kept["words"]), 4),
            "tokens_per_character": round(num_tokens / max(1, num_chars), 4),
            "unknown_fraction": round(num_unknown / max(1, num_tokens), 6),
        }
        manifest = {"max_length": max_length, "dtype": dtype.name, "vocab_size": vocab_size, "special_ids": special_ids}
        manifest |= {**counts, "tokenizer": tokenizer_stats, "length_histogram": lengths.tolist()}
        report.write_report(folder, corpus.name, corpus_manifest, manifest)
        return manifest

    inputs = {"documents": documents_folder.name, "length": max_length, "held_out": corpus.held_out, "version": 4}
    inputs["tokenizer"] = file_hash(tokenizer_folder / "tokenizer.json")
    return get_or_build("shards", corpus.name, inputs, build)


def assign_splits(
    document: dict, ids: np.ndarray, limit: float | None, held_out: float
) -> list[tuple[str, np.ndarray, int]]:
    """Return (split, token ids, copies) of a document, which is in one split unless `limit` is None."""
    if limit is None:
        cut = len(ids) - max(round(len(ids) * held_out), min(MIN_CUT_TOKENS, len(ids) // 2))
        return [("train", ids[:cut], document["copies"]), ("held_out", ids[cut:], 1)]
    is_held_out = hash_fraction(document["text"]) <= limit
    return [("held_out", ids, 1) if is_held_out else ("train", ids, document["copies"])]


def held_out_limit(corpus: Corpus, documents_folder: Path, total_chars: int) -> float | None:
    """Return the `hash_fraction` up to which documents are held out, at least one; None: the end of the only one."""
    if len(list(islice(iter_documents(documents_folder), 2))) == 1:
        warn_once(f"corpus {corpus.name}: one document; its end is held out; {describe_units(corpus)}")
        return None
    if total_chars * corpus.held_out >= MIN_HELD_OUT_CHARS:
        return corpus.held_out
    fractions = (hash_fraction(document["text"]) for document in iter_documents(documents_folder))
    return max(corpus.held_out, min(fractions, default=0))


def describe_units(corpus: Corpus) -> str:
    """Return how text files would have more documents."""
    units = {source.unit for source in corpus.sources if source.files}
    if units <= {"line"}:
        return "add text"
    return f"unit: line makes every line of a text file a document, instead of every {' or '.join(units - {'line'})}"


def find_special_ids(tokenizer_folder: Path, vocab: dict[str, int], encoder_folder: Path | None = None) -> dict:
    """Return the ids of the special tokens a row needs. Raises DataError when the tokenizer lacks one."""
    tokens, all_keys = {}, SPECIAL_TOKEN_KEYS
    if encoder_folder and is_decoder_folder(encoder_folder):
        all_keys = {name: [*keys, *DECODER_TOKEN_KEYS] for name, keys in SPECIAL_TOKEN_KEYS.items()}
    for path in (tokenizer_folder / "special_tokens_map.json", tokenizer_folder / "tokenizer_config.json"):
        if path.is_file():
            tokens |= json.loads(path.read_text(encoding="utf-8"))
    if not all(any(map(tokens.get, keys)) for keys in all_keys.values()):
        # The special tokens may be those of the tokenizer class, which the encoder's config.json may name.
        from engine.models.load import load_tokenizer

        tokenizer = load_tokenizer(encoder_folder or tokenizer_folder)
        tokens = {key: getattr(tokenizer, key, None) for keys in all_keys.values() for key in keys}
    special_ids: dict[str, int] = {}
    for name, keys in all_keys.items():
        token = next(filter(None, map(tokens.get, keys)), None)
        token = token["content"] if isinstance(token, dict) else token
        if token not in vocab:
            raise DataError(f"{tokenizer_folder}: the tokenizer has no {name} token, which pretraining needs")
        special_ids[name] = vocab[token]
    return special_ids


def is_decoder_folder(folder: Path) -> bool:
    """Return whether the network in a folder is a decoder."""
    from engine.models.load import is_decoder

    return is_decoder(read_json(folder / "config.json").get("model_type"))


class Shards:
    """One split of a shards folder, memory-mapped. Raises DataError naming the folder when it is damaged."""

    def __init__(self, folder: Path, split: str):
        self.folder = folder / split
        try:
            manifest = read_manifest(folder)
            counts, int64 = manifest[split], np.dtype(np.int64)
            self.special_ids = {name: int(manifest["special_ids"][name]) for name in SPECIAL_TOKEN_KEYS}
            self.max_length, self.vocab_size = int(manifest["max_length"]), int(manifest["vocab_size"])
            self.tokens = self.open_array("tokens", np.dtype(manifest["dtype"]), counts["tokens"])
            self.documents = self.open_array("documents", int64, counts["documents"] + 1)
            self.pieces = self.open_array("pieces", int64, 2 * counts["pieces"]).reshape(-1, 2)
            self.rows = self.open_array("rows", int64, counts["rows"] + 1)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, OSError) as error:
            raise self.damage_error(f"does not match its manifest ({first_line(error)})") from None

    def open_array(self, name: str, dtype: np.dtype, count: int) -> np.ndarray:
        """Memory-map one of the split's files, which must hold `count` numbers."""
        path = self.folder / f"{name}.bin"
        if dtype.kind not in "iu" or path.stat().st_size != count * dtype.itemsize:
            raise self.damage_error(f"{name}.bin does not hold {count} numbers")
        return np.memmap(path, dtype, "r")

    def damage_error(self, reason: str) -> DataError:
        """Return the error for a damaged folder."""
        return DataError(f"{self.folder}: {reason}; delete {self.folder.parent} to rebuild it")

    def __len__(self) -> int:
        return len(self.rows) - 1

    def token_counts(self) -> np.ndarray:
        """Count each token in the text, every document once: int64 (vocabulary,)."""
        counts = np.zeros(self.vocab_size, dtype=np.int64)
        for part in np.array_split(self.tokens, -(-len(self.tokens) // 2**24)):
            if part.size and not 0 <= part.min() <= part.max() < self.vocab_size:
                raise self.damage_error("tokens.bin holds ids outside the vocabulary")
            counts += np.bincount(part, minlength=self.vocab_size)
        return counts

    def get_row(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (token ids, positions, documents) of a row, each int64 (max_length,); padding is document -1."""
        ids = np.full(self.max_length, self.special_ids["pad"], dtype=np.int64)
        position = np.zeros(self.max_length, dtype=np.int64)
        document = np.full(self.max_length, -1, dtype=np.int64)
        pieces = self.pieces[self.rows[index] : self.rows[index + 1]]
        starts, sizes = pieces.T
        is_valid = len(pieces) and sizes.min() >= 0 and starts.min() >= 0
        if not is_valid or (starts + sizes).max() > len(self.tokens) or (sizes + 2).sum() > self.max_length:
            raise self.damage_error(f"row {index} is damaged")
        at = 0
        for number, (start, size) in enumerate(pieces):
            end = at + size + 2
            ids[at], ids[end - 1] = self.special_ids["cls"], self.special_ids["sep"]
            ids[at + 1 : end - 1] = self.tokens[start : start + size]
            position[at:end] = np.arange(size + 2)
            document[at:end] = number
            at = end
        if ids.max() >= self.vocab_size:
            raise self.damage_error(f"row {index} holds ids outside the vocabulary")
        return ids, position, document
