"""The trials of a study: one variant, number of labels and seed each, stored under a fingerprint of all inputs."""

import importlib.metadata
import shutil
import time
from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.cache import cached_file_hash, fingerprint
from data.encoders import read_pooling, read_record, resolve_encoder
from data.tasks.label_propagation import weigh_texts
from data.tasks.metrics import classification_metrics
from data.tasks.task import Example, fingerprint_inputs, list_label_names, sample_examples
from engine.config.loader import validate
from engine.config.schema import resumable_keys
from engine.errors import DataError
from engine.files import read_json, write_json
from engine.log import warn_once
from engine.runs.run import Run, flatten, package_versions
from engine.training.distributed import make_accelerator as make_accelerator
from finetune.class_texts import choose_class_texts
from finetune.config import Finetune
from finetune.evaluation.baselines import reference_encoder
from finetune.method import apply_method, choose_method, has_decoder
from finetune.modalities import load_modality
from finetune.semi_supervised.self_training import SelfTrainer
from finetune.study import baselines
from finetune.study.config import Shots, Study
from finetune.train import resolve_config
from finetune.training import TaskData, finetune_model

TRAINED_VARIANTS = ("ours", "plain", "random")
METRIC = "accuracy"  # a mean over test rows, on which the intervals rest
FEATURE_VARIANTS = ("onehot", "tfidf")
CHEAPEST_FIRST = (*FEATURE_VARIANTS, "probe", "ours", "plain", "random")
VERSION = 3  # 1: without the results by test row; 2: without the names of the classes


@cache
def study_versions() -> dict[str, str]:
    """Return the versions of the packages that affect the results."""
    return package_versions() | {name: importlib.metadata.version(name) for name in ("scikit-learn", "scipy")}


def hash_weights(folder: Path) -> dict[str, str]:
    """Return the hash of each file that determines an encoder's outputs."""
    names = ("config.json", "tokenizer.json", "preprocessor_config.json")
    files = sorted(path for path in folder.iterdir() if path.suffix == ".safetensors" or path.name in names)
    return {path.name: cached_file_hash(path) for path in files}


class Trial(NamedTuple):
    """One variant on one sample of labels. num_examples: labels in total; steps: 0 for a linear model."""

    variant: str
    shots: Shots
    seed: int
    num_examples: int
    steps: int

    def __str__(self) -> str:
        seed = f", seed {self.seed}" if self.shots != "all" or self.steps else ""
        return f"{self.variant}, {self.num_examples:,} labels{seed}"


class Trials:
    """Plans, runs and stores a study's trials. Raises DataError for a missing encoder.

    test_indices: rows measured; args: as for `apply_method`.
    """

    def __init__(
        self,
        config: Study,
        encoder: str,
        rows: dict[str, list[Example]],
        test_indices: list[int],
        folder: Path,
        args: Sequence[str] = (),
    ):
        self.config, self.encoder, self.folder, self.args = config, encoder, folder, args
        self.train, self.test = rows["train"], [rows["test"][index] for index in test_indices]
        self.modality, self.label_names = load_modality(config), list_label_names(config.task, rows)
        self.rows_fingerprint = fingerprint([fingerprint_inputs(config.task), test_indices])
        self.encoder_folders = {"ours": resolve_encoder(encoder)}
        self.skipped: dict[str, str] = {}
        self.original_init = self.find_plain_encoder()
        if not self.modality.describe_one_hot(self.train):
            self.skipped["onehot"] = "not measured: only for texts"
        self.weight_hashes = {variant: hash_weights(folder) for variant, folder in self.encoder_folders.items()}
        self.accelerator = make_accelerator(config.train.precision)
        self.num_examples_by_shots = self.count_examples()

    def find_plain_encoder(self) -> str:
        """Add the network without our pretraining to `encoder_folders`, or else to `skipped`; return its name."""
        ours = self.encoder_folders["random"] = self.encoder_folders["ours"]
        try:
            reference = reference_encoder(ours)
        except DataError as error:
            self.skipped["plain"] = f"not measured: {str(error).splitlines()[0]}"
            return ""
        record = read_record(ours)
        if reference.random_init:
            from_scratch = "the encoder was pretrained from random weights"
            self.skipped["plain"] = from_scratch if record else f"{self.encoder} was not pretrained with this project"
            return ""
        self.encoder_folders["plain"] = reference.folder
        return record["init"]

    def count_examples(self) -> dict[Shots, int]:
        """Return the total labels by labels per class; a size that takes every row becomes "all", without repeats."""
        counts: dict[Shots, int] = {}
        for shots in self.config.study.list_shots():
            if not shots and not self.learns_without_labels():
                warn_once("note: 0 labels: not measured, because the method or the class names do not allow it")
                continue
            count = len(self.sample_train(shots, 0))
            if count not in counts.values():
                counts["all" if count == len(self.train) else shots] = count
        return counts

    def learns_without_labels(self) -> bool:
        """Return whether there are names of classes to learn from, and a method that does."""
        if not self.modality.list_class_texts(self.label_names, self.train):
            return False
        selftrain = self.trial_config(0, 0, 0).selftrain
        return bool(selftrain.rounds and not selftrain.corpus)

    def sample_train(self, shots: Shots, seed: int) -> list[Example]:
        """Return the labeled examples that every variant is trained on."""
        return sample_examples(self.train, "all", seed, None if shots == "all" else shots) if shots else []

    def list_trials(self) -> list[Trial]:
        """Return all trials, fewest labels first, so that the curve starts early."""
        study, trials = self.config.study, []
        variants = [each for each in CHEAPEST_FIRST if each in study.variants and each not in self.skipped]
        for shots, count in self.num_examples_by_shots.items():
            for index in range(study.num_seeds(shots)):
                for variant in variants:
                    is_trained = variant in TRAINED_VARIANTS
                    is_repeat = index and shots == "all" and not is_trained  # deterministic
                    is_longest = variant == "random" and shots == "all" and not study.shots and not study.full
                    needs_labels = variant not in ("ours", "plain")
                    if not is_repeat and not is_longest and (shots or not needs_labels):
                        steps = self.trial_config(shots, 0, count).train.steps if is_trained else 0
                        trials.append(Trial(variant, shots, self.config.seed + index, count, steps))
        return trials

    def trial_config(self, shots: Shots, seed: int, num_examples: int) -> Finetune:
        """Return the configuration of one training, the same for all variants and without use of validation labels."""
        tree = self.config.model_dump(mode="json", exclude={"study"})
        tree |= {"seed": seed, "baselines": False, "train": tree["train"] | {"load_best": False}}
        sample = {"num_examples": "all" if shots else 0, "shots": None if shots in (0, "all") else shots}
        tree["task"] |= sample
        config = validate(Finetune, tree)
        if config.method == "auto":
            is_part = has_decoder(self.encoder_folders["ours"])
            choice = choose_method(config, num_examples, len(self.label_names), 0, is_part)
            preset = apply_method(self.config, choice.method, self.args).model_dump(mode="json", exclude={"study"})
            tree |= {key: preset[key] for key in preset.keys() - {"run", "encoder", "seed", "task", "baselines"}}
            tree["train"] = tree["train"] | {"load_best": False}
            config = validate(Finetune, tree)
        return resolve_config(config, self.encoder, self.encoder_folders["ours"], num_examples)

    def result_path(self, trial: Trial) -> Path:
        """Return the path of a trial's result, with a fingerprint of all its inputs."""
        inputs = [VERSION, trial.variant, trial.shots, trial.seed, self.rows_fingerprint, study_versions()]
        if trial.variant in TRAINED_VARIANTS:
            config = self.trial_config(trial.shots, trial.seed, trial.num_examples)
            ignored = {"run", "encoder"} | resumable_keys(config)
            values = flatten(config.model_dump(mode="json"))
            pooling = read_pooling(self.encoder_folders[trial.variant])
            inputs += [{key: value for key, value in values.items() if key not in ignored}, pooling]
        if trial.variant == "probe":
            inputs += [self.config.class_names.model_dump(mode="json"), self.config.task.descriptions]
        if trial.variant not in FEATURE_VARIANTS:
            hashes = self.weight_hashes["ours" if trial.variant == "probe" else trial.variant]
            if trial.variant == "random":
                hashes = {name: value for name, value in hashes.items() if not name.endswith(".safetensors")}
            inputs += [hashes, getattr(self.config, "max_length", None)]
        shots = trial.shots if trial.shots == "all" else f"{trial.shots:05}"
        return self.folder / "trials" / f"{shots}-{trial.seed}-{trial.variant}-{fingerprint(inputs)}.json"

    def load_result(self, trial: Trial) -> dict | None:
        """Return the result of a finished trial, or None."""
        path = self.result_path(trial)
        return read_json(path) if path.is_file() else None

    def run_trial(self, trial: Trial) -> dict:
        """Run one trial and store its result; an interrupted training resumes from its checkpoint."""
        path, train = self.result_path(trial), self.sample_train(trial.shots, trial.seed)
        started, folder = time.monotonic(), self.folder / "running" / path.stem
        result = {**trial._asdict(), "sampled": fingerprint([list(example.texts) for example in train])}
        result |= self.run_training(trial, train, folder) if trial.steps else self.fit_linear_model(trial, train)
        result["score"] = result["metrics"][METRIC]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, result)
        self.save_time(path.stem, time.monotonic() - started)
        shutil.rmtree(folder, ignore_errors=True)
        return result

    def run_training(self, trial: Trial, train: list[Example], folder: Path) -> dict:
        """Fine-tune a trial's encoder. Returns its test results and, for our encoder, its predictions."""
        config = self.trial_config(trial.shots, trial.seed, trial.num_examples)
        # Named after the trial, so that a training also resumes if the encoder is given by another name.
        config = config.model_copy(update={"run": folder.name, "encoder": trial.variant})
        run = Run(config, config.run, True, folder)
        class_texts = choose_class_texts(load_modality(config), train, self.train, self.label_names)
        data = TaskData({"train": train, "test": self.test}, self.label_names, class_texts=class_texts)
        encoder, is_random, title = self.encoder_folders[trial.variant], trial.variant == "random", f"  {trial}"
        if config.selftrain.rounds:
            trainer = SelfTrainer(encoder, config, self.train, data, run, self.accelerator, title, is_random)
            output = trainer.train()
        else:
            output = finetune_model(encoder, config, data, run, self.accelerator, title, is_random)
        self.accelerator.free_memory()
        probabilities = np.array(output.predictions["test"])
        predictions = probabilities.argmax(-1)
        result = {"metrics": output.metrics["test"], "correct": self.mark_correct(predictions)}
        if trial.variant == "ours":
            result["predictions"] = " ".join(map(str, predictions.tolist()))
            result["confidence"] = " ".join(f"{value:.4f}" for value in probabilities.max(-1).tolist())
        return result

    def fit_linear_model(self, trial: Trial, train: list[Example]) -> dict:
        """Fit a trial's logistic regression. Returns its test results."""
        labels = self.modality.problem_type.encode_labels(train, self.label_names)
        if trial.variant in FEATURE_VARIANTS:
            fit = self.modality.fit_one_hot if trial.variant == "onehot" else self.modality.fit_features
            predictions = baselines.predict_from_features(train, labels, self.test, fit)
        else:
            class_texts = choose_class_texts(self.modality, train, self.train, self.label_names)
            all_labels = self.modality.problem_type.encode_labels(train + class_texts, self.label_names)
            weights = weigh_texts(all_labels, len(train), self.config.class_names.weight)
            features = self.embed(train + class_texts)
            predictions = baselines.predict_linear_probe(features, all_labels, self.test_embeddings, weights)
        metrics = classification_metrics(predictions, self.test_labels)
        return {"metrics": metrics, "correct": self.mark_correct(predictions)}

    def mark_correct(self, predictions: np.ndarray) -> str:
        """Return a digit for each test row, 1 if its predicted class id is right and 0 if not."""
        return "".join(map(str, (predictions == self.test_labels).astype(int).tolist()))

    def embed(self, examples: list[Example]) -> np.ndarray:
        """Return frozen embeddings float32 (examples, width)."""
        return self.modality.embed(examples, self.encoder_folders["ours"], self.accelerator)

    @cached_property
    def test_labels(self) -> np.ndarray:
        """Class ids int64 (test rows,)."""
        return self.modality.problem_type.encode_labels(self.test, self.label_names)

    @cached_property
    def test_embeddings(self) -> np.ndarray:
        """Frozen embeddings float32 (test rows, width)."""
        return self.embed(self.test)

    def load_times(self) -> dict[str, float]:
        """Return each trial's seconds, which are kept out of the reproducible results."""
        path = self.folder / "times.json"
        return read_json(path) if path.is_file() else {}

    def save_time(self, trial_name: str, seconds: float) -> None:
        """Store a trial's seconds."""
        write_json(self.folder / "times.json", self.load_times() | {trial_name: round(seconds, 1)})

    def estimate_seconds_left(self, pending: list[Trial], completed: list[Trial]) -> float | None:
        """Estimate the seconds of the pending trials from the completed ones; None before the first training."""
        times = self.load_times()
        spent = [(trial, times[name]) for trial in completed if (name := self.result_path(trial).stem) in times]
        if any(trial.steps for trial in pending) and not any(trial.steps for trial, _ in spent):
            return None

        def extrapolate(attribute: str, *variants: str) -> float:
            amount = sum(getattr(trial, attribute) for trial in pending if trial.variant in variants)
            done = [(getattr(trial, attribute), seconds) for trial, seconds in spent if trial.variant in variants]
            return amount * sum(seconds for _, seconds in done) / max(1, sum(each for each, _ in done))

        linear = [extrapolate("num_examples", variant) for variant in (*FEATURE_VARIANTS, "probe")]
        return extrapolate("steps", *TRAINED_VARIANTS) + sum(linear)
