"""What a model folder made elsewhere must not bring along: other models, kernels of a hub, keys that name code."""

import re
from collections.abc import Iterator
from pathlib import Path

from engine.errors import DataError
from engine.files import read_json, write_json
from engine.log import get_logger

logger = get_logger(__name__)

CODE_KEYS = ("auto_map", "custom_pipelines", "custom_generate", "chat_template")
ORIGIN_KEYS = re.compile(r"\w*name_or_path|\w+_file")
"""Keys with the repository, or the path on its author's machine, that a model or tokenizer was loaded from."""

MAX_SIZES = {"num_labels": 10**6, r"(\w+_)?layers": 1_000}
"""Sizes, by a pattern of their keys, beyond which transformers takes hours or all memory before it reads a weight."""


def reject_references(folder: Path) -> None:
    """Raise DataError if transformers would load more than the weights in a model folder, or build without an end."""
    if (folder / "adapter_config.json").is_file():
        raise DataError(
            f"{folder}: has an adapter_config.json; merge the adapter into the weights, and remove the file"
        )
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    config = read_json(folder / "config.json")
    if "auto_map" in config and str(config.get("model_type")) not in CONFIG_MAPPING_NAMES:
        needed = f"transformers has no architecture {config.get('model_type')!r}"
        raise DataError(f"{folder}: {needed}, and custom code in a folder is never run; use another encoder")
    for key, value in iter_items(config):
        limit = next((limit for name, limit in MAX_SIZES.items() if re.fullmatch(name, key)), None)
        if limit and isinstance(value, int) and value > limit:
            raise DataError(f"{folder}: {key} in config.json is {value:,}, over {limit:,}")
        if key.endswith("_implementation") and not re.fullmatch(r"\w+", str(value)):
            raise DataError(f"{folder}: {key} in config.json names code, {value}, which is never run; remove the key")
    for path in folder.glob("*.safetensors.index.json"):
        for _, name in iter_items(read_json(path).get("weight_map")):
            if not re.fullmatch(r"[\w.-]+", str(name)):
                raise DataError(f"{path}: names weights outside of the folder, {name}, which are never loaded")


def iter_items(content: object) -> Iterator[tuple[str, object]]:
    """Yield the keys and values of an object of JSON, and of all objects in it, as of the parts of a network."""
    for key, value in content.items() if isinstance(content, dict) else ():
        yield key, value
        yield from iter_items(value)


def remove_foreign_keys(folder: Path) -> None:
    """Remove keys that name code, a repository or a path from the configurations in a folder; log those of code."""
    for path in sorted(folder.glob("*config.json")):
        content = read_json(path)
        code = [key for key in CODE_KEYS if key in content]
        kept = {key: value for key, value in content.items() if key not in code and not ORIGIN_KEYS.fullmatch(key)}
        if len(kept) < len(content):
            write_json(path, kept)
        if code:
            logger.info(f"note: {path.name}: left out {', '.join(code)} of the original; its code is never run")
