"""The pages of a web archive (WARC, WET) as rows of text."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from html.parser import HTMLParser


class HTMLTextExtractor(HTMLParser):
    """The text a reader of a page would see, a line for each block."""

    HIDDEN_TAGS = ("script", "style", "title", "noscript", "template", "svg")
    BLOCK_TAGS = (
        "p",
        "br",
        "hr",
        "div",
        "li",
        "ul",
        "ol",
        "dt",
        "dd",
        "tr",
        "td",
        "th",
        "table",
        "option",
        "section",
        "article",
        "blockquote",
        "pre",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
    )

    def __init__(self, markup: str):
        super().__init__(convert_charrefs=True)
        self.parts, self.hidden_depth = [], 0
        self.feed(markup)
        self.close()
        self.text = "".join(self.parts)

    def handle_starttag(self, tag, attributes):
        self.hidden_depth += tag in self.HIDDEN_TAGS
        if tag in self.BLOCK_TAGS:
            self.parts.append("\n")

    def handle_endtag(self, tag):
        self.hidden_depth = max(0, self.hidden_depth - (tag in self.HIDDEN_TAGS))
        if tag in self.BLOCK_TAGS:
            self.parts.append("\n")

    def handle_data(self, data):
        if not self.hidden_depth:
            self.parts.append(data)


def iter_pages(stream: io.BufferedReader) -> Iterator[dict]:
    """Rows {"text", "url"} of a web archive; a text record (WET) as it is, HTML as a reader sees it."""
    while first := stream.readline():
        if not first.strip():
            continue
        if not first.startswith(b"WARC/"):
            raise ValueError("not a WARC record")
        header = read_headers(stream)
        if "content-length" not in header:
            raise EOFError("the last record is cut off")
        length = int(header["content-length"])
        body = stream.read(length)
        if len(body) < length:
            raise EOFError("the last record is cut off")
        kind = header.get("warc-type")
        if kind == "response":
            page = io.BytesIO(body)
            page.readline()
            answer = read_headers(page)
            if "html" in (kind := answer.get("content-type", "").lower()):
                named = re.search(r"charset=[\"']?([\w-]+)", kind)
                try:
                    codec = codecs.lookup(named[1] if named else "utf-8").name
                except LookupError:
                    codec = "utf-8"
                yield {
                    "text": HTMLTextExtractor(page.read().decode(codec, "replace")).text,
                    "url": header.get("warc-target-uri", ""),
                }
        elif kind == "conversion":
            yield {"text": body.decode("utf-8", "replace"), "url": header.get("warc-target-uri", "")}


def read_headers(stream) -> dict[str, str]:
    """Lines of `name: value` up to an empty one, names in lower case."""
    found = {}
    while line := stream.readline().decode("utf-8", "replace").strip():
        name, _, value = line.partition(":")
        found[name.strip().lower()] = value.strip()
    return found
