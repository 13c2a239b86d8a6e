"""Mistakes a user can make, told in one line each; and other ways to end that are no failure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class UserError(Exception):
    """Something the user can put right. Its text is all they are shown: no traceback."""


class ConfigError(UserError):
    """A key, value or file name in the configuration is wrong."""


class DataError(UserError):
    """The configuration is sound, but the text, labels or weights it points to are not."""


class HubError(UserError):
    """The hub cannot be reached, or does not take what it is sent."""


class CommandExit(Exception):
    """The command ends here with an exit code: all that was asked is done, or somebody asked it to stop."""

    def __init__(self, message: str, exit_code: int = 0):
        super().__init__(message)
        self.exit_code = exit_code


def suggest(word: str, choices: Iterable[str]) -> str:
    """` (nearest: X)`, or all that there is when few enough and nothing is near, or nothing."""
    choices = sorted(map(str, choices))
    close = difflib.get_close_matches(str(word), choices, n=1, cutoff=0.5)
    if close:
        return f" (nearest: {close[0]})"
    return f" (there are: {', '.join(choices)})" if 0 < len(choices) <= 12 else ""


def list_siblings(path: str | Path, pattern: str = "*") -> list[str]:
    """The names of what is in the folder that `path` would be in; none where there is no such folder, or can be none."""
    try:
        return [found.name for found in Path(path).parent.glob(pattern)]
    except (OSError, ValueError):
        return []


def first_line(error: Exception) -> str:
    """The first line of somebody else's error, short enough to stand inside ours."""
    cause = error.__cause__ or error
    text = (str(cause).strip() or type(cause).__name__).splitlines()[0]
    return text if len(text) < 160 else text[:157] + "..."
