"""Errors that are reported to the user in one line, without a traceback, and a clean early exit."""

import difflib
import re
from collections.abc import Iterable
from pathlib import Path

from engine.sanitize import redact_credentials


class UserError(Exception):
    """A mistake that the user can fix; only its text is shown."""

    def __init__(self, message: str = ""):
        super().__init__(redact_credentials(message))


class ConfigError(UserError):
    """A wrong key, value or file name in the configuration."""


class DataError(UserError):
    """The configuration is valid, but the text, labels or weights are not."""


class OptionError(DataError):
    """A file that can be read with another option of its source, such as encoding=gbk."""

    def __init__(self, problem: str, key: str, value: str, effect: str = "set {}"):
        super().__init__(f"{problem}; {effect.format(f'{key}: {value}')}")
        self.problem, self.key, self.value, self.effect = problem, key, value, effect

    def __reduce__(self):
        """Pickle all arguments: a process that reads a part of a corpus returns its error."""
        return OptionError, (self.problem, self.key, self.value, self.effect)

    def located(self, place: str) -> "OptionError":
        """Return the error with the place of the problem."""
        return OptionError(f"{place}: {self.problem}", self.key, self.value, self.effect)

    def at(self, section: str) -> DataError:
        """Return the error with the option as an argument of the command line."""
        return DataError(f"{self.problem}; {self.effect.format(format_argument(f'{section}.{self.key}', self.value))}")


def format_argument(key: str, value: str) -> str:
    """Return `key=value`, quoted if a shell or YAML would read it otherwise."""
    if value == "\t":
        return f"'{key}=\"\\t\"'"
    return f"{key}={value}" if re.fullmatch(r"[\w.,\[\]/-]+", value) else f"\"{key}='{value}'\""


class TransferError(UserError):
    """A remote file cannot be read now, which does not mean that it is damaged."""


class HubError(UserError):
    """The Hub cannot be reached or rejects an upload."""


class CommandExit(Exception):  # noqa: N818  not an error
    """End the command with an exit code, because its work is done or a signal was received."""

    def __init__(self, message: str, exit_code: int = 0):
        super().__init__(message)
        self.exit_code = exit_code


def suggest(word: str, choices: Iterable[str]) -> str:
    """Return ` (nearest: X)`, or all choices if none is near and they are few, or nothing."""
    choices = sorted(map(str, choices))
    close = difflib.get_close_matches(str(word), choices, n=1, cutoff=0.5)
    if close:
        return f" (nearest: {close[0]})"
    return f" (there are: {', '.join(choices)})" if 0 < len(choices) <= 16 else ""


def list_siblings(path: str | Path, pattern: str = "*") -> list[str]:
    """List the names in the folder of `path`; empty if that folder does not or cannot exist."""
    try:
        return [sibling.name for sibling in Path(path).parent.glob(pattern)]
    except (OSError, ValueError):
        return []


def first_line(error: Exception) -> str:
    """Return the first line of a library's error, short enough to quote."""
    cause = error.__cause__ or error
    text = (str(cause).strip() or type(cause).__name__).splitlines()[0]
    return text if len(text) < 160 else text[:157] + "..."
