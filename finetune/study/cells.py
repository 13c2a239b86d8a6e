"""The cells of a study: one way, so many labels, one seed. Each follows from what its name is a fingerprint of."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import time
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data import labelled
from data.derived import fingerprint, remembered_hash
from data.encoders import locate, pooling_of, record_of
from data.labelled import Example
from engine import record
from engine.config import check
from engine.errors import DataError
from engine.files import write_json
from engine.loop import accelerator as make_accelerator
from finetune import metrics
from finetune.config import Finetune
from finetune.study import linear
from finetune.study.config import Size, Study
from finetune.teaching import head_of, teach
from finetune.train import resolved, without_pretraining

TAUGHT = ("ours", "plain", "random")
CHEAPEST_FIRST = ("tfidf", "probe", "ours", "plain", "random")
VERSION = 1


@cache
def versions() -> dict[str, str]:
    """Of what the figures depend on."""
    return record.versions() | {name: importlib.metadata.version(name) for name in ("scikit-learn", "scipy")}


class Cell(NamedTuple):
    """One thing to measure."""

    way: str
    size: Size
    """Labels of each class, or all."""
    seed: int
    labels: int
    """Labels in all."""
    steps: int
    """Of its training; 0 of a linear model."""

    def __str__(self) -> str:
        seed = f", seed {self.seed}" if self.size != "all" or self.steps else ""
        return f"{self.way}, {self.labels:,} labels{seed}"


class Cells:
    """What a study measures, and how. Raises DataError for an encoder that is not there."""

    def __init__(self, config: Study, encoder: str, rows: dict[str, list[Example]], measured: list[int], folder: Path):
        """measured: the places of the test rows that count; folder: the study's."""
        self.config, self.encoder, self.folder = config, encoder, folder
        self.train, self.test = rows["train"], [rows["test"][place] for place in measured]
        self.names = labelled.label_list(config.task, rows)
        self.rows = fingerprint([labelled.identity(config.task), measured])
        self.at = {"ours": locate(encoder)}
        self.left_out: dict[str, str] = {}
        self.plain_name = self.find_plain()
        self.weights = {way: {path.name: remembered_hash(path) for path in sorted(where.iterdir())
                              if path.suffix == ".safetensors" or path.name in ("config.json", "tokenizer.json")}
                        for way, where in self.at.items()}
        self.accelerator = make_accelerator(config.train.precision)
        self.sizes = self.find_sizes()

    def find_plain(self) -> str:
        """The network without our pretraining: in `at`, or why not in `left_out`. Returns what it began with."""
        self.at["random"] = self.at["ours"]
        try:
            folder, random, _ = without_pretraining(self.at["ours"], self.encoder)
        except DataError as error:
            self.left_out["plain"] = f"not measured: {str(error).splitlines()[0]}"
            return ""
        if random:
            is_ours = bool(record_of(self.at["ours"]))
            self.left_out["plain"] = ("without our pretraining this network has random weights" if is_ours else
                                      f"{self.encoder} is no pretraining of ours")
            return ""
        self.at["plain"] = folder
        return record_of(self.at["ours"])["init"]

    def find_sizes(self) -> dict[Size, int]:
        """{labels of each class: labels in all}; a size that takes every row is the same as all, and told once."""
        found: dict[Size, int] = {}
        for size in self.config.study.sizes():
            count = len(self.few(size, 0))
            size = "all" if count == len(self.train) else size
            if count not in found.values():
                found[size] = count
        return found

    def few(self, size: Size, seed: int) -> list[Example]:
        """The labels that every way learns from."""
        return labelled.few(self.train, "all", seed, None if size == "all" else size)

    def plan(self) -> list[Cell]:
        """All cells, the smallest sizes first, so that a curve is there early."""
        study, found = self.config.study, []
        for size, labels in self.sizes.items():
            for index in range(study.seeds_at(size)):
                for way in CHEAPEST_FIRST:
                    again = index and size == "all" and way not in TAUGHT  # the same each time
                    longest = way == "random" and size == "all" and not study.labels and not study.full
                    if way in study.ways and way not in self.left_out and not again and not longest:
                        steps = self.settled(size, 0, labels).train.steps if way in TAUGHT else 0
                        found.append(Cell(way, size, self.config.seed + index, labels, steps))
        return found

    def settled(self, size: Size, seed: int, labels: int) -> Finetune:
        """The configuration of one training: the same for all ways. No validation label decides anything."""
        tree = self.config.model_dump(mode="json", exclude={"study"})
        tree |= {"seed": seed, "baselines": False, "train": tree["train"] | {"best": False},
                 "task": tree["task"] | {"labels": "all", "per_class": None if size == "all" else size}}
        return resolved(check(Finetune, tree), self.encoder, self.at["ours"], labels)

    def path(self, cell: Cell) -> Path:
        """Where a cell's result stands: named by all it follows from, so that a changed study takes up no other's."""
        told = [VERSION, cell.way, cell.size, cell.seed, self.rows, versions()]
        if cell.way in TAUGHT:
            config = record.flat(self.settled(cell.size, cell.seed, cell.labels).model_dump(mode="json"))
            told += [{key: value for key, value in config.items() if key not in ("run", "encoder", *record.HARMLESS)},
                     pooling_of(self.at[cell.way])]
        if cell.way != "tfidf":
            weights = self.weights[self.of(cell)]
            drawn_anew = {name: value for name, value in weights.items() if not name.endswith(".safetensors")}
            told += [drawn_anew if cell.way == "random" else weights, self.config.max_length]
        size = cell.size if cell.size == "all" else f"{cell.size:05}"
        return self.folder / "cells" / f"{size}-{cell.seed}-{cell.way}-{fingerprint(told)}.json"

    @staticmethod
    def of(cell: Cell) -> str:
        """Whose folder the cell's weights are in."""
        return "ours" if cell.way == "probe" else cell.way

    def read(self, cell: Cell) -> dict | None:
        """A finished cell's result."""
        path = self.path(cell)
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def run(self, cell: Cell) -> dict:
        """Measure one cell and write it down; a training that was stopped goes on from its checkpoint."""
        path, train = self.path(cell), self.few(cell.size, cell.seed)
        told = {"way": cell.way, "size": cell.size, "seed": cell.seed, "labels": len(train),
                "drawn": fingerprint([list(each.texts) for each in train])}
        began, running = time.time(), self.folder / "running" / path.stem
        if cell.way in TAUGHT:
            # By whatever name the encoder goes, a training that was stopped goes on.
            config = self.settled(cell.size, cell.seed, cell.labels)
            config = config.model_copy(update={"run": path.stem, "encoder": cell.way})
            run = record.Run(config, config.run, True, running)
            taught = teach(self.at[cell.way], config, {"train": train, "test": self.test}, self.names, run,
                           self.accelerator, f"  {cell}", cell.way == "random")
            told["figures"] = taught.figures["test"]
            if cell.way == "ours":
                said = np.array(taught.predicted["test"])
                told["predicted"] = " ".join(map(str, said.argmax(-1).tolist()))
                told["confidence"] = " ".join(f"{value:.4f}" for value in said.max(-1).tolist())
            self.accelerator.free_memory()
        else:
            number = {name: index for index, name in enumerate(self.names)}
            truth, wanted = (np.array([number[example.label] for example in each]) for each in (train, self.test))
            said = (linear.tfidf(train, truth, self.test) if cell.way == "tfidf" else
                    linear.probe(self.vectors(train), truth, self.test_vectors))
            told["figures"] = metrics.classification(said, wanted)
        told["score"] = told["figures"][self.monitor]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, told)
        self.note(path.stem, time.time() - began)
        shutil.rmtree(running, ignore_errors=True)
        return told

    @property
    def monitor(self) -> str:
        """The figure that is told."""
        return head_of(self.config).MONITOR

    @cached_property
    def vectors(self) -> linear.Vectors:
        """The frozen encoder."""
        return linear.Vectors(self.at["ours"], self.config.max_length, self.accelerator.device)

    @cached_property
    def test_vectors(self) -> np.ndarray:
        """float32 (test rows, width)."""
        return self.vectors(self.test)

    def times(self) -> dict[str, float]:
        """Seconds that each cell took here; they stand apart because they are never twice the same."""
        path = self.folder / "times.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def note(self, name: str, seconds: float) -> None:
        """Write down what a cell took."""
        write_json(self.folder / "times.json", self.times() | {name: round(seconds, 1)})

    def seconds_left(self, waiting: list[Cell], done: list[Cell]) -> float | None:
        """About how long the waiting cells take, by what those that are done took; none before a training is done."""
        times = self.times()
        spent = [(cell, times[self.path(cell).stem]) for cell in done if self.path(cell).stem in times]
        steps = sum(cell.steps for cell, _ in spent)
        if not steps and any(cell.steps for cell in waiting):
            return None
        left = sum(cell.steps for cell in waiting) * sum(took for cell, took in spent if cell.steps) / max(1, steps)
        for way in ("tfidf", "probe"):
            own = [(cell.labels, took) for cell, took in spent if cell.way == way]
            each = sum(took for _, took in own) / max(1, sum(labels for labels, _ in own))
            left += each * sum(cell.labels for cell in waiting if cell.way == way)
        return left
