"""After training: what is fitted on the validation rows, what is written into the weights, and all figures.

A head file may have, besides what every head has:

    tune(said, truth, names) -> dict        fitted on the validation rows; goes into the model's config.json
    revise(said, tuned)                     what the finished model says, where `tune` changes it
    finish(head, tuned)                     writes into the weights what plain transformers would not know of
    figures(said, truth, names, tuned)      all figures; without it, those of `score`
    details(said, truth, names) -> dict     what else metrics.json tells of the test rows
"""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import numpy as np
from torch import nn


class Finished(NamedTuple):
    """What is known of a model at the end."""

    predicted: dict[str, list[np.ndarray]]
    """What it says of the test and the validation rows."""
    figures: dict[str, dict[str, float]]
    """Of both."""
    details: dict
    """What else there is to tell of the test rows."""


def finished(head_file: ModuleType, head: nn.Module | None, predicted: dict[str, list[np.ndarray]],
             truth: dict[str, np.ndarray], names: list[str], validate: bool) -> Finished:
    """Finish the model in `head`, none of a baseline's, by what it said of each split.

    truth: as the head's `targets` makes it. validate: whether the validation rows may be used.
    """
    def has(name: str) -> bool:
        return hasattr(head_file, name)

    tuned = head_file.tune(predicted["validation"], truth["validation"], names) if validate and has("tune") else {}
    if head is not None:
        if has("finish"):
            head_file.finish(head, tuned)
        for key, value in tuned.items():
            setattr(head.model.config, key, value)
    if has("revise"):
        predicted = {split: head_file.revise(said, tuned) for split, said in predicted.items()}
    figures = {split: head_file.figures(said, truth[split], names, tuned) if has("figures") else
               head_file.score(said, truth[split]) for split, said in predicted.items()}
    return Finished(predicted, figures,
                    head_file.details(predicted["test"], truth["test"], names) if has("details") and "test" in truth else {})
