"""What can be set for a study. Every key, with its default and meaning: `python -m finetune.study --help`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, field_validator

from engine.config.schema import Section
from finetune.config import Finetune

Variant = Literal["ours", "plain", "random", "probe", "tfidf"]
Shots = PositiveInt | Literal["all"]
# The default study is to take 30 to 40 minutes on two cores: what costs most, a training with all labels, is done once.
DEFAULT_SHOTS, DEFAULT_SEEDS, DEFAULT_FULL_DATA_SEEDS = (8, 32, 100, "all"), 3, 1
FULL_SHOTS, FULL_SEEDS = (8, 16, 32, 64, 128, 256, "all"), 5


class StudySettings(Section):
    """What is measured."""

    shots: Annotated[list[Shots], Field(min_length=1)] | None = None
    """Labels of each class, as [8, 32, all]; none: [8, 32, 100, all], random weights left out at all."""
    seeds: PositiveInt | None = None
    """Draws of the labels, from `seed` on; none: 3."""
    full_data_seeds: PositiveInt | None = None
    """Seeds where all labels are used and only the training differs; none: 1, or as seeds when labels are given."""
    full: bool = False
    """Measure it all: 8, 16, 32, 64, 128, 256 and all labels a class, five seeds each. Takes hours."""
    variants: Annotated[list[Variant], Field(min_length=1)] = ["ours", "plain", "random", "probe", "tfidf"]
    """ours; plain: the same network without our pretraining; random: from random weights; probe: a linear model on our
    frozen vectors; tfidf: a linear model on word counts."""
    contamination: Literal["drop", "flag"] = "drop"
    """Whether test rows whose text also stands in the training rows are not measured, or only counted."""
    corpus_contamination: Literal["drop", "flag"] = "flag"
    """The same for test rows that stand in the text the encoder was pretrained on, which bore no labels."""
    max_confusion_size: PositiveInt = 500
    """The confusion matrix and the mistakes are those of ours with as many labels as were measured up to so many."""
    mistakes: PositiveInt = 10
    """Mistakes shown, the most confident ones."""

    @field_validator("variants")
    @classmethod
    def require_ours(cls, variants: list[str]) -> list[str]:
        if "ours" not in variants:
            raise ValueError("ours must be among them: the others are what it is held against")
        return variants

    def list_shots(self) -> list[Shots]:
        """Labels of each class, fewest first."""
        given = self.shots or (FULL_SHOTS if self.full else DEFAULT_SHOTS)
        return sorted({*given} - {"all"}) + ["all"] * ("all" in given)

    def num_seeds(self, shots: Shots) -> int:
        """How many seeds a size is measured with."""
        seeds = self.seeds or (FULL_SEEDS if self.full else DEFAULT_SEEDS)
        few = seeds if self.full or self.shots else DEFAULT_FULL_DATA_SEEDS
        return min(seeds, self.full_data_seeds or few) if shots == "all" else seeds


class Study(Finetune):
    """Measure what pretraining is worth in labels."""

    study: StudySettings = StudySettings()
    """What is measured."""
