"""Text from elsewhere, made safe to print and to store: control characters are escaped, credentials left out."""

import re
from typing import Any

# Also the marks by which text is shown in another order than it is written (bidirectional text of Unicode).
CONTROL_CHARACTERS = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
# Not of hf://, in which NAME@REVISION is no user. Password and signature of an address, by the name of its parameter.
USER = re.compile(r"\b((?!hf:)[a-z][a-z0-9+.-]*://)[^/?#\s\"'<>]+@", re.IGNORECASE)
SECRET_PARAMETER = re.compile(
    r"([?&;](?:[\w.-]*(?:signature|credential|token|secret|passw|api-?_?key|access-?_?key|auth)[\w.-]*|sig|pwd|key)=)"
    r"(?!\*\*\*)[^&;#\s\"'<>]*[^&;#\s\"'<>:,.)\]]",
    re.IGNORECASE,
)


def printable(text: str) -> str:
    """Return a text as it may be printed to a terminal."""
    return escape_controls(redact_credentials(text))


def escape_controls(text: str) -> str:
    r"""Return a text with control and direction characters as escapes, such as \x1b; line ends and tabs stay."""
    return CONTROL_CHARACTERS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def redact_credentials(value: Any) -> Any:
    """Replace user names, passwords and signatures of addresses in a text, or in all texts of a JSON value, by ***."""
    if isinstance(value, str):
        if "://" not in value:
            return value
        return SECRET_PARAMETER.sub(r"\1***", USER.sub(r"\1***@", value))
    if isinstance(value, dict):
        return {key: redact_credentials(item) for key, item in value.items()}
    return [redact_credentials(item) for item in value] if isinstance(value, list | tuple) else value
