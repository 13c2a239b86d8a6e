"""Streaming decompression of .gz, .bz2, .xz and .zst files."""

import bz2
import gzip
import io
import lzma

from engine.errors import DataError

COMPRESSED_EXTENSIONS = (".gz", ".bz2", ".zst", ".xz")


class ZstandardReader(io.RawIOBase):
    """Reader for Zstandard files of any number of frames; unlike the package's own, it detects truncated files."""

    def __init__(self, raw_stream: io.IOBase):
        try:
            from zstandard import ZstdDecompressor
        except ImportError:
            raise DataError("a .zst file: needs zstandard; pip install zstandard") from None
        self.raw_stream, self.new_decompressor = raw_stream, ZstdDecompressor().decompressobj
        self.decompressor, self.decompressed, self.unused_data = None, b"", b""

    def readable(self) -> bool:
        """Return True, as io.BufferedReader requires."""
        return True

    def readinto(self, buffer) -> int:
        """Fill `buffer` and return the number of bytes read, 0 at the end. Raises EOFError for a truncated file."""
        while not self.decompressed:
            compressed, self.unused_data = self.unused_data or self.raw_stream.read(2**12), b""  # up to 2**27 bytes
            if not compressed:
                if self.decompressor:
                    raise EOFError("Compressed file ended before the end-of-stream marker was reached")
                return 0
            self.decompressor = self.decompressor or self.new_decompressor()
            self.decompressed = self.decompressor.decompress(compressed)
            if self.decompressor.eof:
                self.unused_data, self.decompressor = self.decompressor.unused_data, None
        size = min(len(buffer), len(self.decompressed))
        buffer[:size], self.decompressed = self.decompressed[:size], self.decompressed[size:]
        return size


def open_decompressed(raw_stream: io.IOBase, path: str) -> io.BufferedReader:
    """Return a stream of the decompressed content, by the extension. Raises DataError if a package is missing."""
    openers = {
        ".gz": lambda raw: gzip.GzipFile(fileobj=raw),
        ".bz2": bz2.BZ2File,
        ".xz": lzma.LZMAFile,
        ".zst": ZstandardReader,
    }
    for extension, opener in openers.items():
        if path.lower().endswith(extension):
            return io.BufferedReader(opener(raw_stream))
    return raw_stream if hasattr(raw_stream, "peek") else io.BufferedReader(raw_stream)
