"""Lines of text files: decoded, and of bounded length, so that no file fills the memory."""

import io
from collections.abc import Iterator
from functools import partial

from engine.errors import DataError, OptionError

MAX_ROW_BYTES = 2**25
"""Maximum size of a line, a csv record, an element of a JSON array, an XML element or a page."""
MAX_GUESS_BYTES = 2**16
MANY_BYTES = 0.2  # fraction of bytes beyond ASCII from which a text is not in a Western European language
CHECKED_LINES = 1_000  # after which a file in another encoding is refused, instead of at its end
NOT_WINDOWS_1252 = b"\x81\x8d\x8f\x90\x9d"  # bytes that it leaves undefined; Latin-1 reads any byte
BYTE_ORDER_MARKS = (b"\xff\xfe", b"\xfe\xff")


def describe_limit() -> str:
    """Return the limit for messages."""
    return f"over {MAX_ROW_BYTES / 2**20:.3g} MiB"


def find_encoding(stream: io.BufferedReader, encoding: str | None) -> str | None:
    """Return the encoding that is set or that a byte order mark means; None: UTF-8."""
    return "utf-16" if stream.peek(2)[:2] in BYTE_ORDER_MARKS else encoding


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
    wrong = b""
    given, encoding = encoding, find_encoding(stream, encoding) or "utf-8"
    if "\n".encode(encoding) != b"\n":  # a line end of several bytes
        yield from read_lines(io.TextIOWrapper(stream, encoding, newline=""), path, problems, is_split)
        return
    for number, line in enumerate(read_lines(stream, path, problems, is_split), 1):
        line = line if number > 1 else line.removeprefix(b"\xef\xbb\xbf")
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


def check_encoding(path: str, encoding: str, num_wrong: int, num_lines: int, wrong: bytes) -> None:
    """Raise OptionError if most lines of a file are not in an encoding. wrong: bytes of such lines."""
    if num_wrong * 2 > num_lines:
        counts = f"{num_wrong} of {num_lines} lines are not {encoding.upper()}"
        raise OptionError(f"{path}: {counts}", "encoding", guess_encoding(wrong))
