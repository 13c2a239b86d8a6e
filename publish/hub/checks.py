"""Checks of a folder before it is uploaded. Each gives one line per problem."""

import json
import os
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import yaml
from huggingface_hub import ModelCard
from safetensors import SafetensorError, safe_open

from data.modalities import load_modality
from data.tasks.problem_types import load_problem_type
from engine.errors import DataError, first_line
from engine.files import read_json
from engine.models.verify import verify_folder
from engine.sanitize import redact_credentials
from publish.card import provenance
from publish.card.card import STUDY_PLOT
from publish.config import Licenses
from publish.hub.bundle import PATH_PATTERN, is_allowed

CONFIDENCE_FILE = "confidence.safetensors"  # results on held-out rows and vectors of training rows, for predictions
DETECTOR_FILE = "normal_rows.safetensors"  # vectors of an anomaly detector's normal rows, and its threshold
ALLOWED_FILES = f"""README.md LICENSE* record.json config.json generation_config.json {STUDY_PLOT}
{CONFIDENCE_FILE} {DETECTOR_FILE}
model.safetensors model-*-of-*.safetensors model.safetensors.index.json
preprocessor_config.json tokenizer.json tokenizer_config.json special_tokens_map.json added_tokens.json
vocab.txt vocab.json merges.txt vocab.bpe bpe.codes spiece.model spm.model
tokenizer.model sentencepiece.model sentencepiece.bpe.model
modules.json sentence_bert_config.json config_sentence_transformers.json 1_Pooling/config.json
0_StaticEmbedding/model.safetensors 0_StaticEmbedding/tokenizer.json
adapter_config.json adapter_model.safetensors base/config.json base/model.safetensors
onnx/model.onnx onnx/model_int8.onnx onnx/example.py onnx/export.json""".split()
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".h5", ".msgpack")
# Not searched for user names: a vocabulary may hold any name as a token.
VOCABULARY_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "added_tokens.json")
TOKEN_PATTERN = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{22,}|glpat-[\w-]{20,}|(?:AKIA|ASIA)[0-9A-Z]{16}"
    r"|sk-[A-Za-z0-9_-]{20,}|(?:sk|rk)_live_[A-Za-z0-9]{20,}|xox[abeoprs]-[A-Za-z0-9-]{10,}|AIza[\w-]{35}"
    r"|GOCSPX-[\w-]{20,}|ya29\.[\w-]{20,}|npm_[A-Za-z0-9]{36}|pypi-[\w-]{50,}|SG\.[\w-]{20,}\.[\w-]{20,}"
    r"|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,})|-----BEGIN [A-Z ]*PRIVATE KEY|\b(?:AccountKey|SharedAccessKey)="
)
"""Access tokens of the usual providers, signed web tokens (JWT), private keys, and connection strings."""
TEXT_SUFFIXES = (".json", ".md", ".txt", ".yaml", ".jsonl", ".py", ".onnx")
GENERIC_USERS = {"", "root", "user", "admin", "ubuntu", "runner", "nobody"}  # user names that identify no person
MAX_FILE_BYTES = 50 * 10**9  # largest file that a hub serves over plain HTTP (huggingface_hub.constants)
REQUIRED_METADATA = ("library_name", "pipeline_tag", "tags", "model-index")


def run_checks(folder: Path, sample_path: Path, owner: str, default_licenses: Licenses, allow: list[str]) -> list[str]:
    """Return a line for each problem of a folder to upload.

    sample_path: the run's sample.json, which may be missing. default_licenses: for sources without a license of their
    own. owner: of the repository; may be named in the files, as may the paths and user names in `allow`.
    """
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    problems = [
        *check_files(files),
        *check_weights(files),
        *check_secrets(files, {owner, *allow}),
        *check_front_matter(files["README.md"]),
        *check_licenses(files["record.json"], default_licenses),
    ]
    # Loading takes seconds: skip it for a folder known to be broken.
    return problems or check_loading(folder, sample_path)


def check_files(files: dict[str, Path]) -> Iterator[str]:
    """Find files that are unexpected, pickled or too large."""
    for name, path in files.items():
        if path.suffix in PICKLE_SUFFIXES:
            yield f"{name}: weights that are not safetensors"
        elif not any(fnmatch(name, pattern) for pattern in ALLOWED_FILES):
            yield f"{name}: does not belong in a published folder; remove it"
        if path.stat().st_size > MAX_FILE_BYTES:
            size, limit = path.stat().st_size / 10**9, MAX_FILE_BYTES / 10**9
            yield f"{name}: {size:.1f} GB, but hubs accept {limit:g} GB per file; save the weights in shards"


def check_weights(files: dict[str, Path]) -> Iterator[str]:
    """Find weights that cannot be read, or that are missing."""
    weights = {name: path for name, path in files.items() if path.suffix == ".safetensors"}
    if not weights.keys() - {CONFIDENCE_FILE, DETECTOR_FILE}:
        yield "no weights: a .safetensors file is missing"
    for name, path in weights.items():
        try:
            with safe_open(path, "pt") as file:
                if not file.keys():
                    yield f"{name}: holds no weights"
        except (SafetensorError, OSError) as error:
            yield f"{name}: not a valid safetensors file ({error})"


def check_secrets(files: dict[str, Path], allow: set[str]) -> Iterator[str]:
    """Find access tokens, credentials, local paths and user names in text files and in the texts of graphs."""
    token, user = os.environ.get("HF_TOKEN"), Path("~").expanduser().name
    is_generic = user in GENERIC_USERS or is_allowed(user, allow)
    user_pattern = None if is_generic else re.compile(rf"\b{re.escape(user)}\b")
    for name, path in files.items():
        if path.suffix not in TEXT_SUFFIXES or name in VOCABULARY_FILES:
            continue
        try:
            content = read_graph_texts(path) if path.suffix == ".onnx" else path.read_text("utf-8", errors="replace")
        except DataError as error:
            yield f"{name}: {error}"
            continue
        if TOKEN_PATTERN.search(content) or token and token in content:
            yield f"{name}: contains what looks like an access token or a private key"
        if redact_credentials(content) != content:
            yield f"{name}: contains an address with a password or a signature"
        paths = (match[0] for match in PATH_PATTERN.finditer(content) if not is_allowed(match[0], allow))
        if local_path := next(paths, None):
            yield f"{name}: contains {local_path}, a local path; remove it, or set allow=[{local_path}]"
        elif user_pattern and user_pattern.search(content):
            yield f"{name}: contains {user}, a local user name; remove it, or set allow=[{user}]"


def read_graph_texts(path: Path) -> str:
    """Return the names, descriptions and metadata in an ONNX graph, a line each. Raises DataError for another file."""
    try:
        import onnx

        model = onnx.load(path, load_external_data=False)
    except Exception as error:
        raise DataError(f"cannot be read to check it ({first_line(error)})") from None

    def iter_texts(message) -> Iterator[str]:
        for field, value in message.ListFields():
            for item in value if field.is_repeated else [value]:
                if isinstance(item, str):
                    yield item
                elif hasattr(item, "ListFields"):
                    yield from iter_texts(item)

    return "\n".join(iter_texts(model))


def check_front_matter(path: Path) -> Iterator[str]:
    """Find mistakes in a card's metadata that the hub would reject."""
    try:
        metadata = ModelCard(path.read_text(encoding="utf-8")).data.to_dict()
    except (ValueError, yaml.YAMLError) as error:
        yield f"README.md: its front matter is not valid ({str(error).splitlines()[0]})"
        return
    if missing := [key for key in REQUIRED_METADATA if not metadata.get(key)]:
        yield f"README.md: its front matter lacks {', '.join(missing)}"
    for language in metadata.get("language", []):
        if not re.fullmatch(r"[a-z]{2,3}", language):
            yield f"README.md: language {language!r} is not a code of two or three letters"


def check_licenses(path: Path, default_licenses: Licenses) -> Iterator[str]:
    """Find text, labels and weights without a license."""
    titles = {"corpus": "the training text", "labels": "the labels", "base": "the initial weights"}
    record, missing = json.loads(path.read_text(encoding="utf-8")), {}
    for kind, name, license_id in provenance.collect_licenses(record, default_licenses.model_dump()):
        if not license_id:
            missing.setdefault(kind, []).append(name)
    for kind, names in missing.items():
        listed = ", ".join(names)
        yield f"license of {titles[kind]} not specified ({listed}): set license.{kind}=, such as cc-by-4.0 or unknown"


def check_loading(folder: Path, sample_path: Path) -> list[str]:
    """Check that a process without this project loads the folder and reproduces the recorded outputs."""
    record = read_json(folder / "record.json")
    auto_class, output = "AutoModel", record.get("pooling") or "mean"
    if record["kind"] == "model":
        problem_type = load_problem_type(record["problem_type"])
        auto_class = load_modality(record.get("modality", "text")).auto_class(problem_type)
        output = problem_type.recorded_output
    try:
        verify_folder(folder, auto_class, output, sample_path)
    except DataError as error:
        return [f"{error}; the folder or a library has changed since"]
    return []
