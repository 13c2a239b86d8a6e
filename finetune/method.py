"""The choice of a method for `method=auto`: by the labels per class, and by what else there is to learn from."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from data.modalities import load_modality
from data.tasks.splits import Example, sample_examples
from engine.config.loader import load_config, merge, read_yaml, validate
from engine.files import read_json
from engine.log import get_logger
from finetune.config import Finetune

logger = get_logger(__name__)

MAX_FEWSHOT_SHOTS = 64  # with more labels per class, some can be spared for validation
MIN_FEWSHOT_SHOTS, MAX_SCARCE_CLASSES = 4, 32
"""Below so many labels of each of more classes than that, the frozen encoder is best: most classes never meet in a
batch of fewshot, and pseudo-labels follow the classes with more labels."""
MIN_UNLABELED = 200  # fewer texts add little to the labels


class Choice(NamedTuple):
    """A method and the reason for it."""

    method: str | None
    """File of configs/method without its ending; None: the settings as they are."""
    reason: str


def choose_method(
    config: Finetune, num_labels: int, num_classes: int, num_unlabeled: int, has_decoder: bool = False
) -> Choice:
    """Choose the method for a task's sample of labels.

    num_labels: labeled training rows; num_unlabeled: inputs that may be used without a label; has_decoder: whether the
    encoder is part of an encoder-decoder.
    """
    modality = load_modality(config.task.modality)
    if not config.task.load_problem_type().has_single_class:
        return Choice(None, f"the few-label methods are for one class per {modality.input_noun}")
    changed = {
        "adapter.name": config.adapter.name != "none",
        "head.name": config.head.name != config.task.load_problem_type().default_head,
        "layers.linear_probe": config.layers.linear_probe,
        "selftrain.rounds": config.selftrain.rounds > 0,
        "tapt.steps": config.tapt.steps > 0,
    }
    if given := [key for key, is_changed in changed.items() if is_changed]:
        return Choice(None, f"{given[0]} is given")
    if not num_labels:
        return Choice("names", f"no labels, {num_unlabeled:,} unlabeled {modality.inputs_noun}")
    shots = num_labels / num_classes
    size = f"{shots:.3g}" if shots < 100 else f"{shots:,.0f}"
    size += " labels per class"
    if shots > MAX_FEWSHOT_SHOTS:
        return Choice("layerwise", size)
    if has_decoder:
        return Choice("layerwise", f"{size}, but the few-label methods are for encoders without a decoder")
    has_probe = (type(config).presets["method"] / "fewshot-probe.yaml").is_file()  # not measured on images
    if shots < MIN_FEWSHOT_SHOTS and num_classes > MAX_SCARCE_CLASSES and has_probe:
        return Choice("fewshot-probe", f"{size} of {num_classes:,} classes")
    if config.unlabeled and num_unlabeled >= MIN_UNLABELED:
        return Choice("selftrain", f"{size}, {num_unlabeled:,} unlabeled {modality.inputs_noun}")
    return Choice("fewshot", size)


def resolve_method(
    config: Finetune, folder: Path, rows: dict[str, list[Example]], label_names: list[str], args: Sequence[str]
) -> Finetune:
    """Return the configuration with the settings of the method that method=auto chooses for these rows.

    folder: of the encoder. rows: by split, and `unlabeled`. args: as for `apply_method`.
    """
    if config.method != "auto":
        return config
    num_rows, task = len(rows["train"]) + len(rows["unlabeled"]), config.task
    # The methods for few labels use no validation rows, so these are training rows where others are too few.
    reserve = [] if task.validation or task.shots else rows.get("validation", [])
    num_labels = len(sample_examples(rows["train"], task.num_examples, config.seed, task.shots, reserve))
    num_unlabeled = num_rows - min(num_labels, len(rows["train"]))
    choice = choose_method(config, num_labels, len(label_names), num_unlabeled, has_decoder(folder))
    logger.info(f"  method  {choice.method or 'settings as they are'}: {choice.reason}")
    return apply_method(config, choice.method, args)


def has_decoder(folder: Path) -> bool:
    """Return whether the network in a folder is an encoder-decoder."""
    return bool(read_json(folder / "config.json").get("is_encoder_decoder"))


def apply_method(config: Finetune, method: str | None, args: Sequence[str] = ()) -> Finetune:
    """Return the configuration with the settings of a method, except for those that `args` give themselves.

    args: what `load_config` read the configuration from; none: the method's settings replace all others.
    """
    if method is None:
        return config.model_copy(update={"method": None})
    changes = preset = read_yaml(type(config).presets["method"] / f"{method}.yaml")
    if args:
        changes = select(load_config(type(config), [*args, "method=none"], preset).model_dump(mode="json"), preset)
    return validate(type(config), merge(config.model_dump(mode="json"), changes | {"method": method}))


def select(tree: dict, keys: dict) -> dict:
    """Return the part of `tree` that has the keys of `keys`; a section with a name is taken whole."""
    return {
        key: select(tree[key], value) if isinstance(value, dict) and "name" not in value else tree[key]
        for key, value in keys.items()
        if key in tree
    }
