"""Render HTML pages and Markdown from Jinja2 templates, which are next to the modules that render them."""

import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from engine.sanitize import escape_controls

ROOT = Path(__file__).parent.parent
# What Markdown or HTML in it interprets inside of a line, and what starts a heading, quote or list. An underscore
# between letters, as in `f1_macro`, means nothing.
MARKDOWN_SYNTAX = re.compile(
    r"[\\`*\[\]<|~$]|(?<!\w)_|_(?!\w)|&(?=#?\w+;)|^(?:[#>]|[-+](?=[\s-]|$)|\d+[.)](?=\s|$))", re.ASCII
)
ESCAPES = {char: f"&#{ord(char)};" for char in "<|~$&"}  # where Python-Markdown knows no backslash


def one_line(value: object) -> str:
    """Return a value as text on one line, without control characters."""
    return escape_controls(" ".join(str(value).split()))


def shorten(text: str, limit: int) -> str:
    """Return a text of at most this many characters."""
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def escape_markdown(value: object) -> Markup:
    """Escape a value, so that it shows as text in Markdown, on one line."""
    if isinstance(value, Markup):
        return value
    text = MARKDOWN_SYNTAX.sub(lambda m: m[0][:-1] + ESCAPES.get(m[0][-1], f"\\{m[0][-1]}"), one_line(value))
    return Markup(text)


def code_span(value: object) -> Markup:
    """Return a code span; an element of HTML if the text would end the span or a table's cell, or is empty."""
    text = one_line(value)
    if not text or "`" in text or "|" in text:
        return Markup("<code>{}</code>").format(escape_markdown(text))
    return Markup("`{}`").format(Markup(text))


@cache
def environment(is_html: bool) -> Environment:
    """Return the environment of HTML or Markdown templates; both escape every value that is not Markup."""
    found = Environment(
        loader=FileSystemLoader(ROOT),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=None if is_html else escape_markdown,  # applied before the escaping of HTML, which leaves Markup alone
    )
    found.filters |= {
        "code": code_span,
        "comma_separated": lambda values: Markup(", ").join(map(escape_markdown, values)),
        "in_block": lambda value: Markup(one_line(value)),  # a text inside of a line cannot end a fenced block
        "thousands": "{:,}".format,
    }
    return found


def render(template: str, **context: Any) -> str:
    """Render a template, given by its path in the repository: HTML if its name contains .html, Markdown otherwise."""
    return environment(".html" in template).get_template(template).render(context) + "\n"
