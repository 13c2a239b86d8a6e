"""The folder to publish: files of a run, with a card for its repository and a record without local paths."""

import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from engine.errors import ConfigError, DataError, suggest
from engine.files import read_json, write_json
from engine.runs.record import read_record
from engine.runs.run import RUNS_FOLDER
from publish.card.card import STUDY_PLOT, build_model_card, record_fingerprint
from publish.config import Licenses

PATH_PATTERN = re.compile(r"(?<![\w./:*~-])(?:~|[A-Za-z]:)?[\\/](?:[^\s\\/'\",:;]+[\\/])+([^\s\\/'\",:;]*)")
"""An absolute path inside a string, and its last part."""
STUDIES = RUNS_FOLDER.parent / "studies"


class Bundle(NamedTuple):
    """What to publish of a run."""

    run_folder: Path
    folder: Path
    """encoder, model or adapter."""
    record: dict
    """Contents of record.json, with local paths shortened."""
    num_redacted_paths: int
    study_folder: Path | None
    """Folder of the newest study of the encoder."""


def find_bundle(run: str, is_adapter: bool = False, allow: Collection[str] = ()) -> Bundle:
    """Find what to publish of a run. Raises ConfigError for a run that does not exist or is not finished.

    allow: paths that may stay in its record.
    """
    folder = Path(run) if Path(run).is_dir() else RUNS_FOLDER / run
    if folder.name in ("encoder", "model", "adapter"):
        folder = folder.parent
    if not folder.is_dir():
        raise ConfigError(f"run: no {run!r}{suggest(folder.name, [path.name for path in folder.parent.glob('*')])}")
    inner = next((folder / kind for kind in ("encoder", "model") if (folder / kind / "record.json").is_file()), None)
    if inner is None:
        raise ConfigError(f"{folder}: not finished, it has neither encoder/ nor model/")
    if is_adapter and not (folder / "adapter").is_dir():
        raise ConfigError(f"{folder}: has no adapter/; adapter=true is for runs with adapter.name=lora or ia3")
    record = read_publishable_record(inner)
    study = newest_study(record if inner.name == "encoder" else record["encoder_record"])
    return Bundle(folder, folder / "adapter" if is_adapter else inner, *redact_paths(record, allow), study)


def bundle_from_folder(folder: Path) -> Bundle:
    """Return the bundle of an encoder folder that is not part of a finished run."""
    return Bundle(folder.parent, folder, *redact_paths(read_publishable_record(folder)), None)


def read_publishable_record(folder: Path) -> dict:
    """Return the record of an encoder or model, from which its card is made. Raises DataError if it is not ours."""
    if record := read_record(folder):
        return record
    raise DataError(f"{folder}: not made by Headstart (see record.json), so there is nothing to write its card from")


def newest_study(record: dict) -> Path | None:
    """Return the folder of the newest study of the encoder with this record, if there is one."""
    wanted = record_fingerprint(record) if record else ""
    found = []
    for path in STUDIES.glob("*/study.json") if record else []:
        if read_json(path).get("reproduction", {}).get("encoder_record_fingerprint") == wanted:
            found.append(path)
    return max(found, key=lambda path: path.stat().st_mtime).parent if found else None


def is_allowed(word: str, allow: Collection[str]) -> bool:
    """Return whether a word matches one of the patterns, in which * matches anything."""
    return any(fnmatchcase(word, pattern) for pattern in allow)


def redact_paths(value: object, allow: Collection[str] = ()) -> tuple[object, int]:
    """Shorten the absolute paths in the strings of a JSON value to their last part; return it and their number.

    Keys that are equal then are numbered.
    """
    if isinstance(value, str):
        matches = [match for match in PATH_PATTERN.finditer(value) if not is_allowed(match[0], allow)]
        for match in reversed(matches):
            value = f"{value[: match.start()]}.../{match[1]}{value[match.end() :]}"
        return value, len(matches)
    if isinstance(value, list):
        redacted = [redact_paths(item, allow) for item in value]
        return [item for item, _ in redacted], sum(count for _, count in redacted)
    if isinstance(value, dict):
        keys, values = redact_paths(list(value), allow), redact_paths(list(value.values()), allow)
        named: dict[str, object] = {}
        for key, item in zip(keys[0], values[0], strict=True):
            name, number = key, 2
            while name in named:
                name, number = f"{key} ({number})", number + 1
            named[name] = item
        return named, keys[1] + values[1]
    return value, 0


@contextmanager
def assemble(bundle: Bundle, repo: str, default_licenses: Licenses) -> Iterator[Path]:
    """Yield a temporary folder with the contents of the repository `repo`; most files are links into the run."""
    is_adapter = bundle.folder.name == "adapter"
    with tempfile.TemporaryDirectory(prefix="headstart-") as name:
        folder, study = Path(name), None
        symlink_files(bundle.folder, folder)
        if is_adapter:
            symlink_files(bundle.run_folder / "base", folder / "base")
            for path in filter(Path.is_file, (bundle.run_folder / "model").iterdir()):  # the tokenizer
                if path.name not in ("config.json", "README.md", "record.json") and path.suffix != ".safetensors":
                    (folder / path.name).symlink_to(path.resolve())
            settings = read_json(bundle.folder / "adapter_config.json")
            write_json(remove_link(folder / "adapter_config.json"), settings | {"base_model_name_or_path": repo})
        if bundle.study_folder:
            study, _ = redact_paths(read_json(bundle.study_folder / "study.json"))
            shutil.copy(bundle.study_folder / "study.png", folder / STUDY_PLOT)
        write_json(remove_link(folder / "record.json"), bundle.record)
        card = build_model_card(bundle.record, repo, default_licenses.model_dump(), study, is_adapter)
        remove_link(folder / "README.md").write_text(card, encoding="utf-8")
        yield folder


def remove_link(path: Path) -> Path:
    """Remove the link at a path, if there is one, and return the path."""
    path.unlink(missing_ok=True)
    return path


def symlink_files(folder: Path, target: Path) -> None:
    """Link every file of `folder` into `target`."""
    for path in filter(Path.is_file, folder.rglob("*")):
        link = target / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())
