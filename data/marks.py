"""One pass of Daft over cleaned texts: what each document is marked with, for the steps that drop some.

    out/marks/NAME-FINGERPRINT/   one entry for each document of a text folder, in order
        reason.bin      uint8    0: passes every filter; else 1 + the number of the first rule it fails
        words.bin       uint32   words
        exact.bin       uint64   a hash of its words
        signature.bin   uint32 (documents, HASHES)   MinHash of its word 5-grams (all ones: too few words)
        found.jsonl     the test texts in it, of documents that hold any
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np

from data import cluster
from data.config import Corpus, Filter
from data.derived import derive_together, manifest
from data.extract import text_files
from data.joined import Joined
from data.words import compared
from engine.record import Progress

HASHES, GRAM = 100, 5
FILES = 4  # read together here: Daft takes all it is given into memory at once
TOO_SHORT = np.uint32(2**32 - 1)
COLUMNS = {"reason": np.uint8, "words": np.uint32, "exact": np.uint64, "signature": np.uint32}
STOP_WORDS = r"(?i)\b(?:the|be|to|of|and|that|have|with)\b"


def wanted(corpus: Corpus) -> bool:
    """Whether any step asks for marks."""
    return bool(corpus.deduplicate.exact or corpus.deduplicate.near or corpus.decontaminate.tasks
                or asked(corpus.filter))


def joined(marked: list[Path], column: str) -> Joined:
    """One column of several mark folders."""
    return Joined([mark / f"{column}.bin" for mark in marked], COLUMNS[column], HASHES if column == "signature" else 1)


OFF = Filter(min_words=0, min_letters=0, max_repeated_lines=1, max_compression=None)


def asked(config: Filter) -> list[str]:
    """The rules that are on, in the order they are tried."""
    return [rule for rule in Filter.model_fields if getattr(config, rule) != getattr(OFF, rule)]


def rules(config: Filter) -> dict[str, object]:
    """{rule: a Daft expression that is true of the documents it drops}, in the order they are tried."""
    import daft

    text = daft.col("text")
    words, characters = daft.col("words"), text.regexp_replace(r"\s+", "").length()
    lines = text.split("\n")
    line_count = lines.list_count()

    def share(part, whole):
        return part.cast(daft.DataType.float64()) / whole

    every = {
        "min_words": lambda: words < config.min_words,
        "max_words": lambda: words > config.max_words,
        "min_characters": lambda: text.length() < config.min_characters,
        "min_letters": lambda: share(text.regexp_replace(r"[^\p{L}\p{M}]+", "").length(), characters) < config.min_letters,
        "max_repeated_lines": lambda: (1 - share(lines.list_distinct().list_count(), line_count)
                                       > config.max_repeated_lines),
        "max_compression": lambda: share(text.length_bytes(), text.compress("zlib").length()) > config.max_compression,
        "mean_word_length": lambda: ~share(characters, words).between(*config.mean_word_length),
        "max_symbol_words": lambda: ((share(text.regexp_count("#"), words) > config.max_symbol_words)
                                     | (share(text.regexp_count(r"\.\.\.|…"), words) > config.max_symbol_words)),
        "min_alphabetic_words": lambda: (share(text.regexp_count(r"\S*\p{L}\S*"), words)
                                         < config.min_alphabetic_words),
        "max_bullet_lines": lambda: (share(text.regexp_count(r"(?m)^\s*[•‣▪●*-]\s"), line_count)
                                     > config.max_bullet_lines),
        "max_ellipsis_lines": lambda: (share(text.regexp_count(r"(?m)(?:\.\.\.|…)\s*$"), line_count)
                                       > config.max_ellipsis_lines),
        "min_stop_words": lambda: text.regexp_count(STOP_WORDS) < config.min_stop_words,
        "languages": lambda: ~cluster.language(text).is_in(config.languages),
    }
    return {rule: every[rule]() for rule in asked(config)}


def plan(files: list[str], corpus: Corpus, index: Path | None):
    """The Daft plan over Parquet files of texts: columns file, row and what `COLUMNS` names."""
    import daft
    from daft import col, lit

    frame = daft.read_parquet(files, file_path_column="file")
    frame = frame.with_columns({"plain": compared(col("text")), "words": col("text").regexp_count(r"\S+")})
    # A bit for each rule a document fails (Daft's own `when` lives in a module that loads torch).
    fails = lit(0)
    for number, rule in enumerate(rules(corpus.filter).values()):
        fails = fails + rule.fill_null(False).cast(daft.DataType.int64()) * lit(2**number)
    columns = {"file": col("file"), "row": col("row"), "fails": fails, "words": col("words")}
    columns["exact"] = col("plain").hash(hash_function="xxhash3_64")
    if corpus.deduplicate.near:
        columns["signature"] = col("plain").minhash(num_hashes=HASHES, ngram_size=GRAM)
        columns["spaces"] = col("plain").regexp_count(" ")
    if index:
        columns["found"] = cluster.test_texts(col("plain"), str(index))
    return frame.select(*(expression.alias(name) for name, expression in columns.items()))


class Columns:
    """The files of marks of several text folders, written at the rows that a batch has."""

    def __init__(self, folders: list[Path]):
        self.folders, self.files, self.written = folders, {}, 0

    def __enter__(self) -> Columns:
        return self

    def __exit__(self, *_) -> None:
        for file in self.files.values():
            file.close()

    def file(self, place: int, name: str):
        """The open file of one column of one folder."""
        if (place, name) not in self.files:
            self.files[place, name] = open(self.folders[place] / name, "wb")
        return self.files[place, name]

    def write(self, place: int, batch) -> None:
        """The marks of a batch whose rows all come from one text folder, in order."""
        rows = batch.column("row").to_numpy()
        cuts = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1), len(rows)]
        for name, dtype in COLUMNS.items():
            if name == "reason":
                fails = batch.column("fails").to_numpy()
                # The lowest bit, counted from one: the first rule it fails.
                values = np.log2((fails & -fails) * 2 + (fails == 0)).astype(dtype)[:, None]
            elif name in batch.schema.names:
                column = batch.column(name)
                values = column.flatten() if name == "signature" else column
                values = values.to_numpy(zero_copy_only=False).astype(dtype).reshape(len(rows), -1)
            else:
                continue
            if name == "signature":
                values[batch.column("spaces").to_numpy() < GRAM - 1] = TOO_SHORT
            for a, b in zip(cuts[:-1], cuts[1:]):
                os.pwrite(self.file(place, f"{name}.bin").fileno(), values[a:b].tobytes(),
                          int(rows[a]) * values.shape[1] * values.itemsize)
        if "found" in batch.schema.names:
            for row, found in zip(rows.tolist(), batch.column("found").to_pylist()):
                if found:
                    self.file(place, "found.jsonl").write(f"{json.dumps([row, found])}\n".encode())
        self.written += len(rows)


def mark(folders: list[Path], corpus: Corpus, index: Path | None) -> list[Path]:
    """The mark folders of text folders: each a bucket, done one after another here, all at once on a cluster."""
    wanted = [(folder.name.rsplit("-", 1)[0], {
        "text": folder.name, "filter": corpus.filter.model_dump(), "index": index and index.name,
        "near": corpus.deduplicate.near, "version": 2}) for folder in folders]

    def make(which: list[int], beside: list[Path]) -> list[dict]:
        import pyarrow.compute
        sources = [folders[number] for number in which]
        counts = [manifest(folder)["documents"] for folder in sources]
        number_of = {cluster.path(path): place for place, folder in enumerate(sources) for path in text_files(folder)}
        title = f"mark {corpus.name}"
        with (Columns(beside) as columns, Progress(title, max(1, sum(counts)), 0, True, "document") as progress):
            files, together = list(number_of), len(number_of) if corpus.engine == "ray" else FILES
            for at in range(0, len(files), together):
                for batch in cluster.batches(plan(files[at:at + together], corpus, index)):
                    for file in batch.column("file").unique().to_pylist():
                        own = batch.filter(pyarrow.compute.equal(batch.column("file"), file))
                        columns.write(number_of[file.removeprefix("file://")], own)
                    progress.update(columns.written, f"{progress.rate(columns.written):,.0f} documents/s")
        assert columns.written == sum(counts), (columns.written, counts)
        return [{"rules": asked(corpus.filter)} for _ in which]

    if corpus.engine == "ray":
        return derive_together("marks", wanted, make)
    return [derive_together("marks", [each], lambda which, beside, at=at: make([at], beside))[0]
            for at, each in enumerate(wanted)]
