"""Label the rows of a task: read them, show them one by one, and describe the result."""

from __future__ import annotations

import glob
import itertools
import os
import shlex
from pathlib import Path

from data import modalities
from data.cache import OUTPUT_DIR
from data.shortcut import complete_source, name_run
from data.sources.source import Source, display_name, iter_located_rows
from data.tasks.task import Task, to_list
from engine.config.loader import find_file
from engine.errors import ConfigError
from engine.log import get_logger
from label.config import Label
from label.export import EXTENSIONS, export_items
from label.items import describe_order, is_selection, map_folder, queue_path, read_items
from label.nearest import Nearest, load_vectors
from label.session import Session, modified_at
from label.store import AnswerFile

logger = get_logger(__name__)

TASK_FOLDER, LABELS_FOLDER = Path("configs/finetune"), Path("labels")
COLUMNS = {"text": "text", "label": "label", "role": "role"}
"""Keys of a task and the columns of labels.csv that they must name."""


def load_task(path: Path) -> Task:
    """Return the task of a fine-tuning YAML. Raises ConfigError for labels that a key cannot give."""
    task = modalities.load_task(path)
    if task.problem_type != "single_label_classification":
        raise ConfigError(f"task.problem_type: labeling gives one class to each text, not {task.problem_type}")
    return task


def choose_labels(config: Label, task: Task | None, name: str) -> Path:
    """Return the path of the answers: the file given, or one that task.train reads, or labels/NAME.csv."""
    default = LABELS_FOLDER / f"{name}.csv"
    if config.labels:
        return Path(config.labels)
    files = to_list(task.train.files or []) if task else []
    if len(files) != 1 or "://" in files[0]:
        return default
    path = Path(files[0])
    if glob.has_magic(files[0]) and not path.is_file():
        return default
    return path if path.suffix == ".csv" and (not path.is_file() or has_answers(path)) else default


def has_answers(path: Path) -> bool:
    """Return whether a CSV is one of answers, by its header."""
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        header = file.readline().strip().split(",")
    return {"label", "role", "time", "answer"} <= set(header)


def check_reading(task: Task, labels: Path) -> list[str]:
    """Return what the task must name so that it reads the answers: key: value."""
    expected = {key: column for key, column in COLUMNS.items() if key != "text" or task.modality == "text"}
    lacking = [f"{key}: {column}" for key, column in expected.items() if getattr(task, key) != column]
    files = [Path(file).resolve() for file in to_list(task.train.files or [])]
    if labels.resolve() not in files:
        lacking.append(f"train: {{files: {labels}}}")
    return lacking


def list_classes(task: Task | None) -> list[str]:
    """Return the classes that the task names, in order."""
    if task is None:
        return []
    return list(dict.fromkeys([*task.classes, *task.label_names.values(), *task.descriptions]))


def list_descriptions(task: Task | None) -> dict[str, str]:
    """Return the first description of each class."""
    found = task.descriptions if task else {}
    return {name: text if isinstance(text, str) else "; ".join(text[:1]) for name, text in found.items()}


def name_labels(config: Label, task: Task | None) -> str:
    """Return the name of the task, of the file with the texts, or of the map. Raises ConfigError without these."""
    if task:
        return task.name
    if config.source is None:
        if path := queue_path(config, ""):
            return Path(os.path.abspath(map_folder(path))).name  # also of the current folder
        raise ConfigError("no input: set task=NAME, file=texts.csv or queue=out/explore/NAME/queue.csv")
    files = config.source.files
    return name_run(files[0] if isinstance(files, list) else files or display_name(config.source))


def open_session(config: Label, task: Task | None, name: str) -> tuple[Session, Path | None]:
    """Return the session and the path of the queue."""
    labels, queue = choose_labels(config, task, name), queue_path(config, name)
    items = read_items(config, task, name, labels)
    is_images = task is not None and task.modality == "images"
    store = AnswerFile(labels, "image" if is_images else "text")
    texts = list(dict.fromkeys([*(item.text for item in items), *store.answers]))
    vectors = load_vectors(map_folder(queue) if queue else None, [item.id for item in items])
    nearest = (
        None
        if is_images and vectors is None
        else Nearest([i.text for i in items] if vectors is not None else texts, vectors)
    )
    session = Session(
        items,
        store,
        list_classes(task),
        config.num_answers,
        list_descriptions(task),
        config.suggest,
        nearest.find if nearest else lambda text, labeled: [],
        modified_at(queue),
    )
    return session, queue


def label(config: Label) -> None:
    """Run the command. Raises ConfigError or DataError for mistakes, before anything is asked."""
    path = find_file(config.task, TASK_FOLDER, "task") if config.task else None
    task = load_task(path) if path else None
    name = name_labels(config, task)
    if config.export:
        export(config, task, name)
        return
    session, queue = open_session(config, task, name)
    lacking = check_reading(task, session.store.path) if task else []
    if lacking:
        logger.warning(f"{path}: to train on the answers, task needs  {',  '.join(lacking)}")
    logger.info(f"label {name}: {describe_order(session.items, queue)}")
    try:
        show(config, session, name)
    finally:
        logger.info(f"\n  {session.store.path}: {session.describe_progress()}")
    logger.info(f"  next    {next_command(config, path, session.store.path, queue)}")


def show(config: Label, session: Session, name: str) -> None:
    """Label in the terminal or the browser. Raises ConfigError for a port that is taken."""
    if config.terminal:
        from label.terminal import Terminal

        Terminal(session).run()
        return
    from label.server import Pages, serve

    def announce(address: str) -> None:
        logger.info(f"  open    {address}\n  (the address is secret; Ctrl-C ends, and every answer is in the file)")

    try:
        serve(Pages(session, f"Label {name}"), config.port, announce)
    except OSError as error:
        raise ConfigError(f"port: {config.port} cannot be used ({os.strerror(error.errno or 0)})") from None


def next_command(config: Label, path: Path | None, labels: Path, queue: Path | None) -> str:
    """Return the command that trains on the answers, in a run of its own."""
    runs, parts = OUTPUT_DIR / "runs", ["make finetune"]
    if path is None:
        parts.append(f"LABELS={shlex.quote(str(labels))}")
    else:
        parts.append(f"TASK={path.stem if path.parent == TASK_FOLDER else path}")
    name = name_run(str(labels)) if path is None else path.stem
    if (runs / name).exists():
        number = next(n for n in itertools.count(2) if not (runs / f"{name}-{n}").exists())
        parts.append(f"RUN={name}-{number}")
    if path is None:
        if not any(runs.glob("*/encoder")):
            parts.append("ENCODER=minilm")
        if unlabeled := find_unlabeled(config, queue):
            parts.append(f'ARGS="task.unlabeled.files={shlex.quote(str(unlabeled))}"')
    return " ".join(parts)


def find_unlabeled(config: Label, queue: Path | None) -> Path | None:
    """Return the file with the texts to label if its column is `text` as it is read, or else the queue."""
    source = config.source
    if source and isinstance(source.files, str) and complete_source(source) == Source(files=source.files):
        _, row = next(iter_located_rows(source))
        if "text" in row:
            return Path(source.files)
    return queue if queue and not is_selection(queue) else None


def export(config: Label, task: Task | None, name: str) -> None:
    """Write the rows without an answer for an annotation tool."""
    labels = choose_labels(config, task, name)
    items = read_items(config, task, name, labels)
    column = "image" if task is not None and task.modality == "images" else "text"
    if labels.is_file():
        answered = AnswerFile(labels, column).answers
        items = [item for item in items if item.text not in answered]
    extension = EXTENSIONS[config.export]
    path = Path(config.output or OUTPUT_DIR / "label" / f"{name}-{config.export}.{extension}")
    export_items(items, config.export, column, config.suggest, path)
    logger.info(
        f"  {len(items):,} rows for {config.export} in {path}; task.train reads what it exports (docs/label.md)"
    )
