"""Lines of text files: decoded, and of bounded length, so that no file fills the memory."""

import codecs
import io
from collections.abc import Iterator
from functools import partial

from data.sources.encodings import (
    MAX_GUESS_BYTES,
    check_encoding,
    find_encoding,
    guess_encoding,
    has_old_line_ends,
    reject_compressed,
    reject_utf16,
)
from engine.errors import DataError, OptionError

MAX_ROW_BYTES = 2**25
"""Maximum size of a line, a csv record, an element of a JSON array, an XML element or a page."""
CHECKED_LINES = 1_000  # after which a file in another encoding is refused, instead of at its end


def describe_limit() -> str:
    """Return the limit for messages."""
    return f"over {MAX_ROW_BYTES / 2**20:.3g} MiB"


def read_lines(stream: io.BufferedReader | io.TextIOBase, path: str, problems: list | None, is_split: bool) -> Iterator:
    """Yield lines of at most MAX_ROW_BYTES bytes or characters.

    The rest of a longer line follows if `is_split`; otherwise it is dropped and counted, or raises DataError.
    """
    num_cut, carry = 0, stream.read(0)
    newline = "\n" if isinstance(carry, str) else b"\n"
    for number, line in enumerate(iter(partial(stream.readline, MAX_ROW_BYTES), stream.read(0)), 1):
        if len(line) < MAX_ROW_BYTES and not carry:  # nearly every line
            yield line
            continue
        line, carry = carry + line, line[:0]
        if len(line) >= MAX_ROW_BYTES and not line.endswith(newline):
            # A character of several bytes may be cut: it begins with one of the last four bytes.
            starts = [at for at in range(-4, 0) if isinstance(line, bytes) and line[at] >= 0xC0]
            line, carry = (line[: starts[-1]], line[starts[-1] :]) if starts else (line, carry)
            if not is_split:
                if problems is None:
                    raise DataError(f"{path} line {number}: {describe_limit()}")
                carry, rest, num_cut = line[:0], line, num_cut + 1
                while rest and not rest.endswith(newline):
                    rest = stream.readline(MAX_ROW_BYTES)
        yield line
    if carry:
        yield carry
    if num_cut:
        problems.append(f"{path}: {num_cut} line{'s' * (num_cut > 1)} {describe_limit()}, cut")


def decode_lines(
    stream: io.BufferedReader, path: str, problems: list[str] | None, encoding: str | None, is_split: bool = False
) -> Iterator[str]:
    """Yield the lines of a text with their ends; those that are not UTF-8 are decoded as Windows-1252 and counted.

    Raises DataError if most lines are not in the encoding, or without `problems` for the first one.
    """
    num_wrong = num_lines = 0
    wrong, start = b"", stream.peek(MAX_GUESS_BYTES)
    reject_compressed(start, path)
    given, encoding = encoding, find_encoding(stream, encoding) or "utf-8"
    is_old = has_old_line_ends(start)
    if is_old or "\n".encode(encoding) != b"\n":  # a line end that is not one byte, \n
        encoding = "utf-8-sig" if encoding == "utf-8" else encoding
        text = io.TextIOWrapper(stream, encoding, newline=None if is_old else "")
        yield from read_lines(text, path, problems, is_split)
        return
    reject_utf16(start, path)
    for number, line in enumerate(read_lines(stream, path, problems, is_split), 1):
        line = line if number > 1 else line.removeprefix(codecs.BOM_UTF8)
        num_lines += not line.isspace()
        try:
            yield line.decode(encoding)
        except UnicodeDecodeError as error:
            if problems is None:
                guess = guess_encoding(line + stream.read(MAX_ROW_BYTES))
                raise OptionError(f"{path} line {number}: {error}", "encoding", guess) from None
            num_wrong += 1
            wrong += line[: MAX_GUESS_BYTES - len(wrong)]
            yield line.decode(given or "cp1252", "replace")
        if num_lines == CHECKED_LINES:
            check_encoding(path, encoding, num_wrong, num_lines, wrong)
    check_encoding(path, encoding, num_wrong, num_lines, wrong)
    if num_wrong:
        read_as = "with replaced characters" if given else "read as Windows-1252"
        problems.append(f"{path}: {num_wrong} line{'s' * (num_wrong > 1)} not {encoding.upper()}, {read_as}")
