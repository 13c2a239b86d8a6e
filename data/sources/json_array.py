"""Elements of a JSON array of any length, one at a time."""

import json
import re
from collections.abc import Iterator

from data.sources import lines as limits

MIN_PART_CHARS = 2**16
SPACE = re.compile(r"\s*")


def iter_json_array(parts: Iterator[str]) -> Iterator[object]:
    """Yield the elements of an array in parts. Raises ValueError if it is not JSON, or for a huge element."""
    decode, buffer, at = json.JSONDecoder().raw_decode, "", 0
    while "[" not in buffer:
        buffer = next(parts)
    at = buffer.index("[") + 1
    while True:
        try:
            start = SPACE.match(buffer, at).end()
            if buffer[start : start + 1] == "]":
                break
            value, end = decode(buffer, start)
            end = SPACE.match(buffer, end).end()
            # Without a character after it, even a complete number may go on in the next part.
            if buffer[end : end + 1] not in (",", "]"):
                raise ValueError("',' expected after an element")
        except ValueError as error:
            rest = [buffer[at:]]
            if len(rest[0]) > limits.MAX_ROW_BYTES:
                raise ValueError(f"an element {limits.describe_limit()}, or {error}") from None
            wanted = max(MIN_PART_CHARS, len(rest[0]))  # twice as much each time, for linear time
            while wanted > 0 and (part := next(parts, None)) is not None:
                rest.append(part)
                wanted -= len(part)
            if len(rest) == 1:
                raise
            buffer, at = "".join(rest), 0
            continue
        yield value
        at = end + (buffer[end] == ",")
    if buffer[start + 1 :].strip() or any(part.strip() for part in parts):
        raise ValueError("extra text after the array")
