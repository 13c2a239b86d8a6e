"""Checks of a fine-tuning configuration that span several sections."""

from engine.errors import ConfigError
from finetune.config import Finetune
from finetune.heads import load_head_file
from finetune.modalities import load_modality

LOSS_KEYS = ("class_weights", "focal_gamma", "label_smoothing")
LORA_KEYS = ("rank", "alpha", "dropout", "dora", "rslora")


def validate_config(config: Finetune) -> None:
    """Raise ConfigError if the head, the task and the training settings do not fit together."""
    head_file, name, selftrain, adapter = load_head_file(config), config.head.name, config.selftrain, config.adapter
    problem_type, task, probe = head_file.PROBLEM_TYPE, config.task, config.layers.linear_probe
    modality, is_single_label = load_modality(config), task.load_problem_type().has_single_class
    augments = modality.get_augmentation() is not None
    loss_keys = [f"head.{key}" for key in LOSS_KEYS if getattr(config.head, key, None)]
    no_cross_entropy = name == "supcon" and not config.head.cross_entropy_weight
    without_loss = "layers.linear_probe" if probe else "head.name=supcon with head.cross_entropy_weight=0"
    defaults = type(adapter).model_fields
    lora_keys = [key for key in LORA_KEYS if getattr(adapter, key) != defaults[key].default]
    needed = problem_type.name if problem_type else task.problem_type
    types = f"{name} is for {needed}, and task.problem_type is {task.problem_type}"
    columns = task.text if isinstance(task.text, str) else " and ".join(task.text)
    checks = [
        (
            needed != task.problem_type,
            f"head.name: {types}; set task.problem_type={needed}, or leave out head.name or the method that sets it",
        ),
        (
            getattr(head_file, "FITS_LAST_LAYER", False) and config.train.load_best,
            f"train.load_best: head.name={name} fits its last layer after training, so checkpoints cannot be compared;"
            " set train.load_best=false",
        ),
        (
            selftrain.rounds and not is_single_label,
            f"selftrain.rounds: head.name={name} does not assign one class to a text; leave it 0",
        ),
        (
            selftrain.rounds and selftrain.corpus and not isinstance(task.text, str),
            f"selftrain.corpus: a sentence of a document is one text, and rows have {columns}; leave it out",
        ),
        (
            config.train.sampling == "class_balanced" and not is_single_label,
            f"train.sampling: rows of head.name={name} do not have one class each; set shuffle",
        ),
        (
            probe and (adapter.name != "none" or name != "classification"),
            "layers.linear_probe: requires head.name=classification and adapter.name=none",
        ),
        (
            loss_keys and (probe or no_cross_entropy),
            f"{''.join(loss_keys[:1])}: {without_loss} has no loss that it could change; leave it out",
        ),
        (probe and augments, "augment: layers.linear_probe reads each text once, unchanged; leave it out"),
        (selftrain.corpus and not selftrain.rounds, "selftrain.corpus: needs selftrain.rounds of 1 or more"),
        (
            lora_keys and adapter.name != "lora",
            f"adapter.{''.join(lora_keys[:1])}: only for adapter.name=lora, not {adapter.name}; leave it out",
        ),
    ]
    if task.load_problem_type().is_detector:
        checks += check_detector(config)
    for failed, message in checks:
        if failed:
            raise ConfigError(message)
    modality.validate_config()


def check_detector(config: Finetune) -> list[tuple[bool, str]]:
    """Return (whether it fails, message) of the checks for a head without training."""
    name, task = config.head.name, config.task
    return [
        (name != "anomaly", f"head.name: task.problem_type={task.problem_type} needs head.name=anomaly"),
        (
            config.train.load_best,
            f"train.load_best: head.name={name} uses no validation rows; set train.load_best=false",
        ),
        (config.adapter.name != "none", f"adapter.name: head.name={name} trains nothing; leave it out"),
        (not task.num_examples, f"task.num_examples: head.name={name} needs normal rows; give 1 or more"),
    ]
