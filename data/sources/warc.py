"""Pages of web archives (WARC, WET) as rows of text."""

import codecs
import io
import re
from collections.abc import Iterator
from html.parser import HTMLParser


class HTMLTextExtractor(HTMLParser):
    """Visible text of an HTML page, one line per block."""

    HIDDEN_TAGS = frozenset("script style title noscript template svg".split())
    BLOCK_TAGS = frozenset(
        "p br hr div li ul ol dt dd tr td th table option section article blockquote pre h1 h2 h3 h4 h5 h6".split()
    )

    def __init__(self, markup: str):
        super().__init__(convert_charrefs=True)
        self.parts, self.hidden_depth = [], 0
        self.feed(markup)
        self.close()
        self.text = "".join(self.parts)

    def handle_starttag(self, tag, attributes):
        """Start a line at a block, and hide the content of a hidden tag."""
        self.hidden_depth += tag in self.HIDDEN_TAGS
        if tag in self.BLOCK_TAGS:
            self.parts.append("\n")

    def handle_endtag(self, tag):
        """End the line of a block, or a hidden tag."""
        self.hidden_depth = max(0, self.hidden_depth - (tag in self.HIDDEN_TAGS))
        if tag in self.BLOCK_TAGS:
            self.parts.append("\n")

    def handle_data(self, data):
        """Collect text that is not hidden."""
        if not self.hidden_depth:
            self.parts.append(data)


def iter_pages(stream: io.BufferedReader) -> Iterator[dict]:
    """Yield rows {"text", "url"}: the text of text records (WET), the visible text of HTML responses."""
    while first := stream.readline():
        if not first.strip():
            continue
        if not first.startswith(b"WARC/"):
            raise ValueError("not a WARC record")
        header = read_headers(stream)
        length = int(header["content-length"]) if "content-length" in header else None
        if length is None or len(body := stream.read(length)) < length:
            raise EOFError("the last record is truncated")
        url = header.get("warc-target-uri", "")
        if header.get("warc-type") == "response":
            page = io.BytesIO(body)
            page.readline()
            content_type = read_headers(page).get("content-type", "").lower()
            if "html" in content_type:
                charset = re.search(r"charset=[\"']?([\w-]+)", content_type)
                try:
                    codec = codecs.lookup(charset[1] if charset else "utf-8").name
                except LookupError:
                    codec = "utf-8"
                yield {"text": HTMLTextExtractor(page.read().decode(codec, "replace")).text, "url": url}
        elif header.get("warc-type") == "conversion":
            yield {"text": body.decode("utf-8", "replace"), "url": url}


def read_headers(stream) -> dict[str, str]:
    """Return the `name: value` lines up to an empty line, with lower-case names."""
    headers = {}
    while line := stream.readline().decode("utf-8", "replace").strip():
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return headers
