"""Heads, one file each: label encoding, model, loss and metrics. `head.name=X` selects the file X.py.

    PROBLEM_TYPE        one of `data.tasks.task.LABEL_PARSERS`
    Config              settings, including `name`
    build(config, folder, label_names, dropout, random_init) -> (transformers model, constant parameters)
    encode_labels(examples, label_names)       training targets of the texts, (texts, ...)
    Head(config, model)                        module to train: `forward`, `predict` and, optionally,
                                               `set_label_stats(training labels)`, called before training
    quick_metrics(predictions, labels)         cheap metrics for evaluations during training
    METRIC_FOR_BEST     the metric of them to maximize
    REPORT_METRICS      metrics to print
    DEFAULT_HEAD_LR     peak learning rate above the encoder if `layers.head_lr` is not set

Optional: FITS_LAST_LAYER, SAMPLES_PER_CLASS (see supcon.py) and the functions in `finetune.evaluation.postprocess`.
"""

import importlib
from types import ModuleType

from finetune.config import Finetune


def load_head_file(config: Finetune) -> ModuleType:
    """Import the module of the configured head."""
    return importlib.import_module(f"finetune.heads.{config.head.name}")
