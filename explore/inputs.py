"""The inputs to explore, with the labels that there are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from data import modalities
from data.shortcut import name_run
from data.sources.source import display_name, resolve_files
from data.tasks.answers import Row, keep_last_answers
from data.tasks.splits import join_texts, normalize
from data.tasks.task import Task
from engine.config.loader import find_file
from engine.errors import ConfigError
from explore.config import TASK_FOLDER, Explore


@dataclass
class Inputs:
    """Inputs with their labels and roles; all lists have one entry for each input."""

    texts: list[str] = field(default_factory=list)
    """The texts, or the paths of images."""
    labels: list[str] = field(default_factory=list)
    """The class of each input, empty for one without a label."""
    roles: list[str] = field(default_factory=list)
    """Role of the labeled ones, train or measure."""
    keys: list[str] = field(default_factory=list)
    """What two equal inputs share: the text, or the hash of an image's pixels."""
    task: Task | None = None
    form: dict = field(default_factory=dict)
    """The form in which the inputs are read, if there are several, such as the size of images."""

    def add(self, key: str, label: str = "", role: str = "train", text: str | None = None) -> None:
        """Add an input. text: to show, if it is not the key."""
        self.keys.append(key)
        self.texts.append(key if text is None else text)
        self.labels.append(label)
        self.roles.append(role if label else "")

    def add_rows(self, rows: Iterable[Row], shown: Mapping[str, str]) -> None:
        """Add the rows of a task, and give their labels to the inputs with the same key; the last answer counts.

        shown: text to show of a key that is none.
        """
        positions: dict[str, list[int]] = {}
        for position, key in enumerate(self.keys):
            positions.setdefault(normalize((key,)), []).append(position)
        known = set(positions)
        for row in keep_last_answers([row for row in rows if row.example is not None]):
            (text,), label = join_texts([row.example]), str(row.example.label)
            key = normalize((text,))
            if key not in positions or (label and key not in known):
                positions.setdefault(key, []).append(len(self.keys))
                self.add(text, label, row.role, shown.get(text))
            elif label:
                for position in positions[key]:
                    self.labels[position], self.roles[position] = label, row.role

    def find_labeled(self) -> list[int]:
        """Return the indices of the labeled inputs, the first of equal ones alone."""
        first: dict[str, int] = {}
        for index, (key, label) in enumerate(zip(self.keys, self.labels, strict=True)):
            if label:
                first.setdefault(normalize((key,)), index)
        return list(first.values())

    def fingerprint(self) -> str:
        """Return a fingerprint of the inputs."""
        digest = hashlib.sha256()
        for key in self.keys:
            digest.update(key.encode("utf-8", "replace") + b"\0")
        if self.form:
            digest.update(json.dumps(self.form, sort_keys=True).encode())
        return digest.hexdigest()[:12]


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
    """Return the task. Raises ConfigError if there is none of this name, or none of the keys of inputs is given."""
    if config.source and config.corpus:
        raise ConfigError("corpus: give either a corpus or text=FILES, not both")
    if not (config.source or config.corpus or config.task):
        raise ConfigError("no input: set text=FILES, images=FILES, corpus=NAME or task=NAME")
    if not config.task:
        return None
    task, noun = (
        modalities.load_task(find_file(config.task, TASK_FOLDER, "task")),
        modalities.load_modality(config.modality).inputs_noun,
    )
    if task.modality != config.modality or not task.load_problem_type().has_single_class:
        raise ConfigError(f"task: explore reads {noun} with one class each; {task.name} is another kind of task")
    return task


def list_classes(inputs: Inputs) -> list[str]:
    """List the classes of the labels and those that the task names, in order."""
    named = [*inputs.task.classes, *inputs.task.label_names.values()] if inputs.task else []
    return list(dict.fromkeys([*named, *sorted({label for label in inputs.labels if label})]))
