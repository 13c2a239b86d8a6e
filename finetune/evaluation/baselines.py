"""Baselines on the same labels and test rows: a linear model, and the same network without this pretraining."""

from pathlib import Path
from typing import NamedTuple

from data.encoders import initial_encoder, original_init, read_record
from data.tasks.task import Example
from finetune.evaluation.postprocess import postprocess
from finetune.modalities import Modality

LINEAR_C_VALUES = (0.1, 1.0, 10.0, 100.0)
DEFAULT_C = 10.0  # when there is no validation set


class Reference(NamedTuple):
    """The same network without this pretraining."""

    folder: Path
    random_init: bool
    """Whether to use the architecture in the folder with random weights."""
    name: str
    is_frozen: bool = False
    """Whether to fit only the last layer, for random weights and few labels."""


def reference_encoder(folder: Path, is_few_labels: bool = False) -> Reference:
    """Return the same network as the encoder in a folder without this pretraining.

    is_few_labels: fit only the last layer to random weights. The steps that a few labels allow train nothing into them,
    and would double the time of a run. Raises DataError if there is no such network.
    """
    if initial := initial_encoder(folder):
        return Reference(
            initial, False, f"{original_init(read_record(folder))}, the same network without this pretraining"
        )
    name = "the same network, frozen at random weights" if is_few_labels else "the same network from random weights"
    return Reference(folder, True, name, is_few_labels)


def measure_simple_baselines(
    modality: Modality, splits: dict[str, list[Example]], label_names: list[str]
) -> dict[str, dict]:
    """Return the name and metrics of the baselines that train no network."""
    results, key = {}, modality.linear_baseline[0]
    if key and splits["train"] and modality.problem_type.linear_baseline:
        name = f"{modality.describe_features(splits['train'])} + {modality.problem_type.linear_baseline}"
        results[key] = {"name": name, **measure_linear_model(modality, splits, label_names)}
    return results | modality.problem_type.measure_own_baselines(splits)


def measure_linear_model(modality: Modality, splits: dict[str, list[Example]], label_names: list[str]) -> dict:
    """Return the metrics by split of a linear model on the modality's features.

    C and the problem type's postprocessing are fitted on the validation set; C is DEFAULT_C where it is not chosen.
    """
    validate, problem_type = "validation" in splits, modality.problem_type
    labels = {split: problem_type.encode_labels(examples, label_names) for split, examples in splits.items()}
    extract = modality.fit_features(splits["train"])
    features = {split: extract(examples) for split, examples in splits.items()}
    results = []
    for c in LINEAR_C_VALUES if validate and problem_type.tunes_linear_model else (DEFAULT_C,):
        predict = problem_type.fit_linear_model(c, features["train"], labels["train"], label_names)
        predictions = {split: predict(features[split]) for split in splits if split != "train"}
        results.append(postprocess(problem_type, None, predictions, labels, label_names, validate).metrics)
    metric = problem_type.metric_for_best
    return max(results, key=lambda result: result["validation"][metric]) if len(results) > 1 else results[0]
