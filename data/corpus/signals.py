"""Signals of cleaned texts, computed in one pass of Daft, by which later steps drop documents.

out/signals/NAME-FINGERPRINT/   one entry per document of a text folder, in order
failed_rule.bin    uint8    0: passes every filter; else 1 + the index of the first rule it fails
num_words.bin      uint32   number of words
text_hash.bin      uint64   hash of the normalized text
signature.bin      uint32 (documents, NUM_HASHES)   MinHash of the word 5-grams (all ones: too few words)
test_texts.jsonl   [row, test texts in it] of documents with any
"""

import json
import os
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import numpy as np

from data.arrays import ConcatenatedArray
from data.cache import get_or_build_many, read_manifest
from data.corpus import runner
from data.corpus.config import Corpus
from data.corpus.decontaminate import find_test_texts
from data.corpus.extract import list_text_files
from data.corpus.filters import active_rules, rule_expressions
from data.ngrams import normalize_text
from engine.runs.progress import Progress

NUM_HASHES, MINHASH_NGRAM_SIZE = 100, 5
FILES_PER_BATCH = 4  # per query on this machine: Daft reads all files of a query into memory
NO_SIGNATURE = np.uint32(2**32 - 1)
SIGNAL_DTYPES = {"failed_rule": np.uint8, "num_words": np.uint32, "text_hash": np.uint64, "signature": np.uint32}


def needs_signals(corpus: Corpus) -> bool:
    """Return whether any step of the corpus uses signals."""
    deduplicates = corpus.deduplicate.exact or corpus.deduplicate.near
    return bool(deduplicates or corpus.decontaminate.tasks or active_rules(corpus.filter))


def concatenate_column(signal_folders: list[Path], column: str) -> ConcatenatedArray:
    """Return one column of several signal folders."""
    paths = [folder / f"{column}.bin" for folder in signal_folders]
    return ConcatenatedArray(paths, SIGNAL_DTYPES[column], NUM_HASHES if column == "signature" else 1)


def build_query(files: list[str], corpus: Corpus, index_folder: Path | None):
    """Return the Daft query over Parquet files of texts, one row per document."""
    import daft
    from daft import col, lit

    texts = {"normalized": normalize_text(col("text")), "num_words": col("text").regexp_count(r"\S+")}
    frame = daft.read_parquet(files, file_path_column="file").with_columns(texts)
    # One bit per failed rule (Daft's `when` is in a module that loads torch).
    failures = lit(0)
    for number, rule in enumerate(rule_expressions(corpus.filter).values()):
        failures = failures + rule.fill_null(False).cast(daft.DataType.int64()) * lit(2**number)
    columns = {"file": col("file"), "row": col("row"), "failure_bits": failures, "num_words": col("num_words")}
    columns["text_hash"] = col("normalized").hash(hash_function="xxhash3_64")
    if corpus.deduplicate.near:
        columns["signature"] = col("normalized").minhash(num_hashes=NUM_HASHES, ngram_size=MINHASH_NGRAM_SIZE)
        columns["num_spaces"] = col("normalized").regexp_count(" ")
    if index_folder:
        columns["test_texts"] = find_test_texts(col("normalized"), str(index_folder))
    return frame.select(*(expression.alias(name) for name, expression in columns.items()))


class SignalWriter(ExitStack):
    """Writer of the files of several signal folders; each batch is written at the offsets of its rows."""

    def __init__(self, folders: list[Path]):
        super().__init__()
        self.folders, self.open_files, self.num_rows = folders, {}, 0

    def open_file(self, folder_index: int, file_name: str):
        """Return the open file of one column of one folder."""
        if (folder_index, file_name) not in self.open_files:
            file = open(self.folders[folder_index] / file_name, "wb")
            self.open_files[folder_index, file_name] = self.enter_context(file)
        return self.open_files[folder_index, file_name]

    def write(self, folder_index: int, batch) -> None:
        """Write the signals of a batch of rows of one text folder, in order."""
        rows = batch.column("row").to_numpy()
        cuts = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1), len(rows)]
        for name, dtype in SIGNAL_DTYPES.items():
            if name == "failed_rule":
                bits = batch.column("failure_bits").to_numpy()
                # The index of the lowest bit, the first failed rule, counted from 1.
                values = np.log2((bits & -bits) * 2 + (bits == 0)).astype(dtype)[:, None]
            elif name in batch.schema.names:
                column = batch.column(name)
                values = column.flatten() if name == "signature" else column
                values = values.to_numpy(zero_copy_only=False).astype(dtype).reshape(len(rows), -1)
            else:
                continue
            if name == "signature":
                values[batch.column("num_spaces").to_numpy() < MINHASH_NGRAM_SIZE - 1] = NO_SIGNATURE
            file, row_bytes = self.open_file(folder_index, f"{name}.bin").fileno(), values.shape[1] * values.itemsize
            for start, end in pairwise(cuts):
                os.pwrite(file, values[start:end].tobytes(), int(rows[start]) * row_bytes)
        if "test_texts" in batch.schema.names:
            for row, matches in zip(rows.tolist(), batch.column("test_texts").to_pylist(), strict=True):
                if matches:
                    line = f"{json.dumps([row, matches])}\n"
                    self.open_file(folder_index, "test_texts.jsonl").write(line.encode())
        self.num_rows += len(rows)


def compute_signals(text_folders: list[Path], corpus: Corpus, index_folder: Path | None) -> list[Path]:
    """Return the signal folder of each text folder; computed in turn on this machine, all at once on a cluster."""
    inputs = {
        "filter": corpus.filter.model_dump(),
        "index": index_folder and index_folder.name,
        "near": corpus.deduplicate.near,
        "version": 2,
    }
    requests = [(folder.name.rsplit("-", 1)[0], {"text": folder.name, **inputs}) for folder in text_folders]

    def build(indices: list[int], folders: list[Path]) -> list[dict]:
        import pyarrow.compute

        sources = [text_folders[index] for index in indices]
        counts = [read_manifest(folder)["documents"] for folder in sources]
        folder_index = {
            runner.absolute_path(path): index
            for index, folder in enumerate(sources)
            for path in list_text_files(folder)
        }
        files = list(folder_index)
        step = len(files) if corpus.runner == "ray" else FILES_PER_BATCH
        title = f"compute signals of {corpus.name}"
        with SignalWriter(folders) as writer, Progress(title, max(1, sum(counts)), 0, True, "document") as progress:
            for start in range(0, len(files), step):
                for batch in runner.iter_batches(build_query(files[start : start + step], corpus, index_folder)):
                    for file in batch.column("file").unique().to_pylist():
                        rows = batch.filter(pyarrow.compute.equal(batch.column("file"), file))
                        writer.write(folder_index[file.removeprefix("file://")], rows)
                    progress.update(writer.num_rows, f"{progress.rate(writer.num_rows):,.0f} documents/s")
        assert writer.num_rows == sum(counts), (writer.num_rows, counts)
        return [{"rules": active_rules(corpus.filter)} for _ in indices]

    if corpus.runner == "ray":
        return get_or_build_many("signals", requests, build)
    return [
        get_or_build_many("signals", [request], lambda _, folders, index=index: build([index], folders))[0]
        for index, request in enumerate(requests)
    ]
