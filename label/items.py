"""The rows to label, in order: of the queue that explore writes, or of a source in random order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data.cache import OUTPUT_DIR
from data.shortcut import complete_source
from data.sources.source import Source, display_name, iter_located_rows
from data.sources.values import find_value, get_text, is_empty, list_columns
from data.tasks.answers import QUEUE_COLUMNS, ROLES, Role, restore, restore_cells
from data.tasks.columns import find_label, find_text
from data.tasks.exports import export_text, read_export
from data.tasks.splits import normalize, permute
from data.tasks.task import Task, to_list
from engine.errors import ConfigError, DataError
from engine.files import read_json
from engine.log import get_logger
from label.config import Label

if TYPE_CHECKING:
    from PIL.Image import Image

logger = get_logger(__name__)

NO_CLUSTER = "-1"
SELECTION_COLUMNS = ["id", "map", "selection", "excerpt"]
MAP_COLUMNS = ("label", "reserved", "suggestion", "suggestion_probability")


@dataclass
class Item:
    """A row to label."""

    id: int
    """Position among the rows."""
    text: str
    """The text, the texts of a pair joined by a line, or the path of an image."""
    role: Role = "train"
    reason: str = "random"
    """Why the row is here: spread, uncertain, suspect, random or selected."""
    cluster: str = ""
    suggestion: str = ""
    probability: float | None = None
    """Of the suggestion."""
    label: str = ""
    """The label it has in another file."""
    load: Callable[[], Image] | None = None
    """Decodes the image; None for a text."""


def queue_path(config: Label, name: str) -> Path | None:
    """Return the path of the queue, None if there is none. Raises ConfigError for one that is given and missing."""
    if config.queue:
        if not Path(config.queue).is_file():
            raise ConfigError(f"queue: {config.queue} does not exist; make explore writes it")
        return Path(config.queue)
    path = OUTPUT_DIR / "explore" / name / "queue.csv"
    if config.source and not is_map_of(path.parent, config.source):
        return None
    return path if path.is_file() else None


def is_map_of(folder: Path, source: Source) -> bool:
    """Return whether a map of make explore is of the files of a source."""
    report = read_json(folder / "report.json") if (folder / "report.json").is_file() else {}
    mapped = (report.get("config", {}).get("source") or {}).get("files")
    paths = [{Path(file).resolve() for file in to_list(files or [])} for files in (mapped, source.files)]
    return bool(paths[0]) and paths[0] == paths[1]


def read_number(text: str) -> float | None:
    """Return a finite number in a cell, None if it is empty or none."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def read_queue(path: Path, column: str) -> list[Item]:
    """Return the rows of a queue. Raises DataError for a file that is none."""
    items = []
    for location, row in iter_located_rows(Source(files=str(path), format="csv")):
        if absent := [name for name in (column, *QUEUE_COLUMNS) if name not in row]:
            lacks = f"it lacks the column{'s' * (len(absent) > 1)} {', '.join(absent)}"
            raise DataError(f"{location}: not a queue written by make explore: {lacks}")
        row = restore_cells(row)
        cluster = "" if row["cluster"] in ("", NO_CLUSTER) else row["cluster"]
        probability = read_number(row["suggestion_probability"])
        role = row["role"] if row["role"] in ROLES else "train"
        number = row.get("id", "")
        found = Item(int(number) if number.isdecimal() else len(items), row[column], role, row["reason"], cluster)
        found.suggestion, found.probability, found.label = row["suggestion"], probability, row["label"]
        items.append(found)
    return items


def is_selection(path: Path) -> bool:
    """Return whether a CSV is a selection of the map of make explore, by its header."""
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        return file.readline().strip().split(",") == SELECTION_COLUMNS


def map_folder(path: Path) -> Path:
    """Return the folder of the map that a queue or a selection is of. Raises ConfigError if the map has changed."""
    if not is_selection(path):
        return path.parent
    rows = iter_located_rows(Source(files=str(path), format="csv"))
    maps = {row["map"] for _, row in rows}
    name, _, key = next(iter(maps), "").partition(":")
    folder = OUTPUT_DIR / "explore" / Path(name).name
    report = read_json(folder / "report.json") if (folder / "report.json").is_file() else {}
    if len(maps) != 1 or report.get("key") != key:
        raise ConfigError(f"queue: {path} is of another map than that in {folder}; select again in {folder}/map.html")
    return folder


def read_selection(path: Path, column: str) -> list[Item]:
    """Return the rows of a selection, with what the map has of them; each is a group to label at once.

    Without those labeled already, and without those reserved for measuring, which no one may choose. Raises
    ConfigError if none is left.
    """
    import pyarrow.parquet

    folder = map_folder(path)
    names = {
        int(row["id"]): restore(row["selection"])
        for _, row in iter_located_rows(Source(files=str(path), format="csv"))
        if row["id"].isdecimal()
    }
    table = pyarrow.parquet.read_table(folder / "map.parquet")
    if column not in table.column_names:
        raise ConfigError(f"queue: {path} is of a map without {column}s")
    ids = sorted(index for index in names if index < len(table))
    rows = table.select([column, *MAP_COLUMNS]).take(ids).to_pylist()
    items, left_out = [], 0
    for number, row in zip(ids, rows, strict=True):
        if row["reserved"] or row["label"] or column == "image" and not Path(row[column]).is_file():
            left_out += 1
            continue
        item = Item(number, row[column], "train", "selected", names[number], row["suggestion"])
        item.probability = row["suggestion_probability"]
        items.append(item)
    if left_out:
        logger.info(f"{path}: {left_out:,} rows are labeled, reserved for measuring, or no files, and left out")
    if not items:
        raise ConfigError(f"queue: no row of {path} is left to label")
    return items


def draw(texts: list[str], fraction: float, seed: int) -> list[Item]:
    """Return texts in random order; at even distances, this fraction of them are test rows."""
    items = []
    for rank, position in enumerate(permute(len(texts), seed, 0)):
        is_measured = int((rank + 1) * fraction) > int(rank * fraction)
        items.append(Item(position, texts[position], "measure" if is_measured else "train"))
    return items


def has_label(row: dict, column: str) -> bool:
    """Return whether a row has a label in a column, or as an annotation tool exports it."""
    found = read_export(row, False, [column])
    return found is not None and not is_empty(find_value(found, column if found is row else "label"))


def iter_texts(source: Source, label: str | None = None) -> Iterator[str]:
    """Yield the texts of a source, of the column `text` or of the one found by name.

    label: column of the labels that rows have already; these are left out. Without it, labels in a column of a known
    name are counted in a note. Raises ConfigError if there is no column of texts of a known name.
    """
    column, unread, num_unread = None, None, 0
    for location, row in iter_located_rows(source):
        if label and has_label(row, label):
            continue
        row = restore_cells(export_text(row))
        if column is None:
            there = list_columns(row)
            column = find_text(there) or (there[0] if len(there) == 1 else None)
            if not isinstance(column, str):
                shown = ", ".join(there[:12])
                raise ConfigError(
                    f"{location}: which column has the text? There are {shown}; set rename: {{COLUMN: text}}"
                )
            unread = None if label else find_label([each for each in there if each != column])
        num_unread += unread is not None and not is_empty(find_value(row, unread))
        if (text := get_text(row, column, location)).strip():
            yield text
    if num_unread:
        found = f"{display_name(source)}: its column {unread!r} has {num_unread:,} labels, which are not read"
        logger.info(f"{found}; a task with `label: {unread}` (TASK=) keeps them, and asks for the others alone")


def read_texts(sources: list[tuple[Source, str | None]]) -> list[str]:
    """Return the different texts of sources, each with the column of its labels, in order."""
    texts: dict[str, str] = {}
    for source, label in sources:
        for text in iter_texts(source, label):
            texts.setdefault(normalize((text,)), text)
    return list(texts.values())


def list_sources(config: Label, task: Task | None, labels: Path) -> list[tuple[Source, str | None]]:
    """Return the sources with the texts to label: the one given, or those of the task but for the answers.

    With each is the column of the labels that its rows have already. Raises ConfigError if there are none.
    """
    if config.source and task and task.modality == "images":
        from data.images.config import ImageSource
        from data.images.sources import complete_image_source

        return [(complete_image_source(ImageSource(**config.source.model_dump(exclude_unset=True))), None)]
    if config.source:
        return [(complete_source(config.source), None)]
    sources = [(task.unlabeled, None)] if task and task.unlabeled else []
    if task and task.train.files:
        others = [name for name in to_list(task.train.files) if Path(name).resolve() != labels.resolve()]
        sources += [(task.train.model_copy(update={"files": others}), task.label)] if others else []
    elif task:
        sources.append((task.train, task.label))
    if not sources:
        raise ConfigError("nothing to label: run make explore first, or set file=texts.csv or task.unlabeled.files")
    return sources


def read_images(sources: list[tuple[Source, str | None]]) -> tuple[list[str], dict[str, Callable]]:
    """Return the paths of images, and the function that loads each. Raises DataError for images without a path."""
    from data.images.sources import iter_images
    from data.images.task import locate_image

    loaders: dict[str, Callable] = {}
    for source, label in sources:
        for image in iter_images(source):
            if label and not is_empty(find_value(image.columns, label)):
                continue
            is_file, path = locate_image(source, image.location, image.columns)
            if not is_file:
                hint = "make explore writes those that it lists as files"
                raise DataError(f"{display_name(source)}: only images in files of their own can be labeled; {hint}")
            loaders[path] = image.load
    return list(loaders), loaders


def read_items(config: Label, task: Task | None, name: str, labels: Path) -> list[Item]:
    """Return the rows to label, in order, each text once. Raises ConfigError or DataError if there are none."""
    is_images = task is not None and task.modality == "images"
    column, path = "image" if is_images else "text", queue_path(config, name)
    loaders: dict[str, Callable] = {}
    if path:
        items = read_selection(path, column) if is_selection(path) else read_queue(path, column)
        if is_images:
            loaders = {item.text: image_loader(item.text) for item in items}
    elif is_images:
        paths, loaders = read_images(list_sources(config, task, labels))
        items = draw(paths, config.measure_fraction, config.seed)
    else:
        items = draw(read_texts(list_sources(config, task, labels)), config.measure_fraction, config.seed)
    for item in items:
        item.load = loaders.get(item.text)
    items = list({item.text: item for item in reversed(items)}.values())[::-1]
    if not items:
        raise DataError(f"{path or display_name(list_sources(config, task, labels)[0][0])}: no row without a label")
    return items


def image_loader(path: str) -> Callable[[], Image]:
    """Return the function that decodes an image file."""
    from functools import partial

    from data.images.sources import load_file

    return partial(load_file, partial(open, path, "rb"))


def describe_order(items: list[Item], path: Path | None) -> str:
    """Return where the rows come from, in words."""
    num_measured = sum(item.role == "measure" for item in items)
    where = f"in the order of {path}" if path else "in random order"
    return f"{len(items):,} rows {where}, {num_measured:,} of them randomly drawn test rows"
