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

from engine.errors import ConfigError, nearest
from engine.files import read_json, write_json
from engine.record import RUNS
from publish.card import PLOT, card, fingerprint
from publish.config import Licences

PATH = re.compile(r"(?<![\w./:*~-])(?:~|[A-Za-z]:)?[\\/](?:[^\s\\/'\",:;]+[\\/])+([^\s\\/'\",:;]*)")
"""An absolute path inside a string, and its last part."""
STUDIES = RUNS.parent / "studies"


class Source(NamedTuple):
    """What of a run is published."""

    run: Path
    folder: Path
    """encoder, model or adapter."""
    record: dict
    """As it is published."""
    shortened: int
    """Paths in it that were."""
    study: Path | None
    """The folder of the newest study of the encoder."""


def find(run: str, adapter: bool = False, allow: Collection[str] = ()) -> Source:
    """What is published of a run; allow: paths that may stay in its record.

    Raises ConfigError when there is no such run, or it is not finished.
    """
    folder = Path(run) if Path(run).is_dir() else RUNS / run
    if folder.name in ("encoder", "model", "adapter"):
        folder = folder.parent
    if not folder.is_dir():
        raise ConfigError(f"run: no {run!r}{nearest(folder.name, [path.name for path in folder.parent.glob('*')])}")
    told = next((folder / kind for kind in ("encoder", "model") if (folder / kind / "record.json").is_file()), None)
    if told is None:
        raise ConfigError(f"{folder}: not finished, neither encoder/ nor model/ is in it")
    if adapter and not (folder / "adapter").is_dir():
        raise ConfigError(f"{folder}: has no adapter/; adapter=true is for runs with adapter.name=lora or ia3")
    record = read_json(told / "record.json")
    study = study_of(record if told.name == "encoder" else record["encoder_record"])
    return Source(folder, folder / "adapter" if adapter else told, *shorten(record, allow), study)


def source_of(folder: Path) -> Source:
    """What is published of one folder by itself."""
    return Source(folder.parent, folder, *shorten(read_json(folder / "record.json")), None)


def study_of(record: dict) -> Path | None:
    """The folder of the newest study of the encoder that has this record, if it has one."""
    found = [path for path in STUDIES.glob("*/study.json") if record and
             read_json(path)["repeat"]["encoder_record"] == fingerprint(record)]
    return max(found, key=lambda path: path.stat().st_mtime).parent if found else None


def allowed(word: str, allow: Collection[str]) -> bool:
    """Whether a word is one of those, * standing for anything."""
    return any(fnmatchcase(word, pattern) for pattern in allow)


def shorten(told: object, allow: Collection[str] = ()) -> tuple[object, int]:
    """Anything JSON can hold with the absolute paths in its strings cut to their last part; and how many there were."""
    if isinstance(told, str):
        found = [match for match in PATH.finditer(told) if not allowed(match[0], allow)]
        for match in reversed(found):
            told = f"{told[:match.start()]}.../{match[1]}{told[match.end():]}"
        return told, len(found)
    if isinstance(told, list):
        every = [shorten(each, allow) for each in told]
        return [each for each, _ in every], sum(count for _, count in every)
    if isinstance(told, dict):
        keys, values = shorten(list(told), allow), shorten(list(told.values()), allow)
        return dict(zip(keys[0], values[0])), keys[1] + values[1]
    return told, 0


@contextmanager
def assembled(source: Source, name: str, given: Licences) -> Iterator[Path]:
    """A folder that holds exactly what is to stand in the repository `name`; files are links to the run's own."""
    adapter = source.folder.name == "adapter"
    with tempfile.TemporaryDirectory(prefix="headstart-") as place:
        folder = Path(place)
        link(source.folder, folder)
        if adapter:
            link(source.run / "base", folder / "base")
            for path in filter(Path.is_file, (source.run / "model").iterdir()):  # the tokenizer
                if path.name not in ("config.json", "README.md", "record.json") and path.suffix != ".safetensors":
                    (folder / path.name).symlink_to(path.resolve())
            settings = read_json(source.folder / "adapter_config.json")
            write_json(fresh(folder / "adapter_config.json"), settings | {"base_model_name_or_path": name})
        study = None
        if source.study:
            study, _ = shorten(read_json(source.study / "study.json"))
            shutil.copy(source.study / "study.png", folder / PLOT)
        write_json(fresh(folder / "record.json"), source.record)
        told = card(source.record, name, given.model_dump(), study, adapter)
        fresh(folder / "README.md").write_text(told, encoding="utf-8")
        yield folder


def fresh(path: Path) -> Path:
    """The path, without the link that stood there."""
    path.unlink(missing_ok=True)
    return path


def link(folder: Path, into: Path) -> None:
    """Every file of `folder` as a link below `into`."""
    for path in filter(Path.is_file, folder.rglob("*")):
        place = into / path.relative_to(folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(path.resolve())
