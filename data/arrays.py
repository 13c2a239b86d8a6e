"""Bulk arrays: files read as one array, Arrow arrays built from buffers, and ordered parallel map."""

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
    """Rows of `width` values from several raw files; missing and empty files are skipped."""

    def __init__(self, paths: list[Path], dtype: type, width: int = 1):
        paths = [path for path in paths if path.is_file() and path.stat().st_size]
        self.maps = [np.memmap(path, dtype, "r").reshape(-1, width) for path in paths]
        self.files = [open(path, "rb") for path in paths]
        self.starts = np.concatenate([[0], np.cumsum([len(array) for array in self.maps])]).astype(np.int64)
        self.dtype, self.width = dtype, width

    def __len__(self) -> int:
        return int(self.starts[-1])

    def iter_blocks(self, size: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (start, block of at most `size` rows) in order."""
        for start, array in zip(self.starts[:-1].tolist(), self.maps, strict=True):
            for at in range(0, len(array), size):
                yield start + at, array[at : at + size]
                self.release_pages(array)

    def take(self, indices: np.ndarray) -> np.ndarray:
        """Read the rows at `indices` without the memory map, which would load neighboring pages."""
        size = self.width * np.dtype(self.dtype).itemsize
        file = np.searchsorted(self.starts, indices, side="right") - 1
        reads = zip(file.tolist(), ((indices - self.starts[file]) * size).tolist(), strict=True)
        rows = b"".join(os.pread(self.files[number].fileno(), size, offset) for number, offset in reads)
        return np.frombuffer(rows, self.dtype).reshape(-1, self.width)

    def to_numpy(self) -> np.ndarray:
        """Load all rows into memory: (rows, width), or (rows,) if width is 1."""
        blocks = [np.zeros((0, self.width), self.dtype), *(np.array(block) for _, block in self.iter_blocks(2**20))]
        rows = np.concatenate(blocks)
        return rows[:, 0] if self.width == 1 else rows

    @staticmethod
    def release_pages(array: np.memmap) -> None:
        """Release the array's pages from memory."""
        (array.base if hasattr(array.base, "_mmap") else array)._mmap.madvise(mmap.MADV_DONTNEED)


def threaded_map(function: Callable[[T], R], items: Iterable[T], num_threads: int) -> Iterator[R]:
    """Map in threads, in order, for functions that release the GIL; at most `num_threads` items wait."""
    with ThreadPoolExecutor(num_threads) as pool:
        pending: deque = deque()
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > num_threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def batch_by_characters(items: Iterable[T], get_text: Callable[[T], str], batch_chars: int) -> Iterator[list[T]]:
    """Yield lists of items with about `batch_chars` characters of text each."""
    batch: list[T] = []
    count = 0
    for item in items:
        batch.append(item)
        count += len(get_text(item))
        if count > batch_chars:
            yield batch
            batch, count = [], 0
    if batch:
        yield batch


def to_string_array(texts: list[str]):
    """Build an Arrow array of large strings from its buffers (pyarrow's own conversion imports pandas)."""
    import pyarrow

    encoded = [text.encode() for text in texts]
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)), out=offsets[1:])
    buffers = pyarrow.py_buffer(offsets), pyarrow.py_buffer(b"".join(encoded))
    return pyarrow.LargeStringArray.from_buffers(len(texts), *buffers)


def to_int64_array(values: np.ndarray):
    """Build an Arrow array of int64 values."""
    import pyarrow

    return pyarrow.Array.from_buffers(pyarrow.int64(), len(values), [None, pyarrow.py_buffer(values.astype(np.int64))])
