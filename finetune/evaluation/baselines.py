"""Baselines on the same labels and test rows: a linear model, and the same network without this pretraining."""

from collections.abc import Callable
from pathlib import Path

from data.encoders import initial_encoder, original_init, read_record
from data.tasks.task import Example
from engine.errors import DataError
from finetune.evaluation.postprocess import postprocess
from finetune.modalities import Modality

LINEAR_C_VALUES = (0.1, 1.0, 10.0, 100.0)
DEFAULT_C = 10.0  # when there is no validation set


def measure_baselines(
    modality: Modality,
    folder: Path,
    splits: dict[str, list[Example]],
    label_names: list[str],
    train_reference: Callable[[Path, str, bool], dict],
) -> dict[str, dict]:
    """Return the name and metrics of each baseline.

    train_reference: fine-tune (encoder folder, title, whether to use random weights) and return the metrics, and
    "name" if it has another one.
    """
    results, key = {}, modality.linear_baseline[0]
    if key and splits["train"] and modality.problem_type.linear_baseline:
        name = f"{modality.describe_features(splits['train'])} + {modality.problem_type.linear_baseline}"
        results[key] = {"name": name, **measure_linear_model(modality, splits, label_names)}
    results |= modality.problem_type.measure_own_baselines(splits)
    try:
        reference, random_init, name = reference_encoder(folder)
        results["without_pretraining"] = {"name": name, **train_reference(reference, f"  {name}", random_init)}
    except DataError as error:
        results["without_pretraining"] = {"name": f"not measured: {error}"}
    return results


def reference_encoder(folder: Path) -> tuple[Path, bool, str]:
    """Return (folder, whether to use random weights, name) of the same network without this pretraining."""
    if initial := initial_encoder(folder):
        return initial, False, f"{original_init(read_record(folder))}, the same network without this pretraining"
    return folder, True, "the same network from random weights"


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
