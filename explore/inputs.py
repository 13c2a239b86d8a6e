"""The inputs to explore: texts of files, a corpus or a task, with the labels that there are."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from data.corpus.build import build_corpus
from data.corpus.config import CorpusFile, CorpusSource
from data.corpus.documents import iter_documents
from data.corpus.sentence_dedup import split_sentences
from data.shortcut import name_run
from data.sources.source import display_name, iter_located_rows, resolve_files
from data.sources.values import get_text
from data.tasks.answers import keep_last_answers
from data.tasks.splits import join_texts, normalize
from data.tasks.task import Task, TaskFile
from engine.config.loader import find_file, load_config
from engine.errors import ConfigError, DataError
from explore.config import Explore

CORPUS_FOLDER, TASK_FOLDER = Path("configs/corpus"), Path("configs/finetune")
MIN_INPUTS = 10


@dataclass
class Inputs:
    """Texts with their labels and roles; all lists have one entry for each input."""

    texts: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    """The class of each input, empty for one without a label."""
    roles: list[str] = field(default_factory=list)
    """Role of the labeled ones, train or measure."""
    column: str = "text"
    task: Task | None = None

    def add(self, text: str, label: str = "", role: str = "train") -> None:
        """Add an input."""
        self.texts.append(text)
        self.labels.append(label)
        self.roles.append(role if label else "")

    def fingerprint(self) -> str:
        """Return a fingerprint of the texts."""
        digest = hashlib.sha256()
        for text in self.texts:
            digest.update(text.encode("utf-8", "replace") + b"\0")
        return digest.hexdigest()[:12]


def split_inputs(text: str, config: Explore) -> list[str]:
    """Return the inputs in a text: itself, or its sentences."""
    pieces = split_sentences(text) if config.sentences else [text]
    return [piece for piece in (part.strip() for part in pieces) if any(map(str.isalnum, piece))]


def read_source(inputs: Inputs, source: CorpusSource, config: Explore) -> None:
    """Add the texts of a source. Raises DataError naming the row and column at fault."""
    for location, row in iter_located_rows(source):
        for text in split_inputs(get_text(row, source.text, location), config):
            inputs.add(text)


def read_corpus(inputs: Inputs, path: Path, config: Explore) -> None:
    """Add the documents of a corpus, cleaned and deduplicated as its file has it."""
    for document in iter_documents(build_corpus(load_config(CorpusFile, [str(path)]).corpus)):
        for text in split_inputs(document["text"], config):
            inputs.add(text)


def read_task_rows(inputs: Inputs, task: Task) -> None:
    """Add the rows of a task, and give their labels to the inputs with the same text. Raises ConfigError or DataError.

    The last answer about a text counts.
    """
    if task.modality != "text" or not task.load_problem_type().has_single_class:
        raise ConfigError(f"task: explore reads texts with one class each; {task.name} is another kind of task")
    rows = [row for row in task.iter_rows(task.train, "train") if row.example is not None]
    if task.unlabeled:
        rows += [row for row in task.iter_rows(task.unlabeled, "unlabeled") if row.example is not None]
    positions: dict[str, list[int]] = {}
    for position, text in enumerate(inputs.texts):
        positions.setdefault(normalize((text,)), []).append(position)
    known = set(positions)
    for row in keep_last_answers(rows):
        (text,), label = join_texts([row.example]), str(row.example.label)
        key = normalize((text,))
        if key not in positions or (label and key not in known):
            positions.setdefault(key, []).append(len(inputs.texts))
            inputs.add(text, label, row.role)
        elif label:
            for position in positions[key]:
                inputs.labels[position], inputs.roles[position] = label, row.role
    inputs.task, inputs.column = task, "text"


def name_inputs(config: Explore, task: Task | None) -> str:
    """Return the name of the folder of the results."""
    if config.name:
        return config.name
    if task:
        return task.name
    if config.corpus:
        return Path(config.corpus).stem
    return name_run(display_name(config.source) if config.source.files is None else resolve_files(config.source)[0])


def load_task(config: Explore) -> Task | None:
    """Return the task. Raises ConfigError if there is none of this name, or none of the keys of texts is given."""
    if config.source and config.corpus:
        raise ConfigError("corpus: give either a corpus or text=FILES, not both")
    if not (config.source or config.corpus or config.task):
        raise ConfigError("give texts, text=FILES or corpus=NAME, or a task, task=NAME")
    return load_config(TaskFile, [str(find_file(config.task, TASK_FOLDER, "task"))]).task if config.task else None


def read_inputs(config: Explore, task: Task | None) -> Inputs:
    """Read all inputs. Raises DataError if there are too few."""
    inputs = Inputs(column="text")
    if config.source:
        read_source(inputs, config.source, config)
    if config.corpus:
        read_corpus(inputs, find_file(config.corpus, CORPUS_FOLDER, "corpus"), config)
    if task:
        read_task_rows(inputs, task)
    if len(inputs.texts) < MIN_INPUTS:
        raise DataError(
            f"{len(inputs.texts)} texts are too few for a map: label them all, or give at least {MIN_INPUTS}"
        )
    return inputs


def list_classes(inputs: Inputs) -> list[str]:
    """List the classes of the labels and those that the task names, in order."""
    named = [*inputs.task.classes, *inputs.task.label_names.values()] if inputs.task else []
    return list(dict.fromkeys([*named, *sorted({label for label in inputs.labels if label})]))
