"""Anomaly detection: compare inputs with rows of the normal class by a frozen encoder. Nothing is trained.

Rows of other classes are left out of the training rows, so that they are used in no step but the metrics on the test
rows. The threshold follows from the scores of normal rows by detectors fitted on the others (cross-conformal
prediction, Vovk 2015).
"""

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers.utils import ModelOutput

from data.cache import fingerprint
from data.encoders import hash_weights
from data.sampling import take_evenly
from data.sources.source import display_name
from data.tasks.detector import Detector, fit_whitening, save_detector
from data.tasks.novelty import NUM_NEIGHBORS, hash_inputs
from data.tasks.problem_types.anomaly_detection import ANOMALOUS, NORMAL
from data.tasks.splits import Example
from data.tasks.task import fingerprint_inputs
from engine.config.schema import Section
from engine.errors import CommandExit, ConfigError, DataError, UserError, first_line, suggest
from engine.log import get_logger
from engine.models.embed import BATCH_SIZE, Inputs, run_batches
from engine.runs.run import Run
from engine.training.trainer import TrainResult
from finetune.config import Finetune
from finetune.held_out import MAX_MISTAKES, MAX_TEXT_CHARS, describe_examples
from finetune.modalities import Modality, load_modality
from finetune.model.network import Network, remove_postprocess
from finetune.training import STANDARDIZATION_INPUTS, FineTuneOutput, TaskData

FOLDS = 5
MIN_ROWS = 2 * NUM_NEIGHBORS  # normal training rows, so that each detector has as many as it compares with

logger = get_logger(__name__)


def select_normal_rows(
    config: Finetune, rows: dict[str, list[Example]], label_names: list[str]
) -> tuple[Finetune, list[str]]:
    """Leave only normal rows for training; return the configuration with the normal class, and its name.

    Raises ConfigError if no training row is of that class, or if none is given and no class has more than half of them,
    and DataError if there is no training row.
    """
    normal, counts = config.head.normal, Counter(row.label for row in rows["train"])
    if not counts:
        location = display_name(config.task.train)
        raise DataError(f"{location}: its labeled rows are too few to leave any for training; label more")
    if normal is None:
        normal, count = counts.most_common(1)[0]
        if 2 * count <= counts.total():
            shown = ", ".join(label_names[:12])
            raise ConfigError(f"head.normal: which class is normal? There are {shown}; set head.normal=CLASS")
        logger.info(f"  normal  {normal!r}, the class of {count:,} of {counts.total():,} training rows (head.normal)")
    if normal not in counts:
        raise ConfigError(f"head.normal: no training row has the label {normal!r}{suggest(normal, label_names)}")
    for split in ("train", "validation"):
        rows[split] = [row for row in rows.get(split, []) if row.label == normal]
    return config.model_copy(update={"head": config.head.model_copy(update={"normal": normal})}), [normal]


class DetectorModule(nn.Module):
    """A frozen encoder, and a detector once it is fitted. Raises DataError for an encoder without hidden states."""

    def __init__(self, network: Network, modality: Modality, depths: Sequence[float], inputs: Inputs):
        super().__init__()
        self.model, self.modality = network.model, modality.shared
        self.detector: Detector | None = None
        remove_postprocess(self.model.config)
        self.model.config.output_hidden_states = True  # also where the model is loaded by others
        sample = np.array(take_evenly(range(len(inputs.lengths)), STANDARDIZATION_INPUTS))
        network.standardize(map(inputs.get_inputs, np.array_split(sample, -(-len(sample) // BATCH_SIZE))))
        with torch.no_grad():
            states = self.model(**inputs.get_inputs(sample[:1])).get("hidden_states")
        if states is None:
            raise DataError(f"{self.model.config.model_type} gives no hidden states, which head.name=anomaly needs")
        self.layers = sorted({round(depth * (len(states) - 1)) for depth in depths})
        self.widths = [self.modality.join_layers(states, [layer]).shape[1] for layer in self.layers]

    def embed(self, output: ModelOutput, attention_mask: Tensor | None = None) -> Tensor:
        """Return the vectors of a batch, float32 (inputs, width), from the model's output."""
        return self.modality.join_layers(output.hidden_states, self.layers, attention_mask)

    def predict(self, **inputs: Tensor) -> Tensor:
        """Return the vectors of a batch."""
        return self.embed(self.model(**inputs), inputs.get("attention_mask"))

    def score(self, output: ModelOutput) -> Tensor:
        """Return the score of the only input of a batch, float32 (1,)."""
        return self.detector.score_vectors(self.embed(output), self.detector.to_tensors("cpu"))[0, :1]


def build_module(
    folder: Path, config: Finetune, modality: Modality, inputs: Inputs, random_init: bool
) -> DetectorModule:
    """Return the encoder in `folder`. Raises DataError if it cannot be used. inputs: the normal training rows."""
    torch.manual_seed(config.seed)
    network = modality.build_encoder(folder, random_init)
    if network.model.config.is_encoder_decoder:
        kind = f"{network.model.config.model_type} has a decoder"
        raise DataError(f"{folder}: {kind}, and head.name=anomaly is for encoders without one")
    try:
        return DetectorModule(network, modality, config.head.layers, inputs)
    except UserError as error:
        raise DataError(f"{folder}: {error}") from None
    except Exception as error:
        raise DataError(f"{folder}: its architecture cannot read a row ({first_line(error)})") from None


def fit_detector(
    folder: Path,
    config: Finetune,
    data: TaskData,
    run: Run,
    accelerator: Accelerator,
    title: str,
    random_init: bool = False,
) -> FineTuneOutput:
    """Fit the detector on the normal training rows; return the scores of the test rows."""
    modality = load_modality(config)
    problem_type, head = modality.problem_type, config.head
    inputs = {
        split: modality.build_dataset(rows, folder, f"task {config.task.name}, {split}", data.label_names)
        for split, rows in data.splits.items()
    }
    problem_type.find_rank(len(data.splits["train"]))
    if len(data.splits["train"]) < max(2 * head.neighbors, MIN_ROWS):
        raise ConfigError(f"head.neighbors: {len(data.splits['train'])} normal training rows are too few")
    module = build_module(folder, config, modality, inputs["train"], random_init)
    run.start(labels=fingerprint(fingerprint_inputs(config.task)), encoder=hash_weights(folder))
    if config.train.dry_run:
        raise CommandExit("detector the encoder reads the rows; nothing is trained")
    start = time.monotonic()
    module.to(accelerator.device)
    vectors = {
        split: np.stack(run_batches(module, rows, accelerator, autocast=False)) for split, rows in inputs.items()
    }
    seconds = time.monotonic() - start
    layers = dict(zip(module.layers, np.split(vectors["train"], np.cumsum(module.widths)[:-1], 1), strict=True))
    module.detector = detector = make_detector(layers, hash_inputs(data.splits["train"]), head)
    detector.scores = np.sort(cross_score(layers, head, config.seed))
    threshold = problem_type.find_threshold(detector.scores)
    detector.threshold[0] = threshold
    scores = score(detector, vectors["test"])
    test = problem_type.compute_metrics(scores, inputs["test"].labels, data.label_names, {"threshold": threshold})
    evaluation = {
        "rows": {split: len(rows.lengths) for split, rows in inputs.items()},
        "final_seconds": round(seconds, 1),
        "threshold": {"value": threshold, "false_alarms": head.false_alarms}
        | {name: test[name] for name in ("recall", "false_alarm_rate") if name in test},
    }
    result = TrainResult(0, int(inputs["train"].lengths.sum()), time.monotonic() - start, {})
    labels = {"test": inputs["test"].labels}
    outputs = module.model, module, {"test": test}, {"test": list(scores)}
    return FineTuneOutput(*outputs, result, {}, labels=labels, evaluation=evaluation)


def score(detector: Detector, vectors: np.ndarray) -> np.ndarray:
    """Return the scores of vectors, float32 (inputs, width)."""
    return detector.score_vectors(torch.from_numpy(vectors), detector.to_tensors("cpu"))[:, 0].numpy()


def cross_score(layers: dict[int, np.ndarray], head: Section, seed: int) -> np.ndarray:
    """Return the score of each normal row by a detector fitted on other folds. layers: as in `make_detector`."""
    num_rows = len(next(iter(layers.values())))
    folds = np.random.Generator(np.random.Philox(key=[seed, 0])).permutation(num_rows) % FOLDS
    scores = np.zeros(num_rows, np.float32)
    for fold in range(FOLDS):
        held_out = folds == fold
        fitted = make_detector(
            {layer: rows[~held_out] for layer, rows in layers.items()}, np.flatnonzero(~held_out), head
        )
        scores[held_out] = score(fitted, np.concatenate([rows[held_out] for rows in layers.values()], 1))
    return scores


def make_detector(layers: dict[int, np.ndarray], hashes: np.ndarray, head: Section) -> Detector:
    """Return the detector of normal rows, without its threshold. layers: their vectors, (rows, width), by layer."""
    center, projection = fit_whitening(list(layers.values()))
    return Detector(
        layers=np.array(list(layers)),
        center=center,
        projection=projection,
        vectors=((np.concatenate(list(layers.values()), 1) - center) @ projection).astype(np.float16),
        hashes=hashes,
        neighbors=np.array([0 if head.score == "mahalanobis" else head.neighbors]),
        threshold=np.zeros(1, np.float32),
        false_alarms=np.array([head.false_alarms], np.float32),
        scores=np.zeros(0, np.float32),
    )


class DetectorResults(NamedTuple):
    """What is kept of a detector's results, as `finetune.held_out.HeldOut`."""

    detector: Detector
    mistakes: list[dict]
    """False alarms and missed anomalies among the test rows, each with its nearest normal rows."""

    def save(self, folder: Path) -> None:
        """Write the detector to a model's folder."""
        save_detector(self.detector, folder)


def collect_detector(
    modality: Modality,
    output: FineTuneOutput,
    splits: dict[str, list[Example]],
    label_names: list[str],
    folder: Path,
    accelerator: Accelerator,
) -> DetectorResults:
    """Return the results of a fitted detector, with the mistakes farthest from the threshold. All processes call it."""
    detector, test = output.head.detector, splits["test"]
    scores, labels = np.array(output.predictions["test"]), output.labels["test"]
    wrong = np.flatnonzero((scores > detector.threshold[0]) != (labels == 1))
    wrong = wrong[np.argsort(-np.abs(scores[wrong] - detector.threshold[0]), kind="stable")][:MAX_MISTAKES]
    if not len(wrong):
        return DetectorResults(detector, [])
    rows = [test[index] for index in wrong]
    inputs = modality.build_dataset(rows, folder, "mistakes")
    vectors = np.stack(run_batches(output.head.to(accelerator.device), inputs, accelerator, autocast=False))
    nearest = detector.score_vectors(torch.from_numpy(vectors), detector.to_tensors("cpu"))[:, 1:].long().tolist()
    mistakes = []
    for index, row, content, near in zip(wrong, rows, modality.show(rows, MAX_TEXT_CHARS), nearest, strict=True):
        predicted = ANOMALOUS if scores[index] > detector.threshold[0] else NORMAL
        shown = describe_examples(modality, [splits["train"][number] for number in near])
        mistakes.append({"label": row.label, "predicted": predicted, "probability": None, **content, "nearest": shown})
    return DetectorResults(detector, mistakes)
