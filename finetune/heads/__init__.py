"""One file a head: what it learns of a label, its network, its loss and its figures.

    KIND         how labels are read: one of `data.tasks.task.LABEL_PARSERS`, written out, for corpora read it from the source
    Config       its settings, under `name`
    build(config, folder, names, dropout, random) -> (plain transformers model, parameters that are constants)
    targets(examples, names)    what is learned of the texts, (texts, ...)
    Head(config, model)         the module that is trained: `forward`, `predict`; `observe(targets)`, if it has one, is told
                                the training rows before training
    score(said, truth)          the figures of an evaluation, cheap; MONITOR names the one to maximise
    SHOWN        the figures a person is shown
    HEAD_LR      the peak rate of what learns above the encoder, where `layers.head_lr` does not say

`finetune.evaluation.postprocess` says what it may have besides: tune, revise, finish, figures, details.
The folder is the list: `head.name=X` means the file X.py here.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from finetune.config import Finetune


def load_head_file(config: Finetune) -> ModuleType:
    """The file of the head, which says what it reads, learns and is measured by."""
    return importlib.import_module(f"finetune.heads.{config.head.name}")
