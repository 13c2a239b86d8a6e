"""Mistakes a user can make, told in one line each."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can put right. Its text is all they are shown: no traceback."""


class ConfigError(UserError):
    """A key, value or file name in the configuration is wrong."""


class DataError(UserError):
    """The configuration is sound, but the text, labels or weights it points to are not."""


class HubError(UserError):
    """The hub cannot be reached, or does not take what it is sent."""


def nearest(word: str, known: Iterable[str]) -> str:
    """` (nearest: X)`, or all that there is when few enough and nothing is near, or nothing."""
    known = sorted(map(str, known))
    close = difflib.get_close_matches(str(word), known, n=1, cutoff=0.5)
    if close:
        return f" (nearest: {close[0]})"
    return f" (there are: {', '.join(known)})" if 0 < len(known) <= 12 else ""
