"""Shortcuts of the commands: one file of labels or text instead of a configuration, which is written with the run."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from data.corpus.config import CorpusSource
from data.sources.readers import find_delimiter
from data.sources.source import FOLDER_COLUMN, Source, get_format, name_folder, resolve_files
from data.sources.values import find_value, list_columns
from data.tasks.answers import is_answer
from data.tasks.columns import find_sentence, find_text, guess_columns, read_head, suggest_option
from data.tasks.exports import read_export
from data.tasks.iob import parse_span
from engine.config.loader import YamlDumper, merge, read_args, validate
from engine.errors import ConfigError, DataError, OptionError, format_argument
from engine.files import write_text
from engine.log import get_logger

logger = get_logger(__name__)

DEFAULT_TASK, DEFAULT_CORPUS = "configs/finetune/default.yaml", "configs/pretrain/default.yaml"
MAX_SHOWN_COLUMNS, MAX_SHOWN_CHARS = 8, 40
ORANGE_TYPES = {"", "d", "discrete", "c", "continuous", "s", "string", "t", "time", "m", "meta"}
"""Values of the second line of a table of Orange; its third line is another header."""
NUMBER = re.compile(r"-?\d+\.\d+")  # no decimal comma, which regression does not read
PLAIN_TEXT = ("text", "html", "warc")
LABEL_SEPARATORS = (",", ";", "|")


@dataclass
class Shortcut:
    """The arguments that a shortcut stands for."""

    files: list[str]
    """YAML files."""
    tree: dict
    """The keys, by section."""

    def list_args(self) -> list[str]:
        """Return the arguments of the command."""
        # YAML does not join the two escapes of an emoji again.
        return [*self.files, *(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in self.tree.items())]

    def dump(self, folder: Path) -> str:
        """Return the arguments as a YAML file in this folder."""
        includes = [os.path.relpath(file, folder) for file in self.files]
        return yaml.dump({"include": includes, **self.tree}, Dumper=YamlDumper, sort_keys=False, width=120)


@contextmanager
def saved_with_run(shortcut: Shortcut | None, folder: Path, width: int = 8) -> Iterator[None]:
    """Write a shortcut as YAML to the folder of its run, also of a stopped one, and name the file.

    Not if the run was refused: the file is that of the run in the folder. width: of the first column of the output.
    """
    is_refused = False
    try:
        yield
    except ConfigError:
        is_refused = True
        raise
    except OptionError as error:
        raise error.at("source") if shortcut else error from None
    finally:
        if shortcut and not is_refused and folder.is_dir() and os.environ.get("RANK", "0") == "0":
            path = folder / "arguments.yaml"
            write_text(path, shortcut.dump(folder))
            logger.info(f"  {'as YAML':{width}}{path}, to edit (with another run: NAME)")


@contextmanager
def options_in(section: str) -> Iterator[None]:
    """Raise errors that name an option of a source with the option as an argument of the command line."""
    try:
        yield
    except OptionError as error:
        raise error.at(section) from None


def take_argument(args: list[str], key: str) -> tuple[str | None, list[str]]:
    """Return the value of `key=value`, `--key=value` or `--key value`, none if it is not given, and the other args."""
    rest, value, remaining = [], None, list(args)
    while remaining:
        arg = remaining.pop(0)
        if arg == f"--{key}" and remaining:
            value = remaining.pop(0)
        elif arg.removeprefix("--").startswith(f"{key}="):
            value = arg.partition("=")[2]
        else:
            rest.append(arg)
    return value, rest


def split_args(args: list[str], default_file: str) -> tuple[list[str], dict]:
    """Return the YAML files among arguments, or the default one, and the tree of the others."""
    files = [arg for arg in args if arg.endswith((".yaml", ".yml")) and "=" not in arg]
    return files or [default_file], read_args([arg for arg in args if arg not in files])


def name_run(path: str) -> str:
    """Return the name of a run on a file, a folder or a glob."""
    stem = next((part.split(".")[0] for part in reversed(path.split("/")) if re.match(r"\w[^*?]*$", part)), "mine")
    return re.sub(r"\W+", "-", stem).strip("-") or "mine"


def expand_labels(args: list[str]) -> Shortcut | None:
    """Return what `labels=FILE` stands for, None without it.

    Raises DataError for an unreadable file, and to ask for the columns if they are not found by name.
    """
    path, args = take_argument(args, "labels")
    if path is None or path.isdecimal():
        return None
    files, given = split_args(args, DEFAULT_TASK)
    name, own = given.get("run") or name_run(path), given.get("task") or {}
    options = {"files": path, **(own.get("train") or {})}
    rows, failure = read_rows(options, "task.train")
    text, label = guess_columns(rows, named_only=True)
    label = label or (FOLDER_COLUMN if options.get("unit") == "document" else None)
    text, label = own.get("text", text), own.get("label", label)
    questions = [str(failure)] if failure else []
    if not text or not label or not isinstance(label, list) and text == label:
        questions.append(ask_columns(options, rows, text, label))
    if questions:
        raise DataError("\n".join(questions))
    if text in ("Word", "word", "Token", "token") and "group_by" not in options:
        options["group_by"] = find_sentence([column for column in list_columns(rows[0]) if column not in (text, label)])
        rows, _ = read_rows(options, "task.train")
    task = {"name": name, "problem_type": guess_problem_type(rows, text, label), "train": options}
    if is_answer(rows[0]):
        task["role"] = "role"
    note = note_classes(rows, label) if task["problem_type"] == "single_label_classification" else ""
    if note and "problem_type" not in own:
        logger.info(f"  labels  {note}")
    if task["problem_type"] == "single_label_classification" and given.get("method") == "anomaly":
        task["problem_type"] = "anomaly_detection"
    if task["problem_type"] == "token_classification":  # the settings for tags, instead of those for classes
        files = [file.replace(DEFAULT_TASK, "configs/finetune/your-entities.yaml") for file in files]
    return Shortcut(files, merge({"run": name, "task": {**task, "text": text, "label": label}}, given))


def expand_text(args: list[str]) -> Shortcut | None:
    """Return what `text=FILES` stands for, None without it.

    Raises DataError for an unreadable file, and to ask for the column if it is not found by name. Keys of the source
    are given as source.KEY=value.
    """
    path, args = take_argument(args, "text")
    if path is None:
        return None
    files, given = split_args(args, DEFAULT_CORPUS)
    name, source = given.get("run") or name_run(path), {"files": path, **given.pop("source", {})}
    with options_in("source"):
        file_format = find_format(source)
    if file_format not in PLAIN_TEXT:
        rows, failure = read_rows(source, "source")
        if isinstance(failure, DataError) and "encoding" not in str(failure):  # most of a file decides on its encoding
            raise failure
        text = source.get("text") or find_text(list_columns(rows[0]))
        if not isinstance(text, str):
            raise DataError(f"{path}: which column has the text? {show_columns(rows)}; set source.text=COLUMN")
        source["text"] = text
    elif file_format == "text" and "unit" not in source and has_lines(source):
        source["unit"] = "line"
    return Shortcut(files, merge({"run": name, "corpus": {"name": f"{name}-text", "sources": [source]}}, given))


def find_format(options: dict) -> str:
    """Return the format of the first file of a source."""
    source = validate(CorpusSource, options)
    return get_format(source, resolve_files(source)[0]).name


def has_lines(source: dict) -> bool:
    """Return whether each line of a text file is a document: none of its first lines is empty or long."""
    lines = [str(row["text"]) for _, row in read_head(validate(CorpusSource, {**source, "unit": "line"}))[0]]
    return len(lines) > 1 and all(0 < len(line.strip()) < 1_000 for line in lines)


def read_rows(options: dict, section: str) -> tuple[list[dict], DataError | None]:
    """Return the first rows of a source, as exported by an annotation tool, and the error that ended them early.

    Options of a table that are clear from its first rows are added. Raises DataError if there are no rows.
    """
    head, failure = read_head(validate(CorpusSource, options))
    with options_in(section):
        further = guess_options(options, [row for _, row in head], failure)
    if further.keys() - options.keys():
        options |= further
        return read_rows(options, section)
    failure = failure.at(section) if isinstance(failure, OptionError) else failure
    rows = [found for _, row in head if (found := read_export(row, True)) is not None]
    if not rows:
        raise failure or DataError(f"{options['files']}: no {'annotated ' * bool(head)}rows")
    if "labels" in head[0][1] and "label" not in head[0][1]:
        rows = [{name: value for name, value in row.items() if name != "label"} for row in rows]
    return rows, failure


def guess_options(options: dict, rows: list[dict], failure: DataError | None) -> dict:
    """Return the delimiter of a table, its format in a file for plain text, and the header lines of Orange to skip.

    Plain text in several folders has a document in each file.
    """
    if isinstance(failure, OptionError) and failure.key == "delimiter":
        return {"delimiter": failure.value}
    name = find_format(options)
    if name == "text" and "format" not in options:
        lines = [str(row["text"]) for _, row in read_head(validate(CorpusSource, {**options, "unit": "line"}))[0]]
        tabs = {line.count("\t") for line in lines}
        if len(tabs) == 1 and tabs != {0}:
            return {"format": "csv", "delimiter": "\t"}
        folders = {name_folder(path) for path in resolve_files(validate(CorpusSource, options))}
        return {"unit": "document"} if len(folders) > 1 else {}
    if name != "csv" or not rows:
        return {}
    # A wrong delimiter leaves all but the first of the named columns empty.
    first = [value for value in rows[0].values() if value != ""] if options.get("columns") else list(rows[0])
    if "delimiter" not in options and (delimiter := find_delimiter(first)):
        return {"delimiter": delimiter}
    return {"skip_rows": [1, 2]} if ORANGE_TYPES.issuperset(map(str, rows[0].values())) else {}


def complete_source(source: Source, lines: bool = False) -> Source:
    """Return the source with options that are clear from its first rows, such as a delimiter.

    A row of plain text is a line if all are short and none is empty, or if `lines`; else a paragraph. Raises DataError
    naming the argument that the source needs, source.KEY.
    """
    if source.hub or source.wheel:
        return source
    options = source.model_dump(exclude_unset=True)
    with options_in("source"):
        head, failure = read_head(source)
        options |= guess_options(options, [row for _, row in head], failure)
        if get_format(source, resolve_files(source)[0]).name == "text" and "unit" not in options:
            options |= {"unit": "line"} if lines or has_lines(options) else {}
    return Source(**options)


def guess_problem_type(rows: list[dict], text: str | list[str], label: str | list[str]) -> str:
    """Return the kind of label: spans or tags, lists, numbers with a fraction, or a class."""
    if isinstance(label, list):
        return "multi_label_classification"
    values = [value for row in rows if (value := find_value(row, label)) not in (None, "")]
    lists = [value for value in values if isinstance(value, list)]
    first = str(find_value(rows[0], text)) if isinstance(text, str) else ""
    if isinstance(text, str) and isinstance(find_value(rows[0], text), list) and lists:
        return "token_classification"
    if any(parse_span(part, first) for value in lists for part in value):
        return "token_classification"
    if any(len(value) != 1 for value in lists):
        return "multi_label_classification"
    if values and not lists and any(NUMBER.fullmatch(str(value)) for value in values):
        is_number = all(re.fullmatch(r"-?\d+(\.\d+)?", str(value)) for value in values)
        return "regression" if is_number else "single_label_classification"
    return "single_label_classification"


def note_classes(rows: list[dict], label: str) -> str:
    """Return a note if labels that are read as classes may be numbers or lists, else an empty string."""
    classes = {str(value).strip() for row in rows if (value := find_value(row, label)) not in (None, "", [])}
    if len(classes) > 2 and all(re.fullmatch(r"-?\d+", name) for name in classes):
        return "whole numbers are read as classes; to predict a number, set task.problem_type=regression"
    for separator in LABEL_SEPARATORS:
        several = [name for name in sorted(classes) if separator in name]
        if several and len({part.strip() for name in classes for part in name.split(separator)}) < len(classes):
            key = "" if separator == "," else f" and {format_argument('task.label_separator', separator)}"
            option = f"task.problem_type=multi_label_classification{key}"
            return f"{several[0]!r} is read as one class; to read several labels, set {option}"
    return ""


def show_columns(rows: list[dict]) -> str:
    """Return the columns of a table with their first values."""
    columns = list_columns(rows[0])

    def shorten(value: object) -> str:
        text = " ".join(str(value).split())
        return text if len(text) <= MAX_SHOWN_CHARS else f"{text[: MAX_SHOWN_CHARS - 3]}..."

    shown = ", ".join(
        f"{shorten(column)} ({shorten(find_value(rows[0], column))})" for column in columns[:MAX_SHOWN_COLUMNS]
    )
    return f"There are {shown}{', ...' * (len(columns) > MAX_SHOWN_COLUMNS)}"


def ask_columns(options: dict, rows: list[dict], text: str | list[str] | None, label: str | None) -> str:
    """Return the question for the columns that were not found by name, with the likely ones as arguments."""
    missing = {"text": "task.text"} if not text else {}
    missing |= {"label": "task.label"} if not label else {}
    option = suggest_option(validate(CorpusSource, options), "task.train", missing, rows)
    keys = " and ".join(missing)
    likely = f"; probably {option}" if option else f"; set {' and '.join(missing.values())}"
    if find_format(options) == "text":
        likely = "; it is read as plain text, a table needs task.train.format=csv"
    plural = "s have" if len(missing) > 1 else " has"
    return f"{options['files']}: which column{plural} the {keys}? {show_columns(rows)}{likely}"
