"""What must hold of a folder before it is sent anywhere. Each check gives a line for everything that is wrong.

problems(folder, sample, owner, given, allow) -> ["model.safetensors: ...", ...]
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import yaml
from huggingface_hub import ModelCard
from safetensors import SafetensorError, safe_open

from publish.card import provenance
from publish.card.card import STUDY_PLOT
from publish.config import Licenses
from publish.hub.bundle import PATH_PATTERN, is_allowed

# What loads a network, says what it is, or shows it: anything else in the folder has strayed in.
ALLOWED_FILES = (
    "README.md",
    "record.json",
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
    "adapter_config.json",
    "adapter_model.safetensors",
    "base/config.json",
    "base/model.safetensors",
    "onnx/model.onnx",
    "onnx/model_int8.onnx",
    "onnx/example.py",
    "onnx/export.json",
    STUDY_PLOT,
    "LICENSE*",
)
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".h5", ".msgpack")
# Vocabularies hold every word there is, and so every name.
VOCABULARY_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "added_tokens.json")
TOKEN_PATTERN = re.compile(
    r"\b(hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{30,}|sk-[A-Za-z0-9_-]{20,}|AKIA[0-9A-Z]{16})\b"
)
GENERIC_USERS = {"", "root", "user", "admin", "ubuntu", "runner", "nobody"}  # names of users that name no person
MAX_FILE_BYTES = 50 * 10**9  # bytes of a file that a hub still serves over plain HTTP (huggingface_hub.constants)
TOLERANCE = 1e-5  # how far what a folder says may be from what was recorded
REQUIRED_METADATA = ("library_name", "pipeline_tag", "tags", "model-index")


def run_checks(folder: Path, sample_path: Path, owner: str, default_licenses: Licenses, allow: list[str]) -> list[str]:
    """A line for each thing that is wrong with the folder as it would be sent. sample_path: of the run; it may be missing.

    owner: of the repository, whose name is no secret; allow: words that are none either.
    """
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    found = [
        *check_files(files),
        *check_weights(files),
        *check_secrets(files, {owner, *allow}),
        *check_front_matter(files["README.md"]),
        *check_licenses(files["record.json"], default_licenses),
    ]
    # What is known to be broken need not be loaded, which takes seconds.
    return found or check_loading(folder, sample_path)


def check_files(files: dict[str, Path]) -> Iterator[str]:
    """Files that do not belong there, or are too large."""
    for name, path in files.items():
        if path.suffix in PICKLE_SUFFIXES:
            yield f"{name}: weights that are not safetensors"
        elif not any(fnmatch(name, pattern) for pattern in ALLOWED_FILES):
            yield f"{name}: does not belong in a folder that is given away; take it out"
        if path.stat().st_size > MAX_FILE_BYTES:
            yield (
                f"{name}: {path.stat().st_size / 10**9:.1f} GB, and hubs take {MAX_FILE_BYTES / 10**9:g} GB a file; save it in"
                " parts"
            )


def check_weights(files: dict[str, Path]) -> Iterator[str]:
    """Weights that cannot be read, or none at all."""
    own = {name: path for name, path in files.items() if path.suffix == ".safetensors"}
    if not own:
        yield "no weights: a .safetensors file is missing"
    for name, path in own.items():
        try:
            with safe_open(path, "pt") as file:
                if not file.keys():
                    yield f"{name}: holds no weights"
        except (SafetensorError, OSError) as error:
            yield f"{name}: is no whole safetensors file ({error})"


def check_secrets(files: dict[str, Path], allow: set[str]) -> Iterator[str]:
    """Tokens, paths of this machine and names of its users in what can be read."""
    token, home = os.environ.get("HF_TOKEN"), Path("~").expanduser()
    named = (
        None
        if home.name in GENERIC_USERS or is_allowed(home.name, allow)
        else re.compile(rf"\b{re.escape(home.name)}\b")
    )
    for name, path in files.items():
        if path.suffix not in (".json", ".md", ".txt", ".yaml", ".jsonl") or name in VOCABULARY_FILES:
            continue
        content = path.read_text(encoding="utf-8", errors="replace")
        if TOKEN_PATTERN.search(content) or token and token in content:
            yield f"{name}: holds what looks like an access token"
        if path_found := next(
            (match[0] for match in PATH_PATTERN.finditer(content) if not is_allowed(match[0], allow)), None
        ):
            yield f"{name}: names {path_found}, a path of this machine; take it out, or allow=[{path_found}]"
        elif named and named.search(content):
            yield f"{name}: names {home.name}, a user of this machine; take it out, or allow=[{home.name}]"


def check_front_matter(path: Path) -> Iterator[str]:
    """A card whose metadata the hub would not read."""
    try:
        told = ModelCard(path.read_text(encoding="utf-8")).data.to_dict()
    except (ValueError, yaml.YAMLError) as error:
        yield f"README.md: its front matter is not valid ({str(error).splitlines()[0]})"
        return
    if missing := [key for key in REQUIRED_METADATA if not told.get(key)]:
        yield f"README.md: its front matter lacks {', '.join(missing)}"
    for language in told.get("language", []):
        if not re.fullmatch(r"[a-z]{2,3}", language):
            yield f"README.md: language {language!r} is no code of two or three letters"


def check_licenses(path: Path, default_licenses: Licenses) -> Iterator[str]:
    """Text, labels or weights that nobody has named the licence of."""
    lacking: dict[str, list[str]] = {}
    for kind, name, licence in provenance.collect_licenses(
        json.loads(path.read_text(encoding="utf-8")), default_licenses.model_dump()
    ):
        if not licence:
            lacking.setdefault(kind, []).append(name)
    for kind, names in lacking.items():
        what = {"corpus": "the training text", "labels": "the labels", "base": "the weights it began with"}[kind]
        yield (
            f"licence of {what} not named ({', '.join(names)}): give licence.{kind}=, in words such as cc-by-4.0 or"
            " unknown"
        )


def check_loading(folder: Path, sample_path: Path) -> list[str]:
    """Whether a fresh process with nothing of ours loads it, and it says what was recorded."""
    script = Path(__file__).with_name("load_check.py").resolve()
    words = [str(folder.resolve()), *([str(sample_path.resolve())] if sample_path.is_file() else [])]
    alone = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-P", str(script), *words], capture_output=True, text=True, cwd=folder.parent, env=alone
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["nothing said"]
        return [f"plain transformers cannot load it: {lines[-1]}"]
    told = json.loads(done.stdout.strip().splitlines()[-1])
    if told["missing"]:
        return [f"weights are missing: {', '.join(told['missing'][:3])} and {max(0, len(told['missing']) - 3)} more"]
    if told["worst"] > TOLERANCE:
        return [
            f"loaded afresh it does not say what was recorded: {told['worst']:.2g} apart on {sample_path.name}, and"
            f" {TOLERANCE:g} is allowed; the folder has changed since, or the library has"
        ]
    return []
