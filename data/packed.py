"""Compressed files, read as they are decompressed."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma

from engine.errors import DataError

PACKED = (".gz", ".bz2", ".zst", ".xz")


class Zstandard(io.RawIOBase):
    """A Zstandard file of one frame or many. (zstandard's own reader has no lines and takes half a file for a whole.)"""

    def __init__(self, raw: io.IOBase):
        try:
            import zstandard
        except ImportError:
            raise DataError("a .zst file: needs zstandard; pip install zstandard") from None
        self.raw, self.new, self.left = raw, zstandard.ZstdDecompressor().decompressobj, b""
        self.frame, self.ready = None, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not self.ready:
            packed, self.left = self.left or self.raw.read(2**16), b""
            if not packed:
                if self.frame:
                    raise EOFError("Compressed file ended before the end-of-stream marker was reached")
                return 0
            self.frame = self.frame or self.new()
            self.ready = self.frame.decompress(packed)
            if self.frame.eof:
                self.left, self.frame = self.frame.unused_data, None
        size = min(len(buffer), len(self.ready))
        buffer[:size], self.ready = self.ready[:size], self.ready[size:]
        return size


def unpacked(raw: io.IOBase, path: str) -> io.BufferedReader:
    """The file's content, decompressed as its ending says. Raises DataError when that needs a package that is not there."""
    openers = {".gz": lambda raw: gzip.GzipFile(fileobj=raw), ".bz2": bz2.BZ2File, ".xz": lzma.LZMAFile, ".zst": Zstandard}
    for packing, opener in openers.items():
        if path.lower().endswith(packing):
            return io.BufferedReader(opener(raw))
    return raw if hasattr(raw, "peek") else io.BufferedReader(raw)
