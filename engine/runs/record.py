"""record.json of an encoder or model folder: what was trained, and how. The folder may be a stranger's, from a hub."""

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt, ValidationError, create_model

from engine.config.renamed import find_old_key
from engine.errors import DataError
from engine.files import read_json
from engine.log import warn_once

MAX_BYTES = 20 * 10**6


def keys(**types: Any) -> type[BaseModel]:
    """Make the type of a JSON object with these keys, and perhaps others; a key of (type, default) may be missing."""
    fields = {key: value if isinstance(value, tuple) else (value, ...) for key, value in types.items()}
    return create_model("Object", __config__=ConfigDict(strict=True, allow_inf_nan=False), **fields)


NAMED, TEXTS, OBJECTS, COUNTS = keys(name=str), (list[str], []), (list[dict], []), keys(documents=int, tokens=int)
LICENSES = (dict[str, str | None], {})
COMMON = {  # what the next stage, its card and the search of its corpus read of a stage
    "run": str,
    "steps": int,
    "seconds": (float, 0),
    "precision": (str, ""),
    "rows": (dict[str, int], {}),
    "changes": (list[keys(step=int, keys=dict[str, list])], []),
    "versions": (dict[str, str], {}),
    "hardware": (keys(estimated_watts=float, gpus=list[str], cpu_cores=int, cpu=str) | None, None),
    "licenses": (keys(corpus=LICENSES, labels=LICENSES, base=(dict[str, str | None] | None, None)), {}),
    "shards_manifest": (keys(train=COUNTS, held_out=COUNTS) | None, None),
    "corpus_summary": (keys(languages=TEXTS, counts_by_step=(list[list], []), notes=TEXTS, contamination=OBJECTS), {}),
}
CONFIG = {
    "train": keys(lr=(PositiveFloat | None, None)),
    "dropout": float,
    "seed": int,
    "corpus": (keys(name=str, sources=OBJECTS, clean=(dict, {})), {}),
    "max_length": (PositiveInt | None, None),
}
KIND = keys(kind=Literal["encoder", "model"])
RECORD_TYPES = {
    "encoder": keys(
        **COMMON,
        config=keys(**CONFIG, objective=NAMED),
        init=str | None,
        init_record=dict,
        eval=dict,
        quality=(dict[str, dict[str, float]], {}),
    ),
    "model": keys(
        **COMMON,
        config=keys(**CONFIG, head=NAMED, task=keys(name=str, text=(str | list[str] | None, None)), encoder=str),
        encoder_record=dict,
        label_names=list[str],
        problem_type=str,
        metrics=dict[str, dict],
        baselines=dict[str, dict],
    ),
}


def find_mistake(record: dict) -> str | None:
    """Describe the first key by which a record, or that of an earlier stage in it, is not one of Headstart."""
    while record:
        try:
            KIND.model_validate(record)
            RECORD_TYPES[record["kind"]].model_validate(record)
        except ValidationError as error:
            first = error.errors()[0]
            return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        record = record["encoder_record" if record["kind"] == "model" else "init_record"]
    return None


def read_record(folder: Path) -> dict:
    """Read record.json of an encoder or model folder. A missing one, or one of another program, is empty.

    Raises DataError for a damaged one, or one of an earlier version.
    """
    path = folder / "record.json"
    if not path.is_file():
        return {}
    mistake = f"{path.stat().st_size / 1e6:,.0f} MB" if path.stat().st_size > MAX_BYTES else None
    record = {} if mistake else read_json(path)
    if renamed := find_old_key(record.get("config")):
        raise DataError(
            f"{path}: written by an earlier version of Headstart ({renamed}). Repeat the run, or delete record.json"
            " to use the folder as one of unknown origin"
        )
    if mistake := mistake or find_mistake(record):
        why = f"not a record of Headstart ({mistake}); the folder is used as one of unknown origin"
        warn_once(f"note: {path}: {why}")
        return {}
    return record
