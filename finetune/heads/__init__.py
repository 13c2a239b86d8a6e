"""Heads, one file each: how the outputs of a network learn a task. `head.name=X` selects the file X.py.

    PROBLEM_TYPE             the problem type it is for, an object of `data.tasks.problem_types`; None: any
    Config                   settings, including `name`
    Head(config, network, problem_type)   module to train, as `standard.Head`
    DEFAULT_HEAD_LR          peak learning rate above the encoder if `layers.head_lr` is not set

A head without training has no Head; `finetune.detector` fits that of anomaly.py.

Optional: FITS_LAST_LAYER and SAMPLES_PER_CLASS (see supcon.py).
"""

import importlib
from types import ModuleType

from finetune.config import Finetune


def load_head_file(config: Finetune) -> ModuleType:
    """Import the module of the configured head."""
    return importlib.import_module(f"finetune.heads.{config.head.name}")
