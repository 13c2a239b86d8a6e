"""Encodings of text files: that of a byte order mark, that of bytes which do not fit, and files that are no text."""

import codecs
import io

from engine.errors import DataError, OptionError

MAX_GUESS_BYTES = 2**16
MANY_BYTES = 0.2  # fraction of bytes beyond ASCII from which a text is not in a Western European language
NOT_WINDOWS_1252 = b"\x81\x8d\x8f\x90\x9d"  # bytes that it leaves undefined; Latin-1 reads any byte
MANY_NULLS = 0.01  # fraction of NUL bytes from which they are no accident; UTF-16 has them in spaces and line ends
BYTE_ORDER_MARKS = {
    **dict.fromkeys((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE), "utf-32"),  # that of UTF-16 is the start of one
    **dict.fromkeys((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE), "utf-16"),
}
COMPRESSED_STARTS = {
    **{b"\x1f\x8b": ".gz", b"BZh91AY&SY": ".bz2", b"\xfd7zXZ\0": ".xz", b"\x28\xb5\x2f\xfd": ".zst"},
    b"PK\x03\x04": ".zip, or .xlsx for a sheet",
}


def find_encoding(stream: io.BufferedReader, encoding: str | None) -> str | None:
    """Return the encoding that a byte order mark means, or that is set; None: UTF-8."""
    start = stream.peek(4)[:4]
    if name := next((name for mark, name in BYTE_ORDER_MARKS.items() if start.startswith(mark)), None):
        return name
    return None if encoding and codecs.lookup(encoding).name in ("utf-8", "utf-8-sig") else encoding


def reject_compressed(start: bytes, path: str) -> None:
    """Raise DataError for a compressed file without the extension of its format. start: its first bytes."""
    for mark, end in COMPRESSED_STARTS.items():
        if start.startswith(mark):
            raise DataError(f"{path}: is compressed; rename it to end in {end}")


def has_old_line_ends(start: bytes) -> bool:
    """Return whether lines end in a carriage return alone, as on old Macs. start: the first bytes of a file."""
    return b"\r" in start[:-1] and b"\n" not in start


def guess_encoding(content: bytes) -> str:
    """Return the probable encoding of a text that is not UTF-8, for a message."""
    first = content[:MAX_GUESS_BYTES]
    if sum(byte >= 0x80 for byte in first) < MANY_BYTES * len(first):
        return "latin-1" if any(byte in content for byte in NOT_WINDOWS_1252) else "windows-1252"
    try:
        from charset_normalizer import from_bytes
    except ImportError:
        return "gbk"
    best = from_bytes(first).best()
    return {"gb18030": "gbk", "cp932": "shift_jis"}.get(name := best.encoding, name) if best else "gbk"


def check_encoding(path: str, encoding: str, num_wrong: int, num_lines: int, wrong: bytes) -> None:
    """Raise OptionError if most lines of a file are not in an encoding. wrong: bytes of such lines."""
    if num_wrong * 2 > num_lines:
        counts = f"{num_wrong} of {num_lines} lines are not {encoding.upper()}"
        raise OptionError(f"{path}: {counts}", "encoding", guess_encoding(wrong))


def reject_utf16(start: bytes, path: str) -> None:
    """Raise OptionError for UTF-16 without a byte order mark: most lines have NUL bytes. start: the first bytes."""
    lines = start.split(b"\n")
    if sum(b"\0" in line for line in lines) * 2 > len(lines) and start.count(0) > MANY_NULLS * len(start):
        is_big_endian = start[::2].count(0) > start[1::2].count(0)
        encoding = "utf-16-be" if is_big_endian else "utf-16-le"
        raise OptionError(f"{path}: has NUL bytes, as UTF-16 has", "encoding", encoding)
