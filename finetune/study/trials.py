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

from data.cache import cached_file_hash, fingerprint
from data.encoders import read_pooling, read_record, resolve_encoder
from data.tasks.task import Example, fingerprint_inputs, list_label_names, sample_examples
from engine.config.loader import validate
from engine.config.schema import resumable_keys
from engine.errors import DataError
from engine.files import write_json
from engine.runs.run import Run, flatten, package_versions
from engine.training.distributed import make_accelerator as make_accelerator
from finetune.config import Finetune
from finetune.evaluation import metrics
from finetune.heads import load_head_file
from finetune.study import baselines
from finetune.study.config import Shots, Study
from finetune.train import reference_encoder, resolve_config
from finetune.training import finetune_model

TRAINED_VARIANTS = ("ours", "plain", "random")
CHEAPEST_FIRST = ("tfidf", "probe", "ours", "plain", "random")
VERSION = 1


@cache
def study_versions() -> dict[str, str]:
    """Of what the figures depend on."""
    return package_versions() | {name: importlib.metadata.version(name) for name in ("scikit-learn", "scipy")}


class Trial(NamedTuple):
    """One thing to measure."""

    variant: str
    shots: Shots
    """Labels of each class, or all."""
    seed: int
    num_examples: int
    """Labels in all."""
    steps: int
    """Of its training; 0 of a linear model."""

    def __str__(self) -> str:
        seed = f", seed {self.seed}" if self.shots != "all" or self.steps else ""
        return f"{self.variant}, {self.num_examples:,} labels{seed}"


class Trials:
    """What a study measures, and how. Raises DataError for an encoder that is not there."""

    def __init__(
        self, config: Study, encoder: str, rows: dict[str, list[Example]], test_indices: list[int], folder: Path
    ):
        """measured: the places of the test rows that count; folder: the study's."""
        self.config, self.encoder, self.folder = config, encoder, folder
        self.train, self.test = rows["train"], [rows["test"][place] for place in test_indices]
        self.label_names = list_label_names(config.task, rows)
        self.rows_fingerprint = fingerprint([fingerprint_inputs(config.task), test_indices])
        self.encoder_folders = {"ours": resolve_encoder(encoder)}
        self.skipped: dict[str, str] = {}
        self.original_init = self.find_plain_encoder()
        self.weight_hashes = {
            way: {
                path.name: cached_file_hash(path)
                for path in sorted(where.iterdir())
                if path.suffix == ".safetensors" or path.name in ("config.json", "tokenizer.json")
            }
            for way, where in self.encoder_folders.items()
        }
        self.accelerator = make_accelerator(config.train.precision)
        self.num_examples_by_shots = self.count_examples()

    def find_plain_encoder(self) -> str:
        """The network without our pretraining: in `at`, or why not in `left_out`. Returns what it began with."""
        self.encoder_folders["random"] = self.encoder_folders["ours"]
        try:
            folder, random, _ = reference_encoder(self.encoder_folders["ours"], self.encoder)
        except DataError as error:
            self.skipped["plain"] = f"not measured: {str(error).splitlines()[0]}"
            return ""
        if random:
            is_ours = bool(read_record(self.encoder_folders["ours"]))
            self.skipped["plain"] = (
                "without our pretraining this network has random weights"
                if is_ours
                else f"{self.encoder} is no pretraining of ours"
            )
            return ""
        self.encoder_folders["plain"] = folder
        return read_record(self.encoder_folders["ours"])["init"]

    def count_examples(self) -> dict[Shots, int]:
        """{labels of each class: labels in all}; a size that takes every row is the same as all, and told once."""
        found: dict[Shots, int] = {}
        for size in self.config.study.list_shots():
            count = len(self.labeled_examples(size, 0))
            size = "all" if count == len(self.train) else size
            if count not in found.values():
                found[size] = count
        return found

    def labeled_examples(self, size: Shots, seed: int) -> list[Example]:
        """The labels that every way learns from."""
        return sample_examples(self.train, "all", seed, None if size == "all" else size)

    def list_trials(self) -> list[Trial]:
        """All cells, the smallest sizes first, so that a curve is there early."""
        study, found = self.config.study, []
        for size, labels in self.num_examples_by_shots.items():
            for index in range(study.num_seeds(size)):
                for way in CHEAPEST_FIRST:
                    again = index and size == "all" and way not in TRAINED_VARIANTS  # the same each time
                    longest = way == "random" and size == "all" and not study.shots and not study.full
                    if way in study.variants and way not in self.skipped and not again and not longest:
                        steps = self.trial_config(size, 0, labels).train.steps if way in TRAINED_VARIANTS else 0
                        found.append(Trial(way, size, self.config.seed + index, labels, steps))
        return found

    def trial_config(self, shots: Shots, seed: int, num_examples: int) -> Finetune:
        """The configuration of one training: the same for all ways. No validation label decides anything."""
        tree = self.config.model_dump(mode="json", exclude={"study"})
        tree |= {
            "seed": seed,
            "baselines": False,
            "train": tree["train"] | {"load_best": False},
            "task": tree["task"] | {"num_examples": "all", "shots": None if shots == "all" else shots},
        }
        return resolve_config(validate(Finetune, tree), self.encoder, self.encoder_folders["ours"], num_examples)

    def result_path(self, trial: Trial) -> Path:
        """Where a cell's result stands: named by all it follows from, so that a changed study takes up no other's."""
        told = [VERSION, trial.variant, trial.shots, trial.seed, self.rows_fingerprint, study_versions()]
        if trial.variant in TRAINED_VARIANTS:
            config = self.trial_config(trial.shots, trial.seed, trial.num_examples)
            ignored = {"run", "encoder"} | resumable_keys(config)
            told += [
                {key: value for key, value in flatten(config.model_dump(mode="json")).items() if key not in ignored},
                read_pooling(self.encoder_folders[trial.variant]),
            ]
        if trial.variant != "tfidf":
            weights = self.weight_hashes[self.weights_variant(trial)]
            drawn_anew = {name: value for name, value in weights.items() if not name.endswith(".safetensors")}
            told += [drawn_anew if trial.variant == "random" else weights, self.config.max_length]
        size = trial.shots if trial.shots == "all" else f"{trial.shots:05}"
        return self.folder / "cells" / f"{size}-{trial.seed}-{trial.variant}-{fingerprint(told)}.json"

    @staticmethod
    def weights_variant(trial: Trial) -> str:
        """Whose folder the cell's weights are in."""
        return "ours" if trial.variant == "probe" else trial.variant

    def load_result(self, trial: Trial) -> dict | None:
        """A finished cell's result."""
        path = self.result_path(trial)
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def run_trial(self, trial: Trial) -> dict:
        """Measure one cell and write it down; a training that was stopped goes on from its checkpoint."""
        path, train = self.result_path(trial), self.labeled_examples(trial.shots, trial.seed)
        told = {
            "way": trial.variant,
            "size": trial.shots,
            "seed": trial.seed,
            "labels": len(train),
            "drawn": fingerprint([list(each.texts) for each in train]),
        }
        began, running = time.time(), self.folder / "running" / path.stem
        if trial.variant in TRAINED_VARIANTS:
            # By whatever name the encoder goes, a training that was stopped goes on.
            config = self.trial_config(trial.shots, trial.seed, trial.num_examples)
            config = config.model_copy(update={"run": path.stem, "encoder": trial.variant})
            run = Run(config, config.run, True, running)
            taught = finetune_model(
                self.encoder_folders[trial.variant],
                config,
                {"train": train, "test": self.test},
                self.label_names,
                run,
                self.accelerator,
                f"  {trial}",
                trial.variant == "random",
            )
            told["metrics"] = taught.metrics["test"]
            if trial.variant == "ours":
                said = np.array(taught.predictions["test"])
                told["predicted"] = " ".join(map(str, said.argmax(-1).tolist()))
                told["confidence"] = " ".join(f"{value:.4f}" for value in said.max(-1).tolist())
            self.accelerator.free_memory()
        else:
            number = {name: index for index, name in enumerate(self.label_names)}
            truth, wanted = (np.array([number[example.label] for example in each]) for each in (train, self.test))
            said = (
                baselines.predict_tfidf(train, truth, self.test)
                if trial.variant == "tfidf"
                else baselines.predict_linear_probe(self.frozen_encoder(train), truth, self.test_vectors)
            )
            told["metrics"] = metrics.classification_metrics(said, wanted)
        told["score"] = told["metrics"][self.metric]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, told)
        self.save_time(path.stem, time.time() - began)
        shutil.rmtree(running, ignore_errors=True)
        return told

    @property
    def metric(self) -> str:
        """The figure that is told."""
        return load_head_file(self.config).METRIC_FOR_BEST

    @cached_property
    def frozen_encoder(self) -> baselines.FrozenEncoder:
        """The frozen encoder."""
        return baselines.FrozenEncoder(self.encoder_folders["ours"], self.config.max_length, self.accelerator.device)

    @cached_property
    def test_vectors(self) -> np.ndarray:
        """float32 (test rows, width)."""
        return self.frozen_encoder(self.test)

    def load_times(self) -> dict[str, float]:
        """Seconds that each cell took here; they stand apart because they are never twice the same."""
        path = self.folder / "times.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def save_time(self, trial_name: str, seconds: float) -> None:
        """Write down what a cell took."""
        write_json(self.folder / "times.json", self.load_times() | {trial_name: round(seconds, 1)})

    def estimate_seconds_left(self, pending: list[Trial], completed: list[Trial]) -> float | None:
        """About how long the waiting cells take, by what those that are done took; none before a training is done."""
        times = self.load_times()
        spent = [
            (cell, times[self.result_path(cell).stem]) for cell in completed if self.result_path(cell).stem in times
        ]
        steps = sum(cell.steps for cell, _ in spent)
        if not steps and any(cell.steps for cell in pending):
            return None
        left = sum(cell.steps for cell in pending) * sum(took for cell, took in spent if cell.steps) / max(1, steps)
        for way in ("tfidf", "probe"):
            own = [(cell.num_examples, took) for cell, took in spent if cell.variant == way]
            each = sum(took for _, took in own) / max(1, sum(labels for labels, _ in own))
            left += each * sum(cell.num_examples for cell in pending if cell.variant == way)
        return left
