"""TODO."""

from __future__ import annotations

from engine.errors import ConfigError
from finetune.config import Finetune
from finetune.heads import load_head_file


def validate_config(config: Finetune) -> None:
    """Raises ConfigError when the head and the way it is to be taught do not go together."""
    head_file, name = load_head_file(config), config.head.name
    if head_file.PROBLEM_TYPE != config.task.problem_type:
        raise ConfigError(
            f"head.name: {name} learns {head_file.PROBLEM_TYPE}, and task.problem_type is"
            f" {config.task.problem_type}; set task.problem_type={head_file.PROBLEM_TYPE}, or leave head.name out"
        )
    if getattr(head_file, "FITS_LAST_LAYER", False) and config.train.load_best:
        raise ConfigError(
            f"train.load_best: the last layer of head.name={name} is solved after training, so that no"
            " evaluation before can tell which weights are best; set train.load_best=false"
        )
    if head_file.PROBLEM_TYPE != "single_label_classification" and config.selftrain.rounds:
        raise ConfigError(f"selftrain.rounds: a text of head.name={name} is not of one class; leave it 0")
    if config.selftrain.rounds and config.selftrain.corpus and not isinstance(config.task.text, str):
        raise ConfigError(
            "selftrain.corpus: a document's sentences are one text each, and the task's rows are of"
            f" {' and '.join(config.task.text)}; leave it out"
        )
    if head_file.PROBLEM_TYPE != "single_label_classification" and config.train.sampling == "class_balanced":
        raise ConfigError(f"train.sampling: rows of head.name={name} are not of one class each; set shuffle")
    if head_file.PROBLEM_TYPE == "token_classification" and (config.augment.drop or config.augment.swap):
        raise ConfigError(
            "augment: tags belong to words, which it would leave out or move; head.name=token_classification goes without"
        )
    if config.layers.linear_probe and (config.adapter.name != "none" or name != "classification"):
        raise ConfigError("layers.linear_probe: wants head.name=classification and adapter.name=none")
    changed = [
        f"head.{key}" for key in ("class_weights", "focal_gamma", "label_smoothing") if getattr(config.head, key, None)
    ]
    if changed and (config.layers.linear_probe or name == "supcon" and not config.head.cross_entropy_weight):
        where = (
            "layers.linear_probe" if config.layers.linear_probe else "head.name=supcon with head.cross_entropy_weight=0"
        )
        raise ConfigError(f"{changed[0]}: {where} has no loss that it could change; leave it out")
    if config.layers.linear_probe and (config.augment.drop or config.augment.swap):
        raise ConfigError("augment: layers.linear_probe reads every text once, as it is; leave it out")
    if config.selftrain.corpus and not config.selftrain.rounds:
        raise ConfigError("selftrain.corpus: nothing is labelled in selftrain.rounds=0; give 1 or more")
    of_lora = [
        key
        for key in ("rank", "alpha", "dropout", "dora", "rslora")
        if getattr(config.adapter, key) != type(config.adapter).model_fields[key].default
    ]
    if of_lora and config.adapter.name != "lora":
        raise ConfigError(f"adapter.{of_lora[0]}: is of adapter.name=lora, not {config.adapter.name}; leave it out")
