"""Command lines as other tools spell them, `RUN --to onnx`, in the house's key=value words."""

from __future__ import annotations


def flags_to_keys(args: list[str], positional_key: str, allow_many: bool = False) -> list[str]:
    """The words with `--key value` and `--key=value` as key=value, and a first word without a key under the key `positional_key`.

    allow_many: so are all of them, as a list. What stays without a key `engine.config.loader.load_config` will tell to be a mistake.
    """
    found, named, waiting = [], [], list(args)
    while waiting:
        word = waiting.pop(0)
        if word.startswith("--") and word != "--help":
            key = word[2:].replace("-", "_")
            found.append(key if "=" in key or not waiting else f"{key}={waiting.pop(0)}")
        elif word in ("-h", "--help") or "=" in word or word.endswith((".yaml", ".yml")) or (named and not allow_many):
            found.append(word)
        else:
            named.append("'" + word.replace("'", "''") + "'")
    return [
        *found,
        *([f"{positional_key}={'[' + ', '.join(named) + ']' if allow_many else named[0]}"] if named else []),
    ]
