"""What of a run is given away: its folder as it will stand on the hub, put together beside the run's own.

The card is written anew with the name, the licences and the study; in the record, paths of this machine are shortened.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from engine.errors import ConfigError, suggest
from engine.files import read_json, write_json
from engine.runs.run import RUNS_FOLDER
from publish.card.card import STUDY_PLOT, build_model_card, record_fingerprint
from publish.config import Licenses

PATH_PATTERN = re.compile(r"(?<![\w./:*~-])(?:~|[A-Za-z]:)?[\\/](?:[^\s\\/'\",:;]+[\\/])+([^\s\\/'\",:;]*)")
"""An absolute path inside a string, and its last part."""
STUDIES = RUNS_FOLDER.parent / "studies"


class Bundle(NamedTuple):
    """What of a run is published."""

    run_folder: Path
    folder: Path
    """encoder, model or adapter."""
    record: dict
    """As it is published."""
    num_redacted_paths: int
    """Paths in it that were."""
    study_folder: Path | None
    """The folder of the newest study of the encoder."""


def find_bundle(run: str, is_adapter: bool = False, allow: Collection[str] = ()) -> Bundle:
    """What is published of a run; allow: paths that may stay in its record.

    Raises ConfigError when there is no such run, or it is not finished.
    """
    folder = Path(run) if Path(run).is_dir() else RUNS_FOLDER / run
    if folder.name in ("encoder", "model", "adapter"):
        folder = folder.parent
    if not folder.is_dir():
        raise ConfigError(f"run: no {run!r}{suggest(folder.name, [path.name for path in folder.parent.glob('*')])}")
    told = next((folder / kind for kind in ("encoder", "model") if (folder / kind / "record.json").is_file()), None)
    if told is None:
        raise ConfigError(f"{folder}: not finished, neither encoder/ nor model/ is in it")
    if is_adapter and not (folder / "adapter").is_dir():
        raise ConfigError(f"{folder}: has no adapter/; adapter=true is for runs with adapter.name=lora or ia3")
    record = read_json(told / "record.json")
    study = newest_study(record if told.name == "encoder" else record["encoder_record"])
    return Bundle(folder, folder / "adapter" if is_adapter else told, *redact_paths(record, allow), study)


def bundle_from_folder(folder: Path) -> Bundle:
    """What is published of one folder by itself."""
    return Bundle(folder.parent, folder, *redact_paths(read_json(folder / "record.json")), None)


def newest_study(record: dict) -> Path | None:
    """The folder of the newest study of the encoder that has this record, if it has one."""
    found = [
        path
        for path in STUDIES.glob("*/study.json")
        if record and read_json(path)["repeat"]["encoder_record"] == record_fingerprint(record)
    ]
    return max(found, key=lambda path: path.stat().st_mtime).parent if found else None


def is_allowed(word: str, allow: Collection[str]) -> bool:
    """Whether a word is one of those, * standing for anything."""
    return any(fnmatchcase(word, pattern) for pattern in allow)


def redact_paths(value: object, allow: Collection[str] = ()) -> tuple[object, int]:
    """Anything JSON can hold with the absolute paths in its strings cut to their last part; and how many there were."""
    if isinstance(value, str):
        found = [match for match in PATH_PATTERN.finditer(value) if not is_allowed(match[0], allow)]
        for match in reversed(found):
            value = f"{value[: match.start()]}.../{match[1]}{value[match.end() :]}"
        return value, len(found)
    if isinstance(value, list):
        every = [redact_paths(each, allow) for each in value]
        return [each for each, _ in every], sum(count for _, count in every)
    if isinstance(value, dict):
        keys, values = redact_paths(list(value), allow), redact_paths(list(value.values()), allow)
        return dict(zip(keys[0], values[0])), keys[1] + values[1]
    return value, 0


@contextmanager
def assemble(bundle: Bundle, repo: str, default_licenses: Licenses) -> Iterator[Path]:
    """A folder that holds exactly what is to stand in the repository `repo`; files are links to the run's own."""
    adapter = bundle.folder.name == "adapter"
    with tempfile.TemporaryDirectory(prefix="headstart-") as place:
        folder = Path(place)
        symlink_files(bundle.folder, folder)
        if adapter:
            symlink_files(bundle.run_folder / "base", folder / "base")
            for path in filter(Path.is_file, (bundle.run_folder / "model").iterdir()):  # the tokenizer
                if path.name not in ("config.json", "README.md", "record.json") and path.suffix != ".safetensors":
                    (folder / path.name).symlink_to(path.resolve())
            settings = read_json(bundle.folder / "adapter_config.json")
            write_json(remove_link(folder / "adapter_config.json"), settings | {"base_model_name_or_path": repo})
        study = None
        if bundle.study_folder:
            study, _ = redact_paths(read_json(bundle.study_folder / "study.json"))
            shutil.copy(bundle.study_folder / "study.png", folder / STUDY_PLOT)
        write_json(remove_link(folder / "record.json"), bundle.record)
        told = build_model_card(bundle.record, repo, default_licenses.model_dump(), study, adapter)
        remove_link(folder / "README.md").write_text(told, encoding="utf-8")
        yield folder


def remove_link(path: Path) -> Path:
    """The path, without the link that stood there."""
    path.unlink(missing_ok=True)
    return path


def symlink_files(folder: Path, target: Path) -> None:
    """Every file of `folder` as a link below `target`."""
    for path in filter(Path.is_file, folder.rglob("*")):
        place = target / path.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(path.resolve())
