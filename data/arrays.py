"""Data in bulk: arrays on disk read as one, Arrow arrays made without detours, work done ahead."""

from __future__ import annotations

import mmap
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

T, R = TypeVar("T"), TypeVar("R")


class ConcatenatedArray:
    """Rows of `width` values each, of files that hold nothing else; a file that is not there holds none."""

    def __init__(self, paths: list[Path], dtype: type, width: int = 1):
        there = [path for path in paths if path.is_file() and path.stat().st_size]
        self.maps = [np.memmap(path, dtype, "r").reshape(-1, width) for path in there]
        self.files = [open(path, "rb") for path in there]
        self.starts = np.concatenate([[0], np.cumsum([len(each) for each in self.maps])]).astype(np.int64)
        self.dtype, self.width = dtype, width

    def __len__(self) -> int:
        return int(self.starts[-1])

    def iter_blocks(self, size: int) -> Iterator[tuple[int, np.ndarray]]:
        """(where it starts, a block of at most `size` rows), all of them in order."""
        for start, each in zip(self.starts, self.maps):
            for at in range(0, len(each), size):
                yield int(start) + at, each[at : at + size]
                self.release_pages(each)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """The rows at `indices`, read one by one: a page of a map brings its neighbours into memory."""
        size = self.width * np.dtype(self.dtype).itemsize
        owner = np.searchsorted(self.starts, indices, side="right") - 1
        offsets = (indices - self.starts[owner]) * size
        rows = b"".join(
            os.pread(self.files[number].fileno(), size, offset)
            for number, offset in zip(owner.tolist(), offsets.tolist())
        )
        return np.frombuffer(rows, self.dtype).reshape(-1, self.width)

    def to_numpy(self) -> np.ndarray:
        """All rows in memory, (rows,) when they are one value wide."""
        blocks = [np.array(block) for _, block in self.iter_blocks(2**20)]
        every = np.concatenate(blocks) if blocks else np.zeros((0, self.width), self.dtype)
        return every[:, 0] if self.width == 1 else every

    @staticmethod
    def release_pages(array: np.memmap) -> None:
        """Let go of the pages in memory; they are read again when needed."""
        array.base._mmap.madvise(mmap.MADV_DONTNEED) if hasattr(array.base, "_mmap") else array._mmap.madvise(
            mmap.MADV_DONTNEED
        )


def threaded_map(function: Callable[[T], R], items: Iterable[T], num_threads: int) -> Iterator[R]:
    """work(item) of each item, in order, by threads of their own while the next items are made.

    For work that lets go of Python, as Arrow, numpy and tokenizers do. No more than `num_threads` items wait.
    """
    with ThreadPoolExecutor(num_threads) as pool:
        waiting: deque = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > num_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def batch_by_characters(items: Iterable[T], get_text: Callable[[T], str], batch_chars: int) -> Iterator[list[T]]:
    """The items in lists of about so many characters of text."""
    waiting: list[T] = []
    count = 0
    for item in items:
        waiting.append(item)
        count += len(get_text(item))
        if count > batch_chars:
            yield waiting
            waiting, count = [], 0
    if waiting:
        yield waiting


def to_string_array(texts: list[str]):
    """Texts as an Arrow array, made of its buffers (pyarrow's own way from a list begins by loading pandas)."""
    import pyarrow

    encoded = [text.encode() for text in texts]
    bounds = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)), out=bounds[1:])
    return pyarrow.LargeStringArray.from_buffers(
        len(texts), pyarrow.py_buffer(bounds), pyarrow.py_buffer(b"".join(encoded))
    )


def to_int64_array(values: np.ndarray):
    """int64 values as an Arrow array."""
    import pyarrow

    return pyarrow.Array.from_buffers(pyarrow.int64(), len(values), [None, pyarrow.py_buffer(values.astype(np.int64))])
