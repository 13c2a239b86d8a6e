"""Pages of web archives (WARC, WET) and saved HTML pages as rows of text, read by fastwarc and resiliparse."""

import io
import re
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec

from data.sources import lines as limits
from engine.errors import DataError

# The parser takes quadratic time for wrongly nested tags and for the attributes of one tag; at these limits, seconds.
MAX_TAGS, MAX_ATTRIBUTES = 100_000, 10_000
MANY_ATTRIBUTES = re.compile(rf"<[a-z](?:[^<>\s]*+\s){{{MAX_ATTRIBUTES}}}+", re.IGNORECASE)
OVER_LIMITS = f"with over {MAX_TAGS:,} tags, or {MAX_ATTRIBUTES:,} attributes in one, or {limits.describe_limit()}"
MAX_HEADER_BYTES = 2**20
# resiliparse drops form controls with their text, which includes headings of folded sections, and a noscript element
# that a block closes early; it joins the cells of a broken table. Alternative texts stay on: captions depend on them.
TAG_SUBSTITUTIONS = (
    (re.compile(r"<(?=/?(?:t[dhr]|legend)\b)", re.IGNORECASE), " <"),
    (re.compile(r"<(/?)(?:button|label|option|select|textarea)\b", re.IGNORECASE), r" <\1span"),
    (re.compile(r"<(/?)noscript\b", re.IGNORECASE), r"<\1noembed"),  # raw text, as for a browser with scripts
    (re.compile(r"<(?:img|image|area)\b", re.IGNORECASE), "<wbr"),
)
SKIPPED_ELEMENTS = ["noembed", "title", "svg", "template"]


class ForwardStream:
    """A stream as fastwarc expects it: with a position, and without errors, which would cost what is in its buffer."""

    def __init__(self, stream: io.BufferedReader):
        self.stream, self.position, self.error = stream, 0, None

    def read(self, size: int) -> bytes:
        """Return up to `size` bytes; none at the end, or after an error, kept as `error`."""
        try:
            content = self.stream.read1(min(size, io.DEFAULT_BUFFER_SIZE))  # what an error costs
        except Exception as error:
            content, self.error = b"", error
        self.position += len(content)
        return content

    def seek(self, offset: int, whence: int = 0) -> int:
        """Return the position; fastwarc only moves by 0."""
        return self.position

    def tell(self) -> int:
        """Return the position."""
        return self.position


def require_packages(path: str) -> None:
    """Raise DataError for a web page if the packages of the extra `web` are missing."""
    if not all(map(find_spec, ("fastwarc", "resiliparse"))):
        raise DataError(f"{path}: needs fastwarc and resiliparse; pip install -e '.[web]'")


def decode_page(body: bytes, charset: str | None = None) -> str:
    """Decode a page by its byte order mark, its declared charset, as UTF-8, or by detection."""
    from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

    for mark, name in ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        if body.startswith(mark):
            return body[len(mark) :].decode(name, "replace")
    encoding = charset and map_encoding_to_html5(charset, False)
    if not encoding and b"charset" not in body[:1024].lower():
        try:
            return body.decode()
        except UnicodeDecodeError:
            pass
    return body.decode(encoding or detect_encoding(body, from_html_meta=True), "replace")


def html_to_text(markup: str) -> str | None:
    """Return the visible text of an HTML page, with line breaks between blocks; None for one over the limits."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    if markup.count("<") > MAX_TAGS or MANY_ATTRIBUTES.search(markup):
        return None
    for pattern, replacement in TAG_SUBSTITUTIONS:
        markup = pattern.sub(replacement, markup)
    tree = HTMLTree.parse(markup)
    return extract_plain_text(tree, preserve_formatting=True, list_bullets=False, skip_elements=SKIPPED_ELEMENTS)


def page_to_text(body: bytes, charset: str | None = None) -> str | None:
    """Return the visible text of an encoded HTML page; None for one over the limits."""
    return html_to_text(decode_page(body, charset)) if len(body) <= limits.MAX_ROW_BYTES else None


def parse_response(content: bytes) -> tuple[str, bytes, str | None]:
    """Return (content type, body, declared charset) of an HTTP response; ("", b"", None) for anything else."""
    from fastwarc.warc import WarcRecord

    # Many crawlers store a decoded body under the original headers.
    for decoding in ("all", "content", "transfer", "none"):
        record = WarcRecord()
        record.set_bytes_content(content)
        record.is_http = True
        with suppress(OSError):
            record.parse_http(decoding, max_header_len=MAX_HEADER_BYTES, quirks_mode=True)
            body = record.reader.read(limits.MAX_ROW_BYTES + 1)
            return (record.http_content_type or "").lower(), body, record.http_charset
    return "", b"", None


def iter_records(stream: io.BufferedReader) -> Iterator[dict]:
    """Yield rows {"text", "url"}: the text of text records (WET), of HTML responses the visible text, or None."""
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    archive = ForwardStream(stream)
    for record in ArchiveIterator(archive, parse_http=False, stream_detect=False):
        size = int(record.headers.get("Content-Length", "-1"))
        if size > limits.MAX_ROW_BYTES:
            yield {"text": None}
            continue
        content = record.reader.read()
        if len(content) != size:
            raise archive.error or EOFError("the last record is truncated")
        url = record.headers.get("WARC-Target-URI", "")
        if record.record_type == WarcRecordType.conversion:
            yield {"text": content.decode("utf-8", "replace"), "url": url}
        elif record.record_type == WarcRecordType.response:
            content_type, body, charset = parse_response(content)
            if "html" in content_type:
                yield {"text": page_to_text(body, charset), "url": url}
    if archive.error:
        raise archive.error


def iter_pages(rows: Iterator[dict], path: str, problems: list[str] | None) -> Iterator[dict]:
    """Yield the rows with text. Pages over the limits are counted in `problems`, or without it raise ValueError."""
    dropped = 0
    for row in rows:
        if row["text"] is not None:
            yield row
        elif problems is None:
            raise ValueError(f"a page {OVER_LIMITS}")
        else:
            dropped += 1
    if dropped:
        problems.append(f"{path}: {dropped} page{'s' * (dropped > 1)} {OVER_LIMITS}, skipped")
