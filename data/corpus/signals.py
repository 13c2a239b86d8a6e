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

from data.arrays import ConcatenatedArray
from data.cache import get_or_build_many, read_manifest
from data.corpus import runner
from data.corpus.config import Corpus
from data.corpus.extract import list_text_files
from data.corpus.decontaminate import find_test_texts
from data.corpus.filters import active_rules, rule_expressions
from data.ngrams import normalize_text
from engine.runs.progress import Progress

NUM_HASHES, MINHASH_NGRAM_SIZE = 100, 5
FILES_PER_BATCH = 4  # read together here: Daft takes all it is given into memory at once
NO_SIGNATURE = np.uint32(2**32 - 1)
SIGNAL_DTYPES = {"reason": np.uint8, "words": np.uint32, "exact": np.uint64, "signature": np.uint32}


def needs_signals(corpus: Corpus) -> bool:
    """Whether any step asks for marks."""
    return bool(
        corpus.deduplicate.exact or corpus.deduplicate.near or corpus.decontaminate.tasks or active_rules(corpus.filter)
    )


def concatenate_column(signal_folders: list[Path], column: str) -> ConcatenatedArray:
    """One column of several mark folders."""
    return ConcatenatedArray(
        [mark / f"{column}.bin" for mark in signal_folders],
        SIGNAL_DTYPES[column],
        NUM_HASHES if column == "signature" else 1,
    )


def build_query(files: list[str], corpus: Corpus, index_folder: Path | None):
    """The Daft plan over Parquet files of texts: columns file, row and what `SIGNAL_DTYPES` names."""
    import daft
    from daft import col, lit

    frame = daft.read_parquet(files, file_path_column="file")
    frame = frame.with_columns({"plain": normalize_text(col("text")), "words": col("text").regexp_count(r"\S+")})
    # A bit for each rule a document fails (Daft's own `when` lives in a module that loads torch).
    fails = lit(0)
    for number, rule in enumerate(rule_expressions(corpus.filter).values()):
        fails = fails + rule.fill_null(False).cast(daft.DataType.int64()) * lit(2**number)
    columns = {"file": col("file"), "row": col("row"), "fails": fails, "words": col("words")}
    columns["exact"] = col("plain").hash(hash_function="xxhash3_64")
    if corpus.deduplicate.near:
        columns["signature"] = col("plain").minhash(num_hashes=NUM_HASHES, ngram_size=MINHASH_NGRAM_SIZE)
        columns["spaces"] = col("plain").regexp_count(" ")
    if index_folder:
        columns["found"] = find_test_texts(col("plain"), str(index_folder))
    return frame.select(*(expression.alias(name) for name, expression in columns.items()))


class SignalWriter:
    """The files of marks of several text folders, written at the rows that a batch has."""

    def __init__(self, folders: list[Path]):
        self.folders, self.open_files, self.num_rows = folders, {}, 0

    def __enter__(self) -> SignalWriter:
        return self

    def __exit__(self, *_) -> None:
        for file in self.open_files.values():
            file.close()

    def open_file(self, folder_index: int, file_name: str):
        """The open file of one column of one folder."""
        if (folder_index, file_name) not in self.open_files:
            self.open_files[folder_index, file_name] = open(self.folders[folder_index] / file_name, "wb")
        return self.open_files[folder_index, file_name]

    def write(self, folder_index: int, batch) -> None:
        """The marks of a batch whose rows all come from one text folder, in order."""
        rows = batch.column("row").to_numpy()
        cuts = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1), len(rows)]
        for name, dtype in SIGNAL_DTYPES.items():
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
                values[batch.column("spaces").to_numpy() < MINHASH_NGRAM_SIZE - 1] = NO_SIGNATURE
            for a, b in zip(cuts[:-1], cuts[1:]):
                os.pwrite(
                    self.open_file(folder_index, f"{name}.bin").fileno(),
                    values[a:b].tobytes(),
                    int(rows[a]) * values.shape[1] * values.itemsize,
                )
        if "found" in batch.schema.names:
            for row, found in zip(rows.tolist(), batch.column("found").to_pylist()):
                if found:
                    self.open_file(folder_index, "found.jsonl").write(f"{json.dumps([row, found])}\n".encode())
        self.num_rows += len(rows)


def compute_signals(text_folders: list[Path], corpus: Corpus, index_folder: Path | None) -> list[Path]:
    """The mark folders of text folders: each a bucket, done one after another here, all at once on a cluster."""
    wanted = [
        (
            folder.name.rsplit("-", 1)[0],
            {
                "text": folder.name,
                "filter": corpus.filter.model_dump(),
                "index": index_folder and index_folder.name,
                "near": corpus.deduplicate.near,
                "version": 2,
            },
        )
        for folder in text_folders
    ]

    def make(which: list[int], beside: list[Path]) -> list[dict]:
        import pyarrow.compute

        sources = [text_folders[number] for number in which]
        counts = [read_manifest(folder)["documents"] for folder in sources]
        number_of = {
            runner.absolute_path(path): place
            for place, folder in enumerate(sources)
            for path in list_text_files(folder)
        }
        title = f"mark {corpus.name}"
        with SignalWriter(beside) as columns, Progress(title, max(1, sum(counts)), 0, True, "document") as progress:
            files, together = list(number_of), len(number_of) if corpus.runner == "ray" else FILES_PER_BATCH
            for at in range(0, len(files), together):
                for batch in runner.iter_batches(build_query(files[at : at + together], corpus, index_folder)):
                    for file in batch.column("file").unique().to_pylist():
                        own = batch.filter(pyarrow.compute.equal(batch.column("file"), file))
                        columns.write(number_of[file.removeprefix("file://")], own)
                    progress.update(columns.num_rows, f"{progress.rate(columns.num_rows):,.0f} documents/s")
        assert columns.num_rows == sum(counts), (columns.num_rows, counts)
        return [{"rules": active_rules(corpus.filter)} for _ in which]

    if corpus.runner == "ray":
        return get_or_build_many("marks", wanted, make)
    return [
        get_or_build_many("marks", [each], lambda which, beside, at=at: make([at], beside))[0]
        for at, each in enumerate(wanted)
    ]
