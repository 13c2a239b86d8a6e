"""Compressed files, read as they are decompressed."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma

from engine.errors import DataError

COMPRESSED_EXTENSIONS = (".gz", ".bz2", ".zst", ".xz")


class ZstandardReader(io.RawIOBase):
    """A Zstandard file of one frame or many. (zstandard's own reader has no lines and takes half a file for a whole.)."""

    def __init__(self, raw_stream: io.IOBase):
        try:
            import zstandard
        except ImportError:
            raise DataError("a .zst file: needs zstandard; pip install zstandard") from None
        self.raw_stream, self.new_decompressor, self.unused_data = (
            raw_stream,
            zstandard.ZstdDecompressor().decompressobj,
            b"",
        )
        self.decompressor, self.decompressed = None, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not self.decompressed:
            packed, self.unused_data = self.unused_data or self.raw_stream.read(2**16), b""
            if not packed:
                if self.decompressor:
                    raise EOFError("Compressed file ended before the end-of-stream marker was reached")
                return 0
            self.decompressor = self.decompressor or self.new_decompressor()
            self.decompressed = self.decompressor.decompress(packed)
            if self.decompressor.eof:
                self.unused_data, self.decompressor = self.decompressor.unused_data, None
        size = min(len(buffer), len(self.decompressed))
        buffer[:size], self.decompressed = self.decompressed[:size], self.decompressed[size:]
        return size


def open_decompressed(raw_stream: io.IOBase, path: str) -> io.BufferedReader:
    """The file's content, decompressed as its ending says. Raises DataError when that needs a package that is not there."""
    openers = {
        ".gz": lambda raw: gzip.GzipFile(fileobj=raw),
        ".bz2": bz2.BZ2File,
        ".xz": lzma.LZMAFile,
        ".zst": ZstandardReader,
    }
    for packing, opener in openers.items():
        if path.lower().endswith(packing):
            return io.BufferedReader(opener(raw_stream))
    return raw_stream if hasattr(raw_stream, "peek") else io.BufferedReader(raw_stream)
